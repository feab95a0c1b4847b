"""What tells passages apart: the situation in which one starts, and the witness of what ran in it.

A situation is known when a passage starts, a witness when it has ended. Both are plain hashable values; reading them
runs no operator. Not here: arguments (`fingerprint.py`), what is decided from them (`replay.py`).
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias

import torch
from torch.nn.parameter import UninitializedParameter

from flopmeter.sensors.fingerprint import HiddenShapeError, take_fingerprint
from flopmeter.sensors.glance import ModelGlance, OptimizerGlance, ambient, is_transformed
from flopmeter.sensors.launches import launched
from flopmeter.sensors.precision import is_tf32_on
from flopmeter.sensors.rota import Change, Reader, Rota

Situation: TypeAlias = tuple[Any, ...]

MAX_OPTIMIZERS = 64
LOOK_NS = 10_000_000
"""One more thing is looked at for each 10 ms that have passed: a look takes one or two microseconds."""

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
_INTERNAL = frozenset(vars(torch.nn.Module())) - {"training"}
_DULL = frozenset(
    {
        *(torch.nn.Linear, torch.nn.LayerNorm, torch.nn.Embedding, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d),
        *(torch.nn.GELU, torch.nn.ReLU, torch.nn.SiLU, torch.nn.Tanh, torch.nn.Identity),
    }
)
_PLAIN = (bool, int, float, str, type(None), torch.dtype)


class Witness(NamedTuple):
    """What was seen of a passage without looking at its operators.

    `nodes` is how many autograd nodes were made, and what was launched besides (`launches.py`); `reached` how often a
    gradient reached the first and the last parameter; `ended_by` which boundary closed the passage; `inner` marks
    optimizers that stepped inside its backward.
    """

    nodes: int
    reached: tuple[int, ...]
    ended_by: str
    inner: int = 0

    @property
    def sort(self) -> tuple[Any, ...]:
        """What must be equal for two passages to be of one program, whatever their sizes."""
        return (self.reached, self.ended_by, self.inner)

    @property
    def numbers(self) -> tuple[int, ...]:
        """What may grow with sizes."""
        return (self.nodes,)


class WatchedModel:
    """One watched module: its parts, looked up once, and their state, looked at in turn.

    `end` is the handle of the hook at the end of its forwards, None while there is none.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        """Look the parts up."""
        self.module = module
        self.version = 0
        self.reached = [0, 0]
        self.ends: tuple[torch.nn.Parameter, ...] = ()
        self._hooks: list[Any] = []
        self.looked_ns = 0
        self.is_region = hasattr(module, "_orig_mod")
        self.end: Any = None
        self._was_training = module.training
        self._look_up()

    def _look_up(self) -> None:
        self._modules = list(self.module.modules())
        self._parameters = list(self.module.parameters())
        now, inner = time.perf_counter_ns(), self._modules[1:]
        own, dull = ([part for part in inner if (type(part) in _DULL) is is_dull] for is_dull in (False, True))
        self.rota = Rota([_reader_of(self.module), _read_settings, *map(_reader_of, own)], always=1, now=now)
        self._rest = Rota([*map(_reader_of, dull), *map(_reader_of_parameter, self._parameters)], now=now)
        self._find_ends()
        self.is_stale = False

    @property
    def is_switched(self) -> bool:
        """Whether the model went from training to evaluation since its parts were looked at, or back."""
        return self.module.training is not self._was_training

    def look(self, now_ns: int, *, looks: int, is_whole: bool = False) -> Change | None:
        """Look at some parts, at more of them the longer it was since the last look; say whether anything is new.

        Torch tells of parts that were added or exchanged (`is_stale`); a part that was removed is missed by the one
        that it was a part of.
        """
        more = (now_ns - self.looked_ns) // LOOK_NS
        before, self.looked_ns, self._was_training = self.looked_ns, now_ns, self.module.training
        if self.is_stale:
            return Change(None) if self._refresh() else None
        try:
            change = self.rota.look(now_ns, 0 if is_whole else looks + more)
            is_whole |= change is not None  # `eval()` switches every part: what else is new came with it
            other = self._rest.look(now_ns, 0 if is_whole else 1 + (looks + more) // 4)
        except KeyError:  # an attribute was deleted
            self._look_up()
            self.version += 1
            return Change(before)
        if change is not None or other is not None:
            self._refresh()
        return change or other

    def _refresh(self) -> bool:
        """Look the parts up again; say whether layers or parameters were added, exchanged or removed."""
        before = [*map(id, self._modules), *map(id, self._parameters)]
        parts, parameters = list(self.module.modules()), list(self.module.parameters())
        self.is_stale = False
        if [*map(id, parts), *map(id, parameters)] == before:
            self._find_ends()
            return False
        self._look_up()
        self.version += 1
        return True

    @property
    def state(self) -> tuple[int, int, int]:
        """All that was seen of its parts."""
        return (self.version, self.rota.state, self._rest.state)

    @property
    def owner(self) -> int:
        """By what the situations of this model name it."""
        return id(self.module)

    @property
    def is_trusted(self) -> bool:
        """Whether the state tells all that was seen to change; a counter among the attributes is left out of it."""
        return not (self.rota.is_blind or self._rest.is_blind)

    def situation(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Situation, Any]:
        """Return what a forward that is about to run can be told by, and the fingerprint of what it was given.

        That is None where it cannot be told from others.
        """
        if is_transformed():
            return (("hidden", id(self.module)), None)  # vmap and its kin hide shapes
        try:
            given = (take_fingerprint(args), take_fingerprint(kwargs))
        except HiddenShapeError:
            return (("hidden", id(self.module)), None)
        ends = self.ends
        is_clear = ends and (ends[0].grad is None, ends[-1].grad is None)
        modes = ambient()
        kind = "forward" if modes[0] else "inference"  # a kind of its own: what is guessed of one is not the other's
        return (kind, id(self.module), self.version, self.rota.state, self._rest.state, is_clear, modes), given

    def glance(self, situation: Situation, given: Any, *, has_free_sizes: bool = False) -> ModelGlance:
        """Return what tells whether `situation` would return these two once more, at a fraction of what it takes.

        Where sizes are free, whole numbers in what was given may be others.
        """
        is_training = self._was_training
        return ModelGlance(
            self.module, self.ends, situation, given, is_training=is_training, has_free_sizes=has_free_sizes
        )

    def _find_ends(self) -> None:
        """Find the first and the last parameter that is trained, and hear when a gradient reaches them."""
        trainable = [
            parameter
            for parameter in self._parameters
            if parameter.requires_grad and not isinstance(parameter, UninitializedParameter)
        ]
        ends = (trainable[0], trainable[-1]) if trainable else ()
        if [*map(id, ends)] == [*map(id, self.ends)]:
            return
        self.release()
        self.ends = ends
        # Of `torch.autograd.grad` nothing else tells: no gradient is left where it could be looked for.
        self._hooks = [end.register_hook(_Reached(self.reached, place)) for place, end in enumerate(ends)]

    def release_end(self) -> None:
        """Take the hook off the end of its forwards."""
        if self.end is not None:
            self.end.remove()
            self.end = None

    def release(self) -> None:
        """Take the hooks off the parameters."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []


class _Reached:
    """Counts the gradients that reach one parameter."""

    __slots__ = ("_place", "_reached")

    def __init__(self, reached: list[int], place: int) -> None:
        self._reached = reached
        self._place = place

    def __call__(self, _gradient: torch.Tensor) -> None:
        self._reached[self._place] += 1


class WatchedOptimizer:
    """One optimizer: its settings and which gradients it finds, looked at in turn."""

    reached: Sequence[int] = ()
    """No gradient reaches an optimizer."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        """Look its groups up."""
        self.optimizer = optimizer
        self.looked_ns = 0
        self.version = 0
        self._look_up()

    def _look_up(self) -> None:
        groups = self.optimizer.param_groups
        parameters = [parameter for group in groups for parameter in group["params"]]
        self._sizes = [len(group["params"]) for group in groups]
        self._rota = Rota(
            [*map(_reader_of_group, groups), *map(_reader_of_gradient, parameters)],
            always=min(len(groups), 2),
            now=time.perf_counter_ns(),
        )
        self._ends = (parameters[0], parameters[-1]) if parameters else ()
        # Whether a step of somebody else's does the same each time, nobody but they can know.
        self.is_standard = type(self.optimizer).__module__.startswith("torch.optim")

    def look(self, now_ns: int, *, looks: int, is_whole: bool = False) -> Change | None:
        """Look at some of it, at more the longer it was since the last look; say whether anything is new."""
        number = 0 if is_whole else looks + (now_ns - self.looked_ns) // LOOK_NS
        self.looked_ns = now_ns
        if [len(group["params"]) for group in self.optimizer.param_groups] == self._sizes:
            try:
                return self._rota.look(now_ns, number)
            except KeyError:  # a setting was deleted
                pass
        self._look_up()
        self.version += 1
        return Change(None)

    @property
    def owner(self) -> int:
        """By what the situations of this optimizer name it."""
        return id(self.optimizer)

    @property
    def is_trusted(self) -> bool:
        """Whether a step of the same situation surely does the same."""
        return self.is_standard and not self._rota.is_blind

    def situation(self, models: Iterable[WatchedModel]) -> Situation:
        """Return what a step that is about to run can be told by: what the models are now says which gradients are."""
        ends = self._ends
        is_clear = ends and (ends[0].grad is None, ends[-1].grad is None)
        size = len(self.optimizer.state)
        modes = (torch.is_grad_enabled(), torch.is_inference_mode_enabled())
        states = tuple([model.state for model in models])
        return ("optimizer", id(self.optimizer), self.version, self._rota.state, is_clear, size, modes, states)

    def glance(self, situation: Situation) -> OptimizerGlance:
        """Return what tells whether `situation` would return this once more, at a fraction of what it takes."""
        return OptimizerGlance(self.optimizer, self._ends, situation)


def watch_optimizer(known: dict[int, WatchedOptimizer], optimizer: torch.optim.Optimizer) -> WatchedOptimizer:
    """Return what is known of an optimizer, after a first look where nothing is."""
    watched = known.get(id(optimizer))
    if watched is None or watched.optimizer is not optimizer:
        if len(known) >= MAX_OPTIMIZERS:
            known.clear()
        watched = known[id(optimizer)] = WatchedOptimizer(optimizer)
    return watched


HAS_NODE_COUNT = hasattr(torch._C._autograd, "_get_sequence_nr")  # noqa: SLF001
sequence_nr: Callable[[], int] = getattr(torch._C._autograd, "_get_sequence_nr", lambda: 0)  # noqa: SLF001
"""Torch's running number of autograd nodes made on this thread; 0 where the build does not tell."""


def count_nodes() -> int:
    """Return how many autograd nodes were made on this thread; above that, what was launched in the process."""
    return sequence_nr() + launched.total


def _read_settings() -> Sequence[Any]:
    """Read which kernels attention, products and convolutions take, and in which precision."""
    has_cuda = torch.cuda.is_initialized()
    return (
        *[read() for read in _SETTINGS],
        *[is_tf32_on(name) if has_cuda else None for name in ("matmul", "conv", "rnn")],
    )


def _reader_of(module: torch.nn.Module) -> Reader:
    """Read the plain attributes of one module, and how many parts and hooks it has."""
    own = module.__dict__
    names = [name for name, value in own.items() if name not in _INTERNAL and isinstance(value, _PLAIN)]
    names = (names or ["_modules"]) * 2 if len(names) < 2 else names  # of one name alone, a getter returns no tuple
    attributes = itemgetter(*names)
    children, before, after = module._modules, module._forward_pre_hooks, module._forward_hooks  # noqa: SLF001

    def read() -> Sequence[Any]:
        return (len(own), len(children), len(before), len(after), *attributes(own))

    return read


def _reader_of_parameter(parameter: torch.nn.Parameter) -> Reader:
    return lambda: (parameter.requires_grad,)


def _reader_of_group(group: dict[str, Any]) -> Reader:
    """Read the settings of one group of parameters."""
    names = [name for name, value in group.items() if isinstance(value, (*_PLAIN, tuple))]
    settings = itemgetter("params", *names, "params")  # never one name alone

    def read() -> Sequence[Any]:
        return (len(group), *settings(group)[1:-1])

    return read


def _reader_of_gradient(parameter: torch.Tensor) -> Reader:
    """Read type and layout of a gradient, which has the shape of its parameter."""

    def read() -> Sequence[Any]:
        gradient = parameter.grad
        return (None, None) if gradient is None else (gradient.dtype, gradient.layout)

    return read
