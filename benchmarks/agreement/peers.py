"""Other counters, each asked in its own way what a run cost; whichever are installed.

A reading holds two figures, both in FLOP with a multiply-add as two: `products`, what the counter says of matrix
products, attention, convolutions and recurrent layers, and `total`, all that it says.
"""

import contextlib
import importlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from counting import count_theirs
from subject import Built
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

RECURRENT = (nn.RNN, nn.GRU, nn.LSTM, nn.RNNCell, nn.GRUCell, nn.LSTMCell)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a counter says of a run."""

    products: int
    total: int


@dataclass(frozen=True, slots=True)
class Peer:
    """A counter: where it comes from, and how it is asked; None where it does not count such a run."""

    name: str
    package: str
    says: str
    forward: Callable[[Built], Reading] | None
    step: Callable[[Built], Reading] | None

    @property
    def version(self) -> str:
        """Its version; empty where it is not installed."""
        try:
            return version(self.package)
        except PackageNotFoundError:
            return ""


class Whole(nn.Module):
    """A subject's forward as one module without arguments, so that counters of modules can run it."""

    def __init__(self, work: Callable[[], Any], models: list[nn.Module]) -> None:
        """Take the outermost modules that the work calls for children."""
        super().__init__()
        self.work = work
        self.models = nn.ModuleList(models)

    def forward(self) -> Any:
        """Do the work; return every tensor that came out, else a tracer drops what made it."""
        torch.manual_seed(1)  # it has run before, to find its models
        found: list[torch.Tensor] = []
        hooks = [model.register_forward_hook(lambda _, __, out: found.extend(tensors_of(out))) for model in self.models]
        try:
            found.extend(tensors_of(self.work()))
        finally:
            for hook in hooks:
                hook.remove()
        return tuple(found)


def tensors_of(out: Any) -> Iterator[torch.Tensor]:
    """Return all tensors of an output."""
    if isinstance(out, torch.Tensor):
        yield out
    elif isinstance(out, dict):
        for one in out.values():
            yield from tensors_of(one)
    elif isinstance(out, list | tuple):
        for one in out:
            yield from tensors_of(one)


def models_of(work: Callable[[], object]) -> list[nn.Module]:
    """Run something and return the modules that it calls, but none that is called inside another or is a part of it."""
    called: dict[nn.Module, None] = {}
    depth = [0]

    def enter(module: nn.Module, _: object) -> None:
        if not depth[0]:
            called.setdefault(module)
        depth[0] += 1

    def leave(*_: object) -> None:
        depth[0] -= 1

    hooks = (
        nn.modules.module.register_module_forward_pre_hook(enter),
        nn.modules.module.register_module_forward_hook(leave, always_call=True),
    )
    try:
        work()
    finally:
        for hook in hooks:
            hook.remove()
    inner = {child for module in called for child in module.modules() if child is not module}
    return [module for module in called if module not in inner]


@contextlib.contextmanager
def unpatched() -> Iterator[None]:
    """Put back what counters leave replaced in torch."""
    places = (functional, torch, torch.Tensor)
    before = [{name: value for name, value in vars(place).items() if callable(value)} for place in places]
    try:
        yield
    finally:
        for place, values in zip(places, before, strict=True):
            for name, value in values.items():
                if vars(place).get(name) is not value:
                    setattr(place, name, value)
        for name in set(vars(torch.Tensor)) - set(before[-1]):
            if callable(vars(torch.Tensor)[name]):
                delattr(torch.Tensor, name)  # hides what torch.Tensor inherits


def ask_torch(work: Callable[[], object]) -> Reading:
    """Ask `FlopCounterMode`."""
    total = sum(count_theirs(work).values())
    return Reading(total, total)


def ask_profiler(work: Callable[[], object]) -> Reading:
    """Ask `torch.profiler`."""
    from torch.profiler import ProfilerActivity, profile  # slow to import, and not always asked

    with profile(activities=[ProfilerActivity.CPU], with_flops=True) as profiler:
        work()
    said = {event.key: int(event.flops) for event in profiler.key_averages() if event.flops}
    pointwise = said.get("aten::add", 0) + said.get("aten::mul", 0)
    return Reading(sum(said.values()) - pointwise, sum(said.values()))


def ask_fvcore(built: Built) -> Reading:
    """Ask `FlopCountAnalysis`, whose flop is one multiply-add."""
    from fvcore.nn import FlopCountAnalysis  # may be absent

    work = built.eval_step or built.step
    analysis = FlopCountAnalysis(Whole(work, models_of(work)), ())
    analysis.unsupported_ops_warnings(enabled=False).uncalled_modules_warnings(enabled=False)
    said = analysis.by_operator()
    products = sum(said[name] for name in ("addmm", "bmm", "conv", "einsum", "linear", "matmul", "mm"))
    return Reading(2 * int(products), int(products + sum(said.values())))


def ask_profiler_of_modules(built: Built, module: str, make: Callable[[Any, nn.Module], Any], verb: str) -> Reading:
    """Ask DeepSpeed, or calflops, which is made of it: functions replaced, recurrent layers by hooks."""
    source = importlib.import_module(module)
    work = built.eval_step or built.step
    recurrent = {one for model in models_of(work) for one in model.modules() if type(one) in RECURRENT}
    whole = Whole(work, list(recurrent))
    einsums: list[int] = []

    def look(*_: object) -> None:
        einsums.extend(count for name, count in source.module_flop_count[-1] if "einsum" in name())

    whole.register_forward_hook(look)  # before theirs, which takes the list away
    with unpatched():
        profiler = make(source, whole)
        getattr(profiler, f"start_{verb}")()
        whole()
        total, pairs = profiler.get_total_flops(), profiler.get_total_macs()
        layers = sum(one.__flops__ for one in recurrent)
        getattr(profiler, f"end_{verb}")()
    return Reading(2 * int(pairs) + sum(map(int, einsums)) + int(layers), int(total))


def ask_deepspeed(built: Built) -> Reading:
    """Ask DeepSpeed's `FlopsProfiler`."""
    return ask_profiler_of_modules(
        built,
        "deepspeed.profiling.flops_profiler.profiler",
        lambda source, whole: source.FlopsProfiler(whole),
        "profile",
    )


def ask_calflops(built: Built) -> Reading:
    """Ask calflops."""
    return ask_profiler_of_modules(
        built,
        "calflops.calculate_pipline",
        lambda source, whole: source.CalFlopsPipline(whole, include_backPropagation=False, compute_bp_factor=2.0),
        "flops_calculate",
    )


def ask_floppy(built: Built) -> Reading:
    """Ask the counter inside FLOPpy, by operator."""
    from floppy.backends.torch_impl.hooks.universal_flop_counter import (  # may be absent
        UniversalFlopCounter,
    )

    products = [0]

    class Counter(UniversalFlopCounter):  # type: ignore[misc] # has no types
        def _add_ops(self, flop_count: int, ref_obj: Any = None, op_name: str = "") -> None:
            if any(name in op_name for name in ("mm", "conv", "scaled_dot_product", "lstm", "gru", "rnn")):
                products[0] += int(flop_count)
            super()._add_ops(flop_count, ref_obj, op_name)

    counter = Counter()
    with counter:
        (built.eval_step or built.step)()
    return Reading(products[0], counter.flops)


def ask_floppy_training(built: Built) -> Reading:
    """Ask FLOPpy for a step: it counts the forward of one model, and multiplies."""
    from floppy.backends.torch_impl.torch_backend import TorchBackend  # may be absent

    backend = TorchBackend(max(models_of(built.step), key=lambda model: sum(one.numel() for one in model.parameters())))
    backend.start()
    try:
        built.step()
    finally:
        backend.stop()
    total = int(backend.total_forward_flop + backend.total_backward_flop)
    return Reading(total, total)


PEERS = (
    Peer(
        "FlopCounterMode",
        "torch",
        "products, forward and backward as they run",
        lambda built: ask_torch(built.eval_step or built.step),
        lambda built: ask_torch(built.step),
    ),
    Peer(
        "torch.profiler",
        "torch",
        "`with_flops=True`: products of five operators, additions, multiplications; forward and backward as they run",
        lambda built: ask_profiler(built.eval_step or built.step),
        lambda built: ask_profiler(built.step),
    ),
    Peer("fvcore", "fvcore", "`FlopCountAnalysis`: a traced forward, multiply-adds; doubled here", ask_fvcore, None),
    Peer(
        "DeepSpeed",
        "deepspeed",
        "`FlopsProfiler`: a forward through replaced functions, products and more; a backward is taken for twice that",
        ask_deepspeed,
        None,
    ),
    Peer("calflops", "calflops", "as DeepSpeed, from which it is made", ask_calflops, None),
    Peer(
        "FLOPpy",
        "floppy-tracker",
        "a forward by operator, products and more; a backward is that times 1 + the trained share of the parameters",
        ask_floppy,
        ask_floppy_training,
    ),
)


MODULES = {
    "torch": ("torch.profiler", "torch._dynamo", "torch._decomp", "torch.distributed.tensor.parallel"),
    "fvcore": ("fvcore.nn",),
    "deepspeed": ("deepspeed.profiling.flops_profiler.profiler",),
    "calflops": ("calflops.calculate_pipline",),
    "floppy-tracker": ("floppy.backends.torch_impl.torch_backend",),
}


def present() -> tuple[Peer, ...]:
    """Return the counters that are installed."""
    return tuple(peer for peer in PEERS if peer.version)


def warm_up() -> None:
    """Do once what each process would do again: import the counters, and what torch imports when it is first asked."""
    with quiet():
        for peer in present():
            for module in MODULES[peer.package]:
                importlib.import_module(module)
    with quiet(), FlopCounterMode(display=False), torch.no_grad():
        nn.Linear(1, 1)(torch.rand(1, 1))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what counters say aloud to themselves."""
    logging.disable(logging.CRITICAL)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
