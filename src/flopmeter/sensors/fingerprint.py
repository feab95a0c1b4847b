"""What can be told of the arguments of a forward before it runs: shapes, types and plain values, no operator called.

Not here: the rest of a situation (`situation.py`), and what a family makes of sizes (`kinship.py`).
"""

from collections.abc import Mapping
from typing import Any

import torch

_MAX_DEPTH = 6
_MAX_FIELDS = 64


class HiddenShapeError(Exception):
    """A value whose size cannot be read from outside."""


def fingerprint(value: Any, depth: int = _MAX_DEPTH) -> Any:
    """Return shapes and types of tensors, and plain values as they are, to a few levels of nesting.

    Raises:
        HiddenShapeError: a value is sparse, nested, or too deep inside of others.
    """
    if isinstance(value, torch.Tensor):
        if value.layout is not torch.strided or value.is_nested:
            raise HiddenShapeError
        return (value.shape, value.dtype, value.device.type, value.requires_grad)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if value in (0.0, 1.0) else "float"
    if depth <= 0:
        raise HiddenShapeError
    if isinstance(value, torch.nn.utils.rnn.PackedSequence):
        return (tuple(value.batch_sizes.tolist()), fingerprint(value.data, depth - 1))
    if isinstance(value, Mapping):
        return tuple([(str(key), fingerprint(item, depth - 1)) for key, item in value.items()])
    if isinstance(value, list | tuple):
        return tuple([fingerprint(item, depth - 1) for item in value])
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
    return (type(value).__name__, fingerprint(fields, depth - 2))
