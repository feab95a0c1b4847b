"""What a launch-bound training step costs with the meter, against the same step without it, and what the peers cost.

`python benchmarks/overhead/step.py` takes about a quarter of an hour on one core; `--quick` tries whether it runs.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import ratios
import record
import torch
from models import Size, Training, batch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from turns import (
    BUDGET,
    METERED,
    STEPS_AT_A_TIME,
    Program,
    Times,
    Work,
    in_fresh_process,
    join_rounds,
    settle,
    take_turns,
)

from flopmeter import Meter

SEQUENCES, LENGTH = 2, 16
TOKENS = SEQUENCES * LENGTH
PEERS = ("plain", "empty_mode", "flop_counter_mode", "profiler", "profiler_read", "counting")


def metered_round(size: Size, steps: int, at_a_time: int, seed: int) -> Times:
    """Train with the meter and, twice, without; in this process."""
    training = Training(size, seed=seed)
    text = batch(sequences=SEQUENCES, length=LENGTH)
    program = Program(
        model=training.model, optimizer=training.optimizer, work=lambda _: training.step(text), tokens=TOKENS
    )
    return take_turns(program, steps=steps, at_a_time=at_a_time, seed=seed)


def compare(rounds: Sequence[Times], *, warm: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return what the rounds say, and how that stands to the bars."""
    steps, every = join_rounds(rounds, warm=warm), join_rounds(rounds, warm=0)
    plain, control, metered = steps["plain"], steps["control"], steps[METERED]
    # A run's start and end belong to it: each round's are spread over its own steps, so that resampling keeps them.
    whole = [
        ns + (one.start_ns + one.close_ns) / len(one.steps[METERED]) for one in rounds for ns in one.steps[METERED]
    ]
    figures: dict[str, Any] = {
        "pairs": len(plain),
        "plain_step_ms": ratios.milliseconds(plain, 0.5),
        "median_ratio_control": ratios.estimate(ratios.median_ratio, plain, control),
        "median_ratio_metered": ratios.estimate(ratios.median_ratio, plain, metered),
        "median_ratio_metered_over_control": ratios.estimate(ratios.median_over_control, plain, control, metered),
        "p99_ms": {name: ratios.milliseconds(steps[name], 0.99) for name in steps},
        "p99_control_over_plain": ratios.estimate(ratios.tail_ratio, plain, control),
        "p99_metered_over_control": ratios.estimate(ratios.tail_ratio, control, metered),
        "whole_run": {
            "steps": [len(one.steps[METERED]) for one in rounds],
            "start_ms": [round(one.start_ns / 1e6, 1) for one in rounds],
            "close_ms": [round(one.close_ns / 1e6, 1) for one in rounds],
            "ratio_control": ratios.estimate(ratios.sum_ratio, every["plain"], every["control"]),
            "ratio_metered": ratios.estimate(ratios.sum_ratio, every["plain"], whole),
        },
        "passages": [one.passages for one in rounds],
        "own_fraction": [one.own_fraction for one in rounds],
    }
    bars = [
        record.bar(
            "median step, metered to plain over control to plain",
            figures["median_ratio_metered_over_control"]["figure"],
            at_most=1.01,
        ),
        record.bar("p99 of steps, metered over control", figures["p99_metered_over_control"]["figure"], at_most=1.05),
        record.bar(
            "whole run with the meter's start and end, metered over plain",
            figures["whole_run"]["ratio_metered"]["figure"],
            at_most=1 + BUDGET,
        ),
    ]
    return figures, bars


class EmptyMode(TorchDispatchMode):
    """What any dispatch mode written in Python costs before it does anything."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator."""
        return func(*args, **(kwargs or {}))


@contextmanager
def around(variant: str, training: Training, text: torch.Tensor) -> Iterator[Work]:
    """Enter what a variant has around its training; what it has around a step is in the step."""
    if variant == "counting":
        with (
            tempfile.TemporaryDirectory(prefix="flopmeter-overhead-") as folder,
            Meter(folder, model=training.model, exact=True) as meter,
        ):

            def counted(_: int) -> None:
                training.step(text)
                meter.step(tokens=TOKENS)

            yield counted
    elif variant.startswith("profiler"):

        def profiled(_: int) -> int:
            with profile(activities=[ProfilerActivity.CPU], with_flops=True) as profiler:
                training.step(text)
            if variant == "profiler":
                return 0
            return sum(event.flops or 0 for event in profiler.key_averages())

        yield profiled
    elif variant == "plain":
        yield lambda _: training.step(text)
    else:
        with FlopCounterMode(display=False) if variant == "flop_counter_mode" else EmptyMode():
            yield lambda _: training.step(text)


def work(variant: str, size: Size, pipe: Connection) -> None:
    """Make one training step for each word that comes in, and answer how long it took."""
    settle()
    training = Training(size)
    with around(variant, training, batch(sequences=SEQUENCES, length=LENGTH)) as turn:
        while pipe.recv():
            begun = time.perf_counter_ns()
            turn(0)
            pipe.send(time.perf_counter_ns() - begun)
    pipe.send(None)


def measure_peers(size: Size, *, turns: int, warm: int) -> dict[str, list[int]]:
    """Let plain training and the peers take turns, in processes of their own; return nanoseconds per step of each."""
    context = get_context("spawn")
    pipes, processes = {}, []
    for variant in PEERS:
        pipes[variant], theirs = context.Pipe()
        processes.append(context.Process(target=work, args=(variant, size, theirs), daemon=True))
        processes[-1].start()
        theirs.close()
    times: dict[str, list[int]] = {variant: [] for variant in PEERS}
    for turn in range(warm + turns):
        for variant in PEERS if turn % 2 else PEERS[::-1]:
            pipes[variant].send("step")
            taken = pipes[variant].recv()
            if turn >= warm:
                times[variant].append(taken)
    for pipe, process in zip(pipes.values(), processes, strict=True):
        pipe.send("")
        pipe.recv()
        process.join()
    return times


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="metered runs, each in a process of its own")
    parser.add_argument("--steps", type=int, default=5000, help="steps of each run")
    parser.add_argument("--at-a-time", type=int, default=STEPS_AT_A_TIME, help="steps of a turn")
    parser.add_argument("--warm", type=int, default=50, help="steps before ratios are taken; the whole run holds them")
    parser.add_argument("--peer-turns", type=int, default=200)
    parser.add_argument("--quick", action="store_true", help="a few steps of a smaller model, to see whether it runs")
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.steps, args.warm, args.peer_turns = 1, 20, 8, 3
    size = Size(layers=2 if args.quick else 12, width=32)
    command = f"step.py --rounds {args.rounds} --steps {args.steps} --at-a-time {args.at_a_time} --warm {args.warm}"
    command += f" --peer-turns {args.peer_turns}"

    rounds = [in_fresh_process(metered_round, size, args.steps, args.at_a_time, seed) for seed in range(args.rounds)]
    figures, bars = compare(rounds, warm=args.warm)
    times = measure_peers(size, turns=args.peer_turns, warm=5)
    peers = {name: ratios.estimate(ratios.median_ratio, times["plain"], times[name]) for name in PEERS[1:]}
    for name, peer in peers.items():
        print(f"{name:<20} {peer['figure']:.2f} of a plain step")
    counted = ratios.estimate(ratios.median_ratio, times["flop_counter_mode"], times["counting"])
    bars.append(record.bar("counted step over FlopCounterMode's", counted["figure"], at_most=0.5))
    peers["counting_over_flop_counter_mode"] = counted
    print(f"a plain step takes {figures['plain_step_ms']} ms")
    peer_figures = {
        "turns": args.peer_turns,
        "plain_step_ms": round(statistics.median(times["plain"]) / 1e6, 3),
        "median_ratio": peers,
    }
    model = {"layers": size.layers, "width": size.width, "sequences": SEQUENCES, "length": LENGTH}
    record.write("step", command, {"model": model, "bars": bars, "metered": figures, "peers": peer_figures}, args.out)


if __name__ == "__main__":
    main()
