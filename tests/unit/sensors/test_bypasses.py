"""What bypasses the dispatcher is listened to while somebody meters, and nothing after."""

import subprocess
import sys
from types import ModuleType

import pytest

torch = pytest.importorskip("torch")

from flopmeter.sensors.bypasses import BypassWatch  # noqa: E402
from flopmeter.sensors.hook import BoundaryHook  # noqa: E402
from flopmeter.sensors.torch_ops import OpRecorder  # noqa: E402
from flopmeter.sensors.torch_phase import PhaseTracker  # noqa: E402

LIBRARY = "fused_weight_gradient_mlp_cuda"


def kernel(*_args):
    return None


@pytest.fixture
def library(monkeypatch):
    module = ModuleType(LIBRARY)
    module.kernel = kernel
    monkeypatch.setitem(sys.modules, LIBRARY, module)
    return module


def listen(watch):
    phase = PhaseTracker()
    hooks = [BoundaryHook(kernel, print) for _ in range(4)]
    return watch.listen(hooks, phase, OpRecorder(phase.now, print))


def test_all_is_put_back_when_the_last_one_goes(library):
    """Else a second meter loses what it listens to when the first one stops, or torch stays changed for ever."""
    graph, path = torch.cuda.CUDAGraph, list(sys.meta_path)
    before = dict(vars(graph))
    watch = BypassWatch()
    first, second = listen(watch), listen(watch)
    assert library.kernel is not kernel
    assert graph.capture_begin is not before["capture_begin"]
    first.remove()
    first.remove()
    assert library.kernel is not kernel
    second.remove()
    second.remove()
    assert library.kernel is kernel
    assert dict(vars(graph)) == before
    assert sys.meta_path == path


def test_one_can_listen_again(library):
    watch = BypassWatch()
    for _ in range(2):
        listening = listen(watch)
        assert library.kernel is not kernel
        listening.remove()
        assert library.kernel is kernel


def test_nothing_is_imported_to_be_listened_to():
    """Triton takes a second to load, and a library that is not wanted may not load at all."""
    before = set(sys.modules)
    listening = listen(BypassWatch())
    listening.remove()
    assert not {name for name in set(sys.modules) - before if name.startswith(("triton", "transformer_engine", "apex"))}


def test_code_of_inductors_is_heard_of_as_soon_as_that_is_loaded(tmp_path):
    """Dynamo may tell nobody that it compiles, after a reset; then the first regions would be in no record."""
    program = """
import sys
from flopmeter import Meter
with Meter(sys.argv[1]):
    assert "torch._inductor.output_code" not in sys.modules
    from torch._inductor.output_code import CompiledFxGraph
    assert CompiledFxGraph.__call__.__module__ == "flopmeter.sensors.regions"
assert CompiledFxGraph.__call__.__module__ == "torch._inductor.output_code"
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
