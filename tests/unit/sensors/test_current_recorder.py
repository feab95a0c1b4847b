"""Who notes launches: the recorder on this thread's stack, unless an operator is being run or all is counted anyway."""

import threading

import pytest

torch = pytest.importorskip("torch")

from flopmeter.sensors.current_recorder import Silence, recorder_here  # noqa: E402
from flopmeter.sensors.launches import covered  # noqa: E402
from flopmeter.sensors.torch_ops import OpRecorder  # noqa: E402


@pytest.fixture
def recorder():
    failures = []
    recorder = OpRecorder(lambda: "forward", failures.append)
    recorder.switch_on()
    yield recorder
    recorder.switch_off()
    assert failures == []


def test_the_recorder_on_the_stack_is_found(recorder):
    assert recorder_here() is recorder
    with covered():
        assert recorder_here() is None
    recorder.switch_off()
    assert recorder_here() is None


def test_another_thread_has_none(recorder):
    found = []
    thread = threading.Thread(target=lambda: found.append(recorder_here()))
    thread.start()
    thread.join()
    assert found == [None]


def test_within_an_operator_nobody_notes(recorder):
    """Else a kernel is counted twice: as the operator that launches it, and by itself."""
    seen = []

    @torch.library.custom_op("current_recorder_test::launch", mutates_args=())
    def launch(x: torch.Tensor) -> torch.Tensor:
        seen.append(recorder_here())
        return x.clone()

    launch(torch.ones(2))
    assert seen == [None]
    assert recorder_here() is recorder


def test_silence_ends_with_an_error_too(recorder):
    silence = Silence(recorder)
    with pytest.raises(ValueError, match="own"), silence:
        raise ValueError("own")
    assert recorder_here() is recorder
    with silence:
        assert recorder_here() is None
    recorder.switch_off()
    with silence:
        pass
    assert recorder_here() is None, "what was not on is not put on"
