"""Arguments stand where formulas look for them: by torch's own schemas, for operators that no CPU runs too."""

import pytest
import torch

from flopmeter.formulas import convolution
from flopmeter.formulas.class_loss import READS

PLACES = [
    *((op, place, "groups") for op, place in convolution.GROUPS.items()),
    *((op, place, "bias") for op, place in convolution.BIAS.items()),
    *((op, place, "output_mask") for op, place in convolution.MASK.items()),
    *((op, place, "transposed") for op, place in convolution.TRANSPOSED_FLAG.items()),
    *((op, 3, "alpha") for op in convolution.ADDED),
    *((op, 0, "self") for op in convolution.INPUT_FIRST),
    *(
        (op, place, name)
        for op, places in READS.items()
        for place, name in zip(places, ("input_lengths", "target_lengths"), strict=True)
    ),
    ("aten::linear_backward", 3, "output_mask"),
    ("aten::mkldnn_linear_backward", 3, "output_mask"),
    ("aten::mkldnn_linear_backward_weights", 3, "bias_defined"),
    ("aten::matmul_backward", 3, "mask"),
    ("aten::_embedding_bag", 4, "mode"),
    ("aten::_embedding_bag", 6, "per_sample_weights"),
    ("aten::_embedding_bag_dense_backward", 6, "scale_grad_by_freq"),
    ("aten::_embedding_bag_dense_backward", 7, "mode"),
    ("aten::_embedding_bag_dense_backward", 8, "per_sample_weights"),
    ("aten::_embedding_bag_backward", 7, "scale_grad_by_freq"),
    ("aten::_embedding_bag_backward", 8, "mode"),
    ("aten::_embedding_bag_backward", 9, "sparse"),
    ("aten::_embedding_bag_backward", 10, "per_sample_weights"),
    ("aten::_embedding_bag_per_sample_weights_backward", 2, "indices"),
    ("aten::embedding_renorm_", 3, "norm_type"),
    ("aten::multi_margin_loss", 2, "p"),
    ("aten::multi_margin_loss", 4, "weight"),
    ("aten::multi_margin_loss_backward", 3, "p"),
    ("aten::multi_margin_loss_backward", 5, "weight"),
    ("aten::multilabel_margin_loss_forward", 2, "reduction"),
    ("aten::grid_sampler_2d", 2, "interpolation_mode"),
    ("aten::grid_sampler_3d", 3, "padding_mode"),
    ("aten::grid_sampler_2d", 4, "align_corners"),
    ("aten::grid_sampler_3d_backward", 3, "interpolation_mode"),
    ("aten::grid_sampler_2d_backward", 6, "output_mask"),
    ("aten::cudnn_grid_sampler_backward", 2, "grad_output"),
    ("aten::upsample_bicubic2d", 2, "align_corners"),
    ("aten::upsample_bicubic2d_backward", 3, "align_corners"),
    ("aten::_upsample_bilinear2d_aa_backward", 2, "input_size"),
    ("aten::_upsample_bilinear2d_aa_backward", 3, "align_corners"),
    ("aten::cudnn_affine_grid_generator", 1, "N"),
    ("aten::_masked_softmax", 2, "dim"),
    ("aten::_masked_softmax_backward", 3, "dim"),
    *((f"aten::{library}_batch_norm", 5, "training") for library in ("cudnn", "miopen")),
    *((f"aten::{library}_batch_norm_backward", 2, "weight") for library in ("cudnn", "miopen")),
    ("aten::batch_norm_elemt", 1, "weight"),
    ("aten::batch_norm_gather_stats_with_counts", 1, "mean"),
    ("aten::batch_norm_gather_stats_with_counts", 3, "running_mean"),
    ("aten::batch_norm_backward_reduce", 5, "input_g"),
    ("aten::batch_norm_backward_reduce", 7, "bias_g"),
    ("aten::batch_norm_backward_elemt", 4, "weight"),
    ("aten::_weight_norm_interface_backward", 4, "dim"),
    ("aten::renorm", 2, "dim"),
    ("aten::_segment_reduce_backward", 3, "reduce"),
    ("aten::glu_backward_jvp", 1, "grad_glu"),
    ("aten::bincount", 1, "weights"),
    ("aten::_unsafe_masked_index_put_accumulate", 2, "indices"),
    ("mkldnn::_linear_pointwise", 3, "attr"),
    ("mkldnn::_linear_pointwise", 5, "algorithm"),
    ("mkldnn::_linear_pointwise.binary", 2, "W"),
    ("mkldnn::_linear_pointwise.binary", 4, "attr"),
    ("mkldnn::_convolution_pointwise", 6, "groups"),
    ("mkldnn::_convolution_pointwise", 7, "attr"),
    ("mkldnn::_convolution_pointwise", 9, "algorithm"),
    ("mkldnn::_convolution_pointwise.binary", 7, "groups"),
    ("mkldnn::_convolution_pointwise.binary", 10, "unary_attr"),
    ("mkldnn::_convolution_pointwise_.binary", 1, "X"),
    ("mkldnn::_convolution_pointwise_.binary", 9, "alpha"),
    ("mkldnn::_convolution_transpose_pointwise", 7, "groups"),
    ("mkldnn::_convolution_transpose_pointwise", 8, "attr"),
    ("mkl::_mkl_linear", 2, "ORI_W"),
]
SCHEMAS = {}
for schema in torch._C._jit_get_all_schemas():
    SCHEMAS.setdefault(f"{schema.name}.{schema.overload_name}".rstrip("."), schema)
    if not any(argument.is_out for argument in schema.arguments):
        SCHEMAS.setdefault(schema.name, schema)


@pytest.mark.parametrize(("op", "place", "name"), PLACES, ids=str)
def test_an_argument_stands_where_the_formula_looks_for_it(op, place, name):
    """Else another backend's groups are read from its dilation, and its figure is wrong without a sign."""
    if op not in SCHEMAS:
        pytest.skip("this torch has no such operator")
    assert SCHEMAS[op].arguments[place].name == name
