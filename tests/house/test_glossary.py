"""Words and places: what the front door shows is explained, and every room can be found."""

import subprocess
from pathlib import Path

import pytest

import flopmeter

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "flopmeter"
REFERENCE = ROOT / "docs" / "reference"
# Where nobody would look for an answer.
UNASKED = {"__init__.py", "__main__.py"}


def test_every_name_at_the_front_door_is_explained() -> None:
    """Else the first words that a user types stand nowhere."""
    text = "".join((REFERENCE / name).read_text(encoding="utf-8") for name in ("glossary.md", "errors.md"))
    assert [name for name in flopmeter.__all__ if name != "__version__" and f"`{name}`" not in text] == []


def test_every_room_has_a_question() -> None:
    """Else somebody who looks for it has to know where it is."""
    text = (REFERENCE / "where.md").read_text(encoding="utf-8")
    listed = subprocess.run(["git", "ls-files", "-z", SOURCE], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    names = {(ROOT / name).relative_to(SOURCE).parts[0] for name in listed.stdout.split("\0") if name}
    rooms = [SOURCE / name for name in sorted(names) if (SOURCE / name).suffix in {".py", ""}]
    missing = [
        path.name
        for path in rooms
        if path.name not in UNASKED and f"`{path.name}" not in text and f"`{path.name}/" not in text
    ]
    assert missing == []
