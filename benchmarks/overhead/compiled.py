"""What a launch-bound training step costs with the meter where the model is compiled, and how often it is compiled.

`python benchmarks/overhead/compiled.py` takes some minutes on one core, most of them Inductor's; `--quick` tries
whether it runs. All variants call the code of one compilation. The stand-in that a meter puts before Inductor's code
stays there while the others have their turns: it costs them a look at the thread's number, some 0.3 µs a region.
"""

import argparse
from pathlib import Path

import record
import torch
from models import Size, Training, batch
from step import LENGTH, SEQUENCES, TOKENS, compare
from turns import STEPS_AT_A_TIME, Program, Times, in_fresh_process, take_turns


def compiled_round(size: Size, steps: int, at_a_time: int, seed: int) -> tuple[Times, int]:
    """Train a compiled model with the meter and, twice, without; return the frames that Dynamo compiled, too."""
    from torch._dynamo.utils import counters

    training = Training(size, seed=seed)
    training.model = torch.compile(training.model)
    text = batch(sequences=SEQUENCES, length=LENGTH)
    training.step(text)  # compiles; that time belongs to nobody
    program = Program(
        model=training.model, optimizer=training.optimizer, work=lambda _: training.step(text), tokens=TOKENS
    )
    times = take_turns(program, steps=steps, at_a_time=at_a_time, seed=seed)
    return times, int(counters["frames"]["ok"])


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1, help="metered runs, each in a process of its own")
    parser.add_argument("--steps", type=int, default=5000, help="steps of each run")
    parser.add_argument("--at-a-time", type=int, default=STEPS_AT_A_TIME, help="steps of a turn")
    parser.add_argument("--warm", type=int, default=300, help="steps before ratios are taken")
    parser.add_argument("--quick", action="store_true", help="a few steps of a smaller model, to see whether it runs")
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.steps, args.warm = 1, 20, 8
    size = Size(layers=1 if args.quick else 12, width=32)
    command = f"compiled.py --rounds {args.rounds} --steps {args.steps} --at-a-time {args.at_a_time} --warm {args.warm}"
    rounds = [in_fresh_process(compiled_round, size, args.steps, args.at_a_time, seed) for seed in range(args.rounds)]
    figures, bars = compare([times for times, _ in rounds], warm=args.warm)
    figures["frames"] = [frames for _, frames in rounds]
    print(f"a plain step takes {figures['plain_step_ms']} ms; frames compiled: {figures['frames']}")
    model = {"layers": size.layers, "width": size.width, "sequences": SEQUENCES, "length": LENGTH}
    record.write("compiled", command, {"model": model, "bars": bars, "metered": figures}, args.out)


if __name__ == "__main__":
    main()
