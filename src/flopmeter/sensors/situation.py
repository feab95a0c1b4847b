"""What tells passages apart: the situation in which one starts, and the witnesses of what ran in it.

A situation is known when a passage starts, a witness when it has ended. Both are plain hashable values; reading them
runs no operator. Not here: what is decided from them (`replay.py`).
"""

from collections.abc import Mapping
from operator import attrgetter
from typing import Any, NamedTuple, TypeAlias

import torch

from flopmeter.sensors.precision import is_tf32_on

Situation: TypeAlias = tuple[Any, ...]

OTHER: Situation = ("other",)
"""A situation that tells nothing: its passages are counted each time and never replayed."""

_MAX_DEPTH = 6
_MAX_FIELDS = 64
_SETTINGS = tuple(
    getattr(torch._C, name)  # noqa: SLF001
    for name in (
        "_get_flash_sdp_enabled",
        "_get_mem_efficient_sdp_enabled",
        "_get_math_sdp_enabled",
        "_get_cudnn_sdp_enabled",
        "_get_mkldnn_enabled",
        "_get_deterministic_algorithms",
    )
    if hasattr(torch._C, name)  # noqa: SLF001
)
_GRADIENT, _TYPE = attrgetter("grad"), attrgetter("dtype", "layout")
_sequence_nr = getattr(torch._C._autograd, "_get_sequence_nr", None)  # noqa: SLF001


class Witness(NamedTuple):
    """What was seen of a passage without looking at its operators.

    `nodes` is how many autograd nodes were made; `gradients` whether those of the first and the last parameter
    changed; `ended_by` which boundary closed the passage; `inner` marks optimizers that stepped inside its backward.
    """

    nodes: int
    gradients: tuple[bool, ...]
    ended_by: str
    inner: int = 0


class WatchedModel:
    """One watched module: its parts, looked up once, and their fingerprint, read at each forward."""

    def __init__(self, module: torch.nn.Module) -> None:
        """Look the parts up."""
        self.module = module
        self.version = 0
        self._look_up()

    def _look_up(self) -> None:
        self._modules = list(self.module.modules())
        self._parameters = list(self.module.parameters())
        self._children = [module._modules for module in self._modules]  # noqa: SLF001
        self._lengths = tuple(map(len, self._children))
        self._find_ends()
        self.is_stale = False

    def refresh(self) -> bool:
        """Look the parts up again where layers or parameters were added, exchanged or removed; say whether they were.

        Torch tells of additions (`is_stale`); of removals the number of children tells.
        """
        if not self.is_stale and tuple(map(len, self._children)) == self._lengths:
            return False
        before = [*map(id, self._modules), *map(id, self._parameters)]
        self._look_up()
        if [*map(id, self._modules), *map(id, self._parameters)] == before:
            return False
        self.version += 1
        return True

    def situation(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Situation:
        """Return the fingerprint of a forward that is about to run; `OTHER` where it cannot be told from others."""
        if torch._C._functorch.peek_interpreter_stack() is not None:  # noqa: SLF001
            return OTHER  # vmap and its kin hide shapes
        try:
            given = (_fingerprint(args, _MAX_DEPTH), _fingerprint(kwargs, _MAX_DEPTH))
        except _HiddenShapeError:
            return OTHER
        return (
            "forward",
            id(self.module),
            self.version,
            given,
            tuple([module.training for module in self._modules]),
            tuple([parameter.requires_grad for parameter in self._parameters]),
            tuple([parameter.grad is None for parameter in self._find_ends()]),
            *ambient(),
        )

    def _find_ends(self) -> list[torch.nn.Parameter]:
        trainable = [parameter for parameter in self._parameters if parameter.requires_grad]
        self._ends = [trainable[0], trainable[-1]] if trainable else []
        return self._ends

    def gradient_marks(self) -> tuple[Any, ...]:
        """Return marks of the first and last gradient; a backward that reaches them changes them."""
        return tuple(
            [None if p.grad is None else (id(p.grad), p.grad._version) for p in self._ends]  # noqa: SLF001
        )


def ambient() -> Situation:
    """Return the settings of torch that change what a passage runs."""
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        *(
            (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device))
            if torch.is_autocast_enabled(device)
            else ()
            for device in ("cpu", "cuda")
        ),
        # Which kernels attention, products and convolutions take, and in which precision.
        *[read() for read in _SETTINGS],
        *([is_tf32_on(name) for name in ("matmul", "conv", "rnn")] if torch.cuda.is_initialized() else []),
    )


def optimizer_situation(optimizer: torch.optim.Optimizer) -> Situation:
    """Return the fingerprint of an optimizer step that is about to run."""
    groups = []
    for group in optimizer.param_groups:
        flags = tuple(
            [(name, value) for name, value in group.items() if value is None or isinstance(value, bool | str)]
            + [(name, _exactly(value)) for name, value in group.items() if isinstance(value, int | float | tuple)]
        )
        groups.append((flags, _gradient_specs(group["params"])))
    return ("optimizer", id(optimizer), len(optimizer.state), tuple(groups), *ambient())


def _exactly(value: Any) -> Any:
    """Return what of a number changes a cost: whether it is 0, which saves work, or 1, which does too."""
    if isinstance(value, tuple):
        return tuple([_exactly(item) for item in value])
    return value if isinstance(value, int | float) and value in (0, 1) else None


def count_nodes() -> int:
    """Return torch's running number of autograd nodes made on this thread; 0 where the build does not tell."""
    return int(_sequence_nr()) if _sequence_nr is not None else 0


def _gradient_specs(parameters: list[torch.Tensor]) -> Any:
    """Return which parameters there are, how large together, and type and layout of each gradient.

    A gradient has the shape of its parameter, and a parameter keeps its own: which they are tells it.
    """
    which = (*map(id, parameters), sum(map(torch.Tensor.numel, parameters)))
    gradients = list(map(_GRADIENT, parameters))
    try:  # no Python code for each, where every parameter has a gradient
        return (which, tuple(map(_TYPE, gradients)))
    except AttributeError:
        return (which, tuple([None if gradient is None else _TYPE(gradient) for gradient in gradients]))


class _HiddenShapeError(Exception):
    """A value whose size cannot be read from outside."""


def _fingerprint(value: Any, depth: int) -> Any:
    """Return shapes and types of tensors, and plain values as they are, to a few levels of nesting."""
    if isinstance(value, torch.Tensor):
        if value.layout is not torch.strided or value.is_nested:
            raise _HiddenShapeError
        return (value.shape, value.dtype, value.device.type, value.requires_grad)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if value in (0.0, 1.0) else "float"
    if depth <= 0:
        raise _HiddenShapeError
    if isinstance(value, torch.nn.utils.rnn.PackedSequence):
        return (tuple(value.batch_sizes.tolist()), _fingerprint(value.data, depth - 1))
    if isinstance(value, Mapping):
        return tuple([(str(key), _fingerprint(item, depth - 1)) for key, item in value.items()])
    if isinstance(value, list | tuple):
        return tuple([_fingerprint(item, depth - 1) for item in value])
    return _fingerprint_object(value, depth)


def _fingerprint_object(value: Any, depth: int) -> Any:
    """Look into an object that a user made to carry tensors (a batch, a cache); others are told by their type.

    A class, a function or a module is told by itself. An object of very many fields (a tokenizer) is no carrier.
    """
    if isinstance(value, type | torch.nn.Module) or callable(value):
        return id(value)
    if type(value).__module__ == "numpy":
        return (type(value).__name__, tuple(getattr(value, "shape", ())))
    names = getattr(type(value), "__slots__", ())
    fields = {name: getattr(value, name, None) for name in ((names,) if isinstance(names, str) else names)}
    fields |= getattr(value, "__dict__", {})
    if len(fields) > _MAX_FIELDS:
        return type(value).__name__
    return (type(value).__name__, _fingerprint(fields, depth - 2))
