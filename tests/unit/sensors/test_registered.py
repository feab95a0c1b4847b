"""Formulas registered with torch's own counter: used where the book has none, under their own name."""

import pytest
import torch
from torch.utils import flop_counter

from flopmeter import Meter
from flopmeter.formulas.book import FormulaBook
from flopmeter.sensors.registered import with_registered

BOOK = FormulaBook.standard()


@torch.library.custom_op("registered_test::mix", mutates_args=())
def mix(x: torch.Tensor, w: torch.Tensor, scale: float) -> torch.Tensor:
    return x @ w * scale


def mix_flop(x_shape, w_shape, scale, *, out_shape=None, **_):
    (rows, inner), columns = x_shape, w_shape[1]
    assert list(out_shape) == [rows, columns]
    return 2 * rows * inner * columns


def mix_flop_of_tensors(x, w, scale, *, out_val=None, **_):
    return 2 * x.numel() * w.shape[1]


@pytest.fixture(params=[False, True])
def registered(request, monkeypatch):
    """Register a formula as a library would, of shapes or of tensors; take it back afterwards."""
    monkeypatch.setattr(flop_counter, "flop_registry", dict(flop_counter.flop_registry))
    formula = mix_flop_of_tensors if request.param else mix_flop
    flop_counter.register_flop_formula(torch.ops.registered_test.mix, get_raw=request.param)(formula)
    return formula


def test_a_formula_that_a_library_registered_is_used_and_named(registered, tmp_path):
    """Else a library's own word on what its kernels cost is ignored, or passes for ours."""
    with Meter(tmp_path / "run", strict=True) as meter:
        mix(torch.rand(2, 3), torch.rand(3, 5), 0.5)
        meter.step()
    account = meter.account()
    assert account.tally.select(op="registered_test::mix", kind="other").flop == 2 * 2 * 3 * 5
    assert account.tally.uncounted == ()
    assert account.foreign_formulas == {"registered_test::mix": f"{__name__}.{registered.__qualname__}"}
    assert account.books != (BOOK.digest,)


@pytest.mark.usefixtures("registered")
def test_what_the_book_prices_itself_is_never_borrowed():
    """Else causal attention is counted in full again, as torch's formulas have it."""
    book = with_registered(BOOK)
    assert {op: entry for op, entry in book.entries.items() if op in BOOK.entries} == BOOK.entries


def test_without_strangers_the_book_stays_the_standard_one():
    """Else two installations of one version write different digests."""
    assert with_registered(BOOK).digest == BOOK.digest


def test_another_formula_of_the_same_name_is_another_book(monkeypatch):
    """Else a library changes its formula and the ledger does not show it."""
    digests = []
    for factor in (2, 3):
        monkeypatch.setattr(flop_counter, "flop_registry", {})

        def formula(*_, factor=factor, out_shape=None, **__):
            return factor

        flop_counter.register_flop_formula(torch.ops.registered_test.mix)(formula)
        digests.append(with_registered(BOOK).digest)
    assert len({BOOK.digest, *digests}) == 3


def test_a_torch_without_a_registry_has_nothing_to_borrow(monkeypatch):
    monkeypatch.delattr(flop_counter, "flop_registry")
    assert with_registered(BOOK) is BOOK


@pytest.mark.parametrize("figure", [3.7, "12", -1, None, 10**80])
def test_a_figure_that_is_no_count_leaves_the_operator_uncounted_and_the_rest_counted(monkeypatch, tmp_path, figure):
    """Else a library's odd figure is rounded into the record, or takes the whole passage with it."""
    monkeypatch.setattr(flop_counter, "flop_registry", {})
    flop_counter.register_flop_formula(torch.ops.registered_test.mix)(lambda *_, **__: figure)
    with Meter(tmp_path / "run") as meter:
        mix(torch.rand(2, 3), torch.rand(3, 5), 0.5)
        torch.mm(torch.rand(2, 3), torch.rand(3, 5))
        meter.step()
    tally = meter.account().tally
    assert [seen.op for seen in tally.uncounted] == ["registered_test::mix"]
    assert tally.select(kind="matmul").flop == 60


def test_a_formula_of_an_operator_that_is_given_functions_is_used(monkeypatch, metered):
    """Torch takes formulas of those since 2.13; what they call is else all that there is, and of some it is nothing."""
    from torch._C import DispatchKey
    from torch._ops import HigherOrderOperator

    class Twice(HigherOrderOperator):
        def __init__(self):
            super().__init__("registered_test_twice")

        def __call__(self, x):
            return super().__call__(x)

    def below_autograd(x):
        with torch._C._AutoDispatchBelowAutograd():
            return twice(x)

    twice = Twice()
    twice.py_impl(DispatchKey.CompositeExplicitAutograd)(lambda x: x + x)
    twice.py_impl(DispatchKey.AutogradCPU)(below_autograd)
    formula = flop_counter.shape_wrapper(lambda shape, **_: 2 * shape[0])
    formula.__module__ = __name__
    monkeypatch.setattr(flop_counter, "flop_registry", {**flop_counter.flop_registry, twice: formula})
    account = metered(lambda meter: twice(torch.ones(7)), exact=True)
    assert account.tally.select(op="higher_order::registered_test_twice").flop == 14
    assert "higher_order::registered_test_twice" in account.foreign_formulas


def test_a_kernel_of_triton_is_no_operator(monkeypatch):
    """Its formula is asked at its launches (`triton_kernels.py`); no operator has its name."""
    monkeypatch.setattr(flop_counter, "flop_registry", {**flop_counter.flop_registry, object(): mix_flop})
    assert with_registered(BOOK).digest == BOOK.digest
