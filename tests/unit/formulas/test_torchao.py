"""Operators of torchao, counted in named steps."""

import pytest

from flopmeter.errors import FormulaError
from flopmeter.formulas.call import OpCall, TensorSpec
from flopmeter.formulas.torchao import CASTING, FORMULAS, MOVING

E4, E5 = "fp8_e4m3", "fp8_e5m2"
M, K, N = 4, 320, 8


def parts_of(op, *args, out=()):
    cost = FORMULAS[op][1](OpCall(op=op, args=OpCall.of(op, *args).args, out=tuple(out)))
    return {(part.kind, part.precision): part.flop for part in cost.parts}


def terms(rows, columns, inner):
    return sum(2 for _ in range(rows) for _ in range(columns) for _ in range(inner))


def scaling(outputs, blocks, *more):
    """Two factors for the sum over each block of an output, and what else touches it once."""
    return outputs * (sum(2 for _ in blocks) + len(more))


A, B, FLAT = TensorSpec((M, K), E4), TensorSpec((K, N), E4), TensorSpec(())
BLOCKS = [range(128), range(128, 256), range(256, 320)]


@pytest.mark.parametrize(
    "name", ["blockwise_scaled_mm", "triton_fp8_gemm_1x128_128x128", "triton_fp8_gemm_1x128_128x1"]
)
def test_blocks_have_scales_of_their_own(name):
    """Else the same training costs another figure under another library's kernel."""
    assert parts_of(f"torchao::{name}", A, B, (M, 3), (3, 1)) == {
        ("matmul", E4): terms(M, N, K),
        ("pointwise", "fp32"): scaling(M * N, BLOCKS),
    }


def test_a_second_operand_may_be_kept_the_other_way_round():
    weight = TensorSpec((N, K), E5)
    assert parts_of("ao::blockwise_fp8_gemm", A, (M, 3), weight, (1, 3)) == {
        ("matmul", f"{E4}*{E5}"): terms(M, N, K),
        ("pointwise", "fp32"): scaling(M * N, BLOCKS),
    }


def test_other_scaled_products():
    whole = [range(K)]
    assert parts_of("torchao::mx_fp8_bf16", A, B, FLAT, FLAT) == {
        ("matmul", "mxfp8"): terms(M, N, K),
        ("pointwise", "fp32"): scaling(M * N, range(0, K, 32)),
    }
    integers = TensorSpec((M, K), "int8"), TensorSpec((K, N), "int8")
    assert parts_of("torchao::scaled_int8_mm", *integers, TensorSpec((M, 1), "bf16"), TensorSpec((), "bf16")) == {
        ("matmul", "int8"): terms(M, N, K),
        ("pointwise", "fp32"): scaling(M * N, whole),
    }
    assert parts_of("torchao::swizzle_mm", TensorSpec((M, K), "bf16"), TensorSpec((K, N), "bf16"), True, False) == {
        ("matmul", "bf16"): terms(M, N, K)
    }
    assert parts_of("torchao::swizzle_scaled_mm", A, B, True, False, FLAT, FLAT, (N,), FLAT)["pointwise", "fp32"] == (
        scaling(M * N, whole, "bias", "scale of the result")
    )


def test_packed_layers_on_a_cpu():
    x, weight = TensorSpec((2, M, K), E4), TensorSpec((1, 5, 64, N), E4)
    found = parts_of(
        "torchao::float8_linear_cpu", x, (M, 5), weight, (1, 5, N), (N,), None, out=[TensorSpec((2, M, N))]
    )
    assert found == {
        ("matmul", E4): 2 * terms(M, N, K),
        ("pointwise", "fp32"): scaling(2 * M * N, range(5), "bias"),
    }
    x, weight, scales = TensorSpec((M, K), "uint8"), TensorSpec((1, 5, 64, 4), "uint8"), TensorSpec((1, 5, N))
    args = [x, (M,), (M,), weight, scales, (1, 5, N), (1, 5, N), None, None]
    assert parts_of("torchao::da8w4_linear_cpu", *args, out=[TensorSpec((M, N))]) == {
        ("matmul", "int8"): terms(M, N, K),
        ("pointwise", "fp32"): scaling(M * N, range(5), "row"),
    }


def test_blocks_that_are_stored_are_multiplied():
    values = TensorSpec((3, 4, 4), "bf16")
    args = [TensorSpec((8, 5), "bf16"), (3,), (3,), values, 8, 8, None]
    assert parts_of("blocksparse::addmm", *args) == {("matmul", "bf16"): 3 * terms(4, 5, 4)}
    args = [(3,), (3,), TensorSpec((3, 4, 4), "int8"), TensorSpec((8, 5), "int8"), (8,), (5,)]
    assert parts_of("blocksparse::int_addmm", *args) == {
        ("matmul", "int8"): 3 * terms(4, 5, 4),
        ("pointwise", "fp32"): 8 * 5 * 2,
    }


@pytest.mark.parametrize("op", CASTING)
def test_a_cast_finds_its_scales_on_the_way(op):
    """Else casting is free in a kernel and counted in torch's own operators."""
    elements, scales = CASTING[op]
    out = [TensorSpec(())] * (len(elements) + len(scales))
    for index in elements:
        out[index] = TensorSpec((M, K), E4)
    for index in scales:
        out[index] = TensorSpec((M, 10), "fp8_e8m0")
    each = M * K * len(["absolute value", "factor"]) + M * 10 * len(["largest by largest", "inverse"])
    assert parts_of(op, TensorSpec((M, K), "bf16"), out=out) == {("pointwise", "fp32"): len(elements) * each}


def test_a_cast_along_one_dimension_of_two():
    empty = TensorSpec((0,), E4)
    out = [empty, TensorSpec((M, K), E4), TensorSpec((0,), "fp8_e8m0"), TensorSpec((K, 1), "fp8_e8m0")]
    found = parts_of("torchao::mxfp8_quantize", TensorSpec((M, K), "bf16"), False, True, out=out)
    assert found == {("pointwise", "fp32"): 2 * M * K + 2 * K}


def test_scales_that_are_given_are_factors():
    assert parts_of("torchao::quantize_affine_float8_non_decomposed", (M, K), (M, 1)) == {("pointwise", "fp32"): M * K}
    found = parts_of("torchao::triton_mxfp8_dequant_dim0", A, TensorSpec((M, 10), "fp8_e8m0"), None)
    assert found == {("pointwise", "fp32"): M * K + M * 10}


@pytest.mark.parametrize("op", MOVING)
def test_moving_costs_nothing(op):
    assert FORMULAS[op][1](OpCall.of(op, (4, 8))).flop == 0


@pytest.mark.parametrize(
    ("op", "args", "out"),
    [
        ("torchao::scaled_int8_mm", [A, A, FLAT, FLAT], []),
        ("torchao::scaled_int8_mm", [TensorSpec((2, M, K), E4), B, FLAT, FLAT], []),
        ("ao::blockwise_fp8_gemm", [A, FLAT, B, FLAT], []),
        ("torchao::float8_linear_cpu", [A, FLAT, B, TensorSpec((5, 3)), None], [TensorSpec((M, N))]),
        ("torchao::float8_linear_cpu", [A, FLAT, B, TensorSpec((5, N)), None], [TensorSpec((M + 1, N))]),
    ],
)
def test_what_does_not_fit_is_refused(op, args, out):
    with pytest.raises(FormulaError, match=op):
        parts_of(op, *args, out=out)
