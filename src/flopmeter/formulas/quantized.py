"""What torch does to quantized tensors: products of small integers, and functions between two scales.

Products are kind `matmul` or `convolution` in `int8` and so counted as integer operations; putting scales on and off is
pointwise, in fp32. A packed weight shows no shape: what is known of it is read from the input and the output, and that
it has a bias is assumed.
Not here: quantizing as an operator of its own (`quantization`), integers in the weight alone (`weight_only`), the
formats of libraries, and packed convolutions, whose kernel size nothing tells.
"""

from collections.abc import Callable
from math import prod

from flopmeter.formulas.call import Arg, OpCall, is_exactly, is_integer
from flopmeter.formulas.cost import Cost, Part
from flopmeter.formulas.rates import (
    CHOOSE,
    DEQUANTIZE,
    GELU_TANH,
    ONEDNN,
    QUANTIZE,
    count_nothing,
    price_int8_product,
    price_pointwise,
)

# R rows of x, K inner size, N columns, g elements of K that share a scale

UNARY: dict[Arg, int] = {**ONEDNN, **dict.fromkeys((None, "", "relu6"), 0), "gelu tanh": GELU_TANH}
"""Operations for each element of what a kernel applies to its result."""

FUNCTIONS = {
    **dict.fromkeys(("cat", "cat_relu"), 0),
    **dict.fromkeys(("sigmoid", "leaky_relu", "prelu"), 1),
    **dict.fromkeys(("hardswish", "celu"), 3),
    "elu": 4,
    **{f"batch_norm{form}": 2 for form in ("", "1d", "2d", "3d", "_relu", "1d_relu", "2d_relu", "3d_relu")},
}
"""Operations for each element of functions of quantized tensors, between dequantizing and quantizing."""

PACKING = (
    *("quantized::linear_prepack", "quantized::linear_prepack_fp16"),
    *("quantized::conv1d_prepack", "quantized::conv2d_prepack", "quantized::conv3d_prepack"),
    *("quantized::conv_transpose1d_prepack", "quantized::conv_transpose2d_prepack"),
    *("quantized::conv_transpose3d_prepack", "quantized::embedding_bag_prepack", "onednn::qlinear_prepack"),
    *("onednn::qconv_prepack", "quantized::relu6", "quantized::threshold", "quantized::max_pool1d"),
    *("quantized::max_pool2d", "aten::quantized_max_pool1d", "aten::quantized_max_pool2d"),
    "aten::quantized_max_pool3d",
)
"""Storing a weight as a kernel wants it, with sums over it that are kept beside it; comparing quantized numbers."""


def count_packed_linear(call: OpCall) -> Cost:
    """Cost of a linear layer of a quantized input with a packed weight.

    Shapes: x (…, K) quantized, w packed → (…, N) quantized.
    Counts: 2·R·N·K products in int8; pointwise R·N for the bias, 2·R·N each to dequantize and to quantize the result,
        R·N for tanh or a leaky relu.
    Ignores: rounding, clamping, relu; that there may be no bias, which a packed weight does not show.
    Source: docs/spec/fm-1.md#quantized.

    Example:
        >>> call = OpCall.of("quantized::linear", (2, 3), dtype="quint8", out=[(2, 5)])
        >>> [part.flop for part in count_packed_linear(call).parts]
        [60, 50]
    """
    outputs, products = _rows(call)
    more = 1 if call.op.endswith(("_tanh", "_leaky_relu")) else 0
    return price_int8_product(products, scaling=outputs * (DEQUANTIZE + 1 + more + QUANTIZE))


def count_dynamic_linear(call: OpCall) -> Cost:
    """Cost of a linear layer that quantizes its input here, with a packed weight in integers or in half precision.

    Shapes: x (…, K), w packed → (…, N).
    Counts: 2·R·N·K products in int8; pointwise 4 to choose the scale of x, 2·R·K to quantize it, 2·R·N to dequantize
        the result, R·N for the bias. With a weight in fp16: the products in the precision of x, and the bias.
    Ignores: minima and maxima, relu; that there may be no bias, which a packed weight does not show.
    Source: docs/spec/fm-1.md#quantized.

    Example:
        >>> call = OpCall.of("quantized::linear_dynamic", (2, 3), out=[(2, 5)])
        >>> [part.flop for part in count_dynamic_linear(call).parts]
        [60, 46]
    """
    outputs, products = _rows(call)
    given = call.tensor(0)
    if "fp16" in call.op:
        return Cost.of(
            Part(kind="matmul", flop=products, precision=given.dtype),
            Part(kind="pointwise", flop=outputs, precision=given.dtype),
        )
    return price_int8_product(products, scaling=CHOOSE + QUANTIZE * given.size + outputs * (DEQUANTIZE + 1))


def count_quantized_matmul(call: OpCall) -> Cost:
    """Cost of a product of two quantized tensors.

    Shapes: a (…, M, K), b (…, K, N) → (…, M, N), all of them quantized.
    Counts: 2·M·N·K products in int8 for each of a stack; pointwise 2 for each output to dequantize and 2 to quantize.
    Ignores: rounding, clamping.
    Source: docs/spec/fm-1.md#quantized.

    Raises:
        FormulaError: the sizes differ.

    Example:
        >>> count_quantized_matmul(OpCall.of("quantized::matmul", (2, 3), (3, 5), 1.0, 0, dtype="quint8")).flop
        100
    """
    one, two = call.tensor(0), call.tensor(1)
    if len(one.shape) < 2 or one.shape[:-2] != two.shape[:-2] or one.shape[-1] != two.shape[-2]:
        call.refuse(f"{one} and {two} cannot be multiplied")
    outputs = prod(one.shape[:-1]) * two.shape[-1]
    return price_int8_product(2 * outputs * one.shape[-1], scaling=outputs * (DEQUANTIZE + QUANTIZE))


def count_quantized_pair(call: OpCall) -> Cost:
    """Cost of a sum or a product of two quantized tensors, element by element.

    Shapes: x, y → z, all of them quantized.
    Counts: for each element 2 to dequantize each, 1, and 2 to quantize.
    Ignores: rounding, clamping, relu.
    Source: docs/spec/fm-1.md#quantized.

    Raises:
        FormulaError: one of them is a number.

    Example:
        >>> count_quantized_pair(OpCall.of("quantized::add", (2, 3), (2, 3), 1.0, 0, dtype="quint8", out=[(2, 3)])).flop
        42
    """
    other = call.tensor(3 if call.op.startswith("onednn") else 1)
    size = call.out[0].size
    if other.size > size:
        call.refuse(f"{other} does not fit {call.out[0]}")
    return price_pointwise(size * (2 * DEQUANTIZE + 1 + QUANTIZE))


def count_quantized_function(call: OpCall) -> Cost:
    """Cost of a function of a quantized tensor, or of tensors that are put one after another with a new scale.

    Shapes: x → y, quantized with another scale.
    Counts: for each element 2 to dequantize, the rate of `FUNCTIONS`, and 2 to quantize.
    Ignores: rounding, clamping, relu.
    Source: docs/spec/fm-1.md#quantized.

    Example:
        >>> call = OpCall.of("quantized::sigmoid", (2, 3), 1.0, 0, dtype="quint8", out=[(2, 3)])
        >>> count_quantized_function(call).flop
        30
    """
    return price_pointwise(
        call.out[0].size * (DEQUANTIZE + FUNCTIONS[call.op.split("::")[1].removeprefix("quantized_")] + QUANTIZE)
    )


def count_quantized_rows(call: OpCall) -> Cost:
    """Cost of looking rows of a quantized table up, and of adding those of a bag up.

    Shapes: a table in codes, L indices, bags → (L, D), or (B, D).
    Counts: pointwise 2 to dequantize each element that is looked up, 1 more for weights of samples; reduction
        (L − B)·D where rows are added up.
    Ignores: unpacking.
    Source: docs/spec/fm-1.md#quantized.

    Example:
        >>> call = OpCall.of("quantized::embedding_byte", None, (7,), out=[(7, 3)])
        >>> count_quantized_rows(call).flop
        42
    """
    (result,) = call.out
    looked_up = call.tensor(1).size * result.shape[-1]
    weights = looked_up if "bag" in call.op and call.arg(6) is not None else 0
    return Cost.of(
        Part(kind="pointwise", flop=DEQUANTIZE * looked_up + weights, precision=result.dtype),
        Part(kind="reduction", flop=max(looked_up - result.size, 0), precision=result.dtype),
    )


def count_fused_product(call: OpCall) -> Cost:
    """Cost of a linear layer or a convolution of integers in one kernel with what follows it.

    Shapes: x (…, K), w (K, N), bias → (…, N); or x (B, C, …), w (O, C/G, …W), bias → y (B, O, …Y).
    Counts: 2·R·N·K or 2·numel(y)·(C/G)·W products in int8; pointwise for each output 2 to dequantize, 1 for a bias, the
        rate of `UNARY` for an activation, 1 for another tensor (2 more where it is quantized), 2 to quantize.
    Ignores: rounding, clamping, compares.
    Source: docs/spec/fm-1.md#quantized; torch's qlinear.cpp and qconv.cpp of onednn.

    Raises:
        FormulaError: the sizes do not fit, or what follows is not known.

    Example:
        >>> args = (2, 3), 1.0, 0, (3, 5), (5,), (5,), None, 1.0, 0, None, "swish", [], ""
        >>> call = OpCall.of("onednn::qlinear_pointwise", *args, dtype="int8", out=[(2, 5)])
        >>> [part.flop for part in count_fused_product(call).parts]
        [60, 60]
    """
    given, weight, (result,) = call.tensor(0), call.tensor(3), call.out
    is_linear = "qlinear" in call.op
    inner = weight.shape[0] if is_linear else prod(weight.shape[1:])
    fits = (
        (given.shape[-1], result.shape[-1]) == weight.shape
        if is_linear
        else given.shape[1] % weight.shape[1] == 0 and result.shape[1] == weight.shape[0]
    )
    if not fits:
        call.refuse(f"{given}, {weight} and {result} do not fit")
    each = DEQUANTIZE + _what_follows(call, 10 if is_linear else 14) + QUANTIZE * is_integer(result.dtype)
    return Cost.of(
        Part(
            kind="matmul" if is_linear else "convolution",
            flop=2 * result.size * inner,
            precision="int8" if is_integer(given.dtype) else given.dtype,
        ),
        Part(kind="pointwise", flop=result.size * each, precision="fp32"),
    )


def _what_follows(call: OpCall, at: int) -> int:
    """Return the operations for each output of the bias, another tensor and the activation.

    `at` is where the schema keeps the activation; with another tensor, three arguments about it stand before, and the
    tensor itself before the bias.
    """
    if isinstance(call.arg(at), str):
        return (call.arg(6) is not None) + _activation(call, at, at + 2)
    if call.arg(at + 3) not in ("sum", "add"):
        call.refuse(f"{call.arg(at + 3)} with another tensor is not known")
    alpha = call.arg(at + 4)
    added = 1 + DEQUANTIZE * is_integer(call.tensor(6).dtype) + (alpha is not None and not is_exactly(alpha, 1))
    return (call.arg(7) is not None) + added + _activation(call, at + 5, at + 7)


def _activation(call: OpCall, name_at: int, form_at: int) -> int:
    name = call.arg(name_at)
    key = "gelu tanh" if name == "gelu" and call.arg(form_at) == "tanh" else name
    if not (key is None or isinstance(key, str)) or key not in UNARY:
        call.refuse(f"activation {key} is not known")
    return UNARY[key]


def _rows(call: OpCall) -> tuple[int, int]:
    """Return the outputs of a packed linear layer and what its products cost."""
    given, result = call.tensor(0), call.out[0]
    if not given.shape or given.shape[:-1] != result.shape[:-1]:
        call.refuse(f"{given} and {result} have not the same rows")
    return result.size, 2 * result.size * given.shape[-1]


_PACKED = ("linear", "linear_relu", "linear_leaky_relu", "linear_tanh")
_DYNAMIC = ("linear_dynamic", "linear_relu_dynamic", "linear_dynamic_fp16", "linear_relu_dynamic_fp16")
_PAIRS = ("add", "add_relu", "mul", "mul_relu")
_TABLES = (
    *("embedding_byte", "embedding_4bit", "embedding_bag_byte", "embedding_bag_4bit"),
    *(f"embedding_bag_{bits}_rowwise_offsets" for bits in ("byte", "4bit", "2bit")),
)
FORMULAS: dict[str, tuple[str, Callable[[OpCall], int | Cost]]] = {
    **{f"quantized::{name}": ("matmul", count_packed_linear) for name in _PACKED},
    **{f"quantized::{name}": ("matmul", count_dynamic_linear) for name in _DYNAMIC},
    "quantized::matmul": ("matmul", count_quantized_matmul),
    **{f"quantized::{name}": ("pointwise", count_quantized_pair) for name in _PAIRS},
    **dict.fromkeys(("onednn::qadd", "onednn::qadd_relu", "onednn::qmul"), ("pointwise", count_quantized_pair)),
    **{f"quantized::{name}": ("pointwise", count_quantized_function) for name in FUNCTIONS},
    "aten::quantized_batch_norm": ("pointwise", count_quantized_function),
    **{f"quantized::{name}": ("pointwise", count_quantized_rows) for name in _TABLES},
    "_quantized::add": ("pointwise", count_quantized_pair),
    "_quantized::linear": ("matmul", count_packed_linear),
    "_quantized::linear_dynamic": ("matmul", count_dynamic_linear),
    "onednn::qlinear_pointwise": ("matmul", count_fused_product),
    **{
        f"onednn::{name}_pointwise": ("convolution", count_fused_product)
        for name in ("qconv", "qconv1d", "qconv2d", "qconv3d")
    },
    **dict.fromkeys(PACKING, ("other", count_nothing)),
}
