"""Gradients that are owed: products of a custom autograd function whose gradients no operator was seen to compute.

Of a product A·B three are computed in training: itself, the gradient of A and that of B, each of as many operations.
Torch's own nodes run theirs through the dispatcher. A custom autograd function may not: a kernel called past it
accumulates a weight's gradient where the function itself returns none. So for each such function whose backward ran,
what its forward's products owe is set against the products that were seen in its backward; a gradient that was wanted,
that the function gave no operator's answer for and that nobody paid is listed as uncounted, with its size.
Only where it is plain: both in one counted passage, and no backward inside of the function's own.
Not here: results of unseen kernels that are read (`unseen.py`).
"""

import math
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import torch
from torch.autograd.function import BackwardCFunction
from torch.multiprocessing.reductions import StorageWeakRef

from flopmeter.sensors.guard import guarded
from flopmeter.sensors.operators import CAST, PRODUCTS, Operator
from flopmeter.sensors.shadows import flatten

OWED = "owed::"
_TRACED = "torch._functorch."
"""Where the functions are whose forward and backward are graphs that torch traced: operators all, and among them
products of which nobody asks for a gradient (`torch.no_grad` inside of what was compiled)."""

Note: TypeAlias = Callable[[str, Sequence[Any]], None]
"""Takes a name to list work under, and what has the shape and precision of what came out."""
Sort: TypeAlias = tuple[int, int]
"""Of a product: its multiply-adds, and the elements of a tensor that it reads or makes."""

_graph_task = torch._C._current_graph_task_id  # noqa: SLF001
_sequence = torch._C._autograd._get_sequence_nr  # noqa: SLF001
_will_run = getattr(torch._C, "_will_engine_execute_node", None)  # noqa: SLF001
_has_gradients = torch.is_grad_enabled
_has_forward_gradients = torch._C._is_fwd_grad_enabled  # noqa: SLF001
_is_inference = torch.is_inference_mode_enabled


def is_in_function() -> bool:
    """Say whether this is the forward of a custom autograd function: it alone turns both kinds of gradients off."""
    return not (_has_forward_gradients() or _has_gradients() or _is_inference())


class Debt(NamedTuple):
    """The gradient of one factor of a product: `root` is the tensor that wants it, of one of these `sizes`."""

    sort: Sort
    root: "weakref.ref[torch.Tensor]"
    sizes: frozenset[int]
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(slots=True)
class Function:
    """One call of a custom autograd function whose forward had products.

    `others` are factors of which it is not known whether they want a gradient; `edges` are the nodes that its gradients
    go to, None where none is wanted; `task` that of autograd's tasks in which its backward runs.
    """

    name: str = ""
    debts: list[Debt] = field(default_factory=list)
    others: Counter[Sort] = field(default_factory=Counter)
    known: set[Sort] = field(default_factory=set)
    edges: tuple[Any, ...] = ()
    inputs: list[tuple[int, ...]] = field(default_factory=list)
    task: int = -1
    paid: Counter[Sort] = field(default_factory=Counter)
    unknown: int = 0
    is_nested: bool = False


class Debts:
    """Who owes what in the passage that is counted.

    `on_change` hears when `is_alert` may have changed: while it holds, each call is to be told to `before`.
    """

    def __init__(self, note: Note, on_failure: Callable[[Exception], None], on_change: Callable[[], None]) -> None:
        """Start with no debt."""
        self._note = note
        self.on_failure = on_failure
        self._on_change = on_change
        self._sought: dict[int, Function] = {}
        self._running: list[Function] = []
        self._unpaid: list[tuple[str, Debt]] = []
        self._hooks: list[Any] = []
        self._cast: torch.Tensor | None = None
        self._casts: dict[int, tuple[StorageWeakRef, weakref.ref[torch.Tensor]]] = {}

    @property
    def is_alert(self) -> bool:
        """Whether a function's node is sought, its backward runs, or a debt may still be paid."""
        return bool(self._sought or self._running or self._unpaid)

    def before(self, operator: Operator, args: Sequence[Any]) -> None:
        """Look at a call: whether it is a product, and whether it is given what a function made."""
        if self._sought:
            self._seek(args)
        for function in self._running:
            function.is_nested |= _graph_task() != function.task
        places = PRODUCTS.get(operator.name)
        if places is not None and len(args) > places[1]:
            self._take_product(args[places[0]], args[places[1]])
        self._cast = _root_of(args[0]) if operator.name == CAST and is_in_function() else None

    def after(self, out: Any) -> None:
        """Look at what came out of a call: a function that casts what it is given owes the gradient of that."""
        root, self._cast = self._cast, None
        if root is not None and root.requires_grad and (storage := storage_of(out)) is not None:
            self._casts[storage._cdata] = (StorageWeakRef(storage), weakref.ref(root))  # noqa: SLF001

    def excuse(self) -> None:
        """Take it that whoever runs its backward may have computed all it owes: work was noted whose inside is not."""
        for function in self._running:
            function.is_nested = True

    def _take_product(self, one: torch.Tensor, two: torch.Tensor) -> None:
        volume, out = one.numel() * two.shape[-1], math.prod(one.shape[:-1]) * two.shape[-1]
        if is_in_function():
            function = self._sought.setdefault(_sequence() - 1, Function())
            function.known.update(((volume, one.numel()), (volume, two.numel()), (volume, out)))
            for factor in (one, two):
                self._owe(function, (volume, factor.numel()), factor)
        for function in self._running:
            if (volume, out) in function.known:
                function.paid[volume, out] += 1
            else:
                function.unknown += volume
        is_traced = _has_gradients() and (one.requires_grad or two.requires_grad)
        if self._unpaid and not self._running and _graph_task() == -1 and not is_traced:
            self._pay_late((volume, out))

    def _owe(self, function: Function, sort: Sort, factor: torch.Tensor) -> None:
        root, storage = _root_of(factor), storage_of(factor)
        cast = None if storage is None else self._casts.get(storage._cdata)  # noqa: SLF001
        before = None if cast is None else cast[1]()
        root = root if before is None else before
        if root.requires_grad:
            sizes = frozenset({root.numel(), factor.numel()})
            function.debts.append(Debt(sort, weakref.ref(root), sizes, tuple(factor.shape), factor.dtype))
        else:
            function.others[sort] += 1

    def _pay_late(self, sort: Sort) -> None:
        """Take a product that a function's backward left for later."""
        for index, (_, debt) in enumerate(self._unpaid):
            if debt.sort == sort:
                del self._unpaid[index]
                return

    def _seek(self, args: Sequence[Any]) -> None:
        """Find the node of a function in what an operator is given; a view that others changed is not asked for it."""
        for tensor in flatten(args):
            if tensor.requires_grad and not tensor.is_leaf and not (tensor._is_view() and tensor._version):  # noqa: SLF001
                node: Any = tensor.grad_fn
                if isinstance(node, BackwardCFunction):
                    function = self._sought.pop(node._sequence_nr(), None)  # noqa: SLF001
                    if function is not None:
                        self._attach(function, node)

    def _attach(self, function: Function, node: Any) -> None:
        """Hear of the backward of a function, if its products owe anything that it was asked for."""
        forward = node._forward_cls  # noqa: SLF001
        if forward.__module__.startswith(_TRACED):
            return
        function.name = f"{forward.__module__}.{forward.__qualname__}"
        function.edges = tuple([one for one, _ in node.next_functions])
        sizes = [_size_of(*edge) for edge in node.next_functions]
        function.inputs = [_find_inputs(debt, function.edges, sizes) for debt in function.debts]
        if any(function.inputs):
            self._hooks += [
                node.register_prehook(partial(self._begins, function)),
                node.register_hook(partial(self._ends, function)),
            ]

    def _begins(self, function: Function, _gradients: Any) -> None:
        self._begin(function)

    @guarded
    def _begin(self, function: Function) -> None:
        function.task, function.is_nested, function.unknown = _graph_task(), False, 0
        function.paid.clear()
        self._running.append(function)
        self._on_change()

    def _ends(self, function: Function, gradients: Sequence[torch.Tensor | None], _given: Any) -> None:
        self._end(function, gradients)

    @guarded
    def _end(self, function: Function, gradients: Sequence[torch.Tensor | None]) -> None:
        if function in self._running:
            self._running.remove(function)
            if not function.is_nested:
                self._unpaid += [(function.name, debt) for debt in _settle(function, gradients)]
        self._on_change()

    def end(self) -> None:
        """Note what is still owed, and forget the rest; take the hooks off that are left."""
        for name, debt in self._unpaid:
            self._note(OWED + name, [debt])
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._casts.clear()
        self._sought.clear()
        self._running.clear()
        self._unpaid.clear()


def _settle(function: Function, gradients: Sequence[torch.Tensor | None]) -> list[Debt]:
    """Return the debts that nobody paid, of the gradients that were wanted and that the function did not give."""
    wanted = [one is not None and _is_wanted(one) for one in function.edges]
    open_, served = [], Counter(function.others)
    asked: set[int] = set()
    for debt, places in zip(function.debts, function.inputs, strict=True):
        if places and all(wanted[place] and gradients[place] is None for place in places):
            open_.append(debt)
            asked.update(places)
        else:
            served[debt.sort] += 1
    if sum(wanted) <= len(asked):
        served -= function.others  # whoever asks for nothing else was served with nothing else
    left = {sort: max(0, function.paid[sort] - served[sort]) for sort in {debt.sort for debt in open_}}
    unpaid = []
    for debt in open_:
        if left[debt.sort]:
            left[debt.sort] -= 1
        else:
            unpaid.append(debt)
    return unpaid if function.unknown < sum(debt.sort[0] for debt in unpaid) else []


def _is_wanted(node: Any) -> bool:
    """Say whether autograd asks for this gradient in the task that runs: it may be after some gradients alone."""
    try:
        return _will_run is not None and bool(_will_run(node))
    except RuntimeError:  # a leaf, in torch.autograd.grad: not known
        return False


def _find_inputs(debt: Debt, edges: Sequence[Any], sizes: Sequence[int | None]) -> tuple[int, ...]:
    """Return which of a function's inputs may be the tensor that a debt is about; leaves are told for sure."""
    root = debt.root()
    found = [place for place, one in enumerate(edges) if root is not None and _leaf(one) is root]
    if not found:
        found = [place for place, size in enumerate(sizes) if size in debt.sizes and _leaf(edges[place]) is None]
    return tuple(found)


def _size_of(node: Any, output: int) -> int | None:
    """Return how many elements the gradient has that goes to a node, None where that is not known."""
    known = getattr(node, "_input_metadata", ())
    return math.prod(known[output].shape) if output < len(known) else None


def storage_of(tensor: torch.Tensor) -> Any:
    """Return the memory behind a tensor; None where there is none, or not one."""
    try:
        return tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):  # sparse, nested, batched
        return None


def _root_of(tensor: torch.Tensor) -> torch.Tensor:
    """Return what a tensor is a view of: views inside of a function's forward have no graph."""
    return tensor if tensor._base is None else tensor._base  # noqa: SLF001


def _leaf(node: Any) -> torch.Tensor | None:
    """Return the leaf whose gradient a node gathers, None where it does something else."""
    return node.variable if node is not None and node.name() == "torch::autograd::AccumulateGrad" else None
