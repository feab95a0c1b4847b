"""How a result is written: with the command, the date, the device and the versions that made it, and the bars it meets.

Not here: what is measured.
"""

import json
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results"


def bar(what: str, figure: float, *, at_most: float) -> dict[str, Any]:
    """Set a figure beside the most that it may be."""
    print(f"{what:<68} {figure:>12,.12g}   {'within' if figure <= at_most else 'OVER'} {at_most:,.12g}")
    return {"what": what, "figure": figure, "at_most": at_most, "is_met": figure <= at_most}


def write(name: str, command: str, figures: dict[str, Any], out: Path | None) -> None:
    """Write a result where results lie, or elsewhere."""
    now = datetime.now(UTC)
    result = {
        "command": f"python benchmarks/overhead/{command}",
        "date": now.date().isoformat(),
        "device": f"CPU, {platform.machine()}, one thread",
        "versions": {"python": platform.python_version(), **{each: version(each) for each in ("torch", "flopmeter")}},
        **figures,
    }
    path = out or RESULTS / f"overhead-{name}_cpu_{now:%Y%m}.json"
    path.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"written to {path.name}")
