"""Nothing changes: what a metered program computes, draws, keeps and hands on is what it would be without the meter."""

import copy
import gc
import io
import os
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.optim import optimizer as optimizers
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from flopmeter.meter import Meter


class Gpt(nn.Module):
    """One block with everything that a language model has, and dropout to draw random numbers."""

    def __init__(self, *, width: int = 16, words: int = 11):
        super().__init__()
        self.table = nn.Embedding(words, width)
        self.norm, self.mix, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, words)
        self.drop = nn.Dropout(0.1)

    def forward(self, tokens):
        x = self.table(tokens)
        q, k, v = self.mix(self.norm(x)).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.drop(functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(-2))
        return self.out(x)


def train(model, *, meter=None, steps: int = 20) -> list[torch.Tensor]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    losses = []
    for index in range(steps):
        tokens = torch.randint(0, 11, (2, 5 + index % 3))
        with torch.autocast("cpu", torch.bfloat16, enabled=index % 4 == 3):
            loss = functional.cross_entropy(model(tokens).float().flatten(0, 1), tokens.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
        if meter is not None:
            meter.step(tokens=tokens.numel())
        if index % 7 == 6:
            model.eval()
            with torch.no_grad():
                losses.append(model(tokens).sum())
            model.train()
    return losses


def stack_height() -> int:
    return torch._C._len_torch_dispatch_stack()


def hooks_of(model: nn.Module) -> list[object]:
    names = [name for name in vars(nn.Module()) if "hooks" in name]
    return [dict(getattr(part, name)) for part in model.modules() for name in names]


@pytest.mark.parametrize("exact", [True, False])
def test_twenty_steps_are_bit_equal_and_draw_the_same_random_numbers(tmp_path, exact):
    """A meter that changes a result by one bit cannot be switched on in the middle of anybody's research."""
    outcomes = []
    for is_metered in (False, True):
        torch.manual_seed(3)
        model = Gpt()
        if is_metered:
            with Meter(tmp_path, model=model, exact=exact) as meter:
                losses = train(model, meter=meter)
        else:
            losses = train(model)
        outcomes.append((losses, list(model.parameters()), torch.get_rng_state()))
    (losses, parameters, state), (metered_losses, metered_parameters, metered_state) = outcomes
    assert all(torch.equal(one, two) for one, two in zip(losses, metered_losses, strict=True))
    assert all(torch.equal(one, two) for one, two in zip(parameters, metered_parameters, strict=True))
    assert torch.equal(state, metered_state)
    assert meter.account().steps == 20


def test_no_hook_and_no_mode_is_left_behind(tmp_path):
    model = Gpt()

    def everything():
        return (
            hooks_of(model),
            stack_height(),
            dict(optimizers._global_optimizer_pre_hooks),
            dict(optimizers._global_optimizer_post_hooks),
            dict(nn.modules.module._global_module_registration_hooks),
            dict(nn.modules.module._global_parameter_registration_hooks),
        )

    before = everything()
    with Meter(tmp_path, model=model) as meter:
        assert everything() != before
        train(model, meter=meter, steps=3)
    assert everything() == before


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_no_hook_and_no_mode_is_left_behind_by_an_exception(tmp_path, error):
    model = Gpt()
    before = (hooks_of(model), stack_height())

    def run():
        with Meter(tmp_path, model=model) as meter:
            train(model, meter=meter, steps=2)
            raise error

    with pytest.raises(error):
        run()
    assert (hooks_of(model), stack_height()) == before


def loads_without_us(saved: bytes, load: str) -> str:
    """Load in a process that cannot import flopmeter."""
    program = f"""
import sys
sys.modules["flopmeter"] = None
import io, pickle, torch
model = {load}(io.BytesIO(sys.stdin.buffer.read()){", weights_only=False" if "torch" in load else ""})
print(float(model(torch.ones(1, 2)).sum()))
"""
    done = subprocess.run([sys.executable, "-c", program], input=saved, capture_output=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().split()[-1]


@pytest.mark.parametrize("load", ["pickle.load", "torch.load"])
def test_a_model_saved_while_it_is_watched_loads_where_flopmeter_is_not_installed(tmp_path, load):
    """Else a checkpoint depends on the meter for ever."""
    model = nn.Sequential(nn.Linear(2, 2))
    buffer = io.BytesIO()
    with Meter(tmp_path, model=model):
        (torch.save if load == "torch.load" else pickle.dump)(model, buffer)
    assert b"flopmeter" not in buffer.getvalue()
    assert float(loads_without_us(buffer.getvalue(), load)) == pytest.approx(model(torch.ones(1, 2)).sum().item())


def test_a_copy_of_a_watched_model_is_not_watched(tmp_path):
    model = nn.Sequential(nn.Linear(2, 3))
    with Meter(tmp_path, model=model) as meter, torch.no_grad():
        copy.deepcopy(model)(torch.ones(1, 2))
        model(torch.ones(1, 2))
    tally = meter.account().tally
    assert tally.select(phase="inference").contraction_flop == 2 * 2 * 3
    assert tally.select(phase="other").contraction_flop == 2 * 2 * 3, "counted all the same"


def test_the_users_own_counter_gives_the_same_figures_inside(tmp_path):
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))

    def count() -> int:
        with FlopCounterMode(display=False) as counter:
            model(torch.ones(2, 4)).sum().backward()
        return counter.get_total_flops()

    alone = count()
    with Meter(tmp_path, model=model) as meter:
        inside = [count() for _ in range(6)]
        held = FlopCounterMode(display=False)
        held.__enter__()
        model(torch.ones(2, 4)).sum().backward()
    held.__exit__(None, None, None)
    assert inside == [alone] * 6
    assert meter.account().tally.contraction_flop == 7 * alone
    assert stack_height() == 0


class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return torch.full((3,), float(index)) @ torch.ones(3, 2), os.getpid(), stack_height()


def test_forked_workers_load_data_beside_a_meter(tmp_path):
    """Workers inherit a counting thread: they must neither count, nor hold the lock, nor write into our ledger."""
    with Meter(tmp_path) as meter:
        seen = list(DataLoader(Numbers(), batch_size=4, num_workers=2, multiprocessing_context="fork"))
        meter.step()
    pids = {int(pid) for _, batch, _ in seen for pid in batch}
    assert os.getpid() not in pids
    assert all(int(height) == 0 for _, _, heights in seen for height in heights)
    account = meter.account()
    assert not account.gaps
    assert account.tally.contraction_flop == 0, "what the workers multiplied is theirs"
    with Meter(tmp_path) as again:
        again.step()
    assert again.account().steps == 2


def test_a_process_that_forks_and_exits_leaves_the_ledger_alone(tmp_path):
    with Meter(tmp_path) as meter:
        child = os.fork()
        if child == 0:
            try:
                meter.step()
                meter.close()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        meter.step()
    assert meter.account().steps == 1


@pytest.mark.parametrize("exact", [False, True])
def test_two_thousand_steps_leave_nothing_behind(tmp_path, exact):
    """A month-long run must not end because of its meter; AdamW's step sizes are others at every step."""
    model = nn.Sequential(nn.Linear(4, 4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)

    def run(steps: int) -> None:
        for _ in range(steps):
            model(torch.ones(2, 4)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            meter.step(tokens=2)

    with Meter(tmp_path, model=model, exact=exact, interval_s=0.02) as meter:
        run(200)
        gc.collect()
        before = len(gc.get_objects())
        run(2000)
        gc.collect()
        after = len(gc.get_objects())
    assert after - before < 50
    assert meter.account().steps == 2200


def test_ever_new_shapes_stay_within_their_room(tmp_path, monkeypatch):
    monkeypatch.setattr("flopmeter.sensors.pricing.MAX_TABLES", 20)
    monkeypatch.setattr("flopmeter.sensors.replay.MAX_SITUATIONS", 20)
    monkeypatch.setattr("flopmeter.recording.MAX_TABLES", 20)
    model = nn.Linear(4, 4, bias=False)
    with Meter(tmp_path, model=model, interval_s=0.02) as meter:
        for index in range(300):
            model(torch.ones(1 + index, 4))
            meter.step()
        sensor, recording = meter._sensor, meter._journal.recording
        assert len(sensor._books._pricer._by_calls) <= 20
        assert len(sensor._books._plan._known) <= 20
        assert len(sensor._books._plan._kin) <= 20
        assert len(recording._tables) <= 20
    account = meter.account()
    truth = sum(2 * 16 * (1 + index) for index in range(300))
    low, high = account.interval
    products = [one for one in account.tally.counts if one.op == "aten::mm"]
    assert sum(one.calls for one in products) == 300, "and nothing is lost"
    assert low <= truth <= (truth if high is None else high)
    assert account.steps == 300


def test_ever_new_shapes_are_exact_where_the_budget_allows(tmp_path, monkeypatch):
    monkeypatch.setattr("flopmeter.sensors.budget.Budget.can_afford", lambda *_: True)
    model = nn.Linear(4, 4, bias=False)
    with Meter(tmp_path, model=model, interval_s=0.02) as meter:
        for index in range(300):
            model(torch.ones(1 + index, 4))
            meter.step()
    assert meter.account().tally.contraction_flop == sum(2 * 16 * (1 + index) for index in range(300))
