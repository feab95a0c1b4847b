"""The size of a model as 6ND wants it, logical parameters, trainable ones, embedding tables; and what it can run on.

Not here: what it costs.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn.parameter import UninitializedParameter

from flopmeter.model import Model, pick_sizes

_EMBEDDINGS = (torch.nn.Embedding, torch.nn.EmbeddingBag)


def measure_model(modules: Sequence[torch.nn.Module]) -> Model:
    """Count the parameters of the modules, each tensor once however many names it has.

    Units: parameters. `embedding` are look-up tables, a table tied to an output layer included.
    Is not: the size of a shard; a sharded tensor tells its logical size.
    Parameters of lazy modules have no size before their first forward, and are left out until then.
    """
    parameters: dict[int, torch.nn.Parameter] = {}
    tables: dict[int, torch.Tensor] = {}
    for module in modules:
        sized = [found for found in module.parameters() if not isinstance(found, UninitializedParameter)]
        parameters.update((id(found), found) for found in sized)
        for part in module.modules():
            if isinstance(part, _EMBEDDINGS):
                tables[id(part.weight)] = part.weight
    return Model(
        parameters=sum(parameter.numel() for parameter in parameters.values()),
        trainable=sum(parameter.numel() for parameter in parameters.values() if parameter.requires_grad),
        embedding=sum(table.numel() for table in tables.values()),
        config=_read_config(modules),
    )


def _read_config(modules: Sequence[torch.nn.Module]) -> dict[str, str]:
    """Return the sizes that the first configuration among the modules names; a wrapper has that of what it wraps."""
    for module in modules:
        for owner in (module, getattr(module, "module", None)):
            config = getattr(owner, "config", None)
            sizes = pick_sizes(config if isinstance(config, Mapping) else getattr(config, "__dict__", {}))
            if sizes:
                return sizes
    return {}


def devices_in_reach() -> frozenset[str]:
    """Return the kinds of device that this process can have used; asking initialises none.

    CUDA counts once it was initialised; any other accelerator as soon as it is there, because not all of them tell.
    """
    kinds = {"cpu"}
    if torch.cuda.is_initialized():
        kinds.add("cuda")
    accelerator: Any = getattr(torch, "accelerator", None)  # older builds have none
    if accelerator is not None and accelerator.is_available():
        kind = accelerator.current_accelerator().type
        kinds |= {kind} - {"cuda"}
    for name in ("xpu", "mps"):
        module = getattr(torch, name, None)
        if module is not None and module.is_available():
            kinds.add(name)
    return frozenset(kinds)
