"""A run as another tool has it, in words."""

from flopmeter.conventions.translation import Line, Tool, Translation
from flopmeter.report.translation import render_translation

TOOL = Tool(name="mfu", figure="their figure", source="their file, their version")


def test_figure_bridge_and_source_are_there_at_a_glance() -> None:
    """If this failed, a person could not see what the other tool leaves out."""
    lines = (Line(term="recomputation", flop=-20_000, why="left out"), Line(term="padding", flop=5, why="added"))
    found = Translation(
        tool=TOOL, ours=120_000, flop=100_005, bridge=lines, inputs={"tokens": "8"}, fraction=0.25, notes=("a doubt",),
        besides={"their bound": "cannot tell: no device"},
    )  # fmt: skip
    text = render_translation(found, name="tiny")
    assert "run tiny as mfu: their figure" in text
    assert "after their file, their version" in text
    assert "MFU 25 %" in text
    assert "100,005 FLOP, 83.3 % of ours" in text
    (line,) = [line for line in text.splitlines() if line.startswith("recomputation")]
    assert line.split() == ["recomputation", "−2.000e+04", "FLOP", "left", "out"]
    assert "+5 FLOP" in text
    assert "tokens 8" in text
    assert "their bound: cannot tell: no device" in text
    assert "note: a doubt" in text


def test_what_cannot_be_told_says_what_is_missing() -> None:
    """If this failed, an unknown would look like a zero."""
    text = render_translation(Translation(tool=TOOL, ours=1, flop=None, missing=("tokens: tell them",)), name="tiny")
    assert "cannot tell, for want of" in text
    assert "  tokens: tell them" in text
    assert "of ours" not in text


def test_a_run_without_work_has_a_figure_all_the_same() -> None:
    assert "0 FLOP" in render_translation(Translation(tool=TOOL, ours=0, flop=0), name="tiny")
