"""What torch.compile makes: when, by which backend, and where the calls of a model that it compiled begin and end.

Code of Inductor's is seen where it runs (`regions.py`), and what other backends of torch run comes to the dispatcher.
Of any other backend nothing is known: each run of its code in a watched module is listed as uncounted, code elsewhere
is a gap. Not here: what a region costs.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch

from flopmeter.sensors.regions import region_watch

RECOMPILED = "torch before 2.10 compiles code anew at each call under a counting mode: what ran is not counted"
GUARDS_SEE_MODES = not hasattr(torch._C._dynamo.guards, "set_is_in_mode_without_ignore_compile_internals")  # noqa: SLF001
UNWATCHED = "torch.compile made code outside of any watched module; what its kernels compute is not in the figures"

_DISPATCHED = "torch._dynamo.backends.debugging"
"""The module of torch's backends that call operators one by one."""
_FUSED = frozenset({"torchscript"})
"""Those in it that do not."""
_INDUCTOR = frozenset({"torch._dynamo.backends.inductor", "torch._inductor.compile_fx"})
_FLEX_ATTENTION = str(Path("torch", "nn", "attention", "flex_attention.py"))


class RegionListener(Protocol):
    """What is told of calls of modules that were compiled in place (`passage.py`)."""

    def region_began(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Hear that a module compiled in place is being called."""

    def region_ended(self, module: torch.nn.Module, out: Any) -> None:
        """Hear that it has returned."""


class CompiledCall:
    """Stands before the compiled call of a module: its hooks are inside the compiled code. Never pickled or copied."""

    def __init__(self, listener: RegionListener, module: torch.nn.Module, inner: Callable[..., Any]) -> None:
        """Remember what is to be called."""
        self.listener, self.module, self.inner = listener, module, inner

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it, and tell before and after."""
        if torch.compiler.is_compiling():
            return self.inner(*args, **kwargs)
        self.listener.region_began(self.module, args, kwargs)
        out = None
        try:
            out = self.inner(*args, **kwargs)
        finally:
            self.listener.region_ended(self.module, out)
        return out


def refusal() -> str:
    """Say why nothing may be counted now; empty where it may: a meter must not have code compiled more often."""
    return RECOMPILED if GUARDS_SEE_MODES and _count_frames() else ""


def adopt_compiled(listener: RegionListener, module: torch.nn.Module) -> None:
    """Make the calls of every part of a module that was compiled in place visible; again changes nothing."""
    for part in module.modules():
        inner = part.__dict__.get("_compiled_call_impl")
        if inner is not None and not isinstance(inner, CompiledCall):
            part._compiled_call_impl = CompiledCall(listener, part, inner)  # noqa: SLF001


def is_unadopted(module: torch.nn.Module) -> bool:
    """Say whether some part was compiled in place and is not yet told of."""
    calls = [part.__dict__.get("_compiled_call_impl") for part in module.modules()]
    return any(call is not None and not isinstance(call, CompiledCall) for call in calls)


def release_compiled(module: torch.nn.Module) -> None:
    """Put the compiled calls back as they were."""
    for part in module.modules():
        call = part.__dict__.get("_compiled_call_impl")
        if isinstance(call, CompiledCall):
            part._compiled_call_impl = call.inner  # noqa: SLF001


class CompileWatch:
    """Hears from Dynamo when it compiles; Dynamo itself is never loaded for it, because that takes seconds."""

    def __init__(self, on_compile: Callable[[], None]) -> None:
        """Prepare."""
        self._on_compile = on_compile
        self._handler: Any = None
        self.is_hooked = False
        self._callback = self._compile_begins
        self._frames = _count_frames()
        self.is_opaque = False
        """Whether code was made, or may be, of which is not seen what it runs."""
        self.has_missed = False
        """Whether code was made, and may have run, before anybody here could hear of it."""

    @property
    def has_compiled(self) -> bool:
        """Whether anything was compiled in this process."""
        return _count_frames() > 0

    def look(self) -> None:
        """Hook into Dynamo once it has been loaded, and catch up with what it compiled before that.

        `torch._dynamo.reset` takes all hooks off: what was compiled since then was not heard of.
        """
        if self._handler is not None:
            if self._callback not in self._handler.start_callbacks:
                self._handler.register_start_callback(self._callback)
                self._compile_begins(None)
            return
        was_seen = region_watch.is_seen
        region_watch.look()
        module = sys.modules.get("torch._dynamo.callback")
        if module is None:
            return
        self._handler = getattr(module, "callback_handler", None)
        if self._handler is None:
            return
        self._handler.register_start_callback(self._callback)
        self.is_hooked, self.is_opaque = True, not _are_backends_seen()
        if _count_frames() > self._frames:
            self.has_missed = not was_seen
            self._on_compile()

    def _compile_begins(self, _args: Any) -> None:
        if not _is_for_operator():
            region_watch.look()
            self.is_opaque = self.is_opaque or not _are_backends_seen()
            self._on_compile()

    def stop(self) -> None:
        """Hook out."""
        if self._handler is not None and self._callback in self._handler.start_callbacks:
            self._handler.remove_start_callback(self._callback)
        self._handler = None


def _are_backends_seen() -> bool:
    """Say so of all backends that code was compiled by, or may be."""
    module = sys.modules.get("torch._dynamo.eval_frame")
    backends = getattr(module, "cached_backends", None)
    return backends is not None and all(map(_is_seen, list(backends.values())))


def _is_seen(backend: Any) -> bool:
    """Say whether what a backend's code runs is seen: as a region, or by the dispatcher."""
    if backend is None or backend is False:
        return True  # not to compile is one, too
    kind = type(backend)
    if kind.__module__ == "torch":  # what `torch.compile` makes of a name
        inner = getattr(backend, "compiler_fn", None)
        return (
            _is_seen(inner)
            if inner is not None
            else kind.__name__ == "_TorchCompileInductorWrapper" and region_watch.is_seen
        )
    if kind.__module__ == "torch._dynamo.testing":  # which counts compilations
        return getattr(backend, "backend", "") in {"eager", "aot_eager"} or region_watch.is_seen
    if kind.__module__ == "torch._dynamo.backends.common":
        return _is_seen(backend.kwargs.get("fw_compiler"))
    module, name = getattr(backend, "__module__", ""), getattr(backend, "__name__", "")
    return (module == _DISPATCHED and name not in _FUSED) or (module in _INDUCTOR and region_watch.is_seen)


def _is_for_operator() -> bool:
    """Say whether torch compiles for an operator that is seen all the same.

    One that calls others (`torch.cond`) runs them one by one; attention with a block mask is called through Dynamo even
    where nobody compiles it, and compiled code that calls it is not on the stack here.
    """
    frame: FrameType | None = sys._getframe()  # noqa: SLF001
    while frame is not None:
        name = frame.f_code.co_filename
        if "_higher_order_ops" in name or name.endswith(_FLEX_ATTENTION):
            return True
        frame = frame.f_back
    return False


def _count_frames() -> int:
    """Return how many frames Dynamo has compiled so far; 0 while it is not loaded."""
    module = sys.modules.get("torch._dynamo.utils")
    return int(module.counters["frames"]["ok"]) if module is not None else 0
