"""The known-answer test of the counter on this torch build."""

import torch

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
