"""Quantizing, dequantizing, and both at once as training under quantization does it.

To quantize is to multiply by the inverse of the scale and to add the zero point, to dequantize the other way round;
rounding and clamping cost nothing. All of it is pointwise, in the precision of the numbers that are not quantized.
Not here: products of what is quantized (`quantized`), and the formats of libraries.
"""

from collections.abc import Callable

from flopmeter.formulas.call import FLOATS, OpCall, TensorSpec, is_exactly
from flopmeter.formulas.cost import Cost, Part
from flopmeter.formulas.rates import CHOOSE, CHOOSE_SYMMETRIC, QUANTIZE, count_nothing, price_pointwise

# n elements, C scales

RATES: dict[str, tuple[int, int]] = {
    "aten::quantize_per_tensor": (QUANTIZE, 0),
    "aten::quantize_per_channel": (QUANTIZE, 1),
    "aten::quantize_per_tensor_dynamic": (QUANTIZE, CHOOSE),
    "quantized_decomposed::quantize_per_tensor": (QUANTIZE, 0),
    "quantized_decomposed::quantize_per_channel": (QUANTIZE, 1),
    "quantized_decomposed::quantize_per_channel_group": (QUANTIZE, 1),
    "quantized_decomposed::quantize_per_token": (QUANTIZE, 1),
    "aten::fake_quantize_per_tensor_affine": (4, 0),
    "aten::fake_quantize_per_tensor_affine_cachemask": (4, 0),
    "aten::fake_quantize_per_channel_affine": (4, 1),
    "aten::fake_quantize_per_channel_affine_cachemask": (4, 1),
    "aten::_fake_quantize_learnable_per_tensor_affine": (4, 0),
    "aten::_fake_quantize_learnable_per_channel_affine": (4, 1),
    "aten::fake_quantize_per_tensor_affine_cachemask_backward": (1, 0),
    "aten::fake_quantize_per_channel_affine_cachemask_backward": (1, 0),
}
"""Operations for each element and for each scale of what quantizes: multiply, add; back: subtract, multiply.

For each scale: its inverse where a tensor holds several; where it is chosen here, `CHOOSING`."""

CHOOSING: dict[str, tuple[int, int]] = {
    "quantized_decomposed::choose_qparams": (0, CHOOSE),
    "quantized_decomposed::choose_qparams_symmetric": (0, CHOOSE_SYMMETRIC),
    "quantized_decomposed::choose_qparams_per_token": (1, 1),
    "quantized_decomposed::choose_qparams_per_token_asymmetric": (0, 9),
}
"""Operations for each element and for each scale that is chosen: (max − min) / range, low − min / scale; symmetric:
−min, divide; by the largest absolute value: divide."""

NOTHING = (
    *("aten::_make_per_tensor_quantized_tensor", "aten::_make_per_channel_quantized_tensor", "aten::empty_quantized"),
    *("aten::_empty_affine_quantized", "aten::_empty_per_channel_affine_quantized", "aten::q_scale"),
    *("aten::q_zero_point", "aten::q_per_channel_scales", "aten::q_per_channel_zero_points"),
    *("aten::q_per_channel_axis", "aten::qscheme", "quantized_decomposed::convert_element_type"),
)
"""Putting a quantized tensor together, asking it for its scale, casting."""
OBSERVE = 6
"""Two moving averages for each scale: subtract, multiply, add."""


def count_quantize(call: OpCall) -> Cost:
    """Cost of quantizing, or of quantizing and back with the same scale.

    Shapes: x, or a list of them, C scales → the shapes of x.
    Counts: the rates of `RATES`, for each element and each scale; a scale that is one number has no inverse to compute.
    Ignores: rounding, clamping, the mask.
    Source: docs/spec/fm-1.md#quantization; torch's fx/_decomposed.py and QuantizedOpKernels.cpp.

    Example:
        >>> count_quantize(OpCall.of("aten::quantize_per_channel", (2, 3), (2,), (2,), 0)).flop
        14
    """
    each, per_scale = RATES[call.op]
    specs = call.tensors[:1] if isinstance(call.args[0], TensorSpec) else call.tensor_list(0)
    size = sum(spec.size for spec in specs)
    scales = call.tensor(1).size if len(call.args) > 1 and isinstance(call.args[1], TensorSpec) else 1
    return price_pointwise(each * size + per_scale * scales, specs[0].dtype)


def count_dequantize(call: OpCall) -> Cost:
    """Cost of dequantizing: subtract the zero point, multiply by the scale.

    Shapes: q, or a list of them → the shapes of q.
    Counts: 2 for each element, 1 where channels have no zero points; nothing for a tensor that is not quantized.
    Ignores: the cast, and whether it comes before the zero point is subtracted.
    Source: docs/spec/fm-1.md#quantization; torch's fx/_decomposed.py.

    Example:
        >>> q = TensorSpec((2, 3), "quint8")
        >>> count_dequantize(OpCall.of("aten::dequantize", q, out=[(2, 3)])).flop
        12
    """
    specs = call.tensors[:1] if isinstance(call.args[0], TensorSpec) else call.tensor_list(0)
    if specs[0].dtype in FLOATS:
        return price_pointwise(0, specs[0].dtype)
    has_no_zero_point = call.op.endswith("per_channel") and call.arg(2) is None
    return price_pointwise(sum(spec.size for spec in specs) * (1 if has_no_zero_point else 2), call.out[0].dtype)


def count_choose(call: OpCall) -> Cost:
    """Cost of choosing scales and zero points from the least and largest elements.

    Shapes: x → C scales, C zero points.
    Counts: the rates of `CHOOSING`, for each element and each scale.
    Ignores: minima and maxima, and bounds of the scale.
    Source: docs/spec/fm-1.md#quantization; torch's fx/_decomposed.py.

    Example:
        >>> count_choose(OpCall.of("quantized_decomposed::choose_qparams", (2, 3), 0, 255, 0, out=[(1,), (1,)])).flop
        4
    """
    each, per_scale = CHOOSING[call.op]
    given = call.tensor(0)
    return price_pointwise(each * given.size + per_scale * call.out[0].size, given.dtype)


def count_switched_fake_quantize(call: OpCall) -> Cost:
    """Cost of quantizing and back where a flag in a tensor says whether to.

    Shapes: x, scale, zero point, flag → x.
    Counts: 4 for each element; nothing where the flag is known to be 0.
    Ignores: rounding, clamping, the mask, the inverse of one scale.
    Source: docs/spec/fm-1.md#quantization.

    Example:
        >>> op, flag = "aten::_fake_quantize_per_tensor_affine_cachemask_tensor_qparams", TensorSpec((1,), "int64")
        >>> count_switched_fake_quantize(OpCall.of(op, (2, 3), (1,), (1,), flag, 0, 255)).flop
        24
    """
    given = call.tensor(0)
    return price_pointwise(4 * given.size if _is_on(call, 3) else 0, given.dtype)


def count_observed_fake_quantize(call: OpCall) -> Cost:
    """Cost of observing a tensor, choosing scales from what was seen, and quantizing with them and back.

    Shapes: x, two flags, running minimum and maximum (C,), scale, zero point → x.
    Counts: 6 for each scale where the observer is on; where quantizing is on, 4 for each element, and for each scale 4,
        or 2 where it is symmetric, and 1 for its inverse where each row has its own. A flag that is not known is on.
    Ignores: minima and maxima, rounding, clamping, the mask.
    Source: docs/spec/fm-1.md#quantization; torch's fused_obs_fake_quant.cpp, the choice as in ao/quantization/utils.py.

    Example:
        >>> op, on = "aten::_fused_moving_avg_obs_fq_helper", TensorSpec((1,), "int64")
        >>> call = OpCall.of(op, (2, 3), on, on, (), (), (1,), (1,), 0.01, 0, 255, -1)
        >>> count_observed_fake_quantize(call).flop
        34
    """
    given, scales = call.tensor(0), call.tensor(3).size
    flop = OBSERVE * scales if _is_on(call, 1) else 0
    if _is_on(call, 2):
        choose = CHOOSE_SYMMETRIC if call.arg(12) is True else CHOOSE
        flop += 4 * given.size + scales * (choose + (call.arg(11) is True))
    return price_pointwise(flop, given.dtype)


def count_learnable_backward(call: OpCall) -> Cost:
    """Cost of the gradients of quantizing and back with a scale and a zero point that are learned.

    Shapes: dy, x, C scales, C zero points → dx, dscale (C,), dzero (C,).
    Counts: pointwise 11 for each element: quantize 2, dy times the mask 1, back 2; outside the range dy·(−1)·scale 2
        and dy·bound 1, inside dy·(x̂ − x)/scale 3; 3 more where the factor of the gradients is not 1; for each scale of
        several 3, its inverse and the two bounds. Reduction 2·(n − C).
    Ignores: rounding, clamping.
    Source: docs/spec/fm-1.md#quantization; torch's QuantizedOpKernels.cpp.

    Example:
        >>> op = "aten::_fake_quantize_learnable_per_tensor_affine_backward"
        >>> count_learnable_backward(OpCall.of(op, (2, 3), (2, 3), (1,), (1,), 0, 255, 1.0)).flop
        76
    """
    given, scales = call.tensor(1), call.tensor(2).size
    if call.tensor(0).shape != given.shape:
        call.refuse(f"{call.tensor(0)} is no gradient of {given}")
    is_per_channel = "per_channel" in call.op
    factor = call.arg(7 if is_per_channel else 6, 1)
    each = 11 + (0 if is_exactly(factor, 1) else 3)
    return Cost.of(
        Part(kind="pointwise", flop=each * given.size + (3 * scales if is_per_channel else 0), precision=given.dtype),
        Part(kind="reduction", flop=2 * max(given.size - scales, 0), precision=given.dtype),
    )


def _is_on(call: OpCall, index: int) -> bool:
    """Say whether a flag is set, as far as is known."""
    values = call.tensor(index).values
    return values is None or any(values)


FORMULAS: dict[str, tuple[str, Callable[[OpCall], int | Cost]]] = {
    **dict.fromkeys(RATES, ("pointwise", count_quantize)),
    **dict.fromkeys(CHOOSING, ("pointwise", count_choose)),
    **dict.fromkeys(
        (
            "aten::dequantize",
            *(
                f"quantized_decomposed::dequantize_per_{what}"
                for what in ("tensor", "channel", "channel_group", "token")
            ),
        ),
        ("pointwise", count_dequantize),
    ),
    "aten::_fake_quantize_per_tensor_affine_cachemask_tensor_qparams": ("pointwise", count_switched_fake_quantize),
    "aten::_fused_moving_avg_obs_fq_helper": ("pointwise", count_observed_fake_quantize),
    "aten::_fused_moving_avg_obs_fq_helper_functional": ("pointwise", count_observed_fake_quantize),
    "aten::fused_moving_avg_obs_fake_quant": ("pointwise", count_observed_fake_quantize),
    "aten::_fake_quantize_learnable_per_tensor_affine_backward": ("pointwise", count_learnable_backward),
    "aten::_fake_quantize_learnable_per_channel_affine_backward": ("pointwise", count_learnable_backward),
    **dict.fromkeys(NOTHING, ("other", count_nothing)),
}
READS: dict[str, tuple[int | str, ...]] = {
    "aten::_fake_quantize_per_tensor_affine_cachemask_tensor_qparams": (3,),
    "aten::_fused_moving_avg_obs_fq_helper": (1, 2),
    "aten::_fused_moving_avg_obs_fq_helper_functional": (1, 2),
    "aten::fused_moving_avg_obs_fake_quant": (1, 2),
}
