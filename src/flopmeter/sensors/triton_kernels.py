"""Triton kernels that Python launches itself: noted by name, and at the cost that their author declares.

`kernel[grid](…)` is how they are launched: to ask a kernel for its launcher is an addition to the witness, and where
somebody counts the launcher is ours. What a launch costs nobody can tell from outside; but a kernel may declare it, in
the way of Proton, Triton's profiler (`launch_metadata` with `flops16` and the like), or of torch's counter
(`register_flop_formula`). Such a figure has basis `declared`; all others are uncounted.
While a passage is counted a launch hook hears what is declared. Nobody is asked during the capture of a graph: who
computes a declaration may look into tensors.
Not here: kernels that compiled code launches, which does not go this way (`region_calls.py`), and operators around
kernels, which are priced with all that they launch.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from flopmeter.sensors.current_recorder import Silence, recorder_here
from flopmeter.sensors.guard import guarded
from flopmeter.sensors.hook import hide_from_dynamo
from flopmeter.sensors.launches import launched, number_launch
from flopmeter.sensors.patches import Patches
from flopmeter.sensors.shadows import Key
from flopmeter.sensors.torch_ops import OpRecorder

LAUNCHERS = {"triton.runtime.jit": "KernelInterface", "triton.compiler.compiler": "CompiledKernel"}
"""Modules, and what in them is asked for a launcher by its grid."""
DECLARED = "triton::declared"
FIGURES = ("bytes", "flops", "flops8", "flops16", "flops32", "flops64")
"""What Proton reads of a launch."""
MISTAKES = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What somebody's function that declares a cost may raise: then nothing is declared."""
_LAUNCH_NUMBER = number_launch("a kernel of Triton")
_depth = torch._C._len_torch_dispatch_stack  # noqa: SLF001


def hear_triton(patches: Patches, name: str, module: Any) -> None:
    """Hear of launches from now on, of kernels that this module has the class of."""
    kind = getattr(module, LAUNCHERS[name], None)
    if kind is not None and hasattr(kind, "__getitem__"):
        patches.put(kind, "__getitem__", _make)
        hide_from_dynamo(_Launch.__call__)
        launched.hears_triton = True


def stop_hearing_triton() -> None:
    """Take it that nobody hears any more; the methods are put back by who put ours there."""
    launched.hears_triton = False


def _make(original: Callable[..., Any]) -> Callable[..., Any]:
    def find_launcher(kernel: Any, grid: Any) -> Any:
        launched.total += _LAUNCH_NUMBER
        launcher = original(kernel, grid)
        if not _depth() or (recorder := recorder_here()) is None:
            return launcher
        return _Launch(recorder, kernel, grid, launcher)

    return find_launcher


class _Launch:
    """One launch that is noted: what it is told to hooks as is heard meanwhile, by whichever way this Triton has."""

    def __init__(self, recorder: OpRecorder, kernel: Any, grid: Any, launcher: Callable[..., Any]) -> None:
        self._recorder = recorder
        self.on_failure = recorder.on_failure
        self._kernel = kernel
        self._grid = grid
        self._launcher = launcher
        self._given: tuple[Sequence[Any], Mapping[str, Any]] = (), {}
        self._told: list[Any] = []
        self._hooks: Any = None
        self._before: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if recorder_here() is not self._recorder:  # somebody has kept the launcher beyond its passage
            return self._launcher(*args, **kwargs)
        self._given, self._told = (args, kwargs), []
        self._begin()
        try:
            with launched.span():
                out = self._launcher(*args, **kwargs)
        finally:
            self._end()
        self._recorder.note_bypass(self._keys_of, touched=(*args, *kwargs.values()))
        return out

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

    def _keys_of(self, phase: str, inside: tuple[str, ...]) -> Mapping[Key, int]:
        """Return what was launched as it is noted, once or, while Triton tries what is quickest, several times.

        Whoever says what it costs is asked unseen.
        """
        kernel = find_kernel(self._kernel)
        name = str(getattr(kernel, "__name__", None) or getattr(kernel, "name", "kernel"))
        keys: dict[Key, int] = {}
        with Silence(self._recorder):
            args, kwargs = self._given
            given = {**dict(zip(getattr(kernel, "arg_names", ()), args, strict=False)), **kwargs}
            registered = ask_registered(kernel, [self._grid], given)
            for metadata in self._told or [{}]:
                declared = tuple(sorted((_read_declared(metadata) or registered).items()))
                key: Key = (f"triton::{name}", phase, (), (), (), "", inside)
                if declared:
                    key = (DECLARED, phase, (name,), declared, (), "", inside)
                keys[key] = keys.get(key, 0) + 1
        return keys


def ask_registered(kernel: Any, grid: Sequence[Any], given: Mapping[str, Any]) -> Mapping[str, int]:
    """Return what a formula says that was registered with torch's counter for this kernel, called as that does."""
    registry = getattr(sys.modules.get("torch.utils.flop_counter"), "flop_registry", {})
    # By identity: to hash a kernel, Triton reads its source.
    formula = next((formula for target, formula in registry.items() if target is kernel), None)
    if formula is None:
        return {}
    try:
        return {"flops": int(formula(kernel_idx=0, constant_args_idx=0, grid=grid, kwargs=given, out_val=None))}
    except MISTAKES:
        return {}


def find_kernel(kernel: Any) -> Any:
    """Return the kernel itself, of one that chooses among configurations of it."""
    while not hasattr(kernel, "__name__") and hasattr(kernel, "fn"):
        kernel = kernel.fn
    return kernel


def _read_declared(metadata: Any) -> Mapping[str, int]:
    try:
        told = metadata if isinstance(metadata, Mapping) else metadata.get()
    except MISTAKES:
        return {}
    values = {name: told.get(name) for name in FIGURES}
    figures = {name: int(value) for name, value in values.items() if isinstance(value, int | float) and value >= 0}
    return figures if figures.keys() - {"bytes"} else {}
