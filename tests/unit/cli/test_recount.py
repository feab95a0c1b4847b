"""flopmeter recount."""

import pytest

BOOK = "FORMULAS = {'aten::mm': ('matmul', lambda call: call.tensor(0).size)}\n"


def test_equal_is_a_yes(call, lab):
    """If this failed, an auditor would have to believe us."""
    done = call("recount", "run", "--json")
    assert done.code == 0
    assert (done.json["equal"], done.json["share"], done.json["flop"]) == (True, 1.0, "630")
    assert done.json["recorded"]["flop"] == "630"
    assert "equal     every operator" in call("recount", "run").out


def test_a_book_of_ones_own_that_differs_is_a_no(call, lab):
    """If this failed, a recount with other formulas would pass for a confirmation."""
    (lab / "book.py").write_text(BOOK, encoding="utf-8")
    done = call("recount", "run", "--book", "book.py", "--json")
    assert done.code == 1
    assert done.json["same_book"] is False
    assert [difference["op"] for difference in done.json["differences"]] == ["aten::mm"]


def test_a_book_that_is_none_is_one_sentence(call, lab):
    """If this failed, a typo in a formula file would end in a traceback."""
    for text in ("FORMULAS = 3", "FORMULA = {}", "def", "FORMULAS = {'mm': ('matmul', len)}", "import nonsense"):
        (lab / "book.py").write_text(text, encoding="utf-8")
        done = call("recount", "run", "--book", "book.py")
        assert done.code == 2
        assert "book.py" in done.err
        assert "Traceback" not in done.err
    assert call("recount", "run", "--book", "missing.py").code == 2


@pytest.mark.parametrize(
    "text",
    [
        "import sys; sys.exit(0)",
        "raise SystemExit",
        "raise KeyError(1)",
        "1/0",
        "open('nope')",
        "[][0]",
        "assert False",
        "def f(): f()\nf()",
    ],
)
def test_whatever_a_book_raises_is_one_sentence_and_never_a_yes(call, lab, text):
    """If this failed, a book that ends the program would pass for one that confirms every figure."""
    (lab / "book.py").write_text(text, encoding="utf-8")
    done = call("recount", "run", "--book", "book.py")
    assert done.code == 2, done.err
    assert done.err.count("\n") == 1
    assert "book.py" in done.err
    assert "fault in flopmeter" not in done.err


@pytest.mark.parametrize(
    "text",
    [
        "FORMULAS = {'aten::mm': ('matmul', lambda call: 10**100)}",
        "FORMULAS = {'aten::mm': ('matmul', lambda call: exit(0))}",
        "FORMULAS = {'aten::mm': ('matmul', lambda call: open('nope'))}",
        "def f(call): raise Exception\nFORMULAS = {'aten::mm': ('matmul', f)}",
    ],
)
def test_a_formula_that_fails_leaves_its_calls_uncounted_and_is_never_a_yes(call, lab, text):
    """If this failed, a formula that ends the program would pass for one that confirms every figure."""
    (lab / "book.py").write_text(text, encoding="utf-8")
    done = call("recount", "run", "--book", "book.py")
    assert done.code == 1, done.err
    assert "aten::mm" in done.out
    assert "fault in flopmeter" not in done.err
