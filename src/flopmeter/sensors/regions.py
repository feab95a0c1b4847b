"""Compiled regions: each call of code that Inductor made is seen; what it runs is counted from its own graph.

The code stays as it is and runs as ever. Where a passage is counted, a call is noted as one thing, region and sizes,
and becomes the calls of its graph when it is priced; what the code hands to the dispatcher meanwhile is left out, but
for what is told there alone. Where a passage is not counted, a call only adds its number to what was launched, which
is part of the passage's witness: code that was compiled anew, or that other guards chose, shows.
Not here: how a graph is read (`graph_text.py`) and run (`region_calls.py`), what Dynamo tells (`compiled.py`).
"""

import re
import sys
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from flopmeter.sensors.current_recorder import recorders_here
from flopmeter.sensors.graph_text import Graph, GraphNames, kernels_of, read_graph
from flopmeter.sensors.guard import guarded
from flopmeter.sensors.hook import hide_from_dynamo
from flopmeter.sensors.launches import covered, launched, number_launch
from flopmeter.sensors.region_calls import Given, Made, Sizes, list_calls, name_of
from flopmeter.sensors.shadows import Key, Notes, flatten, shadow
from flopmeter.sensors.torch_ops import OpRecorder
from flopmeter.sensors.values import Late, read_values

if TYPE_CHECKING:
    from flopmeter.sensors.unseen import Unseen

REGION = "torch.compile::region"
MODULE = "torch._inductor.output_code"
"""The part of torch that has the code of regions."""
MAX_SIZES = 64
"""Of each region, so many kinds of input are kept whose calls are known."""
_NEEDED = frozenset({"runnable_graph_str", "inductor_post_grad_graph_str", "fx_kwargs", "mutated_input_idxs"})
_depth = torch._C._len_torch_dispatch_stack  # noqa: SLF001


class Region:
    """One graph that Inductor compiled; `launch_number` is what a call of it adds (`launches.py`)."""

    def __init__(self, code: Any, number: int) -> None:
        """Keep the texts, which the code holds anyway; nothing is read yet."""
        self.launch_number = number_launch(f"region {number}")
        self._runnable: str = code.runnable_graph_str
        self._listing: str = code.inductor_post_grad_graph_str
        options = code.fx_kwargs
        self.is_backward = bool(options.get("is_backward"))
        self.writes: tuple[int, ...] = tuple(code.mutated_input_idxs)
        self._names: GraphNames | None = None
        self._graph: Graph | None = None
        self._again: frozenset[str] | None = None
        self._known: OrderedDict[Given, list[Made]] = OrderedDict()
        self._reads: frozenset[int] | None = None

    @property
    def reads(self) -> frozenset[int]:
        """Which inputs a formula reads integers in."""
        if self._reads is None:
            lines = [line for line in self._listing.splitlines() if "higher_order.flex_attention" in line]
            words = {word for line in lines for word in re.findall(r"\w+", line)}
            found = [index for index, name in enumerate(self._read().inputs) if name in words] if words else []
            self._reads = frozenset(found)
        return self._reads

    def names_operator(self, func: Any) -> bool:
        """Say whether its graph calls this operator by name."""
        return f"torch.ops.{name_of(func).replace('::', '.')}" in (self._runnable or self._listing)

    def _read(self) -> Graph:
        if self._graph is None:
            self._graph = read_graph(self._runnable, self._listing)
        return self._graph

    @property
    def names(self) -> GraphNames:
        """What the values of its graph are called."""
        if self._names is None:
            self._names = GraphNames(self._runnable, self._listing)
        return self._names

    def calls_for(self, given: Given) -> list[Made]:
        """Return what it calls for inputs of these sizes.

        Raises:
            Exception: its text cannot be read, or sizes alone do not tell.
        """
        made = self._known.get(given)
        if made is None:
            made = self._known[given] = list_calls(self._read(), given, kernels_of(self._runnable))
            while len(self._known) > MAX_SIZES:
                self._known.popitem(last=False)
        return made

    def find_repeated(self, forwards: "list[Region]") -> frozenset[str]:
        """Return the values that a backward computes though its forward did; nothing where two could be that one."""
        if self._again is None:
            fitting = [one.names for one in reversed(forwards) if one.names.is_forward_of(self.names)]
            found = {self.names.again(one) for one in fitting}
            if not found:
                return frozenset()  # its forward was not seen; it may be later
            self._again = found.pop() if len(found) == 1 else frozenset()
        return self._again


class RegionWatch:
    """Sees the calls of compiled code while somebody meters, and keeps the regions that were called."""

    def __init__(self) -> None:
        self.plain: Callable[..., Any] = _call
        """What torch calls the code by."""
        self._kind: Any = None
        self._known: dict[int, tuple[weakref.ref[Any], Region]] = {}
        self.launch_numbers: dict[int, int] = {}
        """What a call of code adds to the witness, by the code's identity; of code that is gone there is none."""
        self._users: dict[int, Callable[[Exception], None]] = {}
        self._numbered = 0

    def on_failure(self, error: Exception) -> None:
        """Tell all who meter."""
        for tell in list(self._users.values()):
            tell(error)

    def listen(self, user: int, on_failure: Callable[[Exception], None]) -> None:
        """See regions from now on."""
        self._users[user] = on_failure
        self.look()

    @guarded
    def look(self) -> None:
        """Step in before the code that Inductor makes, once that part of torch is there; again changes nothing."""
        kind = getattr(sys.modules.get(MODULE), "CompiledFxGraph", None)
        if self._kind is None and self._users and kind is not None and kind.__dataclass_fields__.keys() >= _NEEDED:
            self._kind, self.plain = kind, kind.__call__
            kind.__call__ = _call

    @property
    def is_seen(self) -> bool:
        """Whether regions are seen: torch has what it takes, or has made no code so far."""
        return self._kind is not None or MODULE not in sys.modules

    def stop_listening(self, user: int) -> None:
        """Put back what torch had, once nobody meters; twice is fine."""
        self._users.pop(user, None)
        if not self._users and self._kind is not None and self._kind.__call__ is _call:
            self._kind.__call__ = self.plain
            self._kind = None
            self._known.clear()
            self.launch_numbers.clear()

    def region_of(self, code: Any) -> Region:
        """Return what is known of compiled code."""
        known = self._known.get(id(code))
        if known is not None and known[0]() is code:
            return known[1]
        self._numbered += 1
        region, key, regions, numbers = Region(code, self._numbered), id(code), self._known, self.launch_numbers

        def forget(_: object) -> None:
            regions.pop(key, None)
            numbers.pop(key, None)

        regions[key] = (weakref.ref(code, forget), region)
        numbers[key] = region.launch_number
        return region

    @property
    def forwards(self) -> list[Region]:
        """The graphs that are no backward."""
        return [region for _, region in self._known.values() if not region.is_backward]

    @guarded
    def note_launch(self, code: Any) -> None:
        """Note that a region is called."""
        launched.total += self.region_of(code).launch_number


class _Counted:
    """One call of a region in a passage that is counted."""

    def __init__(self, recorder: OpRecorder, code: Any) -> None:
        self._recorder = recorder
        self._code = code
        self._key: Key = ()
        self._before: tuple[Notes, Unseen] | None = None

    def on_failure(self, error: Exception) -> None:
        """The passage is not fully known."""
        self._recorder.on_failure(error)

    @guarded
    def begin(self, inputs: Sequence[Any]) -> None:
        """Note what the region is given, and set aside what was noted before."""
        region, recorder = region_watch.region_of(self._code), self._recorder
        given = tuple([_look(one, recorder, reads=index in region.reads) for index, one in enumerate(inputs)])
        phase, inside = recorder.where
        written = [inputs[index] for index in region.writes]
        if phase in {"forward", "other"} and not region.is_backward:
            # No gradients go through a graph that writes into what it is given, if that wants some: an update.
            phase = "optimizer" if any(isinstance(one, torch.nn.Parameter) for one in written) else phase
        self._key = (region, phase, given, inside)
        recorder.unseen.returned([one for index, one in enumerate(inputs) if index not in region.writes])
        recorder.unseen.wrote(written)
        self._before = recorder.set_aside()

    @guarded
    def end(self, out: Any) -> None:
        """Note the call, and go on with what was noted before; of what the dispatcher saw, keep what it alone tells."""
        if self._before is None:
            return
        region, phase, given, inside = self._key
        if out is None:  # it raised: how far it came, the dispatcher alone knows
            self._recorder.resume(self._before, lambda _: True)
            self._recorder.add((REGION, phase, (), (), (), "", inside))
            return
        told = set()

        def is_kept(key: Key) -> bool:
            func = key[0]
            if key[6] != inside or isinstance(func, Region):
                return True
            is_told = self._recorder.tells_more(func) and region.names_operator(func)
            if is_told:
                told.add(name_of(func))
            return is_told

        self._recorder.resume(self._before, is_kept)
        outs = tuple(map(shadow, flatten(out)))
        self._recorder.add((region, phase, given, (("told", *sorted(told)),), outs, "", inside))


def _look(value: Any, recorder: OpRecorder, *, reads: bool) -> Any:
    """Return what of an input its graph is told."""
    if not isinstance(value, torch.Tensor):
        return value if isinstance(value, int | float | str) else None
    values = read_values(value) if reads else None
    if values is not None:
        recorder.has_values = True
    if isinstance(values, Late):
        recorder.late.append(values)
    return Sizes(tuple(value.shape), value.stride(), value.dtype, value.device, values)


def _call(code: Any, inputs: Any) -> Any:
    """Stand in for `CompiledFxGraph.__call__`."""
    number = region_watch.launch_numbers.get(id(code))
    if number is None:
        region_watch.note_launch(code)
    else:
        launched.total += number
    counted = [_Counted(recorder, code) for recorder in recorders_here()] if _depth() else []
    if not counted:
        return region_watch.plain(code, inputs)
    for one in counted:
        one.begin(inputs)
    out = None
    try:
        with covered():
            out = region_watch.plain(code, inputs)
    finally:
        for one in counted:
            one.end(out)
    return out


def open_regions(calls: Mapping[Key, int]) -> dict[Key, int]:
    """Return noted calls with those of regions taken apart; of which that fails is listed as it came, uncounted."""
    opened: dict[Key, int] = {}
    for key, times in calls.items():
        for each in _open(key) if isinstance(key[0], Region) else (key,):
            opened[each] = opened.get(each, 0) + times
    return opened


def _open(key: Key) -> list[Key]:
    region, phase, given, ((_, *told),), outs, _, inside, *spread = key
    try:
        made = region.calls_for(given)
        again = region.find_repeated(region_watch.forwards) if phase == "backward" and region.is_backward else ()
    except Exception:  # noqa: BLE001 # a graph is torch's or a user's: whatever it raises, its call stays uncounted
        return [(REGION, phase, (), (), outs, "", inside, *spread)]
    return [
        (
            one.func,
            "recompute" if one.name in again else phase,
            one.given,
            one.options,
            one.outs,
            one.device,
            inside,
            *spread,
        )
        for one in made
        if not told or name_of(one.func) not in told
    ]


hide_from_dynamo(_call)
region_watch = RegionWatch()
