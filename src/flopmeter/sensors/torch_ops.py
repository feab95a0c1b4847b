"""The dispatch hook: tensors become shapes here and nowhere else.

`OpRecorder` is a dispatch mode that notes each operator call of a passage: name, shapes, precisions, scalars that
change a cost, integers that a formula asks for, phase. It changes no result, draws no random number and lets compiled
code stay compiled.
Not here: when it is switched on (`passage.py`), phases (`torch_phase.py`), costs (`formulas`).
"""

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch._ops import HigherOrderOperator
from torch.utils._python_dispatch import TorchDispatchMode, _pop_mode, _push_mode

from flopmeter.formulas.book import Place
from flopmeter.formulas.call import AnyNumber, Arg, OpCall, TensorSpec
from flopmeter.sensors import autocast, composite, foreign
from flopmeter.sensors.guard import guarded
from flopmeter.sensors.higher_order import is_open, run_open
from flopmeter.sensors.precision import TF32_OPS, is_tf32_on, name_dtype
from flopmeter.sensors.values import Late, read_values
from flopmeter.step import Row

Key: TypeAlias = tuple[Any, ...]
Path: TypeAlias = tuple[int | str, ...]

EXACT_SCALARS = (-1, 0, 1, 2, 3, 0.5, -0.5)
"""Scalars whose value can change a cost (a factor of 1, an exponent of 2); all others are kept as `*`."""

ANY_NUMBER = AnyNumber()
_SKIPPED_NAMESPACES = frozenset({"profiler"})
_VIEW_NAMESPACES = frozenset({"aten", "prims"})
_INFRA_KEYS = (
    torch._C._TorchDispatchModeKey.FAKE,  # noqa: SLF001
    torch._C._TorchDispatchModeKey.PROXY,  # noqa: SLF001
    torch._C._TorchDispatchModeKey.FUNCTIONAL,  # noqa: SLF001
)
_Tensor = torch.Tensor
_STRIDED = torch.strided
_SPARSE = frozenset({torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc})


class OpRecorder(TorchDispatchMode):
    """Notes operator calls while it is on the stack; `take` hands them over.

    `phase_now` is asked at each call; `on_failure` hears of a call that could not be noted; `reads` says which
    arguments of an operator to look into (`FormulaBook.reads`), `is_priced` whether there is a formula for it. What it
    finds on a device comes later: `late` holds the promises since the last `take`, and `has_values` says that the costs
    since then hold for these values alone.
    """

    supports_higher_order_operators = True

    def __init__(
        self,
        phase_now: Callable[[], str],
        on_failure: Callable[[Exception], None],
        reads: Callable[[str], Collection[Place]] | None = None,
        is_priced: Callable[[str], bool] | None = None,
    ) -> None:
        """Start with nothing noted."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._phase_now = phase_now
        self.on_failure = on_failure
        self._reads = reads
        self._is_priced = is_priced
        self._foreign: dict[Any, bool] = {}
        self._places: dict[Any, tuple[Path, ...]] = {}
        self.late: list[Late] = []
        self.has_values = False
        self._calls: dict[Key, int] = {}
        self._skipped: dict[Any, bool] = {}
        self._composite: dict[Any, bool] = {}
        self._was_put_on = False
        self._is_retired = False
        self._is_below_autograd = False
        self._casting: autocast.Keys | None = None
        self.own_ns = 0

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Tell Dynamo to go on compiling and running compiled code under this mode."""
        return True

    def __torch_dispatch__(  # torch's own name
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if self._is_retired:
            return func(*args, **(kwargs or {}))
        for kind in types:
            if hasattr(kind, "__tensor_flatten__") and not _is_fake(kind):
                return NotImplemented  # a wrapper such as DTensor: its own local operators come back here
        if isinstance(func, HigherOrderOperator):
            if is_open(func, args, kwargs or {}):
                return run_open(self, func, args, kwargs or {})
            out = func(*args, **(kwargs or {}))
        elif (self._is_below_autograd or torch.is_inference_mode_enabled()) and self._is_composite(func):
            return self._run_composite(func, args, kwargs or {})
        else:
            out = self._run(func, types, args, kwargs or {})
        begun = time.perf_counter_ns()
        skip = self._skipped.get(func)
        if skip is None:
            skip = self._skipped[func] = _is_skipped(func)
        if not skip:
            self.note(func, types, args, kwargs, out)
        self.own_ns += time.perf_counter_ns() - begun
        return out

    def _run(self, func: Any, types: Sequence[type], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Run an operator as it would run without us; one that the book does not know, with us inside."""
        casting = self._autocast_inside(func)
        keys = foreign.keys_of(func, types, args) if self._is_foreign(func) else None
        if keys is not None:
            with self._again(casting, is_below_autograd=True), autocast.switched_on(casting):
                return func.redispatch(keys, *args, **kwargs)
        if casting:
            with autocast.switched_on(casting):
                return func(*args, **kwargs)
        return func(*args, **kwargs)

    def _run_composite(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Take an operator apart that arrives whole because autograd's layer is not there."""
        casting = self._autocast_inside(func)
        state = composite.state_of(func) or autocast.switched_on(casting)
        with self._again(casting, is_below_autograd=self._is_below_autograd), state:
            return composite.take_apart(func, args, kwargs)

    def _autocast_inside(self, func: Any) -> autocast.Keys:
        outside = autocast.keys_outside() if self._casting is None else self._casting
        return outside and autocast.keys_inside(func, outside)

    @guarded
    def note(
        self, func: Any, types: Sequence[type], args: Sequence[Any], kwargs: Mapping[str, Any] | None, out: Any
    ) -> None:
        """Remember one call. Calls on meta and fake tensors are no work and are left out."""
        if any(_is_fake(kind) for kind in types):
            return
        outs = _flatten(out)
        if outs and (outs[0].device.type == "meta" or _is_fake(type(outs[0]))):
            return
        if any(tensor.is_nested for tensor in (*_flatten(args), *outs)):
            self._note_nested(func, args, outs)
            return
        paths = self._paths(func) if self._reads else ()
        look = self._look if paths else _shadow_only
        key = (
            func,
            self._phase_now(),
            tuple([look(arg, index, paths) for index, arg in enumerate(args)]),
            tuple([(name, look(value, name, paths)) for name, value in kwargs.items()]) if kwargs else (),
            tuple([_shadow(tensor) for tensor in outs]),
            outs[0].device.type if outs else "",
        )
        self._calls[key] = self._calls.get(key, 0) + 1

    def note_region(self, name: str, outs: Sequence[torch.Tensor]) -> None:
        """Remember a call of something whose inside cannot be seen: it will be listed as uncounted."""
        key = (name, self._phase_now(), (), (), tuple([(tensor.shape, tensor.dtype) for tensor in outs]), "")
        self._calls[key] = self._calls.get(key, 0) + 1

    def _note_nested(self, func: Any, args: Sequence[Any], outs: Sequence[torch.Tensor]) -> None:
        """Remember a call on nested tensors, which have no one shape: each is kept as the list of its tensors.

        Their sizes stand on the host, whatever device they are on, and may be others at the next step.
        """
        self.has_values = True
        sizes = tuple([((tensor.numel(),), tensor.dtype) for tensor in outs])
        shadows = tuple([_shadow_nested(arg) for arg in args])
        key = (f"nested::{_schema(func)[0].replace('::', '.')}", self._phase_now(), shadows, (), sizes, "")
        self._calls[key] = self._calls.get(key, 0) + 1

    def _paths(self, func: Any) -> tuple[Path, ...]:
        """Return where in the arguments of an operator the integers stand that its formula reads."""
        found = self._places.get(func)
        if found is None:
            places = self._reads(_schema(func)[0]) if self._reads else ()
            found = self._places[func] = tuple([place if isinstance(place, tuple) else (place,) for place in places])
        return found

    def _look(self, value: Any, place: int | str, paths: Sequence[Path]) -> Any:
        """Return what may be kept of an argument, with the integers in those of its tensors that a path leads to."""
        below = [path[1:] for path in paths if not path or path[0] == place]
        if not below:
            return _shadow(value)
        if isinstance(value, list | tuple):
            return tuple([self._look(item, index, below) for index, item in enumerate(value)])
        if not isinstance(value, _Tensor):
            return _shadow(value)
        values = read_values(value)
        self.has_values = True
        if isinstance(values, Late):
            self.late.append(values)
        return (value.shape, value.dtype, None, values)

    @contextmanager
    def again(self) -> Iterator[None]:
        """Be on the stack inside of an operator that calls others, where torch may have left autograd behind."""
        with self._again(None, is_below_autograd=composite.is_below_autograd()):
            yield

    @contextmanager
    def _again(self, casting: autocast.Keys | None, *, is_below_autograd: bool) -> Iterator[None]:
        """Be on the stack inside of an operator; `casting` says where autocast is on there, None that torch knows."""
        before = self._casting, self._is_below_autograd
        self._casting, self._is_below_autograd = casting, is_below_autograd
        try:
            with self:
                yield
        finally:
            self._casting, self._is_below_autograd = before

    def _is_foreign(self, func: Any) -> bool:
        found = self._foreign.get(func)
        if found is None:
            found = self._is_priced is not None and foreign.is_foreign(func) and not self._is_priced(_schema(func)[0])
            self._foreign[func] = found
        return found

    def _is_composite(self, func: Any) -> bool:
        found = self._composite.get(func)
        if found is None:
            found = self._composite[func] = composite.is_composite(func)
        return found

    def take(self) -> dict[Key, int]:
        """Return what was noted since the last take."""
        calls, self._calls, self.late, self.has_values = self._calls, {}, [], False
        return calls

    @property
    def is_on(self) -> bool:
        """Say whether the mode is on this thread's stack."""
        return any(mode is self for mode in _stack())

    def switch_on(self) -> bool:
        """Go below every mode of the user's, so that theirs may come and go above us in any order.

        Returns whether calls are noted now: where someone lifted all modes for a while, ours will be put back with
        the others, and a second one beside it would note everything twice.
        """
        if self.is_on:
            return True
        if self._was_put_on:
            return False
        with _user_modes_lifted():
            _push_mode(self)
        self._was_put_on = True
        return True

    def switch_off(self) -> None:
        """Leave the stack, wherever on it we are, and however often."""
        lifted: list[Any] = []
        try:
            while self.is_on:
                self._was_put_on = False
                # One statement: an interrupt in between would lose a mode of the user's.
                lifted.append(_pop_mode())
        finally:
            for mode in reversed(lifted):
                if mode is not self:
                    _push_mode(mode)

    def retire(self) -> None:
        """Leave for good; if someone puts us back later, calls pass through unseen."""
        self.switch_off()
        self._is_retired = True


def rows_of(calls: Mapping[Key, int]) -> tuple[Row, ...]:
    """Return noted calls as rows of a table, in an order that does not depend on when they ran."""
    summed: dict[tuple[OpCall, str], int] = {}
    for key, times in calls.items():
        place = (_describe(key), key[1])
        summed[place] = summed.get(place, 0) + times
    rows = [Row(call=call, phase=phase, calls=times) for (call, phase), times in summed.items()]
    return tuple(sorted(rows, key=lambda row: (row.call.op, row.phase, str(row.call.to_wire()))))


def _describe(key: Key) -> OpCall:
    func, _, args, options, outs, device = key
    op, numbers = (func, frozenset[int | str]()) if isinstance(func, str) else _schema(func)
    described = tuple(_describe_arg(arg, is_number=index in numbers) for index, arg in enumerate(args))
    named = tuple((name, _describe_arg(value, is_number=name in numbers)) for name, value in options)
    out = tuple(_describe_tensor(*spec) for spec in outs)
    call = OpCall(op=op, args=described, options=tuple(sorted(named)), out=out)
    if call.precision == "fp32" and device == "cuda" and op in TF32_OPS and is_tf32_on(TF32_OPS[op]):
        return OpCall(op=op, args=call.args, options=call.options, out=out, precision="tf32")
    return call


def _schema(func: Any) -> tuple[str, frozenset[int | str]]:
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


def _shadow_only(value: Any, _place: int | str, _paths: Sequence[Path]) -> Any:
    return _shadow(value)


def _shadow(value: Any) -> Any:
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
        return tuple([_shadow(item) for item in value])
    return None  # dtype, layout, device, generator: the outputs tell what matters


def _shadow_sparse(tensor: torch.Tensor) -> Any:
    """Return what may be kept of a sparse tensor: the entries that it stores too, which the host knows."""
    if tensor.layout not in _SPARSE:
        return (tensor.shape, tensor.dtype)  # a layout of a CPU library, dense all the same
    kept = tensor._values() if tensor.layout is torch.sparse_coo else tensor.values()  # noqa: SLF001
    return (tensor.shape, tensor.dtype, kept.numel(), None)


def _shadow_nested(value: Any) -> Any:
    """Return what may be kept of an argument beside a nested tensor, or of that: one shape for each of its tensors."""
    if not isinstance(value, _Tensor) or not value.is_nested:
        return _shadow(value)
    return tuple([(tuple(size), value.dtype) for size in value._nested_tensor_size().tolist()])  # noqa: SLF001


def _flatten(out: Any) -> list[torch.Tensor]:
    if isinstance(out, _Tensor):
        return [out]
    if isinstance(out, list | tuple):
        return [tensor for item in out for tensor in _flatten(item)]
    return []


def _is_skipped(func: Any) -> bool:
    """Views run nothing, where torch itself says that one is a view; profiler marks are no operators."""
    namespace = getattr(func, "namespace", "")
    is_view = namespace in _VIEW_NAMESPACES and bool(getattr(func, "is_view", False))
    return is_view or namespace in _SKIPPED_NAMESPACES


def _is_fake(kind: type) -> bool:
    return kind.__name__ in ("FakeTensor", "FunctionalTensor")


def _stack() -> Iterator[Any]:
    length = torch._C._len_torch_dispatch_stack()  # noqa: SLF001
    return (torch._C._get_dispatch_stack_at(index) for index in range(length))  # noqa: SLF001


@contextmanager
def _user_modes_lifted() -> Iterator[None]:
    """Take the user's own modes off for a moment; torch's internal ones stay where torch wants them."""
    internal = sum(torch._C._get_dispatch_mode(key) is not None for key in _INFRA_KEYS)  # noqa: SLF001
    lifted: list[Any] = []
    try:
        while torch._C._len_torch_dispatch_stack() > internal:  # noqa: SLF001
            lifted.append(_pop_mode())
        yield
    finally:
        for mode in reversed(lifted):
            _push_mode(mode)
