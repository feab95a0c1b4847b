"""Modes that come and go around ours: torch itself lifts them all for a while, and puts them back."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import (
    BaseTorchDispatchMode,
    _disable_current_modes,
    _get_current_dispatch_mode_stack,
    _pop_mode,
)

from flopmeter import Account, Meter
from flopmeter.sensors import hook
from flopmeter.sensors.torch_ops import OpRecorder


def test_modes_that_torch_lifts_for_a_while_come_back_once(tmp_path):
    """If this failed, work after such a stretch would be noted twice, and our mode would outlive the meter."""
    model, one = nn.Linear(4, 4, bias=False), torch.ones(2, 4)
    depth = torch._C._len_torch_dispatch_stack()
    with Meter(tmp_path, model=model, exact=True) as meter:
        for _ in range(3):
            with _disable_current_modes():
                model(one)
            torch.mm(one, torch.ones(4, 3))
            meter.step()
        assert torch._C._len_torch_dispatch_stack() == depth + 1
    assert torch._C._len_torch_dispatch_stack() == depth
    account = Account.of(tmp_path)
    assert account.tally.contraction_flop == 3 * 2 * 2 * 4 * 3
    assert "stack of modes" in account.gaps[0].detail
    assert account.upper > 3 * (2 * 2 * 4 * 3 + 2 * 2 * 4 * 4)


def test_a_meter_closed_while_modes_are_lifted_stays_silent(tmp_path):
    """If this failed, a closed meter would go on noting calls for ever."""
    meter = Meter(tmp_path).start()
    depth = torch._C._len_torch_dispatch_stack()
    recorder = meter._sensor._books.recorder
    with _disable_current_modes():
        meter.close()
    torch.ones(2) + 1
    assert recorder.take() == {}
    while torch._C._len_torch_dispatch_stack() >= depth:
        _pop_mode()


def test_an_interrupt_while_we_leave_the_stack_keeps_the_modes_of_the_user(monkeypatch):
    """If this failed, Ctrl-C in a notebook could take away a mode that the user had switched on."""
    recorder, users = OpRecorder(lambda: "other", lambda _error: None), BaseTorchDispatchMode()
    pops = []

    def interrupted():
        pops.append(1)
        if len(pops) == 2:
            raise KeyboardInterrupt
        return _pop_mode()

    recorder.switch_on()
    with users:
        monkeypatch.setattr("flopmeter.sensors.lowest_mode._pop_mode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            recorder.switch_off()
        monkeypatch.undo()
        assert users in _get_current_dispatch_mode_stack()
    recorder.switch_off()
    assert not recorder.is_on


def graphs_of(outer, x):
    """Compile what a function calls though Dynamo gives up on the function itself; return the graphs."""
    graphs = []

    def keep(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.eval_frame.skip_code(outer.__code__)
    torch.compile(outer, backend=keep)(x)
    return graphs


def test_dynamo_leaves_alone_what_is_hidden_and_what_that_calls():
    """If this failed, torch would no longer listen, and a model that falls back would have the meter compiled."""

    def inner(x):
        return x + 1

    def middle(x):
        return inner(x) * 2

    def hidden(x):
        return inner(x) * 2

    hook.hide_from_dynamo(hidden)
    assert graphs_of(lambda x: middle(x).sin(), torch.ones(2)) != []
    assert graphs_of(lambda x: hidden(x).sin(), torch.ones(2)) == []


def test_a_compiled_model_that_falls_back_compiles_nothing_of_ours():
    """If this failed, each operator of such a model would take seconds the first time."""
    recorder, x = OpRecorder(lambda: "other", pytest.fail), torch.ones(3, 3)

    def outer(x):
        return (x @ x).sin()

    torch._dynamo.utils.counters.clear()
    with recorder:
        assert graphs_of(outer, x) == []
    assert recorder.seen == 2
    assert not torch._dynamo.utils.counters["frames"]
