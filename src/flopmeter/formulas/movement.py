"""Operators that do no arithmetic: the explicit list, so that zero is a statement and not a gap.

Views, copies, casts and roundings, fills, compares and what is made of them (maxima, relu, sorting), indexing, random
numbers, checks, collectives.
Not here: anything that adds, even by index (`embedding`).
Source: docs/spec/fm-1.md#movement.
"""

from collections.abc import Callable

from flopmeter.formulas.call import OpCall
from flopmeter.formulas.cost import Cost
from flopmeter.formulas.rates import count_nothing

VIEWS = (
    *("alias", "as_strided", "detach", "diagonal", "expand", "expand_as", "flatten", "lift", "lift_fresh", "movedim"),
    *("narrow", "permute", "reshape", "_reshape_alias", "select", "set", "slice", "slice_inverse", "split"),
    *("split_with_sizes", "squeeze", "t", "transpose", "swapaxes", "unbind", "unflatten", "unfold", "unsafe_chunk"),
    *("unsafe_split", "unsafe_split_with_sizes", "_unsafe_view", "unsqueeze", "view", "view_as", "view_as_complex"),
    *("view_as_real", "real", "imag", "_conj", "_neg_view", "chunk", "_fw_primal", "_make_dual", "resize"),
    *("resize_as", "_mkldnn_reshape", "_mkldnn_transpose", "requires_grad", "values", "indices", "crow_indices"),
    *("col_indices", "ccol_indices", "row_indices", "_values", "_indices", "_nested_get_values"),
    "_sparse_broadcast_to",
    *("_resize_output", "shallow_copy_data"),
)
COPIES = (
    *("alias_copy", "as_strided_copy", "as_strided_scatter", "cat", "_chunk_cat", "channel_shuffle", "clone"),
    *("constant_pad_nd", "contiguous", "copy", "_copy_from", "_copy_from_and_resize", "detach_copy", "diag_embed"),
    *("diagonal_backward", "diagonal_copy", "diagonal_scatter", "expand_copy", "flip", "im2col", "_lazy_clone"),
    *("lift_fresh_copy", "narrow_copy", "_nested_from_padded", "_nested_from_padded_and_nested_example"),
    *("_nested_from_padded_tensor", "_nested_tensor_from_mask", "_nested_tensor_from_tensor_list"),
    *("_nested_view_from_buffer", "_nested_view_from_jagged", "_jagged_to_padded_dense_forward"),
    *("_padded_dense_to_jagged_forward", "_pack_padded_sequence", "_pad_packed_sequence", "permute_copy"),
    *("_pin_memory", "pixel_shuffle", "pixel_unshuffle", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d"),
    *("repeat", "repeat_interleave", "replication_pad1d", "replication_pad2d", "replication_pad3d", "_reshape_copy"),
    *("roll", "rot90", "select_backward", "select_copy", "select_scatter", "slice_backward", "slice_copy"),
    *("slice_scatter", "split_copy", "split_with_sizes_copy", "squeeze_copy", "stack", "_stack", "t_copy", "tile"),
    *("to_padded_tensor", "transpose_copy", "tril", "triu", "unbind_copy", "unfold_copy", "unsqueeze_copy"),
    *("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact1d"),
    *("_upsample_nearest_exact2d", "_upsample_nearest_exact3d", "view_copy", "view_as_real_copy", "block_diag"),
    *("view_as_complex_copy", "_foreach_clone", "_foreach_copy", "_coalesced", "_to_dense", "_to_sparse", "complex"),
    *("to_mkldnn", "mkldnn_reorder_conv2d_weight", "mkldnn_reorder_conv3d_weight", "_cudnn_rnn_flatten_weight"),
    *("_conj_copy", "_neg_view_copy", "_fw_primal_copy", "_make_dual_copy", "_indices_copy", "_values_copy"),
    *("indices_copy", "values_copy", "crow_indices_copy", "ccol_indices_copy", "col_indices_copy"),
    *("row_indices_copy", "_nested_get_values_copy", "_nested_view_from_buffer_copy"),
    *("_nested_view_from_jagged_copy", "_reshape_alias_copy", "_sparse_broadcast_to_copy", "native_channel_shuffle"),
    *("from_file",),
)
CASTS = (
    *("_to_copy", "to", "type_as", "_local_scalar_dense", "item", "ceil", "floor", "round", "trunc", "fix"),
    *("_foreach_ceil", "_foreach_floor", "_foreach_round", "_foreach_trunc", "frexp", "int_repr", "resolve_conj"),
    *("conj_physical", "resolve_neg"),
)
FILLS = (
    *("arange", "empty", "empty_like", "empty_permuted", "empty_strided", "eye", "fill", "fill_diagonal", "full"),
    *("full_like", "linspace", "logspace", "new_empty", "new_empty_strided", "new_full", "new_ones", "new_zeros"),
    *("_new_zeros_with_same_feature_meta", "ones", "ones_like", "range", "scalar_tensor", "tril_indices"),
    *("triu_indices", "zero", "zeros", "zeros_like", "_efficientzerotensor", "_foreach_zero", "one_hot"),
    *("_histogramdd_bin_edges",),
)
COMPARES = (
    *("all", "allclose", "amax", "amin", "aminmax", "_aminmax", "any", "argmax", "argmin", "argsort", "bucketize"),
    *("clamp", "clamp_max", "clamp_min", "clip", "copysign", "count_nonzero", "cummax", "cummin", "_cummax_helper"),
    *("_cummin_helper", "eq", "equal", "fmax", "fmin", "ge", "gt", "hardshrink", "hardshrink_backward", "hardtanh"),
    *("hardtanh_backward", "heaviside", "histc", "isclose", "isfinite", "isin", "isinf", "isnan", "isneginf"),
    *("isposinf", "kthvalue", "le", "logical_and", "logical_not", "logical_or", "logical_xor", "lt", "max"),
    *("maximum", "median", "min", "minimum", "mode", "nan_to_num", "nanmedian", "ne", "nextafter", "relu", "relu6"),
    *("searchsorted", "sgn", "sign", "signbit", "softshrink_backward", "sort", "threshold", "threshold_backward"),
    *("topk", "_unique", "_unique2", "unique_consecutive", "unique_dim", "unique_dim_consecutive", "where"),
    *("_foreach_clamp_max", "_foreach_clamp_min", "_foreach_max", "_foreach_maximum", "_foreach_minimum"),
    *("_foreach_sign", "max_pool2d_with_indices", "max_pool3d_with_indices", "adaptive_max_pool2d"),
    *("adaptive_max_pool3d", "fractional_max_pool2d", "fractional_max_pool3d", "mkldnn_max_pool2d"),
    *("mkldnn_max_pool3d", "_is_all_true", "_is_any_true", "is_same_size"),
)
INDEXING = (
    *("embedding", "gather", "index", "index_copy", "index_fill", "index_select", "masked_fill", "masked_scatter"),
    *("masked_scatter_backward", "masked_select", "max_unpool2d", "max_unpool3d", "nonzero", "nonzero_static", "take"),
    *("take_along_dim", "_unsafe_index", "_unsafe_masked_index"),
)
RANDOM = (
    *("bernoulli", "binomial", "cauchy", "exponential", "_fill_mem_eff_dropout_mask", "geometric", "log_normal"),
    *("multinomial", "normal", "normal_functional", "poisson", "rand", "rand_like", "randint", "randint_like", "randn"),
    *("randn_like", "random", "randperm", "uniform", "_philox_normal", "_philox_uniform", "_standard_gamma"),
    *("_philox_key_fold_in", "_philox_key_split", "_cudnn_init_dropout_state"),
    *("_sample_dirichlet",),
)
CHECKS = (
    *("_assert_async", "_assert_scalar", "_assert_tensor_metadata", "_functional_assert_async", "is_pinned"),
    *("_functional_assert_scalar", "_functional_sym_constrain_range", "_functional_sym_constrain_range_for_size"),
    *("_fused_sdp_choice", "_has_same_storage_numel", "is_coalesced", "_linalg_check_errors", "_make_dep_token"),
    *("_nested_compute_contiguous_strides_offsets", "_nested_get_jagged_dummy", "_nested_get_lengths"),
    *("_nested_get_max_seqlen", "_nested_get_min_seqlen", "_nested_get_offsets", "_nested_get_ragged_idx"),
    *("_nested_tensor_from_mask_left_aligned", "_nested_tensor_size", "_nested_tensor_storage_offsets"),
    *("_nested_tensor_strides", "_nnz", "_print", "record_stream", "sym_constrain_range", "is_set_to"),
    *("sym_constrain_range_for_size", "sym_numel", "sym_size", "sym_storage_offset", "sym_stride"),
    *("can_cast", "promote_types", "_use_cudnn_ctc_loss", "_use_miopen_ctc_loss", "_dimI", "_dimV"),
)
OUTSIDE = (
    *("prim::device", "prim::layout", "profiler::_record_function_enter", "profiler::_record_function_enter_new"),
    *("profiler::_record_function_exit", "prims::convert_element_type", "prims::iota", "inductor::_alloc_from_pool"),
    *("fsdp::all_gather_copy_in", "fsdp::split_with_sizes_copy", "fsdp::chunk_cat"),
    *("inductor::_reinterpret_tensor", "inductor::resize_storage_bytes_"),
    *("inductor_prims::inductor_reserve_rng_state", "rngprims::philox_rand", "mkldnn::_reorder_convolution_weight"),
    *("mkldnn::_reorder_convolution_transpose_weight", "mkldnn::_reorder_linear_weight"),
    *("mkldnn::_reorder_mkldnn_rnn_layer_weight", "mkldnn::_nbytes", "mkldnn::data_ptr"),
    *("mkldnn::_get_mkldnn_serialized_md", "mkldnn::_is_mkldnn_bf16_supported", "mkldnn::_is_mkldnn_fp16_supported"),
    *("mkldnn::_is_mkldnn_acl_supported", "mkl::_mkl_reorder_linear_weight"),
    *("_dtensor::mesh_get_process_group", "debug_mode_ops::annotate", "debugprims::load_tensor"),
    *("export::access_subclass_inner_tensor", "fsdp::copy_", "higher_order::_export_tracepoint"),
    *("higher_order::print", "streams::fork", "streams::join", "streams::record_event"),
    *("streams::record_stream", "streams::sync_dealloc", "streams::synchronize_device"),
    *("streams::synchronize_event", "streams::synchronize_stream", "streams::wait_event"),
    "streams::wait_stream",
)
"""Operators of other namespaces than `aten`."""

COLLECTIVES = (
    *("allgather_", "_allgather_base_", "allgather_coalesced_", "allgather_into_tensor_coalesced_", "allreduce_"),
    *("allreduce_coalesced_", "alltoall_", "alltoall_base_", "barrier", "broadcast_", "gather_"),
    *("monitored_barrier_", "recv_", "recv_any_source_", "reduce_", "reduce_scatter_", "_reduce_scatter_base_"),
    *("reduce_scatter_tensor_coalesced_", "scatter_", "send", "check_for_nan"),
)
FUNCTIONAL_COLLECTIVES = (
    *("all_gather_into_tensor", "all_gather_into_tensor_coalesced", "all_gather_into_tensor_out", "all_reduce"),
    *("all_reduce_", "all_reduce_coalesced", "all_reduce_coalesced_", "all_to_all_single", "broadcast", "broadcast_"),
    *("reduce_scatter_tensor", "reduce_scatter_tensor_coalesced", "wait_tensor", "reduce_scatter_tensor_out", "isend"),
    *("irecv", "batch_p2p_ops", "_wrap_tensor_autograd"),
)
DIFFERENTIABLE_COLLECTIVES = ("all_to_all_single", "reduce_scatter_tensor", "all_gather_into_tensor")
SYMMETRIC_MEMORY = (
    *("multimem_one_shot_all_reduce_out", "multimem_one_shot_all_reduce", "multimem_one_shot_reduce_out"),
    *("multimem_all_reduce_", "multimem_all_gather_out", "one_shot_all_reduce", "one_shot_all_reduce_out"),
    *("one_shot_all_reduce_copy", "one_shot_all_reduce_copy_out", "two_shot_all_reduce_", "two_shot_all_reduce_out"),
    *("reduce_scatter_out", "_low_contention_all_gather", "_low_contention_reduce_scatter", "all_to_all_vdev"),
    *("all_to_all_vdev_2d", "all_to_all_vdev_2d_offset", "nccl_reduce_scatter_offset", "nccl_put", "nccl_get"),
    *("nccl_put_signal", "nccl_put_with_signal", "nccl_wait_signal", "nccl_wait_for_signal", "nvshmem_put"),
    *("nvshmem_get", "nvshmem_put_with_signal", "nvshmem_wait_for_signal", "nvshmem_broadcast", "nvshmem_all_to_all"),
    *("tile_reduce", "multi_root_tile_reduce", "get_remote_tensors", "memset32_", "stream_write_value32_", "_barrier"),
    "_rendezvous",
)
"""Collectives over memory that all ranks see; products inside of them are counted (`compiled`)."""


FORMULAS: dict[str, tuple[str, Callable[[OpCall], int | Cost]]] = {
    **{
        f"aten::{name}": ("other", count_nothing)
        for name in (*VIEWS, *COPIES, *CASTS, *FILLS, *COMPARES, *INDEXING, *RANDOM, *CHECKS)
    },
    **dict.fromkeys(OUTSIDE, ("other", count_nothing)),
    **{f"c10d::{name}": ("other", count_nothing) for name in COLLECTIVES},
    **{f"_c10d_functional::{name}": ("other", count_nothing) for name in FUNCTIONAL_COLLECTIVES},
    **{f"_c10d_functional_autograd::{name}": ("other", count_nothing) for name in DIFFERENTIABLE_COLLECTIVES},
    **{f"symm_mem::{name}": ("other", count_nothing) for name in SYMMETRIC_MEMORY},
    "_dtensor::shard_dim_alltoall": ("other", count_nothing),
}
