"""What `FlopCounterMode` of other releases says of the specimens: its one file, run on the torch that is here.

`python benchmarks/agreement/versions.py 2.9.1=DIR/flop_counter.py …`; benchmarks/README.md says where to take the file.
"""

import argparse
import importlib.util
import json
import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import oddities  # noqa: F401 # its specimens put themselves on the list
import torch
from compare import RESULTS, SECONDS, WAYS
from isolation import Failed, isolated
from peers import quiet, warm_up
from specimens import SPECIMENS


def load(name: str, path: Path) -> Any:
    """Return the counter in a file, as a neighbour of torch's own."""
    spec = importlib.util.spec_from_file_location(f"torch.utils.flop_counter_{name.replace('.', '_')}", path)
    if spec is None or spec.loader is None:
        msg = f"{path} is no Python file"
        raise ValueError(msg)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.FlopCounterMode


def count(counter: Any, specimen: str, way: str) -> int:
    """Return what a counter says of a specimen."""
    case = SPECIMENS[specimen].make()
    with quiet(), counter(display=False) as mode:
        (case.run_step if way == "step" else case.run_forward)()
    return int(mode.get_total_flops())


def main() -> None:
    """Ask each version about each specimen; write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", metavar="VERSION=FILE")
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warm_up()
    counters = {name: load(name, Path(path)) for name, _, path in (file.partition("=") for file in args.files)}
    rows = []
    for name, specimen in SPECIMENS.items():
        for way in WAYS:
            hand = getattr(specimen.make(), way)
            if hand is None:
                continue
            row: dict[str, Any] = {"specimen": name, "run": way, "hand": hand}
            for version, counter in counters.items():
                try:
                    row[version] = isolated(partial(count, counter, name, way), seconds=SECONDS)
                except Failed as error:
                    row[version] = str(error)
            rows.append(row)
    now = datetime.now(UTC)
    lines = ",\n".join("    " + json.dumps(row, ensure_ascii=False) for row in rows)
    out = args.out or RESULTS / f"agreement-versions_cpu_{now:%Y%m}.json"
    head = {
        "command": "python benchmarks/agreement/versions.py VERSION=FILE …",
        "date": now.date().isoformat(),
        "run_on": torch.__version__,
        "versions": list(counters),
    }
    text = json.dumps(head, indent=2).removesuffix("\n}")
    out.write_text(f'{text},\n  "specimens": [\n{lines}\n  ]\n}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
