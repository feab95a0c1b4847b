"""The tables of docs/reference/peaks.md, made from `devices/peaks.toml` and the newest result of `compare.py`.

`python benchmarks/peaks/table.py` writes them into the page anew.
"""

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from compare import REASONS

from flopmeter.devices.table import TERA, Part, PeakTable

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "peaks.md"
RESULTS = ROOT / "benchmarks" / "results"
BLOCK = re.compile(r"(?P<begin><!-- (?P<name>[a-z ]+): begin -->\n).*?(?P<end><!-- (?P=name): end -->)", re.DOTALL)
COLUMNS = ("fp64", "fp64_tensor", "fp32", "tf32", "bf16", "fp16", "fp8", "fp6", "fp4", "int8")

Row = dict[str, Any]


def newest() -> Row:
    """Return the newest result."""
    path = max(RESULTS.glob("peaks_peers_*.json"), key=lambda path: path.name)
    return json.loads(path.read_text(encoding="utf-8"))


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a table of the page."""
    names = list(head)
    lines = [names, ["---"] * len(names), *([str(cell) for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def tera(value: int | str | None) -> str:
    """Return a figure in 10^12 per second."""
    return "–" if value is None else f"{int(value) / TERA:.10g}"


def figure(part: Part, precision: str) -> str:
    """Return a part's figure, marked where it is less sure than its row."""
    return tera(part.dense.get(precision)) + ("?" if precision in part.unsure else "")


def dense(_: Row) -> str:
    """Return the table of dense figures."""
    parts = [part for part in PeakTable.standard().parts if part.dense]
    rows = ([part.part, *(figure(part, name) for name in COLUMNS), part.confidence] for part in parts)
    return table(["part", *COLUMNS, "confidence"], rows)


def built(_: Row) -> str:
    """Return the table of what the figures follow from, and where they are from."""
    rows = []
    for part in PeakTable.standard().parts:
        if not part.dense:
            continue
        ids = ", ".join(part.names) or "unknown"
        clocks = [part.clock_mhz, *sorted(set(part.clock_mhz_of.values()))]
        clock = ", ".join(str(one) for one in clocks if one is not None) or "–"
        notes = [part.source, *(f"{name}: {words}" for name, words in part.unsure.items()), part.note]
        said = "; ".join(note for note in notes if note)
        sure = part.ids_confidence if part.names else "–"
        rows.append((part.part, ids, sure, part.capability, part.sms or "–", clock, part.max_clock_mhz or "–", said))
    return table(
        ["part", "ids", "confidence of ids", "capability", "SMs", "clock, MHz", "highest, MHz", "source and doubts"],
        rows,
    )


def unknown(_: Row) -> str:
    """Return the table of parts without figures."""
    rows = []
    for part in PeakTable.standard().parts:
        if not part.dense:
            for device_id, names in part.names.items():
                rows.append((device_id, ", ".join(names), part.capability, part.note))
    return table(["id", "name", "capability", "why there is no figure"], rows)


def summary(result: Row) -> str:
    """Return how each tool compares."""
    rows = []
    for peer, one in result["peers"].items():
        wrong = len(one["differences"])
        rows.append((f"{peer} {one['version']}", one["equal"], wrong, len(one["silent"])))
    said = table(["tool", "figures equal to ours", "different", "names it has no figure for"], rows)
    absent = f"; not there: {', '.join(result['absent'])}" if result["absent"] else ""
    return f"{said}\n`{result['command']}`, {result['date']}{absent}.\n"


def differences(result: Row) -> str:
    """Return the table of all differences, those of one device and reason on one line."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for peer, one in result["peers"].items():
        for row in one["differences"]:
            why = REASONS[row["reason"]].format(row["of"])
            text = f"{row['precision']} {tera(row['theirs'])} ({tera(row['ours'])})"
            texts = rows.setdefault((peer, row["name"], why), [])
            if text not in texts:  # one name, two ids
                texts.append(text)
    lines = ((peer, name, ", ".join(texts), why) for (peer, name, why), texts in rows.items())
    return table(["tool", "NVML's name", "theirs (ours)", "why"], lines)


BLOCKS: dict[str, Callable[[Row], str]] = {
    "dense": dense,
    "built": built,
    "unknown": unknown,
    "summary": summary,
    "differences": differences,
}


def fill(page: str, result: Row) -> str:
    """Return a page with its blocks made anew."""
    return BLOCK.sub(lambda found: found["begin"] + BLOCKS[found["name"]](result) + found["end"], page)


if __name__ == "__main__":
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8"), newest()), encoding="utf-8")
