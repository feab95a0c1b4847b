"""The dispatch hook: tensors become shapes here and nowhere else.

`OpRecorder` is a dispatch mode that notes each operator call of a passage: name, shapes, precisions, scalars that
change a cost, integers that a formula asks for, phase. It changes no result, draws no random number and lets compiled
code stay compiled.
Not here: when it is switched on (`passage.py`), phases (`torch_phase.py`), costs (`formulas`).
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch._ops import HigherOrderOperator
from torch.utils._python_dispatch import TorchDispatchMode, _pop_mode, _push_mode

from flopmeter.formulas.book import FormulaBook
from flopmeter.sensors import autocast, composite, foreign
from flopmeter.sensors.guard import guarded
from flopmeter.sensors.higher_order import is_open, run_open
from flopmeter.sensors.shadows import Key, flatten, schema_of, shadow, shadow_nested
from flopmeter.sensors.values import INDEXING, Late, decides_shapes, has_mask, read_values

Path: TypeAlias = tuple[int | str, ...]

_SKIPPED_NAMESPACES = frozenset({"profiler"})
_VIEW_NAMESPACES = frozenset({"aten", "prims"})
_INFRA_KEYS = (
    torch._C._TorchDispatchModeKey.FAKE,  # noqa: SLF001
    torch._C._TorchDispatchModeKey.PROXY,  # noqa: SLF001
    torch._C._TorchDispatchModeKey.FUNCTIONAL,  # noqa: SLF001
)
_Tensor = torch.Tensor


class OpRecorder(TorchDispatchMode):
    """Notes operator calls while it is on the stack; `take` hands them over.

    `phase_now` is asked at each call; `on_failure` hears of a call that could not be noted; the `book` says which
    operators have a formula, and which of their arguments to look into. What is found there on a device comes later:
    `late` holds the promises since the last `take`, and `has_values` says that the costs since then hold for these
    values alone.
    """

    supports_higher_order_operators = True

    def __init__(
        self,
        phase_now: Callable[[], str],
        on_failure: Callable[[Exception], None],
        book: FormulaBook | None = None,
    ) -> None:
        """Start with nothing noted."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._phase_now = phase_now
        self.on_failure = on_failure
        self._book = book
        self._foreign: dict[Any, bool] = {}
        self._calls_others: dict[Any, bool] = {}
        self._decides: dict[Any, bool] = {}
        self._places: dict[Any, tuple[Path, ...]] = {}
        self.late: list[Late] = []
        self.has_values = False
        self._calls: dict[Key, int] = {}
        self._skipped: dict[Any, bool] = {}
        self._composite: dict[Any, bool] = {}
        self._was_put_on = False
        self._is_retired = False
        self._is_below_autograd = False
        self._inside: tuple[str, ...] = ()
        self._casting: autocast.Keys | None = None
        self.own_ns = self.seen = 0

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Tell Dynamo to go on compiling and running compiled code under this mode."""
        return True

    def __torch_dispatch__(  # torch's own name
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if self._is_retired:
            return func(*args, **(kwargs or {}))
        self.seen += 1
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
        switched = casting if types else self._lazy_inside(func, args) + casting
        keys = foreign.keys_of(func, types, args) if self._is_foreign(func) else None
        if keys is not None:
            before, self._inside = self._inside, (*self._inside, schema_of(func)[0])
            try:
                with self._again(casting, is_below_autograd=True), autocast.switched_on(switched):
                    return func.redispatch(keys, *args, **kwargs)
            finally:
                self._inside = before
        if switched:
            with autocast.switched_on(switched):
                return func(*args, **kwargs)
        return func(*args, **kwargs)

    def _run_composite(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Take an operator apart that arrives whole because autograd's layer is not there."""
        casting = self._autocast_inside(func)
        state = composite.state_of(func) or autocast.switched_on(self._lazy_inside(func, args) + casting)
        with self._again(casting, is_below_autograd=self._is_below_autograd), state:
            return composite.take_apart(func, args, kwargs)

    def _autocast_inside(self, func: Any) -> autocast.Keys:
        outside = autocast.keys_outside() if self._casting is None else self._casting
        return outside and autocast.keys_inside(func, outside)

    def _lazy_inside(self, func: Any, args: Sequence[Any]) -> autocast.Keys:
        calls_others = self._calls_others.get(func)
        if calls_others is None:
            calls_others = self._calls_others[func] = composite.calls_others(func)
        is_needed = calls_others or any(isinstance(arg, _Tensor) and arg.is_complex() for arg in args)
        # Something that traces comes after us: it keeps the marks itself, and torch dies of another state there.
        return autocast.LAZY if is_needed and not torch._C._len_torch_dispatch_stack() else ()  # noqa: SLF001

    @guarded
    def note(
        self, func: Any, types: Sequence[type], args: Sequence[Any], kwargs: Mapping[str, Any] | None, out: Any
    ) -> None:
        """Remember one call. Calls on meta and fake tensors are no work and are left out."""
        if any(_is_fake(kind) for kind in types):
            return
        outs = flatten(out)
        if outs and (outs[0].device.type == "meta" or _is_fake(type(outs[0]))):
            return
        if any(tensor.is_nested for tensor in (*flatten(args), *outs)):
            self._note_nested(func, args, outs)
            return
        decides = self._decides.get(func)
        if decides is None:
            decides = self._decides[func] = decides_shapes(func)
        self.has_values |= decides and (func not in INDEXING or has_mask(args))
        paths = self._paths(func) if self._book else ()
        look = self._look if paths else _shadow_only
        key = (
            func,
            self._phase_now(),
            tuple([look(arg, index, paths) for index, arg in enumerate(args)]),
            tuple([(name, look(value, name, paths)) for name, value in kwargs.items()]) if kwargs else (),
            tuple([shadow(tensor) for tensor in outs]),
            outs[0].device.type if outs else "",
            self._inside,
        )
        self._calls[key] = self._calls.get(key, 0) + 1

    def note_region(self, name: str, outs: Sequence[torch.Tensor]) -> None:
        """Remember a call of something whose inside cannot be seen: it will be listed as uncounted."""
        key = (name, self._phase_now(), (), (), tuple([(tensor.shape, tensor.dtype) for tensor in outs]), "", ())
        self._calls[key] = self._calls.get(key, 0) + 1

    def _note_nested(self, func: Any, args: Sequence[Any], outs: Sequence[torch.Tensor]) -> None:
        """Remember a call on nested tensors, which have no one shape: each is kept as the list of its tensors.

        Their sizes stand on the host, whatever device they are on, and may be others at the next step.
        """
        self.has_values = True
        sizes = tuple([((tensor.numel(),), tensor.dtype) for tensor in outs])
        shadows = tuple([shadow_nested(arg) for arg in args])
        key = (
            f"nested::{schema_of(func)[0].replace('::', '.')}",
            self._phase_now(),
            shadows,
            (),
            sizes,
            "",
            self._inside,
        )
        self._calls[key] = self._calls.get(key, 0) + 1

    def _paths(self, func: Any) -> tuple[Path, ...]:
        """Return where in the arguments of an operator the integers stand that its formula reads."""
        found = self._places.get(func)
        if found is None:
            places = self._book.reads(schema_of(func)[0]) if self._book else ()
            found = self._places[func] = tuple([place if isinstance(place, tuple) else (place,) for place in places])
        return found

    def _look(self, value: Any, place: int | str, paths: Sequence[Path]) -> Any:
        """Return what may be kept of an argument, with the integers in those of its tensors that a path leads to."""
        below = [path[1:] for path in paths if not path or path[0] == place]
        if not below:
            return shadow(value)
        if isinstance(value, list | tuple):
            return tuple([self._look(item, index, below) for index, item in enumerate(value)])
        if not isinstance(value, _Tensor):
            return shadow(value)
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
            found = self._book is not None and foreign.is_foreign(func) and not self._book.find(schema_of(func)[0])
            self._foreign[func] = found
        return found

    def _is_composite(self, func: Any) -> bool:
        found = self._composite.get(func)
        if found is None:
            found = self._composite[func] = composite.is_composite(func)
        return found

    def take(self) -> dict[Key, int]:
        """Return what was noted since the last take."""
        calls, self._calls, self.late, self.has_values, self.seen = self._calls, {}, [], False, 0
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


def _shadow_only(value: Any, _place: int | str, _paths: Sequence[Path]) -> Any:
    return shadow(value)


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
