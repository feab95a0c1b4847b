"""Jagged tensors of recommender libraries (FBGEMM): rows of all examples one behind the other.

The rows that are there are counted, and none of the padding: their number is that of the values.
Not here: embedding tables with their fused optimizers, whose calls say too little; they stay uncounted.
"""

from collections.abc import Callable

from flopmeter.formulas.call import OpCall
from flopmeter.formulas.cost import Cost, Part
from flopmeter.formulas.rates import count_nothing

# L rows of all examples, B examples, n elements of the values, m of the result

PRODUCTS = {
    "jagged_dense_bmm": (0, 2),
    "jagged_dense_bmm_forward": (0, 2),
    "jagged_jagged_bmm": (0, 1),
    "jagged_jagged_bmm_forward": (0, 1),
    "sll_jagged_dense_bmm": (0, 1),
    "sll_jagged_jagged_bmm": (0, 1),
}
"""Where both operands of a product stand."""

RATES = {
    "jagged_dense_elementwise_add_jagged_output": 1,
    "jagged_dense_dense_elementwise_add_jagged_output": 2,
    "jagged_dense_dense_elementwise_add_jagged_output_forward": 2,
    "jagged_dense_elementwise_mul": 1,
    "jagged_dense_elementwise_mul_forward": 1,
    "sll_jagged_dense_elementwise_mul_jagged_out": 1,
}
"""Operations for each element of the values."""

NOTHING = (
    *("batched_unary_embeddings", "block_bucketize_sparse_features", "bottom_k_per_row", "bounds_check_indices"),
    *("dense_to_jagged", "dense_to_jagged_forward", "expand_into_jagged_permute", "group_index_select_dim0"),
    *("index_select_dim0", "invert_permute", "jagged_1d_to_dense", "jagged_2d_to_dense"),
    *("jagged_index_select_2d_forward", "jagged_index_select_2d_forward_v2", "jagged_slice", "jagged_slice_forward"),
    *("jagged_to_padded_dense", "jagged_to_padded_dense_backward", "jagged_to_padded_dense_forward"),
    *("linearize_cache_indices", "lru_cache_populate", "lxu_cache_lookup", "lxu_cache_locations_update"),
    *("masked_select_jagged_1d", "merge_pooled_embeddings", "offsets_range", "pack_segments"),
    *("pack_segments_backward", "permute_1D_sparse_data", "permute_2D_sparse_data", "permute_multi_embedding"),
    *("permute_pooled_embs_auto_grad", "permute_sequence_embeddings", "permute_sparse_data", "regroup_keyed_tensor"),
    *("sll_dense_jagged_cat_jagged_out", "sll_jagged2_to_padded_dense", "stacked_jagged_1d_to_dense"),
    *("stacked_jagged_2d_to_dense", "stacked_jagged_2d_to_dense_backward", "stacked_jagged_2d_to_dense_forward"),
    *("tbe_input_combine", "transpose_embedding_input", "uvm_to_cpu"),
)
"""Padding, unpadding, permuting, picking, caching."""


def count_jagged_product(call: OpCall) -> int:
    """Cost of a product for each example, over the rows that are there.

    Shapes: jagged x (L, K) and dense y (B, K, N) → (L, N); or jagged x (L, M) and y (L, N) → (B, M, N).
    Counts: 2·L·K·N, or 2·L·M·N.
    Ignores: padding.
    Source: docs/spec/fm-1.md#jagged.

    Raises:
        FormulaError: the shapes do not fit.

    Example:
        >>> count_jagged_product(OpCall.of("fbgemm::jagged_dense_bmm_forward", (10, 4), (4,), (3, 4, 8), 5))
        640
    """
    x, y = (call.tensor(place).shape for place in PRODUCTS[call.op.removeprefix("fbgemm::")])
    is_dense = len(y) == 3
    if len(x) != 2 or (x[1] != y[1] if is_dense else len(y) != 2 or x[0] != y[0]):
        call.refuse(f"{x} and {y} do not fit")
    return 2 * x[0] * x[1] * y[-1]


def count_weighted_rows(call: OpCall) -> int:
    """Cost of a dense vector times the jagged rows of each example, and of both gradients.

    Shapes: v (B·H, N), values (L, H·D) with n elements → (B·H, D).
    Counts: 2·n; 4·n for the gradients of both.
    Ignores: padding.
    Source: docs/spec/fm-1.md#jagged.

    Example:
        >>> count_weighted_rows(OpCall.of("fbgemm::batched_dense_vec_jagged_2d_mul_forward", (6, 5), (10, 8), (4,)))
        160
    """
    if call.op.endswith("_backward"):
        return 4 * call.tensor(2).size
    return 2 * call.tensor(1).size


def count_rowwise(call: OpCall) -> int:
    """Cost of adding or multiplying a dense tensor where there are rows.

    Shapes: values with n elements, dense tensors (B, …, D) → as the values.
    Counts: n times the rate in `RATES`.
    Source: docs/spec/fm-1.md#jagged.

    Example:
        >>> count_rowwise(OpCall.of("fbgemm::jagged_dense_elementwise_mul_forward", (10, 4), [(3,)], (2, 6, 4)))
        40
    """
    return RATES[call.op.removeprefix("fbgemm::")] * call.tensor(0).size


def count_product_gradient(call: OpCall) -> int:
    """Cost of the gradients of a product with a dense tensor where there are rows.

    Shapes: dy and the values with n elements → the gradients of both.
    Counts: 2·n: dy·y, dy·x.
    Source: docs/spec/fm-1.md#jagged.

    Example:
        >>> op = "fbgemm::jagged_dense_elementwise_mul_backward"
        >>> count_product_gradient(OpCall.of(op, (10, 4), [(3,)], (2, 6, 4), (10, 4)))
        80
    """
    return 2 * call.tensor(0).size


def count_jagged_softmax(call: OpCall) -> int:
    """Cost of a softmax over the rows of each example, and of its gradient.

    Shapes: values (L, D) with n elements, offsets (B + 1,).
    Counts: 4·n − B·D: subtract the maximum, exp, sum, divide. As much for the gradient.
    Ignores: examples without a row.
    Source: docs/spec/fm-1.md#jagged.

    Raises:
        FormulaError: the values are no (L, D).

    Example:
        >>> count_jagged_softmax(OpCall.of("fbgemm::jagged_softmax_forward", (10, 4), (3,), 6))
        152
    """
    values, offsets = call.tensor(0), call.tensor(2 if call.op.endswith("_backward") else 1)
    if len(values.shape) != 2:
        call.refuse(f"{values} is no (L, D)")
    return max(0, 4 * values.size - (offsets.size - 1) * values.shape[1])


def count_segment_sum(call: OpCall) -> int:
    """Cost of the sums of segments.

    Shapes: values with n elements → m elements.
    Counts: n − m.
    Source: docs/spec/fm-1.md#jagged.

    Example:
        >>> count_segment_sum(OpCall.of("fbgemm::segment_sum_csr", 2, (4,), (20,), out=[(3,)]))
        17
    """
    return max(0, call.tensor(2).size - call.out_size)


def count_running_sum(call: OpCall) -> int:
    """Cost of a running sum of lengths.

    Shapes: n lengths.
    Counts: n − 1, integer operations.
    Source: docs/spec/fm-1.md#jagged.

    Example:
        >>> count_running_sum(OpCall.of("fbgemm::asynchronous_complete_cumsum", (10,), dtype="int64", out=[(11,)]))
        9
    """
    return max(0, call.tensor(0).size - 1)


def count_batched_linear(call: OpCall) -> Cost:
    """Cost of a linear layer for each of a batch in the middle.

    Shapes: bias (B, N), a (M, B, K), b (B, K, N) → (M, B, N).
    Counts: matmul 2·M·B·K·N, pointwise M·B·N.
    Source: docs/spec/fm-1.md#jagged.

    Raises:
        FormulaError: the shapes do not fit.

    Example:
        >>> count_batched_linear(OpCall.of("fbgemm::permute102_baddbmm_permute102", (3, 6), (5, 3, 4), (3, 4, 6))).flop
        810
    """
    a, b = call.tensor(1).shape, call.tensor(2).shape
    if len(a) != 3 or len(b) != 3 or a[1:] != b[:2]:
        call.refuse(f"{a} and {b} do not fit")
    size = a[0] * a[1] * b[2]
    return Cost.of(Part(kind="matmul", flop=2 * size * a[2]), Part(kind="pointwise", flop=size))


FORMULAS: dict[str, tuple[str, Callable[[OpCall], int | Cost]]] = {
    **{f"fbgemm::{name}": ("matmul", count_jagged_product) for name in PRODUCTS},
    "fbgemm::batched_dense_vec_jagged_2d_mul": ("matmul", count_weighted_rows),
    "fbgemm::batched_dense_vec_jagged_2d_mul_forward": ("matmul", count_weighted_rows),
    "fbgemm::batched_dense_vec_jagged_2d_mul_backward": ("matmul", count_weighted_rows),
    "fbgemm::permute102_baddbmm_permute102": ("matmul", count_batched_linear),
    **{f"fbgemm::{name}": ("pointwise", count_rowwise) for name in RATES},
    "fbgemm::jagged_dense_elementwise_mul_backward": ("pointwise", count_product_gradient),
    "fbgemm::jagged_softmax": ("normalization", count_jagged_softmax),
    "fbgemm::jagged_softmax_forward": ("normalization", count_jagged_softmax),
    "fbgemm::jagged_softmax_backward": ("normalization", count_jagged_softmax),
    "fbgemm::sll_jagged_softmax": ("normalization", count_jagged_softmax),
    "fbgemm::segment_sum_csr": ("reduction", count_segment_sum),
    "fbgemm::asynchronous_complete_cumsum": ("reduction", count_running_sum),
    "fbgemm::asynchronous_exclusive_cumsum": ("reduction", count_running_sum),
    "fbgemm::asynchronous_inclusive_cumsum": ("reduction", count_running_sum),
    **{f"fbgemm::{name}": ("other", count_nothing) for name in NOTHING},
}
