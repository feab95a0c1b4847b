"""The scripts that measure what the meter costs: that they run, and that what they make of times is right."""

import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

FOLDER = Path(__file__).parents[2] / "benchmarks" / "overhead"
sys.path.insert(0, str(FOLDER))  # scripts find their neighbours by the folder that they lie in
import ratios  # noqa: E402
import turns  # noqa: E402

sys.path.remove(str(FOLDER))

FIGURES = {
    ("step.py",): ["metered", "peers"],
    ("situations.py", "--only", "lengths"): ["situations"],
    ("growth.py",): ["programs"],
    ("compiled.py",): ["metered"],
}


@pytest.mark.slow
@pytest.mark.parametrize("words", FIGURES, ids=lambda words: words[0])
def test_a_script_runs_and_writes_its_figures_with_the_bars_beside_them(words, tmp_path):
    """Else the figures that the documents quote cannot be measured again."""
    out = tmp_path / "result.json"
    command = [sys.executable, str(FOLDER / words[0]), *words[1:], "--quick", "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    result = json.loads(out.read_text(encoding="utf-8"))
    assert {"command", "date", "device", "versions", "bars", *FIGURES[words]} <= set(result)
    assert all(isinstance(bar["is_met"], bool) for bar in result["bars"])


@pytest.fixture
def program():
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters())

    def work(_):
        model(torch.ones(2, 4)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return turns.Program(model=model, optimizer=optimizer, work=work, tokens=2)


def test_variants_make_equally_many_steps_and_one_of_them_is_metered(program):
    """Else a ratio is one of different work, or of no meter."""
    times = turns.take_turns(program, steps=12, at_a_time=5)
    assert {name: len(steps) for name, steps in times.steps.items()} == dict.fromkeys(turns.LANES, 12)
    assert sum(times.passages.values()) >= 24  # a forward and an optimizer's step each
    assert times.start_ns > 0
    assert program.account.steps == 12


def test_a_variant_without_a_meter_meets_no_hook(program):
    """Else the meter's own code runs in what it is compared with, and its cost looks smaller than it is."""
    seen = []
    before = program.work

    def work(number):
        seen.append(sum(map(len, turns.hook_tables(program.model, program.optimizer))))
        before(number)

    program.work = work
    turns.take_turns(program, steps=3, at_a_time=1)
    assert sorted(seen)[:6] == [0] * 6
    assert min(sorted(seen)[6:]) > 0


def test_hooks_come_back_in_their_order():
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters())
    said = []
    for word in ("one", "two"):
        model.register_forward_hook(lambda *_, word=word: said.append(word))
    model.weight.register_hook(lambda _: said.append("gradient"))
    hooks = turns.Hooks(model, optimizer)
    hooks.take_out()
    model(torch.ones(1, 2)).sum().backward()
    assert said == []
    hooks.put_back()
    hooks.put_back()
    model(torch.ones(1, 2)).sum().backward()
    assert said == ["one", "two", "gradient"]


def test_what_fails_on_a_thread_fails_the_measurement():
    """Else a program that broke is measured as a fast one."""

    @contextmanager
    def around():
        def work(_):
            raise ValueError("broken")

        yield work

    lane = turns.Lane(around)
    with pytest.raises(ValueError, match="broken"):
        lane.turn([0])


def test_a_ratio_is_found_through_what_disturbs_both():
    """Else a bar of one percent cannot be judged on a machine that others use."""
    draws = np.random.default_rng(1)
    disturbed = 1e7 * (1 + draws.exponential(0.3, size=2000))
    plain, control, metered = (
        disturbed * factor * (1 + draws.normal(0, 0.02, size=2000)) for factor in (1.0, 1.0, 1.01)
    )
    found = ratios.estimate(ratios.median_over_control, plain, control, metered)
    low, high = found["interval"]
    assert low <= 1.01 <= high
    assert high - low < 0.006
    assert abs(ratios.estimate(ratios.median_ratio, plain, control)["figure"] - 1) < 0.003


def test_sums_and_tails_are_those_of_all_steps():
    assert ratios.estimate(ratios.sum_ratio, [1] * 40, [1] * 39 + [3])["figure"] == 1.05
    assert ratios.estimate(ratios.tail_ratio, [2] * 40, [4] * 40) == {"figure": 2.0, "interval": [2.0, 2.0]}
    assert ratios.milliseconds([1_000_000, 3_000_000], 0.5) == 2.0
