"""What the meter costs at the start of a program: time until the first training step is done, and peak memory.

The same small training script runs with the meter, without it, and without it again as a control, in processes of
their own that take turns; ratios are taken within a turn. Files of byte code are warm, as they are from the second
start of an installed package on. Memory at the end is split, by Linux's own count, into what the process allocated and
pages of files; those are mostly of torch's libraries, and processes share them.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

VARIANTS = ("plain", "control", "metered")
FIGURES = ("first_step_ns", "first_step_cpu_ns", "peak_rss_kib", "anonymous_kib", "of_files_kib")
RESULTS = Path(__file__).parents[1] / "results"

# What a launch-bound training script is, with `around` and `steps` put in; it says when its first step was done.
PROGRAM = """
import resource, time
import torch
from torch import nn
{imports}
torch.set_num_threads(1)
torch.manual_seed(0)
layer = nn.TransformerEncoderLayer({width}, 2, 4 * {width}, batch_first=True, dropout=0.0, norm_first=True)
model = nn.TransformerEncoder(layer, {layers}, enable_nested_tensor=False)
optimizer = torch.optim.AdamW(model.parameters())
data = torch.randn(2, 16, {width})
with {around} as meter:
    for step in range({steps}):
        model(data).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        if meter is not None:
            meter.step(tokens=32)
        if step == 0:
            done_ns, cpu_ns = time.monotonic_ns(), time.process_time_ns()
status = dict(line.split(":") for line in open("/proc/self/status"))
parts = [status[name].split()[0] for name in ("RssAnon", "RssFile")]
print(done_ns, cpu_ns, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, *parts)
"""
METERED = {"imports": "from flopmeter import Meter", "around": "Meter({folder!r}, model=model)"}
PLAIN = {"imports": "from contextlib import nullcontext", "around": "nullcontext()"}


def run(variant: str, steps: int, layers: int, width: int) -> dict[str, int]:
    """Run the program once; return its figures.

    Units: nanoseconds from before the process was made to the end of its first step, of CPU time until there, KiB at
    the peak, and at the end of what was allocated and of files.
    """
    words = METERED if variant == "metered" else PLAIN
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory(prefix="flopmeter-overhead-") as folder:
        around = words["around"].format(folder=folder)
        code = PROGRAM.format(imports=words["imports"], around=around, steps=steps, layers=layers, width=width)
        script = Path(folder) / "train.py"
        script.write_text(code, encoding="utf-8")
        begun = time.monotonic_ns()
        said = subprocess.run(  # noqa: S603  # our own program
            [sys.executable, script], env=environment, capture_output=True, text=True, check=True
        )
    done, *others = map(int, said.stdout.split())
    return dict(zip(FIGURES, (done - begun, *others), strict=True))


def measure(pairs: int, *, steps: int = 200, layers: int = 12, width: int = 32) -> dict[str, dict[str, float]]:
    """Let the variants take turns; return the medians of each figure of the others over the plain one's."""
    for variant in VARIANTS:
        run(variant, 1, layers, width)  # writes the byte code, and brings the files into the machine's cache
    found: dict[str, list[dict[str, int]]] = {variant: [] for variant in VARIANTS}
    for turn in range(pairs):
        first = turn % len(VARIANTS)
        for variant in (*VARIANTS[first:], *VARIANTS[:first]):
            found[variant].append(run(variant, steps, layers, width))
    medians: dict[str, dict[str, float]] = {
        variant: {
            figure: round(
                statistics.median(one[figure] / base[figure] for one, base in zip(runs, found["plain"], strict=True)), 4
            )
            for figure in FIGURES
        }
        for variant, runs in found.items()
        if variant != "plain"
    }
    medians["plain"] = {figure: statistics.median(one[figure] for one in found["plain"]) for figure in FIGURES}
    return medians


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    ratios = measure(args.pairs, steps=args.steps, layers=args.layers, width=args.width)
    plain = ratios.pop("plain")
    for variant, figures in ratios.items():
        print(f"{variant:<10}" + "".join(f"  {figure} {figures[figure]:.4f}" for figure in FIGURES) + "  of plain")
    now = datetime.now(UTC)
    options = f"--pairs {args.pairs} --steps {args.steps} --layers {args.layers} --width {args.width}"
    result = {
        "command": f"python {Path(__file__).name} {options}",
        "date": now.date().isoformat(),
        "device": f"CPU, {platform.machine()}, one thread",
        "versions": {"python": platform.python_version(), **{name: version(name) for name in ("torch", "flopmeter")}},
        "pairs": args.pairs,
        "plain": {
            "first_step_s": round(plain["first_step_ns"] / 1e9, 3),
            "first_step_cpu_s": round(plain["first_step_cpu_ns"] / 1e9, 3),
            "peak_rss_mib": round(plain["peak_rss_kib"] / 1024, 1),
            "anonymous_mib": round(plain["anonymous_kib"] / 1024, 1),
            "of_files_mib": round(plain["of_files_kib"] / 1024, 1),
        },
        "ratio_to_plain": ratios,
    }
    out = args.out or RESULTS / f"overhead-start_cpu_{now:%Y%m}.json"
    out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"a plain start takes {result['plain']['first_step_s']} s; written to {out}")


if __name__ == "__main__":
    main()
