"""Our peaks beside those of other tools, for every device id of our table: where they differ, and why.

A reason is not a guess: what it says is looked up in our table, and must be the other tool's figure.

    pip install --target FOLDER --no-deps lightning-fabric mosaicml torchtitan
    python benchmarks/peaks/compare.py --folder FOLDER

writes benchmarks/results/peaks_peers_<yyyymm>.json; `table.py` makes docs/reference/peaks.md of it.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from peers import PEERS, Ask, find

from flopmeter.devices.table import TERA, Part, PeakTable

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
PRECISIONS = ("fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "int8")
SAME = 0.006
"""Figures are equal within this: others round to three digits."""

LOOSE = 0.015
"""And a figure is another one's within this: some are rounded to two."""

# Of a difference: its reason → what it says. `{}` is the part whose figure it is.
REASONS = {
    "sparse": "the figure with structured sparsity",
    "tensor": "that of the tensor pipes, where the vector pipes are asked",
    "vector": "that of the vector pipes in fp32, where the tensor pipes are asked",
    "rounded": "rounded to two digits",
    "other part": "the figure of {}, because a part of the name is looked for",
    "other part, tensor": "the figure of {}, and that of its tensor pipes, where the vector pipes are asked",
    "other part, vector": "the figure of {}, and that of its vector pipes, where the tensor pipes are asked",
    "other part, halved": "half of the figure of {}, taken for a sparse one, which there is none of",
    "other part, twice": "twice the figure of {}: the first datasheet was about a pair of cards",
    "fallback": "312e12, an A100's, for whatever it does not know",
    "guess": "a guess, by its own comment",
}
GUESSES = {("torch", "L4", "fp64")}
# Whose first datasheet was about a pair.
PAIRS = {("lightning-fabric", "H100 NVL")}

Row = dict[str, Any]


def near(theirs: int, ours: int | None, within: float = SAME) -> bool:
    """Say whether two figures are one but for rounding."""
    return ours is not None and abs(theirs - ours) <= within * ours


def explain(peer: str, part: Part, precision: str, theirs: int, table: PeakTable) -> tuple[str, str]:
    """Return why a figure differs, and the part it is of where that is another one; empty where nobody knows."""
    own = (
        ("guess", theirs if (peer, part.part, precision) in GUESSES else None),
        ("fallback", 312 * TERA if peer == "torchtitan" and not part.part.startswith("A100") else None),
        ("rounded", part.dense.get(precision)),
        ("sparse", part.sparse.get(precision)),
        ("tensor", part.dense.get("fp64_tensor") if precision == "fp64" else None),
        ("vector", part.dense.get("fp32")),
    )
    for reason, figure in own:
        if near(theirs, figure, LOOSE):
            return reason, ""
    # The part that their look-up takes it for begins alike.
    kin = [one for one in table.parts if one is not part and one.part.split()[0][:2] == part.part.split()[0][:2]]
    for reason, figures in (
        ("other part, twice", [2 * one.dense.get(precision, 0) if (peer, part.part) in PAIRS else 0 for one in kin]),
        ("other part", [one.dense.get(precision) for one in kin]),
        ("other part, tensor", [one.dense.get("fp64_tensor") if precision == "fp64" else None for one in kin]),
        ("other part, vector", [one.dense.get("fp32") for one in kin]),
        ("other part, halved", [one.dense.get("fp32", 0) // 2 if precision == "fp32" else None for one in kin]),
    ):
        for one, figure in zip(kin, figures, strict=True):
            if near(theirs, figure, LOOSE):
                return reason, one.part
    return "", ""


def differ(peer: str, ask: Ask, table: PeakTable) -> Iterator[Row]:
    """Return every figure of a peer that is not ours."""
    for part in table.parts:
        for device_id, names in part.names.items():
            for name in names:
                for precision in PRECISIONS:
                    theirs, ours = ask(name, precision), part.dense.get(precision)
                    if theirs is None or near(theirs, ours):
                        continue
                    reason, other = explain(peer, part, precision, theirs, table)
                    yield {
                        "id": device_id,
                        "name": name,
                        "precision": precision,
                        "ours": None if ours is None else str(ours),
                        "theirs": str(theirs),
                        "reason": reason,
                        "of": other,
                    }


def compare(peer: str, version: str, ask: Ask) -> Row:
    """Return all that a peer says: where it agrees, where it differs and why, and which devices it does not know."""
    table = PeakTable.standard()
    differences = list(differ(peer, ask, table))
    equal, silent = 0, []
    for part in table.parts:
        for device_id, names in part.names.items():
            for name in names:
                said = {precision: ask(name, precision) for precision in PRECISIONS}
                equal += sum(near(value, part.dense.get(key)) for key, value in said.items() if value is not None)
                if not any(value is not None for value in said.values()):
                    silent.append(f"{device_id} {name}")
    return {"version": version, "equal": equal, "differences": differences, "silent": silent}


def main() -> int:
    """Compare with every peer that is there, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where pip put packages with --target")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    found = {peer: find(peer, given.folder) for peer in PEERS}
    result = {
        "bench": "peaks_peers",
        "command": "python benchmarks/peaks/compare.py --folder FOLDER",
        "date": datetime.now(UTC).date().isoformat(),
        "absent": [peer for peer, one in found.items() if one is None],
        "peers": {peer: compare(peer, *one) for peer, one in found.items() if one is not None},
    }
    path = given.out / f"peaks_peers_{datetime.now(UTC):%Y%m}.json"
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    bare = [
        f"{peer}: {row['name']} {row['precision']} {row['theirs']} against {row['ours']}"
        for peer, one in result["peers"].items()
        for row in one["differences"]
        if not row["reason"]
    ]
    print(*(bare or ["every difference has its reason"]), sep="\n")
    return 1 if bare else 0


if __name__ == "__main__":
    sys.exit(main())
