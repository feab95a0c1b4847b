"""Products that travel: torch's fused collectives on symmetric memory.

A rank is charged with what it multiplies itself: all rows once they are gathered, or before they are scattered.
Adding up what the ranks send is a collective and costs nothing, as everywhere.
Not here: plain products (`matmul`), collectives under their own names (`movement`).
"""

from collections.abc import Callable

from flopmeter.errors import FormulaError
from flopmeter.formulas.call import OpCall, TensorSpec, derive_precision
from flopmeter.formulas.cost import Cost, Part

# K inner size, m elements of one result

NOTHING = (
    *("_barrier", "_low_contention_all_gather", "_low_contention_reduce_scatter", "_rendezvous", "all_to_all_vdev"),
    *("all_to_all_vdev_2d", "all_to_all_vdev_2d_offset", "get_remote_tensors", "memset32_", "multi_root_tile_reduce"),
    *("multimem_all_gather_out", "multimem_all_reduce_", "multimem_one_shot_all_reduce"),
    *("multimem_one_shot_all_reduce_out", "multimem_one_shot_reduce_out", "nccl_get", "nccl_put", "nccl_put_signal"),
    *("nccl_put_with_signal", "nccl_reduce_scatter_offset", "nccl_wait_for_signal", "nccl_wait_signal"),
    *("nvshmem_all_to_all", "nvshmem_broadcast", "nvshmem_get", "nvshmem_put", "nvshmem_put_with_signal"),
    *("nvshmem_wait_for_signal", "one_shot_all_reduce", "one_shot_all_reduce_copy", "one_shot_all_reduce_copy_out"),
    *("one_shot_all_reduce_out", "reduce_scatter_out", "stream_write_value32_", "tile_reduce"),
    *("two_shot_all_reduce_", "two_shot_all_reduce_out"),
)
"""Collectives, copies and signals."""

SCALED = {
    "symm_mem::fused_all_gather_scaled_matmul",
    "symm_mem::fused_scaled_matmul_reduce_scatter",
}


def count_gathered(call: OpCall) -> Cost:
    """Cost of gathering the rows (or the inner dimension) of A from all ranks and multiplying them with each B.

    Shapes: A (…, K) of this rank, B_i (K', N_i) → A gathered optional, results y_i (…, N_i).
    Counts: 2·m_i·K' for each result of m_i elements; scaled, 2·m_i in fp32 for the scales, m_i each for a bias and a
        scale of the result.
    Ignores: the gathering.
    Source: docs/spec/fm-1.md#symmetric.

    Raises:
        FormulaError: the results are not those of the products.

    Example:
        >>> args = (4, 8), [(8, 6), (8, 2)], 0, "group"
        >>> op = "symm_mem::fused_all_gather_matmul"
        >>> count_gathered(OpCall.of(op, *args, out=[(16, 8), (16, 6), (16, 2)])).flop
        2048
    """
    weights = call.tensor_list(1)
    results = call.out[-len(weights) :]
    if len(call.out) not in {len(weights), len(weights) + 1}:
        _refuse(call, f"{len(call.out)} results of {len(weights)} products")
    for weight, result in zip(weights, results, strict=True):
        if len(weight.shape) != 2 or not result.shape or weight.shape[1] != result.shape[-1]:
            _refuse(call, f"{weight.shape} does not give {result.shape}")
    products = sum(2 * result.size * weight.shape[0] for weight, result in zip(weights, results, strict=True))
    if call.op not in SCALED:
        return Cost.of(Part(kind="matmul", flop=products))
    more = sum(_is_given(call, place, index) * result.size for place in (6, 7) for index, result in enumerate(results))
    return _price_scaled((call.tensor(0), *weights), products, 2 * sum(result.size for result in results) + more)


def count_scattered(call: OpCall) -> Cost:
    """Cost of a product whose rows are added up over all ranks and scattered to them.

    Shapes: A (…, K), B (K, N) → this rank's share of (…, N).
    Counts: 2·numel(A)·N; scaled, 2·m in fp32 for the scales with m elements of the whole product, m each for a bias and
        a scale of the result.
    Ignores: adding up and scattering.
    Source: docs/spec/fm-1.md#symmetric.

    Raises:
        FormulaError: A and B do not fit.

    Example:
        >>> args = (16, 8), (8, 6), "sum", 0, "group"
        >>> count_scattered(OpCall.of("symm_mem::fused_matmul_reduce_scatter", *args, out=[(4, 6)])).flop
        1536
    """
    a, b = call.tensor(0), call.tensor(1)
    if len(b.shape) != 2 or not a.shape or a.shape[-1] != b.shape[0]:
        _refuse(call, f"{a.shape} and {b.shape} do not fit")
    products = 2 * a.size * b.shape[1]
    if call.op not in SCALED:
        return Cost.of(Part(kind="matmul", flop=products))
    whole = a.size // max(a.shape[-1], 1) * b.shape[1]
    more = sum(call.arg(place) is not None for place in (9, 10))
    return _price_scaled((a, b), products, (2 + more) * whole)


def count_nothing(_call: OpCall) -> int:
    """Cost of collectives, copies and signals.

    Counts: nothing.
    Ignores: adds inside of a reduction.
    Source: docs/spec/fm-1.md#symmetric.

    Example:
        >>> count_nothing(OpCall.of("symm_mem::one_shot_all_reduce", (4, 8), "sum", "group"))
        0
    """
    return 0


def _price_scaled(operands: tuple[TensorSpec, ...], products: int, scaling: int) -> Cost:
    return Cost.of(
        Part(kind="matmul", flop=products, precision=derive_precision(operands)),
        Part(kind="pointwise", flop=scaling, precision="fp32"),
    )


def _is_given(call: OpCall, place: int, index: int) -> bool:
    found = call.arg(place)
    return isinstance(found, tuple) and index < len(found) and found[index] is not None


def _refuse(call: OpCall, what: str) -> None:
    raise FormulaError(what, where=call.op)


FORMULAS: dict[str, tuple[str, Callable[[OpCall], int | Cost]]] = {
    "symm_mem::fused_all_gather_matmul": ("matmul", count_gathered),
    "symm_mem::fused_all_gather_scaled_matmul": ("matmul", count_gathered),
    "symm_mem::fused_matmul_reduce_scatter": ("matmul", count_scattered),
    "symm_mem::fused_scaled_matmul_reduce_scatter": ("matmul", count_scattered),
    "symm_mem::_async_input_mm": ("matmul", count_scattered),
    **{f"symm_mem::{name}": ("other", count_nothing) for name in NOTHING},
}
