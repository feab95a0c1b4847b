"""What of a long run stays in memory: objects, hooks, tables, bytes, with and without a meter.

Looked at early on, half way from there, and at the end. Where lengths come at random, some are met for the first time
after the first look, so tables may grow until they hold what there is, or are full.
`python benchmarks/overhead/growth.py` takes about fifteen minutes on one core; `--quick` tries whether it runs.
"""

import argparse
import gc
import os
import tempfile
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import psutil
import record
import torch
from models import Size, Training, batch
from turns import hook_tables, in_fresh_process

from flopmeter import Account, Meter

SHORTEST, LONGEST = 16, 512
TOP = 8
SLACK_OBJECTS, SLACK_BYTES = 100, 2**20

PROGRAMS = {"alike": (SHORTEST, SHORTEST), "lengths": (SHORTEST, LONGEST)}


def look(training: Training, folder: str, meter: Meter | None) -> dict[str, Any]:
    """Look at this process as it is now.

    Units: `rss_bytes` resident memory, `ledger_bytes` of all files of the run. `tables` are the sizes of what
    flopmeter's objects hold, by class and attribute, the largest of each.
    """
    if meter is not None:
        meter.account()  # what waits to be written is written
    gc.collect()
    living = gc.get_objects()
    kinds = Counter(f"{type(one).__module__}.{type(one).__qualname__}" for one in living)
    tables: dict[str, int] = {}
    for one in living:
        if str(type(one).__module__).partition(".")[0] == "flopmeter":
            for name, value in attributes_of(one).items():
                if hasattr(value, "__len__") and not isinstance(value, str | bytes | torch.Tensor):
                    key = f"{type(one).__qualname__}.{name}"
                    tables[key] = max(tables.get(key, 0), len(value))
    return {
        "objects": len(living),
        "hooks": sum(map(len, hook_tables(training.model, training.optimizer))),
        "rss_bytes": psutil.Process(os.getpid()).memory_info().rss,
        "ledger_bytes": sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()),
        "tables": {key: tables[key] for key in sorted(tables)},
        "kinds": dict(kinds),
    }


def attributes_of(one: object) -> dict[str, Any]:
    """Return what an object holds by name, in a dictionary or in slots."""
    slots = [name for kind in type(one).__mro__ for name in getattr(kind, "__slots__", ())]
    held = {name: getattr(one, name) for name in slots if hasattr(one, name)}
    return held | getattr(one, "__dict__", {})


def train(program: str, size: Size, moments: list[int], way: str) -> dict[str, Any]:
    """Train `plain` or `metered` until the last of these steps, and look at each; in this process."""
    is_metered = way == "metered"
    training, generator = Training(size), torch.Generator().manual_seed(0)
    shortest, longest = PROGRAMS[program]
    seen = []
    with tempfile.TemporaryDirectory(prefix="flopmeter-overhead-") as folder:
        meter = Meter(folder, model=training.model) if is_metered else None
        hooks = sum(map(len, hook_tables(training.model, training.optimizer)))
        with meter or nullcontext():
            for number in range(1, moments[-1] + 1):
                length = int(torch.randint(shortest, longest + 1, (), generator=generator))
                training.step(batch(length=length, generator=generator))
                if meter is not None:
                    meter.step(tokens=2 * length)
                if number in moments:
                    look(training, folder, meter)  # so that what looking itself leaves behind is there each time
                    seen.append(look(training, folder, meter))
        passages = dict(Account.of(folder).passages) if is_metered else {}
    left = sum(map(len, hook_tables(training.model, training.optimizer))) - hooks
    return {"seen": seen, "hooks_left": left, "passages": passages}


def compare(seen: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of each look, and which kinds of object and which tables grew most from first to last."""
    first, last = seen[0], seen[-1]
    grown = Counter(last["kinds"])
    grown.subtract(first["kinds"])
    sizes = {name: [one[name] for one in seen] for name in ("objects", "hooks", "rss_bytes", "ledger_bytes")}
    rows = {key: [one["tables"].get(key, 0) for one in seen] for key in last["tables"]}
    return {
        **sizes,
        "grown_kinds": {kind: more for kind, more in grown.most_common(TOP) if more > 0},
        "grown_tables": {key: row for key, row in rows.items() if row[-1] >= TOP and row[0] != row[-1]},
        "largest_tables": dict(sorted(last["tables"].items(), key=lambda item: -item[1])[:TOP]),
    }


def gains(program: str, moments: list[int], plain: dict[str, Any], metered: dict[str, Any]) -> list[dict[str, Any]]:
    """Set what a metered run gained beyond the plain one beside what it may gain."""
    bars = []
    for look_from in (0, 1):
        since = f"{program}: from step {moments[look_from]} to {moments[-1]}, beyond plain"
        for name, most in (("objects", SLACK_OBJECTS), ("hooks", 0), ("rss_bytes", SLACK_BYTES)):
            more = (metered[name][-1] - metered[name][look_from]) - (plain[name][-1] - plain[name][look_from])
            bars.append(record.bar(f"{since}, {name}", more, at_most=most))
    return [*bars, record.bar(f"{program}: hooks left when the meter was closed", metered["hooks_left"], at_most=0)]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--early", type=int, default=1000, help="the step of the first look")
    parser.add_argument("--steps", type=int, default=10_000, help="the step of the last one")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="a few steps, to see whether it runs")
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    if args.quick:
        args.early, args.steps = 10, 30
    command = f"growth.py --early {args.early} --steps {args.steps} --layers {args.layers}"
    moments = [args.early, (args.early + args.steps) // 2, args.steps]
    size, found, bars = Size(layers=args.layers), {}, []
    for program in PROGRAMS:
        runs = {}
        for way in ("plain", "metered"):
            outcome = in_fresh_process(train, program, size, moments, way)
            seen = outcome.pop("seen")
            runs[way] = {**compare(seen), **outcome}
        found[program] = runs
        bars += gains(program, moments, runs["plain"], runs["metered"])
        print(f"    tables that grew: {runs['metered']['grown_tables']}", flush=True)
    record.write(
        "growth", command, {"layers": args.layers, "moments": moments, "bars": bars, "programs": found}, args.out
    )


if __name__ == "__main__":
    main()
