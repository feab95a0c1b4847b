"""The size of a model as 6ND wants it, logical parameters, trainable ones, embedding tables; and what it can run on.

Not here: what it costs.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch.nn.parameter import UninitializedParameter

from flopmeter.model import Model, pick_sizes
from flopmeter.sensors.mesh import find_grid, is_distributed

_EMBEDDINGS = (torch.nn.Embedding, torch.nn.EmbeddingBag)


def measure_model(modules: Sequence[torch.nn.Module]) -> Model:
    """Count the parameters of the modules, each tensor once however many names it has.

    Units: parameters. `embedding` are look-up tables, a table tied to an output layer included.
    Is not: the size of a shard; a sharded tensor tells its logical size.
    Along axes of tensor parallelism plain parameters are parts, unless a DTensor is among them, which tells of itself.
    Parameters of lazy modules have no size before their first forward, and are left out until then.
    """
    parameters: dict[int, torch.nn.Parameter] = {}
    tables: dict[int, torch.Tensor] = {}
    whole: dict[int, int] = {}
    first: dict[int, torch.nn.Module] = {}
    for module in modules:
        sized = [found for found in module.parameters() if not isinstance(found, UninitializedParameter)]
        parameters.update((id(found), found) for found in sized)
        for part in module.modules():
            whole.update(_sizes_before_sharding(part))
            for one in part.parameters(recurse=False):
                first.setdefault(id(one), part)
            if isinstance(part, _EMBEDDINGS):
                tables[id(part.weight)] = part.weight
    times = _count_parts(modules, parameters.values())

    is_said = any(hasattr(parameter, "tensor_model_parallel") for parameter in parameters.values())

    def size(key: int, tensor: torch.Tensor) -> int:
        is_part = getattr(tensor, "tensor_model_parallel", not is_said)  # by Megatron, only read
        return whole.get(key, tensor.numel()) * (times if is_part else 1)

    headed = {key: table for key, table in tables.items() if key in first and not isinstance(first[key], _EMBEDDINGS)}
    return Model(
        parameters=sum(size(key, found) for key, found in parameters.items()),
        trainable=sum(size(key, found) for key, found in parameters.items() if found.requires_grad),
        embedding=sum(size(key, table) for key, table in tables.items()),
        headed=sum(size(key, table) for key, table in headed.items()),
        config=_read_config(modules),
    )


def _count_parts(modules: Sequence[torch.nn.Module], parameters: Iterable[torch.nn.Parameter]) -> int:
    """Return how many ranks hold a part each of plain parameters."""
    if not is_distributed() or any(hasattr(parameter, "_local_tensor") for parameter in parameters):
        return 1
    axes = find_grid(modules).coordinates.axes
    return prod(axis.size for axis in axes if axis.role == "model" and axis.shares_examples)


def _sizes_before_sharding(part: torch.nn.Module) -> dict[int, int]:
    """Return the sizes of parameters of which this rank keeps a part: of `FullyShardedDataParallel`, of ZeRO-3."""
    whole = {id(one): getattr(one, "ds_numel", None) for one in part.parameters(recurse=False)}  # ZeRO-3, only read
    flat = getattr(part, "_flat_param", None) if type(part).__name__ == "FullyShardedDataParallel" else None
    sizes = getattr(flat, "_numels", ())
    originals = getattr(flat, "_params", None)
    if originals is not None:
        whole.update((id(original), size) for original, size in zip(originals, sizes, strict=False))
    elif sizes:
        whole[id(flat)] = sum(sizes)
    return {key: size for key, size in whole.items() if isinstance(size, int)}


def _read_config(modules: Sequence[torch.nn.Module]) -> dict[str, str]:
    """Return the sizes that the first configuration among the modules names; a wrapper has that of what it wraps."""
    for module in modules:
        for owner in (module, getattr(module, "module", None)):
            config = getattr(owner, "config", None)
            if not isinstance(config, Mapping):  # those of transformers keep their model's type in their class
                config = {"model_type": getattr(config, "model_type", None), **getattr(config, "__dict__", {})}
            sizes = pick_sizes(config)
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
