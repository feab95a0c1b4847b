"""Fourier transforms, and the windows and frequencies that go with them.

Nominal, because there are many algorithms and libraries choose among them by length: 5·M·log2 N for M points, the
usual count for radix 2, whatever N is. The logarithm is an integer, by a rule of its own (`log2_thousandths`).
Not here: framing, padding and overlap-add of short-time transforms, which call other operators.
"""

import math
from collections.abc import Callable

from flopmeter.errors import FormulaError
from flopmeter.formulas.call import OpCall, TensorSpec, is_exactly, parse_sizes
from flopmeter.formulas.cost import Cost, Part

# M points of the transformed tensor in all, N points of one transform (the product of the transformed sizes)

POINTS = 2**63
"""More points than a tensor can have; a transform of as many is a mistake, and its logarithm would take long."""

WINDOWS = {
    "aten::bartlett_window": 3,
    "aten::hann_window": 4,
    "aten::hamming_window": 4,
    "aten::blackman_window": 9,
    "aten::kaiser_window": 8,
    "aten::fft_fftfreq": 1,
    "aten::fft_rfftfreq": 1,
}
"""Operations per point; docs/spec/fm-1.md#spectral writes each form out."""


def log2_thousandths(points: int) -> int:
    """Return the logarithm of a size to base 2 in thousandths, rounded down, by whole numbers alone.

    It is the largest k with 2^k ≤ N^1000: one less than the binary digits of N^1000. Exact for powers of two.

    Counts: nothing; a factor of the cost of a transform.
    Source: docs/spec/fm-1.md#spectral.

    Raises:
        FormulaError: no size of a tensor.

    Example:
        >>> log2_thousandths(8), log2_thousandths(12), log2_thousandths(1)
        (3000, 3584, 0)
    """
    if not 0 < points < POINTS:
        msg = f"{points} points cannot be transformed"
        raise FormulaError(msg, where="fft")
    return (points**1000).bit_length() - 1


def count_complex_transform(call: OpCall) -> Cost:
    """Cost of a Fourier transform from complex to complex numbers, forward or inverse, over any dimensions.

    Shapes: x with M points → the same.
    Counts: nominal 5·M·log2 N, rounded down; pointwise 2·M for a normalization.
    Ignores: which algorithm a library takes.
    Source: docs/spec/fm-1.md#spectral.

    Example:
        >>> count_complex_transform(OpCall.of("aten::_fft_c2c", (3, 8), [1], 0, True, dtype="complex64")).flop
        360
    """
    data = call.tensor(0)
    return _transform(call, data, halves=2, scaled=2 * data.size)


def count_real_transform(call: OpCall) -> Cost:
    """Cost of a Fourier transform from real to complex numbers.

    Shapes: x with M points → M complex points, or one half of the last dimension and one more.
    Counts: half of a complex transform of M points, rounded down; pointwise 2 for each complex point that comes out
        where it is normalized.
    Ignores: which algorithm a library takes; filling the other half with conjugates.
    Source: docs/spec/fm-1.md#spectral.

    Example:
        >>> call = OpCall.of("aten::_fft_r2c", (3, 8), [1], 0, True, out=[(3, 5)])
        >>> count_real_transform(call).flop
        180
    """
    return _transform(call, call.tensor(0), halves=1, scaled=2 * call.out[0].size)


def count_inverse_transform(call: OpCall) -> Cost:
    """Cost of a Fourier transform from complex to real numbers.

    Shapes: half of the last dimension and one more → y with M points.
    Counts: half of a complex transform of M points, rounded down; pointwise M for a normalization.
    Ignores: which algorithm a library takes.
    Source: docs/spec/fm-1.md#spectral.

    Example:
        >>> call = OpCall.of("aten::_fft_c2r", (3, 5), [1], 2, 8, dtype="complex64", out=[(3, 8)])
        >>> count_inverse_transform(call).flop
        204
    """
    return _transform(call, call.out[0], halves=1, scaled=call.out[0].size)


def count_window(call: OpCall) -> int:
    """Cost of a window, or of the frequencies of a transform.

    Shapes: a length → n points.
    Counts: `WINDOWS` operations for each of n points, and of one point more where a window is periodic.
    Ignores: numbers made on the host; a window of one point, which is a fill.
    Source: docs/spec/fm-1.md#spectral; torch's own forms.

    Example:
        >>> count_window(OpCall.of("aten::hann_window", 8, out=[(8,)]))
        36
        >>> count_window(OpCall.of("aten::hann_window", 8, False, out=[(8,)]))
        32
    """
    size = call.out[0].size
    if "window" not in call.op:
        return WINDOWS[call.op] * size
    points = size if call.arg(1, default=True) is False else size + 1
    return WINDOWS[call.op] * points if size > 1 else 0


def _transform(call: OpCall, whole: TensorSpec, *, halves: int, scaled: int) -> Cost:
    dims = parse_sizes(call.option("dim", call.arg(1)))
    points = math.prod(whole.shape[dim] for dim in dims)
    if not whole.size:
        return Cost.of(Part(kind="fft"))
    flop = 5 * whole.size * log2_thousandths(points) * halves // 2000
    is_scaled = points > 1 and not is_exactly(call.arg(2, 0), 0)
    return Cost.of(Part(kind="fft", flop=flop), Part(kind="pointwise", flop=scaled if is_scaled else 0))


FORMULAS: dict[str, tuple[str, Callable[[OpCall], int | Cost]]] = {
    "complex::aten._fft_c2c": ("fft", count_complex_transform),
    "complex::aten._fft_r2c": ("fft", count_real_transform),
    "complex::aten._fft_c2r": ("fft", count_inverse_transform),
    "complex::prims.fft_c2c": ("fft", count_complex_transform),
    "complex::prims.fft_r2c": ("fft", count_real_transform),
    "complex::prims.fft_c2r": ("fft", count_inverse_transform),
    **dict.fromkeys(WINDOWS, ("pointwise", count_window)),
}
