"""What is known of an operator before it runs: which are plain, which need another state of torch."""

import pytest
import torch

from flopmeter.formulas.book import FormulaBook
from flopmeter.sensors.operators import Operator

ATEN = torch.ops.aten
BOOK = FormulaBook.standard()


def known(func) -> Operator:
    operator = Operator(func)
    operator.ask(BOOK)
    return operator


@pytest.mark.parametrize(
    ("func", "is_plain"),
    [
        (ATEN.mm.default, True),
        (ATEN.linear.default, False),  # composite
        (ATEN.nonzero.default, False),  # its values decide how large its result is
        (ATEN._grouped_mm.default, False),  # its formula reads the offsets
        (ATEN.resize_.default, False),  # what comes out is its operand, in another shape
        (torch.ops.higher_order.cond, False),
    ],
)
def test_plain_is_what_shapes_alone_tell(func, is_plain):
    """If this failed, the short way would be taken by a call of which it does not see what it costs."""
    assert known(func).is_plain is is_plain


@pytest.mark.parametrize(
    ("func", "is_quiet"),
    [
        (ATEN.add_.Tensor, True),
        (ATEN.clone.default, True),
        (ATEN.mvlgamma.default, False),  # element by element, but it calls `log`, which autocast would cast
        (ATEN.mm.default, False),
        (ATEN.linalg_pinv.atol_rtol_tensor, False),
    ],
)
def test_quiet_is_what_calls_nothing_that_torchs_state_would_change(func, is_quiet):
    """If this failed, a metered operator would answer in another precision, or with another sign."""
    assert known(func).is_quiet is is_quiet


def test_an_operator_of_others_is_never_quiet_whatever_its_tags_say():
    """If this failed, one tag on a user's operator would take autocast away from what it calls."""
    with torch.library._scoped_library("flopmeter_test_quiet", "FRAGMENT") as library:
        library.define("scale(Tensor x) -> Tensor", tags=[torch.Tag.pointwise])
        library.impl("scale", lambda x: x * 2, "CPU")
        operator = known(torch.ops.flopmeter_test_quiet.scale.default)
    assert operator.is_foreign
    assert not operator.is_quiet


@pytest.mark.parametrize(
    ("func", "is_skipped"),
    [(ATEN.view.default, True), (ATEN.mm.default, False), (torch.ops.profiler._record_function_enter.default, True)],
)
def test_views_and_marks_are_passed_over(func, is_skipped):
    assert known(func).is_skipped is is_skipped


def test_what_the_dispatcher_does_not_know_can_be_met():
    """If this failed, torch would end the process: it asks a tensor of a class of its own for its device like this."""
    assert not known(torch.ops.prim.device.default).calls_others


def test_before_it_is_known_it_is_run_and_passed_over():
    operator = Operator(ATEN.mm.default)
    assert operator.is_plain
    assert operator.is_skipped
    assert torch.equal(operator.run(torch.eye(2), torch.eye(2)), torch.eye(2))
