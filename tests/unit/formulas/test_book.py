"""The cost book: finding formulas, pricing calls, and a digest that tells books apart.

`python tests/unit/formulas/test_book.py` writes the index of operators anew.
"""

import functools
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from flopmeter.errors import FormulaError
from flopmeter.formulas import book as books
from flopmeter.formulas.book import FAMILIES, INDEX, SHARED, FormulaBook
from flopmeter.formulas.call import OpCall
from flopmeter.formulas.cost import Cost, Part
from flopmeter.tally import KINDS, Uncounted

BOOK = FormulaBook.standard()
CALL = OpCall.of("mylib::attn", (2, 3), out=[(2, 3)])


def test_the_standard_book_is_the_same_each_time():
    """Else two ranks of one run write different digests."""
    assert FormulaBook.standard() == BOOK
    assert re.fullmatch(r"[0-9a-f]{64}", BOOK.digest)


def make_index() -> str:
    """Return what the index has to say, asked of every family."""
    homes = [(op, family) for family in FAMILIES for op in import_module(f"flopmeter.formulas.{family}").FORMULAS]
    return "".join(f"{op} {family}\n" for op, family in sorted(homes))


def test_the_index_says_which_family_prices_an_operator():
    """Else an operator that has a formula is listed as uncounted: write the index anew, as said above."""
    index = make_index()
    assert Path(books.__file__).with_name(INDEX).read_text(encoding="ascii") == index
    assert len(index.splitlines()) == len(BOOK.entries)  # no operator has two families


def test_a_row_is_the_one_of_its_family():
    for family in FAMILIES:
        module = import_module(f"flopmeter.formulas.{family}")
        for op, (kind, formula) in module.FORMULAS.items():
            row = BOOK.entries[op]
            assert (row.kind, row.formula) == (kind, formula), op
            assert row.reads == frozenset(getattr(module, "READS", {}).get(op, ())), op


def test_a_run_imports_the_families_that_it_meets_and_no_others():
    """Else every program that is metered starts later and weighs more."""
    code = (
        "import sys; from flopmeter import FormulaBook, OpCall; book = FormulaBook.installed();"
        " assert book.cost(OpCall.of('aten::mm', (2, 3), (3, 5), out=[(2, 5)])).flop == 60;"
        " assert not book.find('mylib::attn') and not book.foreign;"
        " print(*sorted(name for name in sys.modules if name.startswith('flopmeter.formulas.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [f"flopmeter.formulas.{name}" for name in sorted([*SHARED, "matmul"])]


@pytest.mark.parametrize("found", [b"FORMULAS = {}", OSError("gone")])
def test_a_family_that_changed_under_a_running_program_counts_nothing(monkeypatch, caplog, found):
    """Else an upgrade in the middle of a run brings figures that the digest in its ledger does not stand for."""

    def read(name):
        if isinstance(found, OSError):
            raise found
        return found

    book = FormulaBook.standard()
    monkeypatch.setattr(books, "_read", read)
    call = OpCall.of("aten::mm", (2, 3), (3, 5), out=[(2, 5)])
    for _ in range(2):
        assert book.count(call, calls=1, phase="forward").uncounted[0].op == "aten::mm"
    assert caplog.text.count("formulas/matmul.py") == 1


@pytest.mark.parametrize("name", [*(f"{family}.py" for family in (*FAMILIES, *SHARED)), INDEX])
def test_the_digest_changes_with_any_file(monkeypatch, name):
    """Else a figure changes and two ledgers go on naming the same book."""
    read = books._read
    monkeypatch.setattr(books, "_read", lambda given: read(given) + (b"\n" if given == name else b""))
    assert FormulaBook.standard().digest != BOOK.digest


def test_a_book_can_be_made_of_rows_alone():
    book = FormulaBook(entries={"aten::mm": BOOK.entries["aten::mm"]}, digest="0" * 64)
    assert list(book.entries) == ["aten::mm"]
    assert book.find("aten::addmm") is None
    assert book.foreign == {}


def test_every_entry_has_a_known_kind_and_a_public_home():
    """Else a ledger's reader cannot look up how a figure came about."""
    for op, entry in BOOK.entries.items():
        assert op.count("::") == 1, op
        assert entry.kind in KINDS, op
        family, name = entry.name.rsplit(".", 1)
        assert family.removeprefix("flopmeter.formulas.") in {*FAMILIES, "rates"}, op
        assert name.startswith("count_"), op


def test_the_digest_covers_every_file_of_formulas():
    """Else a figure changes and two ledgers go on naming the same book."""
    assert {path.stem for path in Path(books.__file__).parent.glob("[!_]*.py")} == {*FAMILIES, *SHARED}


def test_an_in_place_operator_is_found_under_its_twin():
    assert BOOK.find("aten::add_") == BOOK.find("aten::add")
    assert BOOK.find("aten::__and__") is not None
    assert BOOK.find("aten::nothing_like_it_") is None


def test_a_call_without_formula_is_uncounted_and_never_zero():
    """Else work that we do not know is reported as no work."""
    assert BOOK.cost(CALL) is None
    tally = BOOK.count(CALL, calls=5, phase="forward")
    assert tally.counts == ()
    assert tally.uncounted == (Uncounted(op="mylib::attn", calls=5, elements=30),)


def test_a_formula_that_refuses_leaves_the_call_uncounted():
    """Else one odd shape stops a training run, or is priced as zero."""
    call = OpCall.of("aten::mm", (2, 3), (4, 5), out=[(2, 5)])
    with pytest.raises(FormulaError):
        BOOK.cost(call)
    assert BOOK.count(call, calls=2, phase="forward").uncounted == (Uncounted(op="aten::mm", calls=2, elements=20),)


@pytest.mark.parametrize(
    "formula",
    [
        lambda _: -1,
        lambda _: 2.5,
        lambda _: None,
        lambda call: call.args[9],
        lambda call: 1 // (call.out_size - 6),
        lambda call: call.nothing,
        lambda _: Cost.of(Part(kind="gemm", flop=1)),
        lambda _: next(iter(())),
        lambda _: 10**80,
        lambda _: sys.exit("done"),
        lambda _: (_ for _ in ()).throw(type("Own", (Exception,), {})()),
    ],
)
def test_a_formula_that_fails_in_any_way_is_one_kind_of_error(formula):
    """Else someone's formula stops the run, or puts a float into the ledger."""
    book = BOOK.with_formula("mylib::attn", formula, kind="attention")
    with pytest.raises(FormulaError, match="mylib::attn"):
        book.cost(CALL)
    assert book.count(CALL, calls=1, phase="forward").calls == 0


def test_a_formula_of_ones_own_gives_an_int_or_parts():
    book = BOOK.with_formula("mylib::attn", lambda call: 2 * call.out_size, kind="attention")
    assert book.cost(CALL) == Cost.of(Part(kind="attention", flop=12))
    assert BOOK.cost(CALL) is None
    parts = Cost.of(Part(kind="matmul", flop=5), Part(kind="pointwise", flop=7, phase="recompute"))
    book = book.with_formula("mylib::attn", lambda _: parts, kind="attention")
    assert book.cost(CALL) == parts


@pytest.mark.parametrize(("op", "kind"), [("attn", "attention"), ("a::b::c", "attention"), ("mylib::attn", "gemm")])
def test_a_formula_under_a_wrong_name_or_kind_is_a_mistake(op, kind):
    with pytest.raises(ValueError):
        BOOK.with_formula(op, lambda _: 1, kind=kind)


def make(factor, *, base=0):
    def count(call, base=base):
        return factor * call.out_size + base

    return count


def test_books_with_different_formulas_have_different_digests():
    """Else a ledger made with private formulas passes for one made with the standard book."""
    books = [
        BOOK,
        BOOK.with_formula("mylib::attn", lambda call: 2 * call.out_size, kind="attention"),
        BOOK.with_formula("mylib::attn", lambda call: 3 * call.out_size, kind="attention"),
        BOOK.with_formula("mylib::attn", make(2), kind="attention"),
        BOOK.with_formula("mylib::attn", make(3), kind="attention"),
        BOOK.with_formula("mylib::attn", make(3, base=1), kind="attention"),
        BOOK.with_formula("mylib::attn", make(3, base=1), kind="matmul"),
        BOOK.with_formula("mylib::other", make(3, base=1), kind="matmul"),
    ]
    assert len({book.digest for book in books}) == len(books)


def test_the_same_formula_gives_the_same_digest():
    """Else no two processes agree about the book they used."""
    one, two = (BOOK.with_formula("mylib::attn", make(2), kind="attention") for _ in range(2))
    assert one.digest == two.digest


def test_replacing_a_standard_formula_shows():
    original = BOOK.entries["aten::mm"].formula
    assert BOOK.with_formula("aten::mm", original, kind="matmul").digest != BOOK.digest


class Scaled:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, call):
        return self.factor * call.out_size


@pytest.mark.parametrize("kind_of", [Scaled, lambda n: functools.partial(lambda n, call: n * call.out_size, n)])
def test_any_callable_can_be_a_formula_and_what_it_holds_is_in_the_digest(kind_of):
    """Else a formula that is no plain function stops the meter, or changes unseen."""
    books = [BOOK.with_formula("mylib::attn", kind_of(n), kind="attention") for n in (4, 5, 4)]
    assert [book.cost(CALL).flop for book in books] == [24, 30, 24]
    assert books[0].digest == books[2].digest != books[1].digest


def test_a_formula_without_source_can_be_used_too():
    names = {}
    exec("def count(call): return 7", names)  # noqa: S102  # that is how one comes to have no source
    assert BOOK.with_formula("mylib::attn", names["count"], kind="attention").cost(CALL).flop == 7


@pytest.mark.parametrize("op", ["aten::erf", "aten::logit"])
def test_complex_arithmetic_without_a_row_of_its_own_is_left_uncounted(op):
    """Else a complex function, several real ones, is priced as one."""
    call = OpCall.of(op, (2, 2), (2, 2), dtype="complex64", out=[(2, 2)])
    assert BOOK.cost(call) is None
    assert BOOK.count(call, calls=1, phase="forward").uncounted[0].elements == 4
    assert BOOK.cost(OpCall.of("aten::copy_", (2, 2), (2, 2), dtype="complex64")) == Cost()


def test_arithmetic_on_integers_is_counted_apart():
    """Else index arithmetic passes for floating-point work."""
    call = OpCall.of("aten::add", (2, 3), (2, 3), dtype="int64", out=[(2, 3)])
    tally = BOOK.count(call, calls=4, phase="forward")
    assert (tally.flop, tally.int_op, tally.calls) == (0, 24, 4)


def test_a_call_counts_once_however_many_parts_its_cost_has():
    """Else fused operators seem to be called more often than others."""
    q = (1, 2, 4, 8)
    op = "aten::_scaled_dot_product_flash_attention_for_cpu_backward"
    tally = BOOK.count(OpCall.of(op, q, q, q, q, q, (1, 2, 4), 0.0, True), calls=3, phase="backward")
    assert tally.calls == 3
    assert tally.select(phase="recompute", kind="attention").flop == 3 * 2 * 20 * 8
    assert tally.select(phase="backward", kind="attention").masked_flop == 3 * 4 * 12 * 16
    assert set(tally.by("phase")) == {"backward", "recompute"}


def test_a_call_without_arithmetic_is_counted_as_a_call():
    """Else coverage falls when a model copies more."""
    tally = BOOK.count(OpCall.of("aten::copy_", (2,), (2,)), calls=7, phase="forward")
    assert (tally.calls, tally.flop, tally.uncounted) == (7, 0, ())


def test_a_phase_outside_the_contract_is_a_mistake():
    with pytest.raises(ValueError):
        BOOK.count(OpCall.of("aten::mm", (2, 3), (3, 5)), calls=1, phase="warmup")


class Point:
    """Stands for the entry point of an installed package."""

    value = "somebody.formulas:FORMULAS"

    def __init__(self, name, table):
        self.name, self._table = name, table

    def load(self):
        if isinstance(self._table, BaseException):
            raise self._table
        return self._table


def test_an_installed_package_brings_its_formulas(monkeypatch):
    good = Point("a", {"mylib::attn": ("attention", make(2))})
    monkeypatch.setattr(books, "entry_points", lambda group: [good] if group == "flopmeter.formulas" else [])
    book = FormulaBook.installed()
    assert book.cost(CALL).flop == 12
    assert book.foreign == {"mylib::attn": f"{__name__}.make.<locals>.count"}
    assert book.digest != BOOK.digest


@pytest.mark.parametrize(
    "table", [ImportError("no such module"), SystemExit(2), {"mylib::attn": 3}, {"attn": ("attention", make(2))}]
)
def test_a_package_that_cannot_be_used_is_left_out(monkeypatch, caplog, table):
    """Else somebody's broken package stops a training run at its start."""
    monkeypatch.setattr(books, "entry_points", lambda **_: [Point("bad", table)])
    assert FormulaBook.installed() == BOOK
    assert "entry point bad" in caplog.text


def test_the_standard_book_has_no_foreign_formula():
    assert BOOK.foreign == {}


def test_a_part_may_have_a_precision_of_its_own():
    """Else scaling in fp32 is written down as integer work, or an 8-bit product as fp32."""
    parts = Cost.of(Part(kind="matmul", flop=60, precision="int8"), Part(kind="pointwise", flop=10))
    book = BOOK.with_formula("mylib::attn", lambda _: parts, kind="matmul")
    tally = book.count(CALL, calls=2, phase="forward")
    assert (tally.flop, tally.int_op) == (20, 120)
    assert {name: part.calls for name, part in tally.by("precision").items()} == {"int8": 2, "fp32": 0}


def test_only_products_are_done_in_tf32():
    """Else a bias that is added in fp32 passes for work of tensor cores."""
    call = OpCall.of("aten::addmm", (5,), (2, 3), (3, 5), precision="tf32")
    tally = BOOK.count(call, calls=1, phase="forward")
    assert tally.select(precision="tf32").flop == 60
    assert tally.select(precision="fp32").flop == 10


def test_a_complex_call_is_looked_up_as_one():
    book = BOOK.with_formula("complex::mylib.attn", lambda _: 99, kind="attention")
    call = OpCall.of("mylib::attn", (2, 3), dtype="complex64", out=[(2, 3)])
    assert book.cost(call).flop == 99
    assert book.cost(CALL) is None


if __name__ == "__main__":
    Path(books.__file__).with_name(INDEX).write_text(make_index(), encoding="ascii")
