"""What can be told of the arguments of a forward before it runs: shapes, types and plain values, no operator called.

Not here: the rest of a situation (`situation.py`), and what a family makes of sizes (`kinship.py`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

_MAX_DEPTH = 6
_MAX_FIELDS = 64
_PLAIN = frozenset({bool, int, str, type(None)})
_BOOLS = ("<False>", "<True>")  # in Python, 1 is True and 1.0; to an operator they are not
_FLOATS = {0.0: "0.0", 1.0: "1.0"}
_Tensor, _STRIDED = torch.Tensor, torch.strided
_TensorGuards = getattr(torch._C._dynamo.guards, "TensorGuards", None)  # noqa: SLF001


class HiddenShapeError(Exception):
    """A value whose size cannot be read from outside."""


def take_fingerprint(value: Any, depth: int = _MAX_DEPTH) -> Any:
    """Return shapes and types of tensors, and plain values as they are, to a few levels of nesting.

    Raises:
        HiddenShapeError: a value is sparse, nested, or too deep inside of others.
    """
    kind = type(value)
    if kind in _PLAIN:
        return value if kind is not bool else _BOOLS[value]
    if kind is tuple and depth > 0:  # the usual cases first: this runs at each forward
        return tuple([take_fingerprint(item, depth - 1) for item in value])
    if isinstance(value, _Tensor):
        if value.layout is not _STRIDED or value.is_nested:
            raise HiddenShapeError
        return (value.shape, value.dtype, value.device, value.requires_grad)
    if kind is dict and not value:
        return ()
    if isinstance(value, int | str):
        return value
    if isinstance(value, float):
        return _FLOATS.get(value, "float")
    return _fingerprint_nested(value, depth)


def is_as_before(given: tuple[Any, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Say whether arguments have these fingerprints."""
    before, named = given
    if len(args) != len(before):
        return False
    for value, seen in zip(args, before, strict=True):
        if type(value) is _Tensor:
            if value.layout is not _STRIDED or value.is_nested:
                return False
            if seen != (value.shape, value.dtype, value.device, value.requires_grad):
                return False
        elif not _is_like(value, seen):
            return False
    return named == () if not kwargs else _is_like(kwargs, named)


def lay_out(values: Iterable[Any], found: list[Any], *, has_free_sizes: bool, depth: int = _MAX_DEPTH) -> list[Any]:
    """Append the plain tensors inside of lists and tuples to `found`, whole numbers too where sizes are free.

    Returns how they lie in one another, and what lies beside them: two that are equal have the same frame. Next to
    fingerprints it leaves out what a guard of torch's tells of all tensors at once (`guard_of`).

    Raises:
        HiddenShapeError: a value is something else, or too deep inside of others.
    """
    layout: list[Any] = []
    for value in values:
        kind = type(value)
        if kind is _Tensor:
            found.append(value)
            layout.append(_Tensor)
        elif (kind is list or kind is tuple) and depth > 0:
            layout.append(lay_out(value, found, has_free_sizes=has_free_sizes, depth=depth - 1))
        elif kind is int and has_free_sizes:
            found.append(value)
            layout.append(int)
        elif kind in _PLAIN or kind is float:
            layout.append((kind, value))
        else:
            raise HiddenShapeError
    return layout


def guard_of(tensors: Sequence[Any], *, has_free_sizes: bool = False) -> Callable[..., bool] | None:
    """Return what tells in one call whether other tensors are like these, perhaps but for their sizes.

    The guards of torch's compiler do: they look at type, dispatch keys (so at layout, device, transforms, inference
    mode, autocast on or off), dtype and `requires_grad`, and at shape and strides unless sizes are free (then at how
    many dimensions there are). None where some of them is no plain tensor, or torch has no such guards.
    """
    if _TensorGuards is None or not tensors or any(type(value) is not _Tensor for value in tensors):
        return None
    free = [[None] * value.dim() for value in tensors] if has_free_sizes else None
    try:
        check = _TensorGuards(*tensors, dynamic_dims_sizes=free, dynamic_dims_strides=free).check
    except (TypeError, ValueError, RuntimeError):  # made for the compiler: one day it may be made in another way
        return None
    return check  # type: ignore[no-any-return]


def _is_like(value: Any, fingerprint: Any) -> bool:
    try:
        return bool(take_fingerprint(value) == fingerprint)
    except HiddenShapeError:
        return False


def _fingerprint_nested(value: Any, depth: int) -> Any:
    if depth <= 0:
        raise HiddenShapeError
    if isinstance(value, torch.nn.utils.rnn.PackedSequence):
        return (tuple(value.batch_sizes.tolist()), take_fingerprint(value.data, depth - 1))
    if isinstance(value, Mapping):
        return tuple([(str(key), take_fingerprint(item, depth - 1)) for key, item in value.items()])
    if isinstance(value, list | tuple):
        return tuple([take_fingerprint(item, depth - 1) for item in value])
    return _fingerprint_object(value, depth)


def _fingerprint_object(value: Any, depth: int) -> Any:
    """Look into an object that a user made to carry tensors (a batch, a cache); others are told by their type.

    A class, a function or a module is told by itself. An object of very many fields (a tokenizer) is no carrier.
    """
    if isinstance(value, type | torch.nn.Module) or callable(value):
        return f"@{id(value)}"
    if type(value).__module__ == "numpy":
        return (type(value).__name__, tuple(getattr(value, "shape", ())))
    names = getattr(type(value), "__slots__", ())
    fields = {name: getattr(value, name, None) for name in ((names,) if isinstance(names, str) else names)}
    fields |= getattr(value, "__dict__", {})
    if len(fields) > _MAX_FIELDS:
        return type(value).__name__
    return (type(value).__name__, take_fingerprint(fields, depth - 2))
