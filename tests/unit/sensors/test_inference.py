"""Blocks of inference mode, those that turn it off among them, are known while somebody meters."""

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from flopmeter import Meter  # noqa: E402
from flopmeter.sensors import inference  # noqa: E402


@pytest.fixture
def listening():
    before = torch.inference_mode.__enter__, torch.inference_mode.__exit__
    inference.listen(1)
    yield
    inference.stop_listening(1)
    assert (torch.inference_mode.__enter__, torch.inference_mode.__exit__) == before, "torch is as it was"


def test_blocks_are_known_whatever_their_mode(listening):
    assert not inference.is_block_open()
    with torch.inference_mode(mode=False):
        assert inference.is_block_open()
        assert not torch.is_inference_mode_enabled()
        with torch.inference_mode():
            assert torch.is_inference_mode_enabled()
        assert inference.is_block_open()
    assert not inference.is_block_open()


def test_an_error_closes_a_block(listening):
    with pytest.raises(ValueError, match="own"), torch.inference_mode(mode=False):
        raise ValueError("own")
    assert not inference.is_block_open()


def test_one_that_was_open_before_does_no_harm():
    with torch.inference_mode(mode=False):
        inference.listen(1)
    inference.stop_listening(1)
    assert not inference.is_block_open()


def test_several_meters_listen_until_the_last_one_goes(listening):
    inference.listen(2)
    inference.stop_listening(2)
    inference.stop_listening(2)
    with torch.inference_mode(mode=False):
        assert inference.is_block_open()


@pytest.mark.parametrize("mode", [True, False])
def test_a_program_lives_whatever_begins_and_ends_inside_of_a_block(tmp_path, mode):
    """Torch puts back the key of our hook as the block found it: without a hook beside it no operator runs any more."""
    model, x = nn.Linear(8, 8), torch.ones(4, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with Meter(tmp_path, model=model, overhead_budget=0.5, strict=True) as meter:
        for _ in range(150):
            with torch.inference_mode(mode=mode):
                out = model(x).sum()
                if not mode:
                    out.backward()
            model(x).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            meter.step()
    account = meter.account()
    assert torch.is_tensor(nn.Linear(8, 8).weight)
    assert account.lower <= 150 * (8 + 4 * (not mode)) * 2 * 4 * 8 * 8
    assert account.steps == 150


def test_an_evaluation_once_does_not_have_all_that_follows_counted(tmp_path, monkeypatch):
    """What ran between its forwards is unknown, and is to be counted the next time; perhaps there is none."""
    monkeypatch.setattr("flopmeter.sensors.budget.Budget.one_in", lambda *_, **__: 0)
    model, x = nn.Linear(8, 8), torch.ones(4, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    counted = []
    with Meter(tmp_path, model=model, strict=True) as meter:
        for step in range(300):
            model(x * 1.5).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            meter.step()
            if step == 100:
                with torch.inference_mode():
                    for _ in range(3):
                        model(x)
            if step in {200, 299}:
                counted.append(meter.account().passages["counted"])
    assert counted[1] - counted[0] < 20


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_first_evaluation_is_counted_however_dear_counting_is(tmp_path, monkeypatch, mode):
    """Else it is guessed from a forward that trains: under that one's phase, with what its graph costs."""
    model, x = nn.Linear(8, 8), torch.ones(4, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    flop = []
    with Meter(tmp_path, model=model, strict=True) as meter:
        for step in range(30):
            model(x).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            meter.step()
            if step == 10:
                monkeypatch.setattr("flopmeter.sensors.budget.Budget.can_afford", lambda *_: False)
            if step in {20, 25}:
                with mode():
                    model(x[:2])
                tally = meter.account().tally
                flop.append(sum(count.flop for count in tally.counts if count.phase == "inference"))
    assert flop[0] >= 2 * 2 * 8 * 8
    assert flop[1] == 2 * flop[0]
