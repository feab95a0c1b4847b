"""What the meter costs, and what its figure is worth, where steps are alike and where they are not.

The launch-bound training itself; lengths at random (dynamic padding), experts that tokens choose, experts with room for
a fixed number, generation with a growing cache, alone and between training steps. The overhead is taken from variants
that take turns; the figure of a run with replay is set beside that of the same run, bit by bit, with all counted.
`python benchmarks/overhead/situations.py` takes about half an hour on one core; `--quick` tries whether it runs.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ratios
import record
import torch
from models import Size, Training, batch, generate
from turns import BUDGET, METERED, Program, Times, in_fresh_process, take_turns

from flopmeter import Account, Meter

LONGEST, SHORTEST = 512, 16
NEW = 24
EVERY = 8


Work = Callable[[int], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Situation:
    """A program: its model, and the work of one step for these batches, which returns a loss or a text."""

    size: Size
    make: Callable[[Training, list[torch.Tensor]], Work]
    is_varied: bool = False


def train(training: Training, texts: list[torch.Tensor]) -> Work:
    """Make one update a turn."""
    return lambda number: training.step(texts[number])


def decode(training: Training, texts: list[torch.Tensor]) -> Work:
    """Continue one text a turn."""
    training.model.eval()

    def turn(number: int) -> torch.Tensor:
        with torch.inference_mode():
            return generate(training.model, texts[number][:, :SHORTEST], new=NEW)

    return turn


def train_and_decode(training: Training, texts: list[torch.Tensor]) -> Work:
    """Make one update a turn, and continue a text now and then."""

    def turn(number: int) -> torch.Tensor:
        made = training.step(texts[number])
        if number % EVERY == EVERY - 1:
            training.model.eval()
            with torch.no_grad():
                made = generate(training.model, texts[number][:, :SHORTEST], new=NEW)
            training.model.train()
        return made

    return turn


def situations(layers: int) -> dict[str, Situation]:
    """Return the programs by name, with models of so many layers."""
    dense = Size(layers=layers)
    return {
        "alike": Situation(dense, train),
        "lengths": Situation(dense, train, is_varied=True),
        "experts": Situation(Size(layers=layers, experts=8), train),
        "grouped_experts": Situation(Size(layers=layers, experts=8, is_grouped=True), train),
        "generation": Situation(dense, decode),
        "generation_between_steps": Situation(dense, train_and_decode),
    }


def texts_of(situation: Situation, steps: int, seed: int) -> list[torch.Tensor]:
    """Return the batch of each step; the same seed, the same batches."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(SHORTEST, LONGEST + 1, (steps,), generator=generator).tolist()
    return [batch(length=length if situation.is_varied else SHORTEST, generator=generator) for length in lengths]


def measure_times(name: str, layers: int, steps: int) -> Times:
    """Let the program run with the meter and, twice, without; in this process."""
    situation = situations(layers)[name]
    training, texts = Training(situation.size), texts_of(situation, steps, seed=1)
    work = situation.make(training, texts)
    program = Program(model=training.model, optimizer=training.optimizer, work=work, tokens=texts[0].numel())
    return take_turns(program, steps=steps)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to: a digest of all it made; with a meter, its account and what the report says of replay."""

    made: str
    account: Account | None
    replay: dict[str, Any] | None


def run(name: str, layers: int, steps: int, way: str) -> Outcome:
    """Run a program `plain`, `metered` or `exact`; in this process."""
    situation = situations(layers)[name]
    training, texts = Training(situation.size), texts_of(situation, steps, seed=2)
    turn = situation.make(training, texts)
    with tempfile.TemporaryDirectory(prefix="flopmeter-overhead-") as folder:
        meter = None if way == "plain" else Meter(folder, model=training.model, exact=way == "exact")
        digest = hashlib.sha256()
        with meter or nullcontext():
            for number, text in enumerate(texts):
                made = turn(number)
                if meter is not None:
                    meter.step(tokens=text.numel())
                digest.update(made.detach().numpy().tobytes())
        for parameter in training.model.parameters():
            digest.update(parameter.detach().numpy().tobytes())
        if meter is None:
            return Outcome(digest.hexdigest(), None, None)
        report = subprocess.run(  # noqa: S603 # our own command
            [sys.executable, "-m", "flopmeter", "report", folder, "--json"], check=True, capture_output=True
        )
        return Outcome(digest.hexdigest(), Account.of(folder), json.loads(report.stdout)["replay"])


def compare_times(times: Times) -> dict[str, Any]:
    """Return the sums and ratios of a program's steps, also tenth by tenth: the first ones hold what is counted."""
    plain, control, metered = (times.steps[name] for name in ("plain", "control", METERED))
    around = (times.start_ns + times.close_ns) / len(metered)
    tenths = [
        round(float(part[1].sum() / part[0].sum()), 4)
        for part in np.array_split(np.array([plain, metered], dtype=float), min(10, len(plain)), axis=1)
    ]
    return {
        "pairs": len(plain),
        "plain_step_ms": ratios.milliseconds(plain, 0.5),
        "whole_run_ratio_control": ratios.estimate(ratios.sum_ratio, plain, control),
        "whole_run_ratio_metered": ratios.estimate(ratios.sum_ratio, plain, [ns + around for ns in metered]),
        "ratio_metered_by_tenths": tenths,
        "median_ratio_control": ratios.estimate(ratios.median_ratio, plain, control),
        "median_ratio_metered": ratios.estimate(ratios.median_ratio, plain, metered),
        "passages": times.passages,
        "own_fraction": times.own_fraction,
    }


def compare_outcomes(plain: Outcome, exact: Outcome, metered: Outcome) -> dict[str, Any]:
    """Return whether the figure of a run with replay is that of the same run counted, and whether bits are the same."""
    if exact.account is None or metered.account is None:
        raise ValueError("a run without a meter has no account")
    truth, told = exact.account, metered.account
    low, high = told.interval
    same_labels = {"purpose": "undeclared", "basis": "counted"}
    return {
        "steps": told.steps,
        "flop_exact": str(truth.flop),
        "flop_metered": str(told.flop),
        "relative_difference": (told.flop - truth.flop) / truth.flop,
        "interval": [str(low), None if high is None else str(high)],
        "relative_width": None if high is None else (high - low) / truth.flop,
        "is_equal": told.tally.labelled(**same_labels) == truth.tally.labelled(**same_labels),
        "is_inside": low <= truth.flop and (high is None or truth.flop <= high),
        "is_exact_run_exact": truth.interval == (truth.flop, truth.flop),
        "is_bit_equal": plain.made == exact.made == metered.made,
        "passages": dict(told.passages),
        "replay": metered.replay,
    }


def main() -> int:
    """Measure, print, write; 1 where a figure is wrong or bits differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--timed", type=int, default=2000, help="steps of each variant whose time is taken")
    parser.add_argument("--steps", type=int, default=400, help="steps of the runs whose figures are compared")
    parser.add_argument("--only", default="", help="situations whose names hold this word")
    parser.add_argument("--quick", action="store_true", help="a few steps of a smaller model, to see whether it runs")
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    layers = 2 if args.quick else 12
    if args.quick:
        args.timed, args.steps = 12, 12
    command = f"situations.py --timed {args.timed} --steps {args.steps}" + (f" --only {args.only}" * bool(args.only))
    found, bars, faults = {}, [], 0
    for name in [one for one in situations(layers) if args.only in one]:
        times = compare_times(in_fresh_process(measure_times, name, layers, args.timed))
        outcomes = [in_fresh_process(run, name, layers, args.steps, way) for way in ("plain", "exact", "metered")]
        figure = compare_outcomes(*outcomes)
        found[name] = {"times": times, "figure": figure}
        ratio = times["whole_run_ratio_metered"]["figure"]
        bars.append(record.bar(f"{name}: whole run, metered over plain", ratio, at_most=1 + BUDGET))
        says = "equal" if figure["is_equal"] else "inside the interval" if figure["is_inside"] else "WRONG"
        bits = "" if figure["is_bit_equal"] else "; BITS DIFFER"
        print(f"    figure {says}, passages {figure['passages']}{bits}", flush=True)
        faults += not (figure["is_inside"] and figure["is_bit_equal"])
    record.write("situations", command, {"layers": layers, "bars": bars, "situations": found}, args.out)
    return min(faults, 1)


if __name__ == "__main__":
    sys.exit(main())
