"""Links between documents, and from docstrings into documents, lead to a page and a heading that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page for pattern in ("*.md", "docs/**/*.md", "changes/*.md", "benchmarks/**/*.md") for page in ROOT.glob(pattern)
)
LINK = re.compile(r"\]\((?P<file>[^)#\s]*)(?:#(?P<anchor>[^)\s]+))?\)")
NAMED = re.compile(r"\b(?P<file>docs/[\w./-]+\.md)(?:#(?P<anchor>[\w-]+))?")
FENCE = re.compile(r"^( *)```.*?^\1```", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#{1,6} +(?P<title>.+?)\s*$", re.MULTILINE)


def anchors_of(page: Path) -> set[str]:
    """Return the anchors that headings get: lower case, no punctuation, hyphens for spaces, numbers for repetitions."""
    found: set[str] = set()
    for heading in HEADING.finditer(FENCE.sub("", page.read_text(encoding="utf-8"))):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading["title"]).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        number = 0
        while (name := f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(name)
    return found


def fault_of(target: Path, anchor: str | None) -> str:
    if not target.exists():
        return "does not exist"
    return f"has no heading #{anchor}" if anchor and anchor not in anchors_of(target) else ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    """Else a reader stands before a wall."""
    found = [
        f"{link['file']}: {fault}"
        for link in LINK.finditer(FENCE.sub("", page.read_text(encoding="utf-8")))
        if "://" not in link["file"] and not link["file"].startswith("mailto:")
        if (fault := fault_of(page.parent / link["file"] if link["file"] else page, link["anchor"]))
    ]
    assert found == []


def test_every_page_that_the_source_names_is_there() -> None:
    """Else a formula's `Source` is none."""
    found = [
        f"{path.relative_to(ROOT)}: {link.group()} {fault}"
        for path in sorted((ROOT / "src").rglob("*.py"))
        for link in NAMED.finditer(path.read_text(encoding="utf-8"))
        if (fault := fault_of(ROOT / link["file"], link["anchor"]))
    ]
    assert found == []


def test_every_page_can_be_reached() -> None:
    """Else a page is written for nobody."""
    index = ROOT / "docs" / "README.md"
    reached = {index.parent / link["file"] for link in LINK.finditer(index.read_text(encoding="utf-8"))}
    missing = {page.resolve() for page in ROOT.glob("docs/**/*.md")} - {page.resolve() for page in reached} - {index}
    assert {page for page in missing if page.parent.name != "adr"} == set()


def test_anchors_are_made_as_the_forge_makes_them(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# What's `new`?\n\n## A [link](x.md)\n\n## Twice\n\n## Twice\n\n```sh\n# no heading\n```\n", "utf-8"
    )
    assert anchors_of(page) == {"whats-new", "a-link", "twice", "twice-1"}
