"""Replay tells the truth about random training programs, or says between what it lies.

`make test` draws a few; `make sweep` draws ten thousand, as `benchmarks/replay/run.py` does for the published result.
"""

import logging
import os
import secrets
import sys
import tempfile
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks" / "replay"
sys.path.insert(0, str(FOLDER))  # scripts find their neighbours by the folder that they lie in
import programs  # noqa: E402
import run  # noqa: E402
from programs import Program  # noqa: E402

sys.path.remove(str(FOLDER))

pytestmark = pytest.mark.filterwarnings("ignore")

ALWAYS, FRESH, WHOLE = 90, 60, 10_000
LEAST_SHARE = 0.95  # of programs with changes that no witness sees

# Programs that went wrong once, and what was wrong.
KEPT = {
    "is_causal is an attribute": Program(blocks=("attention",), events=((4, "causal", True),)),
    "work without gradients is switched by an attribute": Program(events=((4, "iterations", 4),)),
    "the backward of one model runs in the passage of another": Program(
        blocks=("attention",), habits=(("second", "gan"),), events=((4, "causal_argument", True),)
    ),
    "the same with dropout": Program(seed=69340, steps=3, habits=(("second", "gan"),), events=((2, "dropout", 0.2),)),
    "the same with a layer more": Program(
        seed=154351, steps=4, habits=(("second", "gan"),), events=((3, "branches", True),)
    ),
    "the same with packed sequences": Program(
        blocks=("recurrent",), habits=(("packed", "sequence"), ("second", "gan"))
    ),
    "inference mode was entered in a replayed passage and left in a counted one": Program(
        seed=297778,
        steps=5,
        blocks=("attention",),
        events=((1, "grad_on_head", True), (2, "evaluation_amid", "no_grad"), (4, "evaluation_amid", "inference_mode")),
    ),
    "the same, and selective checkpoints broke over it": Program(
        seed=248294,
        steps=6,
        blocks=("mlp", "mlp"),
        habits=(("checkpointing", "selective"),),
        events=((5, "evaluation_amid", "inference_mode"),),
    ),
}


@pytest.fixture
def bench(monkeypatch):
    """One thread, as many tiny programs want it, and ledgers in memory where there is such a folder."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(logging.getLogger("flopmeter"), "disabled", True)
    with tempfile.TemporaryDirectory(dir=run.FAST if run.FAST.is_dir() else None) as folder:
        yield run.Bench(Path(folder))
    torch.set_num_threads(threads)


def faults_of(outcomes):
    """What must never be: said with the program, as Python that makes it."""
    return [
        f"{one.verdict} {one.flop} for {one.exact_flop} in {one.lower} … {one.upper} {one.faults}: {one.program}"
        for one in outcomes
        if one.faults or (one.is_seen and one.verdict == "missed")
    ]


def share_of_unseen(outcomes):
    unseen = [one.verdict != "missed" for one in outcomes if not one.is_seen]
    return sum(unseen) / len(unseen)


@pytest.fixture
def run_many(monkeypatch):
    """Run programs in a process for each core; they find the scripts as this file does."""
    monkeypatch.syspath_prepend(FOLDER)
    folder = run.FAST if run.FAST.is_dir() else Path(tempfile.gettempdir())
    return lambda seed, count: list(run.run_all(seed, range(count), jobs=os.cpu_count() or 1, folder=folder))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("is_fresh", "count"),
    [
        pytest.param(False, ALWAYS, id="the same programs each time"),
        pytest.param(True, FRESH, id="programs never seen before"),
        pytest.param(False, WHOLE, id="ten thousand", marks=pytest.mark.sweep),
    ],
)
def test_replay_tells_what_counting_tells_or_an_interval_that_holds_it(run_many, is_fresh, count):
    """Else a run is billed for work that it did not do, or a threshold is passed unseen."""
    outcomes = run_many(secrets.randbelow(10**9) if is_fresh else 0, count)
    assert len(outcomes) == count
    assert faults_of(outcomes) == []
    missed = [one.program for one in outcomes if one.verdict == "missed"]
    assert share_of_unseen(outcomes) >= LEAST_SHARE, "\n".join(missed)


@pytest.mark.parametrize("reason", KEPT)
def test_what_went_wrong_once_stays_right(bench, reason):
    """An interval that is wide enough is not enough here: a figure that is off has to be called a guess."""
    outcome = bench.compare(KEPT[reason])
    assert faults_of([outcome]) == []
    assert not outcome.is_silent, f"{outcome.flop} for {outcome.exact_flop}: {outcome.passages}"


def test_a_program_is_what_it_prints():
    """Else a failure cannot be kept as a test."""
    for index in range(20):
        program = programs.draw(f"print-{index}")
        assert eval(repr(program), {"Program": Program}) == program  # noqa: S307  # our own repr
        assert programs.draw(f"print-{index}") == program


def test_every_change_is_known_to_be_seen_or_unseen():
    """Else a miss could be laid to a class that nobody thought about."""
    assert not programs.SEEN.keys() & programs.UNSEEN.keys()
    words = programs.SWITCHES.keys() | programs.MOMENTS.keys() | programs.VARYING | set(programs.EXPERTS)
    assert words <= programs.SEEN.keys() | programs.UNSEEN.keys()
    for index in range(500):
        assert programs.find_changes(programs.draw(f"known-{index}")) <= programs.SEEN.keys() | programs.UNSEEN.keys()


def test_every_word_is_drawn():
    """Else a kind of program is promised and never tried."""
    drawn = {word for index in range(1500) for word in programs.draw(f"drawn-{index}").words()}
    words = programs.SWITCHES.keys() | programs.MOMENTS.keys() | programs.HABITS.keys()
    assert drawn >= words | {*programs.BLOCKS, *programs.EXPERTS}


def test_a_failure_is_made_smaller():
    """Else whoever mends a miss has to find the cause in a dozen things that happen."""
    large = programs.Program(
        steps=12,
        width=8,
        blocks=("mlp", "attention"),
        habits=(("clip", True),),
        events=((1, "batch", 3), (4, "causal", True), (7, "length", 2)),
    )
    small = programs.shrink(large, lambda one: "causal" in one.words() and "attention" in one.words())
    assert small == Program(steps=5, blocks=("attention",), events=((4, "causal", True),))
