"""What a launch-bound training step costs with the meter, against the same step without it.

Variants take turns, one step each, in processes of their own; ratios are taken within a turn.
"""

import argparse
import json
import multiprocessing
import platform
import statistics
import tempfile
import time
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path

VARIANTS = ("plain", "control", "replaying", "counting", "flop_counter_mode")
RESULTS = Path(__file__).parents[1] / "results"


def work(variant: str, layers: int, width: int, pipe: Connection) -> None:
    """Make one training step for each word that comes in, and answer how long it took."""
    import torch  # in the worker alone
    from torch import nn
    from torch.utils.flop_counter import FlopCounterMode

    from flopmeter import Meter

    torch.set_num_threads(1)
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(width, 2, 4 * width, batch_first=True, dropout=0.0, norm_first=True)
    model = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
    optimizer = torch.optim.AdamW(model.parameters())
    data = torch.randn(2, 16, width)
    meter = None
    around: AbstractContextManager[object] = nullcontext()
    if variant in ("replaying", "counting"):
        folder = tempfile.mkdtemp(prefix="flopmeter-overhead-")
        meter = Meter(folder, model=model, exact=variant == "counting")
        around = meter
    elif variant == "flop_counter_mode":
        around = FlopCounterMode(display=False)
    with around:
        while pipe.recv():
            begun = time.perf_counter_ns()
            model(data).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            if meter is not None:
                meter.step(tokens=32)
            pipe.send(time.perf_counter_ns() - begun)
    pipe.close()


def measure(turns: int, warm: int, layers: int, width: int) -> dict[str, list[int]]:
    """Let the variants take turns; return nanoseconds per step of each, after warming up."""
    context = multiprocessing.get_context("spawn")
    pipes = {}
    for variant in VARIANTS:
        ours, theirs = context.Pipe()
        context.Process(target=work, args=(variant, layers, width, theirs), daemon=True).start()
        pipes[variant] = ours
    times: dict[str, list[int]] = {variant: [] for variant in VARIANTS}
    for turn in range(warm + turns):
        order = VARIANTS if turn % 2 else VARIANTS[::-1]
        for variant in order:
            pipes[variant].send("step")
            taken = pipes[variant].recv()
            if turn >= warm:
                times[variant].append(taken)
    for pipe in pipes.values():
        pipe.send("")
    return times


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=1000)
    parser.add_argument("--warm", type=int, default=50)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    times = measure(args.turns, args.warm, args.layers, args.width)
    ratios = {}
    for variant in VARIANTS[1:]:
        pairs = sorted(one / base for one, base in zip(times[variant], times["plain"], strict=True))
        p99 = pairs[min(len(pairs) - 1, len(pairs) * 99 // 100)]
        ratios[variant] = {"median": round(statistics.median(pairs), 4), "p99": round(p99, 4)}
        print(f"{variant:<18} median {ratios[variant]['median']:.4f}  p99 {ratios[variant]['p99']:.4f}  of plain")
    now = datetime.now(UTC)
    result = {
        "command": f"python {Path(__file__).name} --turns {args.turns} --layers {args.layers} --width {args.width}",
        "date": now.date().isoformat(),
        "device": f"CPU, {platform.machine()}, one thread",
        "versions": {"python": platform.python_version(), **{name: version(name) for name in ("torch", "flopmeter")}},
        "turns": args.turns,
        "plain_step_ms": round(statistics.median(times["plain"]) / 1e6, 3),
        "ratio_to_plain": ratios,
    }
    out = args.out or RESULTS / f"overhead-step_cpu_{now:%Y%m}.json"
    out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"a plain step takes {result['plain_step_ms']} ms; written to {out}")


if __name__ == "__main__":
    main()
