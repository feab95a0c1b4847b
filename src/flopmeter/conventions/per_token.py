"""Tools that multiply a formula about the model by tokens: HF's Trainer, AWS's FLOPs Meter, PaLM's MFU, Megatron-LM.

Not here: the formulas over sizes (`estimate/architecture.py`), counters (`flop_counter.py`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from flopmeter.account import Account
from flopmeter.conventions.translation import (
    REASONS,
    Given,
    Line,
    Tool,
    Translation,
    describe_doubts,
    leave_out,
    sort_out,
)
from flopmeter.estimate.architecture import (
    PADDING,
    Architecture,
    megatron_attention,
    megatron_weights,
    palm_attention,
)
from flopmeter.units import print_flop

NOT_IN_A_FORMULA = ("evaluation", "outside", "recompute", "optimizer", "elementwise")

HF = Tool(
    name="hf",
    figure="total_flos of transformers' Trainer",
    source="transformers 5.23.0, trainer.py, Trainer.floating_point_ops",
)
AWS = Tool(
    name="aws",
    figure="Flops_architecture of AWS's Fine-Tuning FLOPs Meter",
    source="aws-samples/amazon-sagemaker-generativeai, 0_model_customization_recipes/sagemaker_code/flops_meter.py,"
    " as of May 2026",
)
PALM = Tool(
    name="palm",
    figure="model FLOP of PaLM's MFU",
    source="Chowdhery et al. 2022, PaLM, arXiv 2204.02311, Appendix B",
)
MEGATRON = Tool(
    name="megatron",
    figure="num_floating_point_operations of Megatron-LM, over the run",
    source="NVIDIA/Megatron-LM, megatron/training/training.py, transformer_flops, at commit 001b00c2734d (2026)",
)

TOKENS = (
    "tokens: none were told; call meter.step(tokens=…), or let the Trainer count them (include_num_input_tokens_seen)"
)
MODEL = "parameters: no module was watched; give Meter(model=…)"
SEQUENCE = (
    "length of a sequence: {samples:,} samples were told for {tokens:,} tokens; call meter.step(tokens=…, samples=…),"
    ' or put "seq_length" into the file of --config'
)
CONFIG = "{names}: no watched module has a .config that says so; give --config config.json"
TOLD = (
    "{names}: the file of --config does not say so at its top level; give the config.json of the language model alone"
)
ODD = "a formula for {oddities}: the one for dense transformers has none, and no other is evaluated here"

AWS_PEAKS = (
    ("h100", 989_000),
    ("h800", 989_000),
    ("a100", 312_000),
    ("a800", 312_000),
    ("l40", 181_050),
    ("l20", 119_500),
    ("h20", 148_000),
    ("910b", 354_000),
    ("a10", 125_000),
)
"""AWS's peaks, in GFLOP/s, by a part of the device's name; the first that fits: an H200 is taken for an H20."""
AWS_ANY_PEAK = 150_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Products:
    """What a tool takes the products to be, with its own words on each part; `more` are lines of its own.

    Units: FLOP.
    """

    attention: int = 0
    attention_why: str = "no formula for them"
    weights: int
    weights_why: str
    more: tuple[Line, ...] = ()

    @property
    def flop(self) -> int:
        """All of it.

        Units: FLOP.
        """
        return self.attention + self.weights + sum(line.flop for line in self.more)


def translate_hf(given: Given) -> Translation:
    """Return what the Trainer of transformers keeps in `total_flos`: 6 × parameters outside of tables × tokens."""
    account, model = given.account, given.account.model
    missing = _missing_size(account)
    if model is None or missing:
        return Translation.unknown(HF, account, missing)
    parameters = model.parameters - model.embedding + model.headed
    theirs = _Products(
        weights=6 * parameters * account.tokens,
        weights_why=f"6 × {parameters:,} × {account.tokens:,}; without look-up tables, and output layers tied to one",
    )
    inputs = {"parameters": str(parameters), "tokens": str(account.tokens)}
    note = "the Trainer takes all numbers of its main input for tokens, padding too; here they are those that were told"
    return _tell(HF, account, theirs, inputs, notes=(note,))


def translate_aws(given: Given) -> Translation:
    """Return what AWS's Fine-Tuning FLOPs Meter says: (4 × all + 2 × trainable parameters) × tokens."""
    account, model = given.account, given.account.model
    missing = _missing_size(account)
    if model is None or missing:
        return Translation.unknown(AWS, account, missing)
    theirs = _Products(
        weights=(4 * model.parameters + 2 * model.trainable) * account.tokens,
        weights_why=f"(4 × {model.parameters:,} + 2 × {model.trainable:,}) × {account.tokens:,}; tables as products",
    )
    inputs = {
        "parameters": str(model.parameters),
        "trainable": str(model.trainable),
        "tokens": str(account.tokens),
    }
    note = "it leaves padding out where it knows its token; here they are those that were told"
    besides = {"Flops_hardware, their upper bound": _bound_like_aws(account)}
    return _tell(AWS, account, theirs, inputs, besides=besides, notes=(note,))


def translate_palm(given: Given) -> Translation:
    """Return the model FLOP of PaLM's MFU: (6·N + 12·L·H·Q·T) × tokens."""
    account, model, length = given.account, given.account.model, given.sequence
    found = Architecture.of(given.config)
    named = {"layers": found.layers, "heads": found.heads, "head width": found.head_width}
    missing = (*_missing_size(account), *_missing_named(given, named), *_missing_length(given))
    if missing or not (model and found.layers and found.heads and found.head_width and length):
        return Translation.unknown(PALM, account, missing)
    tokens, sizes = account.tokens, f"12 × {found.layers} × {found.heads} × {found.head_width} × {length:,}"
    theirs = _Products(
        attention=palm_attention(found.layers, found.heads, found.head_width, length) * tokens,
        attention_why=f"{sizes} × {tokens:,}; every pair, masked or not",
        weights=6 * model.parameters * tokens,
        weights_why=f"6 × {model.parameters:,} × {tokens:,}; look-up tables, norms and biases as products",
    )
    inputs = {
        "parameters": str(model.parameters),
        "tokens": str(tokens),
        "layers": str(found.layers),
        "heads": str(found.heads),
        "head_width": str(found.head_width),
        "sequence": str(length),
    }
    notes = [f"who leaves look-up tables out of N gets {print_flop(6 * model.embedding * tokens)} less"]
    if found.oddities:
        notes.append(f"the formula has none for {', '.join(found.oddities)}: every token meets every parameter in it")
    return _tell(PALM, account, theirs, inputs, notes=notes)


def translate_megatron(given: Given) -> Translation:
    """Return what Megatron-LM's formula for dense transformers gives, over all tokens of the run."""
    account, length, found = given.account, given.sequence, Architecture.of(given.config)
    named = {
        "layers": found.layers,
        "hidden size": found.width,
        "heads": found.heads,
        "head width": found.head_width,
        "query groups": found.key_heads,
        "feed-forward size": found.feed_forward,
        "vocabulary": found.padded_vocabulary,
        "whether feed-forward layers are gated (swiglu)": found.is_gated,
    }
    missing = [*(() if account.tokens else (TOKENS,)), *_missing_named(given, named), *_missing_length(given)]
    if found.oddities:
        missing.append(ODD.format(oddities=", ".join(found.oddities)))
    layers, width, heads, head_width, tokens = found.layers, found.width, found.heads, found.head_width, account.tokens
    if missing or not (layers and width and heads and head_width and length):
        return Translation.unknown(MEGATRON, account, missing)
    padded = found.padded_vocabulary or 0
    vocabulary = found.vocabulary or padded
    in_layers = megatron_weights(
        layers=layers,
        width=width,
        query=heads * head_width,
        key=(found.key_heads or heads) * head_width,
        feed_forward=found.feed_forward or 0,
        is_gated=found.is_gated is True,
    )
    per_token = in_layers + 6 * width * vocabulary
    padding = Line(
        term="padding of the vocabulary",
        flop=6 * width * (padded - vocabulary) * tokens,
        why=f"{vocabulary:,} words are made {padded:,}",
    )
    theirs = _Products(
        attention=megatron_attention(layers, heads, head_width, length) * tokens,
        attention_why=f"6 × {layers} × {heads} × {head_width} × {length:,} × {tokens:,}; half of all pairs",
        weights=per_token * tokens,
        weights_why=f"{per_token:,} × {tokens:,}; three products for each weight, of the first layer too",
        more=(padding,) if padding.flop else (),
    )
    inputs = {
        "tokens": str(tokens),
        "layers": str(layers),
        "hidden_size": str(width),
        "heads": str(heads),
        "head_width": str(head_width),
        "query_groups": str(found.key_heads),
        "feed_forward": str(found.feed_forward),
        "is_gated": "true" if found.is_gated else "false",
        "padded_vocabulary": str(padded),
        "sequence": str(length),
    }
    besides = {"with every pair of attention, as in older versions": str(theirs.flop + theirs.attention)}
    notes = []
    if "padded_vocab_size" not in given.config:
        notes.append(f"the vocabulary is padded to a multiple of {PADDING}, its default for one tensor-parallel rank")
    notes += _compare_sizes(account, in_layers // 6, width * vocabulary)
    return _tell(MEGATRON, account, theirs, inputs, besides=besides, notes=notes)


def _tell(
    tool: Tool,
    account: Account,
    theirs: _Products,
    inputs: Mapping[str, str],
    *,
    besides: Mapping[str, str] | None = None,
    notes: Iterable[str] = (),
) -> Translation:
    """Return the figure, with the bridge there: what is in no formula, then products as they ran against it."""
    sums = sort_out(account)
    lines = [*leave_out(sums, NOT_IN_A_FORMULA, why="in no formula")]
    for reason, flop, why in (
        ("attention", theirs.attention, theirs.attention_why),
        ("weights", theirs.weights, theirs.weights_why),
    ):
        if flop or sums[reason]:
            said = (
                f"{print_flop(flop, digits=4)} instead of {print_flop(sums[reason], digits=4)}: {why}" if flop else why
            )
            lines.append(Line(term=REASONS[reason], flop=flop - sums[reason], why=said))
    return Translation(
        tool=tool,
        ours=account.flop,
        flop=theirs.flop,
        bridge=(*lines, *theirs.more),
        inputs=inputs,
        besides=besides or {},
        notes=(*notes, *describe_doubts(account)),
    )


def _missing_size(account: Account) -> tuple[str, ...]:
    has_model = account.model is not None and account.model.parameters > 0
    return (*(() if has_model else (MODEL,)), *(() if account.tokens else (TOKENS,)))


def _missing_named(given: Given, named: Mapping[str, object]) -> tuple[str, ...]:
    names = ", ".join(name for name, value in named.items() if value is None)
    return ((TOLD if given.is_told else CONFIG).format(names=names),) if names else ()


def _missing_length(given: Given) -> tuple[str, ...]:
    tokens, samples = given.account.tokens, given.account.samples
    return () if given.sequence or not tokens else (SEQUENCE.format(tokens=tokens, samples=samples),)


def _compare_sizes(account: Account, in_layers: int, in_logits: int) -> tuple[str, ...]:
    """Say so where the sizes make another model than the one that was watched, by more than a tenth."""
    model = account.model
    if model is None:
        return ()
    watched = model.parameters - model.embedding
    off = min(abs(watched - in_layers), abs(watched - in_layers - in_logits))  # an output layer may be tied
    if 10 * off <= watched:
        return ()
    said = f"these sizes make {in_layers:,} weights in the layers, the watched model has {watched:,} parameters"
    return (f"{said} outside of look-up tables: look whether the configuration is of this model",)


def _bound_like_aws(account: Account) -> str:
    """Say what it calls an upper bound: utilisation by NVML × a peak guessed from the name × time, of all devices.

    GFLOP/s times nanoseconds are FLOP.
    """
    devices = account.usage.devices
    if not devices:
        return f"cannot tell: {'; '.join(account.usage.notes) or 'no device time was measured'}"
    guesses = [_guess_like_aws(device.name) for device in devices]
    busy = [device.busy_ns for device in devices]
    if None not in busy:
        return str(sum((ns or 0) * guess for ns, guess in zip(busy, guesses, strict=True)))
    held = [device.held_ns for device in devices]
    if None not in held:
        most = sum((ns or 0) * guess for ns, guess in zip(held, guesses, strict=True))
        return f"cannot tell: utilisation was not measured; with all of it, as their post has it, {most}"
    return "cannot tell: neither time nor utilisation was measured"


def _guess_like_aws(name: str) -> int:
    lowered = name.lower()
    return next((peak for part, peak in AWS_PEAKS if part in lowered), AWS_ANY_PEAK)
