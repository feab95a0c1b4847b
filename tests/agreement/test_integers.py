"""Integers and floats: what is counted apart, what is a FLOP, and what costs nothing, as torch runs it."""

import pytest
import torch

from flopmeter.formulas.book import FormulaBook
from flopmeter.testing.calls import price_rows, record_calls

BOOK = FormulaBook.standard()
NUMBERS = torch.arange(12).view(3, 4)
VALUES = torch.rand(3, 4)
MASK = VALUES > 0.5


def count(work):
    with torch.no_grad():
        tally = price_rows(record_calls(work), BOOK)
    return tally.flop, tally.int_op


CASES = {
    "places of a batch": (lambda: NUMBERS + 1, 0, 12),
    "positions times a stride": (lambda: NUMBERS * 4 + 1, 0, 24),
    "ids counted up": (lambda: NUMBERS.cumsum(1), 0, 9),
    "a mask counted up": (lambda: MASK.cumsum(1), 0, 9),
    "a mask added up": (MASK.sum, 0, 11),
    "hashed ids": (lambda: NUMBERS % 7, 0, 36),
    "bits": (lambda: NUMBERS & 3, 0, 12),
    "bits of a mask": (lambda: MASK & MASK, 0, 0),
    "a product of integers": (lambda: torch.ones(2, 3, dtype=torch.int32) @ torch.ones(3, 4, dtype=torch.int32), 0, 48),
    "angles of positions": (lambda: NUMBERS * 0.5, 12, 0),
    "an integer over an integer": (lambda: NUMBERS / 3, 12, 0),
    "a root of an integer": (NUMBERS.sqrt, 12, 0),
    "a mean of integers": (lambda: NUMBERS.mean(dtype=torch.float32), 12, 0),
    "a share of a mask": (lambda: MASK.float().mean(), 12, 0),
    "a value times a mask": (lambda: VALUES * MASK, 12, 0),
    "a value times an integer": (lambda: VALUES * NUMBERS, 12, 0),
    "a value over a count": (lambda: VALUES.sum() / MASK.sum(), 11 + 1, 11),
    "sorting": (lambda: (VALUES.sort(), VALUES.argsort(), NUMBERS.sort()), 0, 0),
    "the best of them": (lambda: (VALUES.topk(2), VALUES.argmax(1), NUMBERS.max()), 0, 0),
    "looking up": (lambda: (VALUES[NUMBERS[0, :3]], VALUES.gather(1, NUMBERS[:, :2] % 1)), 0, 18),
    "casts": (lambda: (VALUES.int(), NUMBERS.float(), VALUES.round()), 0, 0),
    "one-hot": (lambda: torch.nn.functional.one_hot(NUMBERS[0], 20), 0, 0),
    "counting": (lambda: (torch.bincount(NUMBERS.flatten()), torch.count_nonzero(VALUES), NUMBERS.unique()), 0, 0),
}


@pytest.mark.parametrize("name", CASES)
def test_what_torch_computes_in_integers_is_counted_apart(name):
    """Else index arithmetic inflates a run's FLOP, or floating-point work hides among integers."""
    work, flop, integers = CASES[name]
    assert count(work) == (flop, integers)
