"""Ctrl-C in our own code, and modules that take no hooks: what is not counted is a gap, never silence."""

import pytest
import torch
from torch import nn

from flopmeter import Account, Meter
from flopmeter.sensors.bookkeeper import Bookkeeper
from flopmeter.sensors.pricing import Pricer


@pytest.mark.parametrize(("owner", "name"), [(Pricer, "table"), (Bookkeeper, "begin")])
def test_an_interrupt_between_two_passages_is_a_gap(tmp_path, monkeypatch, owner, name):
    """If this failed, whoever presses Ctrl-C at the right moment would have work that no figure knows of."""
    real, calls, model = getattr(owner, name), [], nn.Linear(64, 64)

    def interrupted(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    monkeypatch.setattr(owner, name, interrupted)
    with Meter(tmp_path, model=model, exact=True) as meter:
        for _ in range(6):
            try:
                model(torch.ones(8, 64)).sum().backward()
                meter.step()
            except KeyboardInterrupt:
                pass
    account = Account.of(tmp_path)
    assert any("interrupt" in gap.detail for gap in account.gaps)
    assert account.upper is None or account.upper >= 6 * 2 * 2 * 8 * 64 * 64 > account.lower


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")  # so since torch 2.14
def test_a_scripted_module_can_be_watched(tmp_path):
    """If this failed, watching a model would raise torch's error into the training."""
    model = torch.jit.script(nn.Linear(64, 64))
    with Meter(tmp_path, model=model, exact=True) as meter:
        for _ in range(4):
            model(torch.ones(8, 64)).sum().backward()
            meter.step()
    account = Account.of(tmp_path)
    assert account.tally.contraction_flop == 4 * 2 * 2 * 8 * 64 * 64
    assert "scripted" in account.gaps[0].detail


def test_a_lazy_module_can_be_watched(tmp_path):
    model = nn.LazyLinear(64)
    with Meter(tmp_path, exact=True, strict=True) as meter:
        meter.watch(model)
        model(torch.ones(8, 64)).sum().backward()
        meter.step()
    account = Account.of(tmp_path)
    assert not account.gaps
    assert account.tally.contraction_flop == 2 * 2 * 8 * 64 * 64
