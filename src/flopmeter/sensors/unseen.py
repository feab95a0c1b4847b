"""Work that passes no dispatcher, told by what it leaves: memory that is read though no operator wrote it.

A kernel that is called past the dispatcher (through pybind, ctypes, a launch of Triton's) writes into memory that torch
was asked for and left blank. Where an operator reads such memory, somebody has written it: that is listed, by the
function that asked for the memory and with its size, as uncounted.
Only while a passage is counted, and only of memory asked for in it. Not here: gradients that are owed (`owed.py`).
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from flopmeter.sensors.guard import guarded
from flopmeter.sensors.operators import Operator
from flopmeter.sensors.owed import Debts, Note, storage_of
from flopmeter.sensors.shadows import flatten

UNSEEN = "unseen::"
_MOVE = frozenset({"_to_copy", "clone", "_pin_memory"})
"""What comes out of them holds what was there before, if anything."""
_WRITE = frozenset(
    {
        *("copy_", "fill_", "zero_", "fill_diagonal_", "masked_fill_", "masked_scatter_", "put_", "_foreach_copy_"),
        *("index_copy_", "index_fill_", "index_put_", "_index_put_impl_", "index_reduce_", "scatter_"),
        *("scatter_reduce_", "_foreach_zero_"),
    }
)
"""Of what they change in place they need nothing, or not all."""
_WRITE_ANEW = frozenset({"copy", "fill", "zero", "index_put", "index_copy"})
"""What a tracer makes of some of them, and of writing into a view (`slice_scatter`): what comes out is the tensor then.
"""
_WRITTEN = frozenset({"momentum_buffer_list"})
"""Arguments by this name are given blank, the first time."""
_ASK_FOR_SHAPE = frozenset(
    {
        *("set_", "resize_", "resize_as_", "record_stream", "is_same_size", "is_pinned", "lift_fresh", "_unsafe_view"),
        *("bernoulli", "normal_functional", "uniform", "random", "exponential", "geometric", "log_normal", "cauchy"),
    }
)
_LISTS = frozenset({torch.bool, torch.int16, torch.int32, torch.int64})
"""Lengths and places, which on a CPU torch's own functions write down in passing (of packed sequences, say)."""
_PURGE_EVERY = 32
_FLOPMETER, _TORCH = (str(Path(file).parent) for file in (str(Path(__file__).parent), torch.__file__))
_HIGHER_ORDER = str(Path("torch", "_higher_order_ops"))
_ENGINE = torch.autograd.graph._engine_run_backward.__code__  # noqa: SLF001


class Blank(NamedTuple):
    """Memory that was asked for and that nobody was seen to write.

    `held` keeps its storage's address from being another's; `name` is the function that asked.
    """

    held: StorageWeakRef
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype


class Unseen:
    """What a counted passage tells of work that its recorder was not called for.

    While `is_alert`, each call is to be told to `before`, and what it made to `after`. `note` takes what is found.
    """

    def __init__(self, note: Note, on_failure: Callable[[Exception], None]) -> None:
        """Start with nothing to watch."""
        self._note = note
        self.on_failure = on_failure
        self._blanks: dict[int, Blank] = {}
        self._moved: Blank | None = None
        self._until_purge = _PURGE_EVERY
        self.debts = Debts(note, on_failure, self._judge)
        self.is_alert = False

    def _judge(self) -> None:
        self.is_alert = bool(self._blanks) or self.debts.is_alert

    @guarded
    def before(self, operator: Operator, types: Sequence[type], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Look at what a call is given."""
        if types or not (self.is_alert or operator.is_owing):
            return
        if self._blanks and not operator.is_skipped and not operator.is_composite:
            places: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
            for place, value in places:
                for tensor in flatten(value):
                    self._use(operator, place, tensor)
            self._purge()
        self.debts.before(operator, args)
        self._judge()

    @guarded
    def after(self, operator: Operator, out: Any) -> None:
        """Look at what came out of a call, where that is blank memory."""
        moved, self._moved = self._moved, None
        if operator.is_allocating or moved is not None:
            for tensor in flatten(out):
                self._ask(tensor, moved)
            self._judge()
        self.debts.after(out)

    @guarded
    def returned(self, out: Any) -> None:
        """Take what a model's forward gave back as read: whoever called it will."""
        if self._blanks:
            for tensor in _open(out):
                blank = self._find(tensor)
                if blank is not None:
                    self._tell(blank)

    @guarded
    def look_at_gradients(self, owner: Any) -> None:
        """Take a gradient that a parameter of a watched model was left with as read: an optimizer will."""
        module = getattr(owner, "module", None)
        if self._blanks and module is not None:
            for parameter in module.parameters():
                blank = None if parameter.grad is None else self._find(parameter.grad)
                if blank is not None:
                    self._tell(blank)

    @guarded
    def wrote(self, outs: Sequence[Any] | None) -> None:
        """Hear of work that is listed by other means: its memory has been written, and it may have paid any debt."""
        self.debts.excuse()
        if outs is None:  # a graph that is replayed: whatever it was captured with
            self._blanks.clear()
            self._judge()
        elif self._blanks:
            for tensor in flatten(list(outs)):
                self._drop(self._find(tensor))
            self._judge()

    @guarded
    def end(self) -> None:
        """Note what is owed to this moment, and forget what was watched."""
        self.debts.end()
        self._blanks.clear()
        self._judge()

    def _ask(self, tensor: torch.Tensor, moved: Blank | None) -> None:
        device = tensor.device.type
        is_list = device == "cpu" and tensor.dtype in _LISTS
        if tensor.numel() and device != "meta" and not is_list and (storage := storage_of(tensor)) is not None:
            name, shape = (_name_caller(), tuple(tensor.shape)) if moved is None else (moved.name, moved.shape)
            if not name:
                return
            blank = Blank(StorageWeakRef(storage), name, shape, tensor.dtype)
            self._blanks[storage._cdata] = blank  # noqa: SLF001

    def _find(self, tensor: torch.Tensor) -> Blank | None:
        storage = storage_of(tensor)
        return None if storage is None else self._blanks.get(storage._cdata)  # noqa: SLF001

    def _use(self, operator: Operator, place: int | str, tensor: torch.Tensor) -> None:
        blank = self._find(tensor)
        use = "none" if blank is None else _use_of(operator.func, place)
        if blank is None or use == "none":
            return
        if use == "moved":
            self._moved = blank
        if use == "read" and not _was_written(tensor):
            self._tell(blank)
        else:
            self._drop(blank)

    def _tell(self, blank: Blank) -> None:
        self._drop(blank)
        self._note(UNSEEN + blank.name, [blank])

    def _drop(self, blank: Blank | None) -> None:
        if blank is not None:
            self._blanks = {key: other for key, other in self._blanks.items() if other is not blank}

    def _purge(self) -> None:
        """Forget memory that is gone, now and then."""
        self._until_purge -= 1
        if not self._until_purge:
            self._until_purge = _PURGE_EVERY
            self._blanks = {key: blank for key, blank in self._blanks.items() if not blank.held.expired()}


def _was_written(tensor: torch.Tensor) -> bool:
    """Say whether an operator changed it, on another thread, say. A kernel past the dispatcher leaves no mark."""
    return not tensor.is_inference() and tensor._version > 0  # noqa: SLF001


def _use_of(func: Any, place: int | str) -> str:
    """Return what an operator does with what is in the memory of an argument: read, write or move it, or none of it."""
    namespace, _, name = func._schema.name.partition("::") if hasattr(func, "_schema") else ("", "", "")  # noqa: SLF001
    if namespace in ("prim", "profiler"):
        return "none"
    if namespace not in ("aten", "prims"):
        return "written"  # a library's: what its schema does not say may be so all the same
    if torch.Tag.inplace_view in func.tags or name in _ASK_FOR_SHAPE or name.startswith("new_"):
        return "none"
    if name.endswith("_like"):
        return "none"
    if name in _MOVE:
        return "moved"
    arguments = func._schema.arguments  # noqa: SLF001
    argument = arguments[place] if isinstance(place, int) else next(one for one in arguments if one.name == place)
    if argument.alias_info is None or not argument.alias_info.is_write:
        is_anew = name in _WRITE_ANEW or name.endswith("_scatter")
        return "written" if is_anew and argument.name == "self" else "read"
    is_drawn = torch.Tag.nondeterministic_seeded in func.tags
    is_overwritten = is_drawn or name in _WRITE or argument.name in _WRITTEN
    return "written" if argument.kwarg_only or is_overwritten else "read"


def _name_caller() -> str:
    """Name the nearest function of Python that is neither torch's nor ours; in a backward of C++, the node.

    Nothing for what torch makes graphs with, since before it captures a backward it runs it on blank gradients, nor for
    its operators that call others, which trace their functions with blank operands.
    """
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001
    while frame is not None and frame.f_code is not _ENGINE:
        if frame.f_code.co_filename == torch.cuda.graphs.__file__ or _HIGHER_ORDER in frame.f_code.co_filename:
            return ""
        if not frame.f_code.co_filename.startswith((_FLOPMETER, _TORCH)):
            return f"{frame.f_globals.get('__name__', '?')}.{frame.f_code.co_qualname}"
        frame = frame.f_back
    node: Any = torch._C._current_autograd_node()  # noqa: SLF001
    return str(node.name()) if node is not None else "backward"


def _open(out: Any) -> list[torch.Tensor]:
    """Return the tensors in what a forward gave back."""
    if isinstance(out, Mapping):
        return [tensor for value in out.values() for tensor in _open(value)]
    if isinstance(out, list | tuple):
        return [tensor for value in out for tensor in _open(value)]
    return [out] if isinstance(out, torch.Tensor) else []
