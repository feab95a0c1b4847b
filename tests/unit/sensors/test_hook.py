"""What hangs on a user's module never travels with it."""

import contextlib
import copy
import pickle

import pytest
import torch

from flopmeter.sensors.hook import BoundaryHook


def repickled(hook):
    return pickle.loads(pickle.dumps(hook))  # noqa: S301  # our own bytes


def test_a_hook_passes_on_and_returns_nothing():
    heard = []
    hook = BoundaryHook(lambda *args: heard.append(args) or "something", heard.append)
    assert hook(1, 2) is None
    assert heard == [(1, 2)]


def test_what_fails_in_a_hook_is_told_and_the_run_goes_on():
    """Else a mistake of ours ends somebody's training."""
    told = []

    def fail(*_args):
        raise ValueError

    assert BoundaryHook(fail, told.append)(1) is None
    assert [type(error) for error in told] == [ValueError]


@pytest.mark.parametrize("travel", [copy.copy, copy.deepcopy, repickled])
def test_a_hook_that_travels_does_nothing_and_needs_nothing_of_ours(travel):
    """Else a saved or copied model drags the meter along, or cannot be loaded where flopmeter is not installed."""

    def refuse(*_args):
        raise AssertionError

    copied = travel(BoundaryHook(refuse, refuse))
    assert copied(torch.nn.ReLU(), (), {}) is None
    assert b"flopmeter" not in pickle.dumps(BoundaryHook(refuse, refuse))
    assert isinstance(copied.__self__, contextlib.nullcontext)


def test_a_hook_has_a_name_like_a_function():
    """Else whatever asks hooks for their names, such as torch.jit.script, fails with an error about us."""
    assert BoundaryHook(print, print).__name__ == "print"
