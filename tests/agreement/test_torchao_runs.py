"""Operators of torchao against that package's own forms in Python, where it is installed and a CPU can run them."""

import pytest
import torch

from flopmeter.formulas.book import FormulaBook
from flopmeter.testing.calls import price_rows, record_calls

primitives = pytest.importorskip("torchao.quantization.quant_primitives")
BOOK = FormulaBook.standard()


def record(work):
    with torch.no_grad():
        return price_rows(record_calls(work, book=BOOK), BOOK)


@pytest.mark.parametrize("shape", [(4, 1), (1, 1), (4, 8)])
def test_scaling_to_fp8_and_back_costs_what_its_own_form_costs(shape):
    data, scale = torch.rand(4, 16), torch.rand(shape) + 1
    cast = primitives._quantize_affine_float8(data, scale)
    ops = torch.ops.torchao
    pairs = [
        (lambda: ops.quantize_affine_float8_non_decomposed(data, scale), primitives._quantize_affine_float8, data),
        (lambda: ops.dequantize_affine_float8_non_decomposed(cast, scale), primitives._dequantize_affine_float8, cast),
    ]
    for operator, form, given in pairs:
        assert record(operator).flop == record(lambda form=form, given=given: form(given, scale)).flop == 4 * 16
