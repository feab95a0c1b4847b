"""Replay on a GPU, where backward runs on other threads: it is right or says that it guesses, and changes nothing.

Skipped without an NVIDIA GPU.
"""

import gc
import random
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from flopmeter.account import Account
from flopmeter.meter import Meter
from flopmeter.sensors.allocator import device_marks, marks_between
from flopmeter.sensors.budget import Budget
from flopmeter.sensors.lap import Lap
from flopmeter.sensors.threads import OUTLIVED
from flopmeter.tally import Tally

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

DEVICE = "cuda"
WIDTH, HEADS, WORDS = 64, 4, 128
STEPS = 24
KINDS = {"counted": {"exact": True}, "replayed": {}, "audited": {"overhead_budget": 0.5}}

Change = Callable[["Program", int], None]
Caches = list[tuple[torch.Tensor, torch.Tensor]]


class Experts(nn.Module):
    """Four experts; which tokens go where, and how many, is decided by values."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, 4)
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, WIDTH)
        weight, which = self.gate(flat).softmax(-1).max(-1)
        out = torch.zeros_like(flat)
        for index, expert in enumerate(self.experts):
            rows = (which == index).nonzero().squeeze(1)
            if rows.numel():
                out = out.index_add(0, rows, expert(flat[rows]) * weight[rows, None])
        return out.view_as(x)


class Block(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.norm, self.qkv, self.proj = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.inner = inner
        self.is_causal, self.rate = True, 0.0

    def forward(self, x: torch.Tensor, cache: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        B, S, _ = x.shape
        q, k, v = self.qkv(self.norm(x)).view(B, S, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        k, v = torch.cat([cache[0], k], 2), torch.cat([cache[1], v], 2)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=self.is_causal and S > 1)
        x = x + functional.dropout(self.proj(y.transpose(1, 2).reshape(B, S, WIDTH)), self.rate, self.training)
        return x + self.inner(x), k, v


class Model(nn.Module):
    """A small GPT whose parts can be switched from outside, without an argument that would tell."""

    def __init__(self, inner: Callable[[], nn.Module], layers: int = 4) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.blocks = nn.ModuleList(Block(inner()) for _ in range(layers))
        self.head = nn.Linear(WIDTH, WORDS)
        self.dropped: set[int] = set()
        self.is_reentrant: bool | None = None

    def empty_caches(self, batch: int) -> Caches:
        one = torch.empty(batch, HEADS, 0, WIDTH // HEADS, device=DEVICE)
        return [(one, one) for _ in self.blocks]

    def forward(self, words: torch.Tensor, caches: Caches) -> tuple[torch.Tensor, Caches]:
        x, filled = self.embed(words), list(caches)
        for index, block in enumerate(self.blocks):
            if index in self.dropped:
                continue
            if self.is_reentrant is None:
                x, *kept = block(x, caches[index])
            else:
                x, *kept = checkpoint(block, x, caches[index], use_reentrant=self.is_reentrant)
            filled[index] = (kept[0], kept[1])
        return self.head(x), filled


def dense() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))


@torch.no_grad()
def newton_schulz(matrix: torch.Tensor, times: int) -> torch.Tensor:
    x = matrix / (matrix.norm() + 1e-7)
    for _ in range(times):
        x = 1.5 * x - 0.5 * (x @ x.T) @ x
    return x


class Program:
    """A training whose steps a change may alter; the same from the same seed."""

    def __init__(self, change: Change | None = None, *, inner: Callable[[], nn.Module] = dense) -> None:
        torch.manual_seed(0)
        self.model = Model(inner).to(DEVICE)
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        self.change = change
        self.has_autocast = False
        self.times_before = self.times_after = 0
        self.words = [torch.randint(WORDS, (4, 17), device=DEVICE) for _ in range(4)]
        self.losses: list[torch.Tensor] = []
        self.gradients: list[torch.Tensor] = []

    def step(self, index: int) -> None:
        if self.change is not None:
            self.change(self, index)
        words = self.words[index % len(self.words)]
        with torch.autocast(DEVICE, torch.bfloat16) if self.has_autocast else nullcontext():
            logits, _ = self.model(words[:, :-1], self.model.empty_caches(len(words)))
        loss = functional.cross_entropy(logits.float().flatten(0, 1), words[:, 1:].flatten())
        loss.backward()
        newton_schulz(self.model.head.weight.detach(), self.times_before)
        self.losses.append(loss.detach())
        self.gradients = [part.grad.clone() for part in self.model.parameters() if part.grad is not None]
        self.optimizer.step()
        newton_schulz(self.model.head.weight.detach(), self.times_after)
        self.optimizer.zero_grad()

    def run(self, meter: Meter | None = None, *, steps: int = STEPS) -> None:
        if meter is not None:
            meter.watch(self.model)
        for index in range(steps):
            self.step(index)
            if meter is not None:
                meter.step(tokens=64)


def set_rate(program: Program, rate: float) -> None:
    for block in program.model.blocks:
        block.rate = rate


CHANGES: dict[str, Change] = {
    "nothing": lambda program, index: None,
    "one block not causal": lambda program, index: setattr(program.model.blocks[1], "is_causal", index < 12),
    "frozen block": lambda program, index: program.model.blocks[0].requires_grad_(index < 12) and None,
    "frozen middle block": lambda program, index: program.model.blocks[2].requires_grad_(index % 8 < 5) and None,
    "checkpointing": lambda program, index: setattr(program.model, "is_reentrant", None if index < 12 else False),
    "reentrant checkpointing": lambda program, index: setattr(program.model, "is_reentrant", index % 8 < 4 or None),
    "layer left out": lambda program, index: setattr(program.model, "dropped", {2} if index >= 12 else set()),
    "layer dropped at random": lambda program, index: setattr(
        program.model, "dropped", {layer for layer in (1, 2, 3) if random.Random(4 * index + layer).random() < 0.2}
    ),
    "dropout": lambda program, index: set_rate(program, 0.0 if index < 12 else 0.1),
    "autocast": lambda program, index: setattr(program, "has_autocast", index % 10 >= 5),
    "iterations after the backward": lambda program, index: setattr(program, "times_before", 5 if index < 12 else 50),
    "iterations after the step": lambda program, index: setattr(program, "times_after", 5 if index < 12 else 50),
}


def compare(tmp_path, findings, name: str, work: Callable[[Meter], object]) -> Account:
    """Run a work replayed and counted throughout: the tallies are equal, or the difference is owned up to.

    Owned up to: passages were booked as a guess (`modelled`) or sampled, and the interval holds the truth.
    """
    accounts = {}
    for kind, options in {"ours": {}, "exact": {"exact": True}}.items():
        torch.manual_seed(0)
        with Meter(tmp_path / kind, strict=True, **options) as meter:
            work(meter)
        accounts[kind] = Account.of(tmp_path / kind)
    ours, exact = accounts["ours"], accounts["exact"]
    findings[f"replay, {name}"] = {
        "passages": dict(ours.passages),
        "flop": [str(ours.flop), str(exact.flop)],
        "interval": [str(ours.lower), None if ours.upper is None else str(ours.upper)],
        "gaps": [gap.detail for gap in ours.gaps],
    }
    assert not {gap.detail for gap in exact.gaps} - {OUTLIVED}, "a thread that goes on is a gap with a name"
    assert ours.lower <= exact.flop
    assert ours.upper is None or exact.flop <= ours.upper
    if not {"modelled", "sampled"} & set(ours.passages):
        assert without_basis(ours.tally) == without_basis(exact.tally)
    return ours


def without_basis(tally: Tally) -> Tally:
    return Tally.of((replace(count, basis="counted") for count in tally.counts), tally.uncounted)


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_step_is_counted_or_said_to_be_a_guess(tmp_path, findings, name):
    """Else a report states, as replayed, the work of a program that no longer runs."""
    ours = compare(tmp_path, findings, name, lambda meter: Program(CHANGES[name]).run(meter))
    assert ours.passages["replayed"] > 0, "the program must give replay a chance to be wrong"
    if name == "nothing":
        assert not ours.passages.get("modelled")


@pytest.mark.parametrize("name", CHANGES)
def test_what_breaks_into_a_lap_is_told_or_said_to_be_a_guess(tmp_path, findings, monkeypatch, name):
    """Else steps that go on alike hide what comes then. A backward runs on another thread: its nodes are not seen."""
    begin, forward, taken = Budget.__init__, Lap.forward, []

    def be_tight(self: Budget, *args: object, **kwargs: object) -> None:
        begin(self, *args, **kwargs)  # type: ignore[arg-type]
        self.is_ample = False

    def count(self: Lap, *args: object) -> bool:
        taken.append(forward(self, *args))  # type: ignore[arg-type]
        return taken[-1]

    monkeypatch.setattr(Budget, "__init__", be_tight)
    monkeypatch.setattr(Budget, "weigh_hooks", lambda _self, _now: None)
    monkeypatch.setattr(Budget, "one_in", lambda _self, **_costs: 0)
    monkeypatch.setattr(Budget, "can_afford", lambda _self, _calls: True)
    monkeypatch.setattr(Lap, "forward", count)
    late = 45  # what runs between steps is counted 32 times first

    def work(meter: Meter) -> None:
        Program(lambda program, index: CHANGES[name](program, max(0, index - late))).run(meter, steps=late + STEPS)

    ours = compare(tmp_path, findings, f"lap, {name}", work)
    findings[f"lap, {name}, forwards"] = [sum(taken), len(taken)]
    if name == "nothing":
        assert sum(taken) > 10, "a lap was on"
        assert not ours.passages.get("modelled")


def test_routing_by_values_is_counted_or_in_the_interval(tmp_path, findings):
    """Experts that get no token do not run: the same shapes outside, other products inside."""

    def work(meter: Meter) -> None:
        program = Program(inner=Experts)
        program.words = [torch.randint(WORDS, (1, 6), device=DEVICE) for _ in range(STEPS)]
        program.run(meter)

    compare(tmp_path, findings, "experts", work)


def test_generation_with_a_growing_cache_is_counted_right(tmp_path, findings):
    """Each token's passage has other shapes than the one before; a later text of the same length has the same."""

    def work(meter: Meter) -> None:
        model = Program().model.eval()
        meter.watch(model)
        for text in range(8):
            caches, words = model.empty_caches(2), torch.full((2, 4), text, device=DEVICE)
            for _ in range(6 if text < 6 else 9):
                with torch.no_grad():
                    logits, caches = model(words, caches)
                words = logits[:, -1:].argmax(-1)
            meter.step()

    ours = compare(tmp_path, findings, "generation", work)
    assert ours.passages["replayed"] > 0


def test_an_early_exit_without_gradients_is_counted_or_said_to_be_a_guess(tmp_path, findings):
    """No autograd node tells of it: neither forward makes any."""

    def work(meter: Meter) -> None:
        model = Program().model.eval()
        meter.watch(model)
        for index in range(STEPS):
            model.dropped = {2, 3} if index >= 12 else set()
            with torch.no_grad():
                model(torch.zeros(4, 16, dtype=torch.long, device=DEVICE), model.empty_caches(4))
            meter.step()

    ours = compare(tmp_path, findings, "early exit", work)
    assert ours.passages["replayed"] > 0


def test_memory_that_other_threads_take_stops_no_replay_for_good(tmp_path, findings):
    """A loader that copies to the device on its own thread moves the same counters, at its own time."""

    def work(meter: Meter) -> None:
        program, stop = Program(), threading.Event()

        def take() -> None:
            while not stop.wait(0.002):
                torch.empty(1000, device=DEVICE)

        thread = threading.Thread(target=take)
        thread.start()
        try:
            program.run(meter)
        finally:
            stop.set()
            thread.join()

    compare(tmp_path, findings, "other threads", work)


@pytest.mark.parametrize("is_reentrant", [None, False, True])
@pytest.mark.parametrize("has_autocast", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_losses_gradients_and_peak_memory_are_those_of_the_run_without_a_meter(
    tmp_path, findings, kind, has_autocast, is_reentrant
):
    """A meter that keeps a tensor alive, or makes autograd copy one, ends a run that just fitted the device."""

    def change(program: Program, _index: int) -> None:
        program.has_autocast, program.model.is_reentrant = has_autocast, is_reentrant
        set_rate(program, 0.1)

    def run(meter: Meter | None) -> tuple[list[torch.Tensor], int]:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        program = Program(change)
        with sdpa_kernel(SDPBackend.MATH):  # the others add up in whatever order the device takes
            program.run(meter, steps=10)
        torch.cuda.synchronize()
        seen = [tensor.cpu() for tensor in (*program.losses, *program.gradients, *program.model.parameters())]
        return seen, torch.cuda.max_memory_allocated() - held

    run(None)  # whatever libraries allocate once
    (plain, peak), (control, control_peak) = run(None), run(None)
    with Meter(tmp_path, strict=True, **KINDS[kind]) as meter:
        metered, metered_peak = run(meter)
    findings[f"peak, {kind}, autocast {has_autocast}, reentrant {is_reentrant}"] = [peak, control_peak, metered_peak]
    assert all(map(torch.equal, plain, control)), "the program itself must be repeatable"
    assert all(map(torch.equal, plain, metered))
    # While a mode is on, torch adds gradients up in new tensors: a counted step may take a few more for a moment.
    assert metered_peak <= 1.01 * max(peak, control_peak)


def test_the_allocator_tells_iterations_without_gradients_apart_and_calls_equal_work_equal(findings):
    """Nothing else tells of them on a GPU; and marks that moved by themselves would make every passage be counted."""
    matrix = torch.randn(WIDTH, WIDTH, device=DEVICE)

    def marks_of(times: int) -> tuple[int, ...]:
        before = device_marks()
        newton_schulz(matrix, times)
        return marks_between(before, device_marks())

    marks_of(5)  # what libraries allocate once
    seen = {times: [marks_of(times) for _ in range(5)] for times in (5, 50)}
    findings["marks"] = {str(times): sorted(set(marks)) for times, marks in seen.items()}
    assert len(set(seen[5])) == len(set(seen[50])) == 1
    assert seen[5][0] != seen[50][0]
