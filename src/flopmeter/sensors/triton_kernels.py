"""Triton kernels that Python launches itself: noted by name, and at the cost that their author declares.

`kernel[grid](…)` comes down to one method, `JITFunction.run`, whoever calls it. What a launch costs nobody can tell
from outside; but a kernel may declare it, in the way of Proton, Triton's profiler (`launch_metadata` with `flops16` and
the like), or of torch's counter (`register_flop_formula`). Such a figure has basis `declared`; all others are
uncounted.
While a passage is counted a launch hook hears what is declared. Nobody is asked during the capture of a graph: who
computes a declaration may look into tensors.
Not here: kernels that compiled code launches, which does not go this way, and operators around kernels, which are
priced with all that they launch.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from flopmeter.sensors.aside import Silence, recorder_here
from flopmeter.sensors.guard import guarded
from flopmeter.sensors.launches import launched, weigh_name
from flopmeter.sensors.patches import Patches
from flopmeter.sensors.shadows import Key
from flopmeter.sensors.torch_ops import OpRecorder

JIT = "triton.runtime.jit"
DECLARED = "triton::declared"
FIGURES = ("bytes", "flops", "flops8", "flops16", "flops32", "flops64")
"""What Proton reads of a launch."""
MISTAKES = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What somebody's function that declares a cost may raise: then nothing is declared."""
_WEIGHT = weigh_name("a kernel of Triton")
_depth = torch._C._len_torch_dispatch_stack  # noqa: SLF001


def hear_triton(patches: Patches, jit: Any) -> None:
    """Hear of launches from now on."""
    kind = getattr(jit, "JITFunction", None)
    if kind is not None and hasattr(kind, "run"):
        patches.put(kind, "run", _make)
        launched.hears_triton = True


def stop_hearing_triton() -> None:
    """Take it that nobody hears any more; the method is put back by who put ours there."""
    launched.hears_triton = False


def _make(original: Callable[..., Any]) -> Callable[..., Any]:
    def run(kernel: Any, *args: Any, **kwargs: Any) -> Any:
        launched.total += _WEIGHT
        recorder = recorder_here() if _depth() else None
        if recorder is None or kwargs.get("warmup"):
            return original(kernel, *args, **kwargs)
        launch = _Launch(recorder, kernel, args, kwargs)
        with launch:
            out = original(kernel, *args, **kwargs)
        recorder.note_beside(launch.keys_of)
        return out

    return run


class _Launch:
    """One launch that is noted: within, what it is told to hooks as is heard, by whichever way this Triton has."""

    def __init__(self, recorder: OpRecorder, kernel: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        self._recorder = recorder
        self.on_failure = recorder.on_failure
        self._kernel = kernel
        self._args = args
        self._kwargs = kwargs
        self._told: list[Any] = []
        self._hooks: Any = None
        self._before: Any = None

    def __enter__(self) -> None:
        self._begin()

    def __exit__(self, *error: object) -> None:
        self._end()

    @guarded
    def _begin(self) -> None:
        knobs = getattr(sys.modules.get("triton.knobs"), "runtime", None)  # since Triton 3.4
        kind = getattr(sys.modules.get("triton.compiler"), "CompiledKernel", None)
        hooks = knobs if hasattr(knobs, "launch_enter_hook") else kind
        if hooks is None or (torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()):
            return
        self._before = getattr(hooks, "launch_enter_hook", None)
        if hasattr(self._before, "add"):
            self._before.add(self._hear)
        else:
            hooks.launch_enter_hook = self._hear_too
        self._hooks = hooks

    @guarded
    def _end(self) -> None:
        if self._hooks is None:
            return
        if hasattr(self._before, "add"):
            self._before.remove(self._hear)
        else:
            self._hooks.launch_enter_hook = self._before

    def _hear(self, metadata: Any) -> None:
        self._told.append(metadata)

    def _hear_too(self, metadata: Any) -> None:
        self._told.append(metadata)
        if self._before is not None:
            self._before(metadata)

    def keys_of(self, phase: str, inside: tuple[str, ...]) -> Mapping[Key, int]:
        """Return the launch as it is noted; whoever says what it costs is asked unseen."""
        name = str(getattr(self._kernel, "__name__", "kernel"))
        with Silence(self._recorder):
            declared = self._find_declared() or self._find_registered()
        if declared:
            return {(DECLARED, phase, (name,), tuple(sorted(declared.items())), (), "", inside): 1}
        return {(f"triton::{name}", phase, (), (), (), "", inside): 1}

    def _find_declared(self) -> Mapping[str, int]:
        figures: dict[str, int] = {}
        for metadata in self._told:
            try:
                told = metadata if isinstance(metadata, Mapping) else metadata.get()
            except MISTAKES:
                continue
            for name in FIGURES:
                value = told.get(name)
                if isinstance(value, int | float) and value >= 0:
                    figures[name] = figures.get(name, 0) + int(value)
        return figures if any(name != "bytes" for name in figures) else {}

    def _find_registered(self) -> Mapping[str, int]:
        """Return what a formula says that was registered with torch's counter, called as that does."""
        registry = getattr(sys.modules.get("torch.utils.flop_counter"), "flop_registry", {})
        # By identity: to hash a kernel, Triton reads its source.
        formula = next((formula for target, formula in registry.items() if target is self._kernel), None)
        if formula is None:
            return {}
        options = {name: value for name, value in self._kwargs.items() if name not in {"grid", "warmup"}}
        given = {**dict(zip(getattr(self._kernel, "arg_names", ()), self._args, strict=False)), **options}
        grid = [self._kwargs.get("grid")]
        try:
            return {"flops": int(formula(kernel_idx=0, constant_args_idx=0, grid=grid, kwargs=given, out_val=None))}
        except MISTAKES:
            return {}
