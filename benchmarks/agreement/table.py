"""The tables of docs/reference/agreement.md, made from the newest result of `compare.py`.

`python benchmarks/agreement/table.py` writes them into the page anew.
"""

import json
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "agreement.md"
RESULTS = ROOT / "benchmarks" / "results"
BLOCK = re.compile(r"(?P<begin><!-- (?P<name>[a-z ]+): begin -->\n).*?(?P<end><!-- (?P=name): end -->)", re.DOTALL)
COUNTERS = ("FlopCounterMode", "torch.profiler", "fvcore", "DeepSpeed", "calflops", "FLOPpy")
WAYS = {"forward": COUNTERS, "step": ("FlopCounterMode", "torch.profiler", "FLOPpy")}
REASONS = {
    "groups": "the weight gradient is multiplied by the groups",
    "complex": "complex products counted as real ones",
    "sparse": "a sparse operand counted as a dense one",
    "integer": "integer products counted as FLOP",
    "masked": "pairs counted that the kernel skips",
}

Row = dict[str, Any]


def newest(bench: str = "agreement") -> Path:
    """Return the newest result of a benchmark."""
    return max(RESULTS.glob(f"{bench}_*.json"), key=lambda path: path.name.rpartition("_")[2])


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a table of the page."""
    names = list(head)
    lines = [names, ["---"] * len(names), *([str(cell) for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def ran(result: Row) -> list[Row]:
    """Return the subjects that ran."""
    return [row for row in result["subjects"] if "failed" not in row]


def said(row: Row, way: str, counter: str) -> tuple[int | None, int]:
    """Return what a counter says of a subject's run, None where it failed, and what we say of the same.

    Products, those included that a mask skips and those of integers, because no other counter leaves them out; of
    FLOPpy's training step, which has no products apart, everything but the optimizer.
    """
    ours = row[way]
    if counter == "FlopCounterMode":
        theirs = ours["torch"]
        return (None if isinstance(theirs, str) else theirs), ours["products"]
    theirs = row["others"].get(counter, {}).get(way)
    if not isinstance(theirs, list):
        return None, ours["products"]
    if way == "step" and counter == "FLOPpy":
        return theirs[1], ours["total"] - ours["optimizer"]
    return theirs[0], ours["products"]


def ratio(number: float) -> str:
    """Return a ratio in three digits."""
    return f"{number:.2f}" if number < 100 else f"{number:.0f}"


def cell(pairs: list[tuple[int | None, int]]) -> str:
    """Say how often a counter agrees, and its median and extremes as parts of our figure."""
    counted = [(theirs, ours) for theirs, ours in pairs if theirs is not None and ours]
    if not counted:
        return "–"
    parts = sorted(theirs / ours for theirs, ours in counted)
    equal = sum(theirs == ours for theirs, ours in counted)
    if equal == len(counted):
        return f"all {equal} equal"
    return f"{equal} of {len(counted)}; {ratio(statistics.median(parts))} ({ratio(parts[0])}–{ratio(parts[-1])})"


def by_family(result: Row, way: str) -> str:
    """Return the table of families and counters."""
    rows = [row for row in ran(result) if way in row]
    sizes = Counter(row["family"] for row in rows)
    counters = [name for name in WAYS[way] if name == "FlopCounterMode" or any(name in row["others"] for row in rows)]
    lines = [
        [f"{family} ({sizes[family]})"]
        + [cell([said(row, way, name) for row in rows if row["family"] == family]) for name in counters]
        for family in sorted(sizes, key=lambda name: (-sizes[name], name))
    ]
    lines.append([f"**all ({len(rows)})**"] + [cell([said(row, way, name) for row in rows]) for name in counters])
    return table(["family", *counters], lines)


def specimens(result: Row, way: str) -> str:
    """Return the table of specimens: `=` where a counter says what the hand says."""
    lines = []
    for row in result["specimens"]:
        if way not in row:
            continue
        hand, ours = row[way]["hand"], row[way]["flopmeter"]
        cells = [row["name"], row["shows"], hand, verdict(ours, hand)]
        for name in WAYS[way]:
            theirs = row[way].get(name)
            cells.append("–" if theirs is None else "fails" if isinstance(theirs, str) else equal_or(theirs[0], hand))
        lines.append(cells)
    return table(["specimen", "what it is", "by hand", "flopmeter", *WAYS[way]], lines)


def equal_or(figure: int, hand: int) -> str:
    """Return a figure, or that it is the hand's."""
    return "=" if figure == hand else str(figure)


def verdict(ours: Row | str, hand: int) -> str:
    """Return our figure, masked pairs left out."""
    if isinstance(ours, str):
        return "fails"
    figure = ours["products"] - ours["masked"]
    return "uncounted" if ours.get("uncounted") and figure != hand else equal_or(figure, hand)


def runs(result: Row) -> Iterator[tuple[str, Row]]:
    """Return each subject's runs by name."""
    for row in ran(result):
        for way in WAYS:
            if way in row:
                yield row["name"], row[way]


def collect(result: Row, name: str) -> dict[str, list[tuple[str, Any]]]:
    """Return, by operator, the subjects of which a run holds it in one of the lists."""
    found: dict[str, list[tuple[str, Any]]] = {}
    for subject, run in runs(result):
        for op, value in run.get(name, {}).items():
            found.setdefault(op, []).append((subject, value))
    return found


def count_subjects(pairs: list[tuple[str, Any]]) -> int:
    """Return how many subjects there are among pairs."""
    return len({subject for subject, _ in pairs})


def equal_ops(result: Row) -> str:
    """Return the table of operators on which torch's counter is right."""
    found = collect(result, "equal")
    lines = [
        (f"`{op}`", count_subjects(pairs), len(pairs), sum(value for _, value in pairs))
        for op, pairs in sorted(found.items(), key=lambda item: -count_subjects(item[1]))
    ]
    return table(["operator", "models", "runs", "products, equal on both sides"], lines)


def different_ops(result: Row) -> str:
    """Return the table of operators on which it is wrong, for a reason that explains the difference exactly."""
    found = collect(result, "explained")
    lines = []
    for op, pairs in sorted(found.items()):
        parts = sorted(theirs / ours for _, (ours, theirs, _) in pairs)
        reasons = sorted({reason for _, (_, _, names) in pairs for reason in names})
        lines.append(
            (
                f"`{op}`",
                "; ".join(REASONS[reason] for reason in reasons),
                count_subjects(pairs),
                f"{ratio(statistics.median(parts))} ({ratio(parts[0])}–{ratio(parts[-1])})",
            )
        )
    return table(["operator", "reason", "models", "their figure as a part of ours"], lines)


def missed_ops(result: Row) -> str:
    """Return the table of operators with products for which it has no formula."""
    found = collect(result, "missed")
    shares: dict[str, list[float]] = {}
    for _, run in runs(result):
        for op, value in run.get("missed", {}).items():
            shares.setdefault(op, []).append(value / run["products"])
    lines = [
        (
            f"`{op}`",
            count_subjects(pairs),
            sum(value for _, value in pairs),
            f"{statistics.median(shares[op]):.1%} (up to {max(shares[op]):.1%})",
        )
        for op, pairs in sorted(found.items(), key=lambda item: (-count_subjects(item[1]), item[0]))
    ]
    return table(["operator", "models", "products missed", "share of a run's products"], lines)


def failures(result: Row) -> str:
    """Return the table of runs that a counter could not count."""
    lines = []
    for way, counters in WAYS.items():
        rows = [row for row in ran(result) if way in row]
        for name in counters:
            answers = [
                row[way]["torch"] if name == "FlopCounterMode" else row["others"].get(name, {}).get(way) for row in rows
            ]
            broken = Counter(answer.partition(":")[0] for answer in answers if isinstance(answer, str))
            if broken:
                kinds = ", ".join(f"{kind} {count}" for kind, count in broken.most_common(4))
                lines.append((name, way, f"{sum(broken.values())} of {len(rows)}", kinds))
    return table(["counter", "run", "failed", "with"], lines)


def summary(result: Row) -> str:
    """Return in words what was run and what came out."""
    versions = result["versions"]
    names = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    absent = ", ".join(name for name, version in versions.items() if not version)
    rows, pairs = ran(result), list(runs(result))
    equal, explained, missed = (
        sum(len(run.get(name, {})) for _, run in pairs) for name in ("equal", "explained", "missed")
    )
    unexplained = sum(len(run.get("unexplained", {})) for _, run in pairs)
    broken = sum(isinstance(run["torch"], str) for _, run in pairs)
    uncounted = count_subjects([(name, run) for name, run in pairs if run.get("uncounted")])
    masked, products = (sum(run[key] for _, run in pairs) for key in ("masked", "products"))
    figures = equal + explained + unexplained
    lines = (
        f"`{result['command']}`, {result['date']}; {result['device']}; {names}"
        + (f"; not installed: {absent}." if absent else "."),
        f"{len(rows)} models ran, {len(result['subjects']) - len(rows)} did not; {len(pairs)} runs.",
        (
            f"`FlopCounterMode` has a formula for {figures} figures (an operator's products in a run): {equal} are "
            f"equal to ours to the last product, {explained} differ by exactly what a known reason says, {unexplained} "
            f"differ without one. For {missed} more it has no formula. It broke {broken} runs."
        ),
        f"Of all products, {masked / max(products, 1):.1%} are pairs that a mask skips.",
        f"In {uncounted} models our book leaves some operator uncounted.",
        f"{len(result['specimens'])} specimens were counted by hand.",
    )
    return "".join(f"* {line}\n" for line in lines)


def versions(_: Row) -> str:
    """Return the table of specimens about which some release of torch's counter is wrong."""
    result = json.loads(newest("agreement-versions").read_text(encoding="utf-8"))
    lines = []
    for row in result["specimens"]:
        said = [row[version] for version in result["versions"]]
        if any(figure != row["hand"] for figure in said):
            cells = ("fails" if isinstance(figure, str) else equal_or(figure, row["hand"]) for figure in said)
            lines.append((row["specimen"], row["run"], row["hand"], *cells))
    return table(["specimen", "run", "by hand", *result["versions"]], lines)


BLOCKS: dict[str, Callable[[Row], str]] = {
    "summary": summary,
    "specimens forward": lambda result: specimens(result, "forward"),
    "specimens step": lambda result: specimens(result, "step"),
    "versions": versions,
    "families forward": lambda result: by_family(result, "forward"),
    "families step": lambda result: by_family(result, "step"),
    "equal operators": equal_ops,
    "different operators": different_ops,
    "missed operators": missed_ops,
    "failures": failures,
}


def fill(page: str, result: Row) -> str:
    """Return a page with its blocks made anew."""
    return BLOCK.sub(lambda found: found["begin"] + BLOCKS[found["name"]](result) + found["end"], page)


if __name__ == "__main__":
    PAGE.write_text(
        fill(PAGE.read_text(encoding="utf-8"), json.loads(newest().read_text(encoding="utf-8"))), encoding="utf-8"
    )
