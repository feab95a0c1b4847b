"""The known-answer test of the counter on this torch build."""

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from flopmeter import Account, Meter
from flopmeter.formulas.book import FormulaBook
from flopmeter.sensors.self_test import run_self_test


def test_the_counter_knows_the_answers_on_this_build():
    """Else every figure of every run on this torch is in doubt, and the ledger says so."""
    test = run_self_test(FormulaBook.standard())
    assert test.has_passed, test.to_wire()
    assert test.torch_version == torch.__version__
    assert len(test.answers) >= 3


def test_a_wrong_formula_fails_it():
    book = FormulaBook.standard().with_formula("aten::mm", lambda _call: 1, kind="matmul")
    test = run_self_test(book)
    assert not test.has_passed
    assert test.to_wire()["passed"] is False


def test_a_formula_that_crashes_fails_it_and_raises_nothing():
    def crash(_call):
        raise ValueError

    assert not run_self_test(FormulaBook.standard().with_formula("aten::mm", crash, kind="matmul")).has_passed


def test_it_changes_nothing_of_the_users():
    """A run that starts with a meter must draw the same random numbers as one without."""
    torch.manual_seed(7)
    state = torch.get_rng_state()
    settings = (torch.get_default_dtype(), torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"))
    run_self_test(FormulaBook.standard())
    assert torch.equal(torch.get_rng_state(), state)
    assert settings == (torch.get_default_dtype(), torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"))


def test_it_gives_the_same_answers_under_any_setting_of_the_users():
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            assert run_self_test(FormulaBook.standard()).has_passed
        with torch.no_grad(), torch.device("meta"):
            assert run_self_test(FormulaBook.standard()).has_passed
    finally:
        torch.set_default_dtype(torch.float32)


def test_nothing_of_the_users_sees_it_and_nothing_of_the_users_disturbs_it(tmp_path):
    """If this failed, a second meter would add the self-test to the first one's figure, or a hook fail the counter."""

    def refuse(_tensor):
        raise AssertionError

    class Refusing(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            raise AssertionError

    depth = torch._C._len_torch_dispatch_stack()
    with Meter(tmp_path, exact=True), FlopCounterMode(display=False) as users:
        with torch.autograd.graph.saved_tensors_hooks(refuse, refuse), Refusing():
            test = run_self_test(FormulaBook.standard())
        assert torch._C._len_torch_dispatch_stack() == depth + 2
    assert test.has_passed, test.to_wire()
    assert users.get_total_flops() == 0
    account = Account.of(tmp_path)
    assert (account.flop, account.gaps) == (0, ())


def test_it_leaves_saved_tensor_hooks_forbidden_where_they_were():
    with torch.autograd.graph.disable_saved_tensors_hooks("not here"):
        assert run_self_test(FormulaBook.standard()).has_passed
        with pytest.raises(RuntimeError, match="not here"), torch.autograd.graph.save_on_cpu():
            pass
