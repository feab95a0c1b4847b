"""The conventions that a run can be translated into, by name.

Not here: what each of them counts.
"""

from collections.abc import Callable, Mapping

from flopmeter.conventions.flop_counter import translate_flop_counter
from flopmeter.conventions.per_token import translate_aws, translate_hf, translate_megatron, translate_palm
from flopmeter.conventions.translation import Given, Translation
from flopmeter.conventions.utilisation import translate_hfu, translate_mfu

PRESETS: Mapping[str, Callable[[Given], Translation]] = {
    "megatron": translate_megatron,
    "palm": translate_palm,
    "hf": translate_hf,
    "aws": translate_aws,
    "flop-counter": translate_flop_counter,
    "hfu": translate_hfu,
    "mfu": translate_mfu,
}
"""Name, as `flopmeter report --as` takes it → translation."""
