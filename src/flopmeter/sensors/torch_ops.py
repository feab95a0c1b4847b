"""The dispatch hook: tensors become shapes here and nowhere else.

`OpRecorder` is a dispatch mode that notes each operator call of a passage: name, shapes, precisions, scalars that
change a cost, integers that a formula asks for, phase. It changes no result, draws no random number and lets compiled
code stay compiled.
Most calls are plain: ordinary tensors, given to an operator with a kernel of its own. They take the short way, which
stands as a whole in `__torch_dispatch__` because each line of it runs thousands of times a step.
Not here: when it is switched on (`passage.py`), what is known of an operator (`operators.py`), phases
(`torch_phase.py`), costs (`formulas`).
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from flopmeter.formulas.book import FormulaBook
from flopmeter.sensors import autocast, composite, foreign, owed
from flopmeter.sensors.guard import guarded
from flopmeter.sensors.higher_order import is_open, run_open
from flopmeter.sensors.hook import CAN_HIDE, hide_from_dynamo
from flopmeter.sensors.lowest_mode import LowestMode
from flopmeter.sensors.operators import Operator, Path
from flopmeter.sensors.repeats import Repeats, Spread
from flopmeter.sensors.shadows import Key, Looks, Notes, flatten, read_tensor, shadow, shadow_nested
from flopmeter.sensors.unseen import Unseen
from flopmeter.sensors.values import INDEXING, Late, has_mask, read_values

WEIGHED = 64
"""One in so many calls that take the short way is looked at once more, with a watch in hand."""
_Tensor = torch.Tensor
_depth = torch._C._len_torch_dispatch_stack  # noqa: SLF001
_is_included = torch._C._dispatch_tls_is_dispatch_key_included  # noqa: SLF001


class OpRecorder(LowestMode):
    """Notes operator calls while it is on the stack; `take` hands them over.

    `phase_now` is asked at each call; `on_failure` hears of a call that could not be noted; the `book` says which
    operators have a formula, and which of their arguments to look into. What is found there on a device comes later:
    `late` holds the promises since the last `take`, and `has_values` says that the costs since then hold for these
    values alone. `noted` is the number of calls since then.
    """

    supports_higher_order_operators = True

    def __init__(
        self,
        phase_now: Callable[[], str],
        on_failure: Callable[[Exception], None],
        book: FormulaBook | None = None,
    ) -> None:
        """Start with nothing noted."""
        super().__init__()
        hide_from_dynamo(OpRecorder.__torch_dispatch__)
        self._phase_now = phase_now
        self.on_failure = on_failure
        self.book = book
        self._operators: dict[int, Operator] = {}
        self._looks = Looks()
        self._short: dict[tuple[Any, ...], int] = {}
        self._calls: dict[Key, int] = {}
        self.noted = 0
        self.late: list[Late] = []
        self.has_values = False
        self._is_retired = self._is_slow = False
        self.repeats: Repeats | None = None
        self._then: Callable[[], None] | None = None
        self._is_below_autograd = False
        self._inside: tuple[str, ...] = ()
        self._casting: autocast.Keys | None = None
        self._own_ns = self._passed = 0
        self.unseen = Unseen(self.note_opaque, on_failure)

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Tell Dynamo to go on compiling and running compiled code under this mode."""
        return True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Have torch keep Dynamo away at each call only where it cannot be told once for all."""
        return not CAN_HIDE

    def __torch_dispatch__(  # torch's own name
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        operator = self._operators.get(id(func)) or self._meet(func)
        is_odd = types or self._is_slow or self.unseen.is_alert or not operator.is_plain
        if is_odd or (operator.is_owing and owed.is_in_function()):
            return self._go_the_long_way(operator, types, args, kwargs or {})
        if operator.is_skipped:
            self._passed += 1
            return operator.run(*args, **kwargs) if kwargs else operator.run(*args)
        looks, tensors = self._looks, self._looks.tensors
        try:
            given = []
            for arg in args:
                kind = type(arg)
                given.append(tensors[read_tensor(arg)] if kind is _Tensor else looks[kind](arg))
            options = tuple([(name, looks[type(value)](value)) for name, value in kwargs.items()]) if kwargs else ()
        except Exception:  # noqa: BLE001  # no plain tensors; or a fault of ours, which comes up again over there
            return self._go_the_long_way(operator, types, args, kwargs or {})
        if not operator.is_quiet:
            out = self._run(operator, types, args, kwargs or {})
        else:
            out = operator.run(*args, **kwargs) if kwargs else operator.run(*args)
        try:
            is_in_place = args and out is args[0]
            results = given[0] if is_in_place else looks.at_results[type(out)](out)
            key = (operator, self._phase_now(), *given, options, results, self._inside)
            self._short[key] = self._short.get(key, 0) + 1
            self.noted += 1
            if not self.noted % WEIGHED:
                self._weigh(args, out)
        except Exception:  # noqa: BLE001  # as above
            self.note(operator, types, args, kwargs or {}, out)
        return out

    def _meet(self, func: Any) -> Operator:
        operator = Operator(func)
        self._get_to_know(operator)
        return operator

    @guarded
    def _get_to_know(self, operator: Operator) -> None:
        operator.ask(self.book)
        self._operators[id(operator.func)] = operator  # which holds the function, so that no other has its id

    def _go_the_long_way(
        self, operator: Operator, types: Sequence[type], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        if self._is_retired:
            then, self._then = self._then, None
            if then is not None:
                then()
            return operator.run(*args, **kwargs)
        for kind in types:
            if hasattr(kind, "__tensor_flatten__") and not _is_fake(kind):
                if self.repeats is not None:
                    self.repeats.see(args, kwargs)
                return NotImplemented  # a wrapper such as DTensor: its own local operators come back here
        self.unseen.before(operator, types, args, kwargs)
        if operator.is_higher_order:
            if is_open(operator.func, args, kwargs):
                return run_open(self, operator.func, args, kwargs)
            out = operator.run(*args, **kwargs)
        elif operator.is_composite and (self._is_below_autograd or _is_inference(args)):
            return self._run_composite(operator, args, kwargs)
        else:
            out = self._run(operator, types, args, kwargs)
        begun = time.perf_counter_ns()
        if not operator.is_skipped:
            self.note(operator, types, args, kwargs, out)
        self.unseen.after(operator, () if types or self._inside else out)
        self._own_ns += time.perf_counter_ns() - begun
        return out

    def _run(self, operator: Operator, types: Sequence[type], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Run an operator as it would run without us; one that the book does not know, with us inside."""
        casting = self._autocast_inside(operator)
        switched = casting if types else self._lazy_inside(operator, args) + casting
        keys = foreign.keys_of(operator.func, types, args) if operator.is_foreign else None
        if keys is not None:
            again = self._again(casting, is_below_autograd=True)
            with self.within(operator.name), again, autocast.switched_on(switched):
                return operator.func.redispatch(keys, *args, **kwargs)
        if switched:
            with autocast.switched_on(switched):
                return operator.run(*args, **kwargs)
        return operator.run(*args, **kwargs)

    def _run_composite(self, operator: Operator, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Take an operator apart that arrives whole because autograd's layer is not there."""
        casting = self._autocast_inside(operator)
        state = composite.state_of(operator.func) or autocast.switched_on(self._lazy_inside(operator, args) + casting)
        with self._again(casting, is_below_autograd=self._is_below_autograd), state:
            return composite.take_apart(operator.func, args, kwargs)

    def _autocast_inside(self, operator: Operator) -> autocast.Keys:
        outside = autocast.keys_outside() if self._casting is None else self._casting
        return outside and autocast.keys_inside(operator.func, outside)

    def _lazy_inside(self, operator: Operator, args: Sequence[Any]) -> autocast.Keys:
        is_needed = operator.calls_others or any(isinstance(arg, _Tensor) and arg.is_complex() for arg in args)
        # Something that traces comes after us: it keeps the marks itself, and torch dies of another state there.
        return autocast.LAZY if is_needed and not _depth() else ()

    @guarded
    def note(
        self, operator: Operator, types: Sequence[type], args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
    ) -> None:
        """Remember one call, whatever it was given. On meta and fake tensors it is no work and is left out."""
        if any(_is_fake(kind) for kind in types):
            return
        outs = flatten(out)
        if outs and (outs[0].device.type == "meta" or _is_fake(type(outs[0]))):
            return
        if any(tensor.is_nested for tensor in (*flatten(args), *outs)):
            self._note_nested(operator, args, outs)
            return
        phase, repeats = self._phase_now(), self.repeats
        spread = None if repeats is None else repeats.follow(operator, phase, args, kwargs, out)
        self.has_values |= operator.decides and (operator.func not in INDEXING or has_mask(args))
        paths = operator.paths
        look = self._look if paths else _shadow_only
        given = tuple([look(arg, index, paths) for index, arg in enumerate(args)])
        options = tuple([(name, look(value, name, paths)) for name, value in kwargs.items()])
        device = outs[0].device.type if outs else ""
        self.add((operator.func, phase, given, options, tuple(map(shadow, outs)), device, self._inside), spread=spread)

    @guarded
    def note_bypass(
        self, read: Callable[[str, tuple[str, ...]], Mapping[Key, int]], *, touched: Sequence[Any] | None = None
    ) -> None:
        """Remember calls that bypass the dispatcher, as `read` tells them of this phase, inside of these operators.

        `touched` is what they were given and what they made, None where that is not known.
        """
        self.unseen.wrote(touched)
        for key, times in read(*self.where).items():
            self.add(key, times=times)

    @contextmanager
    def within(self, name: str) -> Iterator[None]:
        """Note what is called as part of something that has no price."""
        before, self._inside = self._inside, (*self._inside, name)
        try:
            yield
        finally:
            self._inside = before

    def note_opaque(self, name: str, outs: Sequence[Any]) -> None:
        """Remember a call of something whose inside cannot be seen: it will be listed as uncounted."""
        self.unseen.wrote(outs)
        self.add((name, self._phase_now(), (), (), tuple([(one.shape, one.dtype) for one in outs]), "", ()))

    def _note_nested(self, operator: Operator, args: Sequence[Any], outs: Sequence[torch.Tensor]) -> None:
        """Remember a call on nested tensors, which have no one shape: each is kept as the list of its tensors.

        Their sizes stand on the host, whatever device they are on, and may be others at the next step.
        """
        self.has_values = True
        sizes = tuple([((tensor.numel(),), tensor.dtype) for tensor in outs])
        shadows = tuple([shadow_nested(arg) for arg in args])
        name = f"nested::{operator.name.replace('::', '.')}"
        self.add((name, self._phase_now(), shadows, (), sizes, "", self._inside))

    @property
    def where(self) -> tuple[str, tuple[str, ...]]:
        """The phase now, and the uncounted operators inside of which we are."""
        return self._phase_now(), self._inside

    def add(self, key: Key, *, times: int = 1, spread: Spread | None = None) -> None:
        """Note calls; where other ranks matter, they are like any that was not followed unless `spread` says more."""
        if self.repeats is not None:
            key = (*key, self.repeats.unmarked(key[1]) if spread is None else spread)
        self._calls[key] = self._calls.get(key, 0) + times
        self.noted += 1

    @guarded
    def _weigh(self, args: Sequence[Any], out: Any) -> None:
        """Look at a call once more, to know how long that takes."""
        begun, looks = time.perf_counter_ns(), self._looks
        given = tuple([looks[type(arg)](arg) for arg in args])
        hash((given, looks.at_results[type(out)](out), self._phase_now()))
        self._own_ns += WEIGHED * (time.perf_counter_ns() - begun)

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

    def take(self) -> dict[Key, int]:
        """Return what was noted since the last take."""
        self.unseen.end()
        repeats = self.repeats
        return self._swap(Notes.empty()).spell_out(lambda phase: () if repeats is None else (repeats.unmarked(phase),))

    def _swap(self, notes: Notes) -> Notes:
        """Go on from these notes; return those so far."""
        before = Notes(self._calls, self._short, self.noted, self._passed, self.late, self.has_values)
        self._calls, self._short, self.noted, self._passed, self.late, self.has_values = notes
        return before

    def set_aside(self) -> tuple[Notes, Unseen]:
        """Begin anew; what was noted before is for `resume`."""
        before, self.unseen = self.unseen, Unseen(self.note_opaque, self.on_failure)
        return self._swap(Notes.empty()), before

    def resume(self, before: tuple[Notes, Unseen], is_kept: Callable[[Key], bool]) -> None:
        """Go on with what was noted before `set_aside`; of what was noted since, keep some."""
        seen, late, has_values = self.seen, self.late, self.has_values
        since = [(key, times) for key, times in self.take().items() if is_kept(key)]
        notes, self.unseen = before
        self._swap(notes)
        self._passed += seen
        if since:
            self.late, self.has_values = self.late + late, self.has_values or has_values
        for key, times in since:
            self._calls[key] = self._calls.get(key, 0) + times

    def tells_more(self, func: Any) -> bool:
        """Say whether calls of an operator tell more than sizes: integers in tensors, what a library's one calls."""
        operator = self._operators.get(id(func))
        return operator is not None and (bool(operator.paths) or foreign.is_foreign(func))

    @property
    def names(self) -> frozenset[str]:
        """Which operators it was ever called for."""
        return frozenset(operator.name for operator in self._operators.values())

    @property
    def seen(self) -> int:
        """How many calls came by since the last take, those of views included; asking costs nothing.

        Units: calls.
        """
        return self.noted + self._passed

    @property
    def own_ns(self) -> int:
        """Time spent in noting calls.

        Units: nanoseconds.
        Basis: `measured` for calls that take the long way, and for one in `WEIGHED` of the others, which stands for
        the rest.
        """
        return self._own_ns

    def retire(self, then: Callable[[], None] | None = None) -> None:
        """Leave for good; if we are on a stack later, calls pass through unseen, and the first is told to `then`."""
        self.switch_off()
        self.unseen.end()
        self._is_retired = self._is_slow = True
        self._then = then

    def begin(self, owner: Any, *, goes_on: bool) -> None:
        """Forget what was noted so far: a passage begins, of a model, an optimizer or nobody; see `Repeats.begin`."""
        self.take()
        if self.repeats is not None:
            self.repeats.begin(owner, goes_on=goes_on)
            self._is_slow = self._is_retired or self.repeats.is_following  # no call is plain then


def _shadow_only(value: Any, _place: int | str, _paths: Sequence[Path]) -> Any:
    return shadow(value)


def _is_inference(args: Sequence[Any]) -> bool:
    """Say whether autograd's layer is left out: in inference mode, and wherever tensors go that were made there."""
    return torch.is_inference_mode_enabled() or any(tensor.is_inference() for tensor in flatten(args))


def is_heard() -> bool:
    """Say whether torch asks the modes on this thread's stack: the end of an inference mode can have put that off."""
    return _depth() > 0 and _is_included(torch._C.DispatchKey.Python)  # noqa: SLF001


def _is_fake(kind: type) -> bool:
    return kind.__name__ in ("FakeTensor", "FunctionalTensor")
