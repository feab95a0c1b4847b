"""What fails on our side stays on our side; what hangs on a user's module never travels."""

import contextlib
import copy
import pickle  # our own bytes

import pytest
import torch

from flopmeter.sensors.guard import BoundaryHook, guarded


class Sensor:
    def __init__(self, *, strict: bool = False):
        self.strict, self.heard = strict, []

    def on_failure(self, error: Exception) -> None:
        self.heard.append(error)
        if self.strict:
            raise error

    @guarded
    def work(self, divisor: int, *, error: type[BaseException] | None = None) -> None:
        """Divide."""
        if error:
            raise error
        1 / divisor  # noqa: B018


def test_an_exception_is_heard_and_not_raised():
    sensor = Sensor()
    sensor.work(0)
    assert [type(error) for error in sensor.heard] == [ZeroDivisionError]
    sensor.work(1)
    assert len(sensor.heard) == 1


def test_in_strict_mode_it_is_raised():
    with pytest.raises(ZeroDivisionError):
        Sensor(strict=True).work(0)


def test_an_interrupt_is_the_users_and_goes_through():
    sensor = Sensor()
    with pytest.raises(KeyboardInterrupt):
        sensor.work(1, error=KeyboardInterrupt)
    assert sensor.heard == []


def test_a_guarded_method_keeps_its_name_and_its_docstring():
    assert (Sensor.work.__name__, Sensor.work.__doc__) == ("work", "Divide.")


def test_a_hook_passes_on_and_returns_nothing():
    heard = []
    hook = BoundaryHook(lambda *args: heard.append(args) or "something")
    assert hook(1, 2) is None
    assert heard == [(1, 2)]


@pytest.mark.parametrize("travel", [copy.copy, copy.deepcopy, lambda hook: pickle.loads(pickle.dumps(hook))])
def test_a_hook_that_travels_does_nothing_and_needs_nothing_of_ours(travel):
    """Else a saved or copied model drags the meter along, or cannot be loaded where flopmeter is not installed."""

    def refuse(*_args):
        raise AssertionError

    copied = travel(BoundaryHook(refuse))
    assert copied(torch.nn.ReLU(), (), {}) is None
    assert b"flopmeter" not in pickle.dumps(BoundaryHook(refuse))
    assert isinstance(copied.__self__, contextlib.nullcontext)
