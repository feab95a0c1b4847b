"""The catalogue against a second copy of the laws' numbers, written here as arithmetic, and the page made from it.

`python tests/agreement/test_catalogue.py` writes the page anew.
"""

from datetime import date
from pathlib import Path

import pytest

from flopmeter.regimes.form import NEEDED_KEYS, OTHER_KEYS
from flopmeter.regimes.regime import Regime, catalogue, find

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "regimes.md"
START, END = "<!-- made from the catalogue: begin -->\n", "<!-- made from the catalogue: end -->\n"
TODAY = date(2026, 11, 22)

FP, INT, ANY = "floating-point operations", "integer or floating-point operations", "computational operations"
# id, threshold, operator, unit, in force from, until, status on 2026-11-22
LAWS = [
    ("eu.gpai.indicator", 10**23, ">", FP, "2025-08-02", None, "in use"),
    ("eu.gpai.systemic", 10**25, ">", FP, "2025-08-02", None, "in force"),
    ("kr.safety", 10**26, ">=", FP, "2026-01-22", None, "in force"),
    ("us.bis.proposed.model", 10**26, ">", ANY, None, None, "never in force"),
    ("us.ca.sb1047", 10**26, ">", INT, None, None, "never in force"),
    ("us.ca.sb1047.finetune", 3 * 10**25, ">=", INT, None, None, "never in force"),
    ("us.ca.sb53", 10**26, ">", INT, "2026-01-01", None, "in force"),
    ("us.ct.sb5", 10**26, ">", INT, "2026-10-01", None, "in force"),
    ("us.eo14110.bio", 10**23, ">", INT, "2023-10-30", "2025-01-20", "no longer in force"),
    ("us.eo14110.model", 10**26, ">", INT, "2023-10-30", "2025-01-20", "no longer in force"),
    ("us.il.sb315", 10**26, ">", INT, "2027-01-01", None, "not yet in force"),
    ("us.ny.raise", 10**26, ">", INT, "2027-01-01", None, "not yet in force"),
    ("us.treasury.notifiable", 10**23, ">", ANY, "2025-01-02", None, "in force"),
    ("us.treasury.prohibited", 10**25, ">", ANY, "2025-01-02", None, "in force"),
    ("us.treasury.prohibited-bio", 10**24, ">", ANY, "2025-01-02", None, "in force"),
]


def table_of(regimes: tuple[Regime, ...]) -> str:
    lines = [
        "| id | passed at | unit | what counts | conditions | status | from | until | source | read |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for regime in regimes:
        mantissa = str(regime.threshold).rstrip("0")
        number = f"{mantissa}e{len(str(regime.threshold)) - len(mantissa)}"
        source = f"[{regime.source}]({regime.url})" if regime.url else regime.source
        cells = (
            f"`{regime.id}`",
            f"{regime.operator} {number}",
            regime.unit,
            ", ".join(f"`{name}`" for name in regime.counts),
            " ".join(condition.text for condition in regime.conditions) or "–",
            regime.status,
            str(regime.in_force_from or "–"),
            str(regime.in_force_until or "–"),
            source,
            f"{regime.as_of}, {regime.confidence}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law[0])
def test_a_file_says_what_the_law_says(law):
    """Else a digit slipped, and everybody is judged by it."""
    name, threshold, operator, unit, start, end, status = law
    regime = find(name)
    assert (regime.threshold, regime.operator, regime.unit) == (threshold, operator, unit)
    assert (regime.in_force_from, regime.in_force_until) == (
        date.fromisoformat(start) if start else None,
        date.fromisoformat(end) if end else None,
    )
    assert regime.status_on(TODAY) == status


def test_every_file_has_its_second_copy():
    assert [regime.id for regime in catalogue()] == [law[0] for law in LAWS]


@pytest.mark.parametrize("regime", catalogue(), ids=lambda regime: regime.id)
def test_a_file_says_where_it_stands_and_how_well_that_is_known(regime):
    """Else a number is believed because a program printed it."""
    assert regime.source
    assert regime.confidence in {"primary", "secondary"} or regime.status == "never in force"
    assert regime.as_of <= TODAY
    assert regime.url == "" or regime.url.startswith("https://")


def test_the_page_shows_the_catalogue():
    """Else people read numbers that the program does not use. To mend it, run this file."""
    text = PAGE.read_text(encoding="utf-8")
    assert text.partition(START)[2].partition(END)[0] == table_of(catalogue())
    assert "not legal advice" in text


def test_the_example_on_the_page_is_a_regime(tmp_path):
    """Else the first regime that somebody writes is refused."""
    example = PAGE.read_text(encoding="utf-8").partition("```toml\n")[2].partition("```")[0]
    (tmp_path / "own.toml").write_text(example, encoding="utf-8")
    form_keys = {*NEEDED_KEYS, *OTHER_KEYS}
    assert {line.split(" ")[0] for line in example.splitlines() if " = " in line} == {*form_keys, "text"} - {
        "conditions"
    }
    assert find(tmp_path / "own.toml").threshold == 10**15


if __name__ == "__main__":
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    PAGE.write_text(before + START + table_of(catalogue()) + END + rest.partition(END)[2], encoding="utf-8")
