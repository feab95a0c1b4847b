"""What the tests on a GPU share: what they found is written to `tests/gpu/results/DATE-DEVICE.json`.

Torch is imported inside: this file is read where there is none, too.
"""

import json
import platform
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

RESULTS = Path(__file__).parent / "results"


@pytest.fixture(scope="session")
def findings() -> Iterator[dict[str, object]]:
    """Gather what was found, and write it with date, device and versions when the last test is done."""
    import torch

    found: dict[str, object] = {}
    yield found
    properties = torch.cuda.get_device_properties(0)
    now = datetime.now(UTC)
    content = {
        "date": now.isoformat(timespec="seconds"),
        "device": properties.name,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "found": found,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{now:%Y-%m-%d}-{properties.name.replace(' ', '-').lower()}.json"
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
