"""What is kept of an operator call once it has run: shapes, types and scalars, hashable, without a tensor.

Kept as it comes while a passage runs, because that is quick; written out as `OpCall`s when the passage is priced.
Not here: the hook that sees the calls (`torch_ops.py`), integers inside of tensors (`values.py`).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple, Self, TypeAlias

import torch

from flopmeter.formulas.call import AnyNumber, Arg, OpCall, TensorSpec
from flopmeter.sensors.precision import TF32_OPS, is_tf32_on, name_dtype
from flopmeter.sensors.values import Late
from flopmeter.step import Row

Key: TypeAlias = tuple[Any, ...]
"""One call: operator, phase, arguments, options, outputs, device, and the uncounted operators that it ran inside of.

In a run of several ranks there is an eighth: over which of them it is repeated (`repeats.py`).
"""

EXACT_SCALARS = (-1, 0, 1, 2, 3, 0.5, -0.5)
"""Scalars whose value can change a cost (a factor of 1, an exponent of 2); all others are kept as `*`."""
_EXACT = frozenset(EXACT_SCALARS)

ANY_NUMBER = AnyNumber()
_Tensor = torch.Tensor
_STRIDED = torch.strided
_SPARSE = frozenset({torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc})


class Notes(NamedTuple):
    """What a recorder noted since its last `take`.

    `short` are calls as they were kept at once, before they are spelled out as keys; `passed` are calls of views.
    """

    calls: dict[Key, int]
    short: dict[tuple[Any, ...], int]
    noted: int
    passed: int
    late: list[Late]
    has_values: bool

    @classmethod
    def empty(cls) -> Self:
        """Return those of a recorder that starts."""
        return cls(calls={}, short={}, noted=0, passed=0, late=[], has_values=False)

    def spell_out(self, end_of: Callable[[str], tuple[Any, ...]]) -> dict[Key, int]:
        """Return all calls by their keys; `end_of` a phase is what keys of the short ones end with."""
        calls = self.calls
        for (operator, phase, *given, options, results, inside), times in self.short.items():
            outs, device = spell_results(results)
            key = (operator.func, phase, spell(tuple(given)), spell(options), outs, device, inside, *end_of(phase))
            calls[key] = calls.get(key, 0) + times
        return calls


MAX_SEEN = 4096
"""How many kinds of tensor are known at a time; past it they are learned anew."""
read_tensor: Callable[[torch.Tensor], tuple[Any, ...]] = attrgetter("shape", "dtype", "layout", "device")
"""What tells a kind of tensor; in C, because it is asked thousands of times a step."""


class _NotPlainError(Exception):
    """A tensor is not strided, real, and there: what is to be kept of it takes a longer look."""


class Seen:
    """Stands for a shadow: one object for all values that have the same one, so that to compare them costs nothing."""

    __slots__ = ("device", "shadow")

    def __init__(self, shadow: Any, device: str = "") -> None:
        """Keep the shadow, and for a tensor the kind of device that it is on."""
        self.shadow = shadow
        self.device = device


_ANY_NUMBER = Seen(ANY_NUMBER)


class _Tensors(dict[tuple[Any, ...], Seen]):
    """Every kind of plain tensor met lately."""

    def __missing__(self, read: tuple[Any, ...]) -> Seen:
        shape, dtype, layout, device = read
        if layout is not _STRIDED or dtype.is_complex or device.type == "meta":
            raise _NotPlainError
        if len(self) >= MAX_SEEN:
            self.clear()
        seen = self[read] = Seen((shape, dtype), device.type)
        return seen


class Looks(dict[type, Callable[[Any], Any]]):
    """How to look at a value quickly, by its type: `looks[type(value)](value)` is hashable and holds no tensor.

    For a tensor that is `tensors[read_tensor(value)]`. `at_results` looks at what came out, where only tensors matter.
    `spell` turns what was seen into shadows.
    """

    def __init__(self, tensors: _Tensors | None = None) -> None:
        """Start with the types that operators are given again and again."""
        known = self.tensors = _Tensors() if tensors is None else tensors

        def look_at_tensor(tensor: torch.Tensor) -> Seen:
            return known[read_tensor(tensor)]

        def look_at_items(items: Sequence[Any]) -> tuple[Any, ...]:
            return tuple([self[type(item)](item) for item in items])

        super().__init__({_Tensor: look_at_tensor, torch.nn.Parameter: look_at_tensor})
        self.update(dict.fromkeys((list, tuple), look_at_items))
        if tensors is None:
            self.update({int: int, bool: bool, str: str, float: _look_at_float})
            self.at_results = Looks(known)
        self._look_at_rest: Callable[[Any], Any] = shadow if tensors is None else _look_at_nothing

    def __missing__(self, kind: type) -> Callable[[Any], Any]:
        if not issubclass(kind, _Tensor):
            look: Callable[[Any], Any] = self._look_at_rest
        elif kind.__torch_dispatch__ == _Tensor.__torch_dispatch__:
            look = self[_Tensor]
        else:
            raise _NotPlainError
        self[kind] = look
        return look


def _look_at_float(value: float) -> Any:
    return value if value in _EXACT else str(value) if math.isinf(value) else _ANY_NUMBER


def _look_at_nothing(_value: Any) -> tuple[()]:
    return ()


def spell(seen: Any) -> Any:
    """Return the shadow of what was seen quickly."""
    if type(seen) is Seen:
        return seen.shadow
    return tuple([spell(item) for item in seen]) if type(seen) is tuple else seen


def spell_results(seen: Any) -> tuple[tuple[Any, ...], str]:
    """Return the shadows of the tensors that came out, and the kind of device that the first of them is on."""
    found: list[Seen] = []
    _gather_seen(seen, found)
    return tuple([one.shadow for one in found]), found[0].device if found else ""


def _gather_seen(seen: Any, found: list[Seen]) -> None:
    if type(seen) is Seen:
        found.append(seen)
        return
    for item in seen:
        _gather_seen(item, found)


def rows_of(calls: Mapping[Key, int]) -> tuple[Row, ...]:
    """Return noted calls as rows of a table, in an order that does not depend on when they ran."""
    summed: dict[tuple[OpCall, str, tuple[str, ...]], int] = {}
    for key, times in calls.items():
        place = (describe(key), key[1], key[6])
        summed[place] = summed.get(place, 0) + times
    rows = [Row(call=call, phase=phase, calls=times, inside=inside) for (call, phase, inside), times in summed.items()]
    return tuple(sorted(rows, key=lambda row: (row.call.op, row.phase, row.inside, str(row.call.to_wire()))))


def describe(key: Key) -> OpCall:
    """Return a noted call as the ledger and formulas know it."""
    func, _, args, options, outs, device, *_ = key
    op, numbers = (func, frozenset[int | str]()) if isinstance(func, str) else schema_of(func)
    described = tuple(_describe_arg(arg, is_number=index in numbers) for index, arg in enumerate(args))
    named = tuple((name, _describe_arg(value, is_number=name in numbers)) for name, value in options)
    out = tuple(_describe_tensor(*spec) for spec in outs)
    call = OpCall(op=op, args=described, options=tuple(sorted(named)), out=out)
    if call.precision == "fp32" and device == "cuda" and op in TF32_OPS and is_tf32_on(TF32_OPS[op]):
        return OpCall(op=op, args=call.args, options=call.options, out=out, precision="tf32")
    return call


def schema_of(func: Any) -> tuple[str, frozenset[int | str]]:
    """Return `namespace::op` and which arguments are arithmetic scalars rather than sizes or flags."""
    schema = getattr(func, "_schema", None)
    if schema is None:
        return f"higher_order::{func.name()}", frozenset()
    numbers: set[int | str] = set()
    for index, argument in enumerate(schema.arguments):
        if str(argument.type).removeprefix("Optional[").startswith(("number", "Scalar", "float", "List[float]")):
            numbers.update((index, argument.name))
    return str(schema.name), frozenset(numbers)


def _describe_arg(value: Any, *, is_number: bool) -> Arg:
    if isinstance(value, tuple) and len(value) > 1 and isinstance(value[1], torch.dtype):
        return _describe_tensor(*value)
    if isinstance(value, tuple):
        return tuple(_describe_arg(item, is_number=is_number) for item in value)
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int) and not is_number:
        return value
    if isinstance(value, int | float) and value in EXACT_SCALARS:
        return value
    return ANY_NUMBER


def _describe_tensor(
    shape: Sequence[int], dtype: torch.dtype, stored: int | None = None, values: tuple[int, ...] | None = None
) -> TensorSpec:
    return TensorSpec(tuple(shape), name_dtype(dtype), stored, values)


def shadow(value: Any) -> Any:
    """Return what may be kept of an argument: hashable, without its tensor."""
    if isinstance(value, _Tensor):
        return (value.shape, value.dtype) if value.layout is _STRIDED else _shadow_sparse(value)
    if isinstance(value, float):
        if math.isinf(value):
            return str(value)  # the order of a norm, which then costs less
        return value if value in EXACT_SCALARS else ANY_NUMBER  # a step size may be another one at each call
    if value is None or isinstance(value, int | str):
        return value
    if isinstance(value, list | tuple):
        return tuple([shadow(item) for item in value])
    return None  # dtype, layout, device, generator: the outputs tell what matters


def _shadow_sparse(tensor: torch.Tensor) -> Any:
    """Return what may be kept of a sparse tensor: the entries that it stores too, which the host knows."""
    if tensor.layout not in _SPARSE:
        return (tensor.shape, tensor.dtype)  # a layout of a CPU library, dense all the same
    kept = tensor._values() if tensor.layout is torch.sparse_coo else tensor.values()  # noqa: SLF001
    return (tensor.shape, tensor.dtype, kept.numel(), None)


def shadow_nested(value: Any) -> Any:
    """Return what may be kept of an argument beside a nested tensor, or of that: one shape for each of its tensors."""
    if not isinstance(value, _Tensor) or not value.is_nested:
        return shadow(value)
    return tuple([(tuple(size), value.dtype) for size in value._nested_tensor_size().tolist()])  # noqa: SLF001


def flatten(out: Any) -> list[torch.Tensor]:
    """Return the tensors in what an operator was given or gave, lists opened, in order."""
    if isinstance(out, _Tensor):
        return [out]
    if isinstance(out, list | tuple):
        return [tensor for item in out for tensor in flatten(item)]
    return []
