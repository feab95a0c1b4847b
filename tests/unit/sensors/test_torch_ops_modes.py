"""Modes that come and go around ours: torch itself lifts them all for a while, and puts them back."""

import torch
from torch import nn
from torch.utils._python_dispatch import _disable_current_modes, _pop_mode

from flopmeter import Account, Meter


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
    recorder = meter._sensor._recorder
    with _disable_current_modes():
        meter.close()
    torch.ones(2) + 1
    assert recorder.take() == {}
    while torch._C._len_torch_dispatch_stack() >= depth:
        _pop_mode()
