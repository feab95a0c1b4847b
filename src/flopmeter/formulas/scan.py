"""State-space scans and linear attention of libraries, and the causal convolutions before them.

A scan costs what its recurrence costs, one token after the other, whatever the kernel makes of it: work that a kernel
adds to take many tokens at once (the products inside a chunk) is not counted. Products with the state are kind
`recurrent`, its decay and the gates are `pointwise`.
Not here: the many scans of libraries that the dispatcher does not see (`docs/reference/libraries.md`).
"""

from collections.abc import Callable

from flopmeter.errors import FormulaError
from flopmeter.formulas.call import OpCall
from flopmeter.formulas.cost import Cost, Part
from flopmeter.formulas.rates import SILU, SILU_BACKWARD, SOFTPLUS

# n elements of x, D channels, k taps; N states to a channel; T tokens of all sequences, H heads, K and V their widths


def count_causal_conv(call: OpCall) -> Cost:
    """Cost of a causal convolution of each channel by itself.

    Shapes: x with n elements, channels anywhere, weight (D, k), bias (D,) optional → y as x.
    Counts: convolution 2·n·k; pointwise n with a bias, 2·n with silu.
    Ignores: that taps before the start of a sequence find nothing; copies of the state.
    Source: docs/spec/fm-1.md#scan.

    Raises:
        FormulaError: the weight is not (D, k), or x has no such channels.

    Example:
        >>> x, weight = (2, 8, 5), (8, 4)
        >>> op = "DaoAILab::_causal_conv1d_fwd_cpp"
        >>> [part.flop for part in count_causal_conv(OpCall.of(op, x, weight, (8,), None, None, x, None, True)).parts]
        [640, 240]
    """
    x, weight = call.tensor(0), call.tensor(_WEIGHT_AT.get(call.op, 1))
    each = (call.arg(_WEIGHT_AT.get(call.op, 1) + 1) is not None) + SILU * _read_flag(call)
    return Cost.of(
        Part(kind="convolution", flop=2 * x.size * _taps(call, x.shape, weight.shape)),
        Part(kind="pointwise", flop=each * x.size),
    )


def count_causal_conv_backward(call: OpCall) -> Cost:
    """Cost of the gradients of a causal convolution.

    Shapes: x and dy (B, D, L), weight (D, k), bias (D,) optional → dx, dweight, dbias.
    Counts: convolution 2·n·k each for dx and dweight; reduction n − D for dbias. With silu pointwise 6·n, and in phase
        `recompute` its input again: convolution 2·n·k, pointwise n with a bias.
    Ignores: what `count_causal_conv` ignores.
    Source: docs/spec/fm-1.md#scan.

    Raises:
        FormulaError: the shapes do not fit.

    Example:
        >>> x, weight = (2, 8, 5), (8, 4)
        >>> op = "DaoAILab::_causal_conv1d_bwd_cpp"
        >>> call = OpCall.of(op, x, weight, (8,), x, None, None, None, x, weight, (8,), x, False)
        >>> [part.flop for part in count_causal_conv_backward(call).parts]
        [1280, 72]
    """
    x, weight, dy = call.tensor(0), call.tensor(1), call.tensor(3)
    if x.shape != dy.shape:
        msg = f"x {x.shape} and its gradient {dy.shape} differ"
        raise FormulaError(msg, where=call.op)
    has_bias, has_silu = call.arg(2) is not None, _read_flag(call)
    products = 2 * x.size * _taps(call, x.shape, weight.shape)
    return Cost.of(
        Part(kind="convolution", flop=2 * products),
        Part(kind="pointwise", flop=SILU_BACKWARD * x.size * has_silu),
        Part(kind="reduction", flop=has_bias * max(0, x.size - weight.shape[0])),
        Part(kind="convolution", flop=products * has_silu, phase="recompute"),
        Part(kind="pointwise", flop=x.size * (has_silu and has_bias), phase="recompute"),
    )


def count_selective_scan(call: OpCall) -> Cost:
    """Cost of Mamba's selective scan.

    Shapes: u, delta with n elements, channels first or second, A (D, N), B and C with N states for each token, D (D,)
        optional, z as u optional → y as u.
    Counts: for each element recurrent 2·N for `y = C h`; pointwise 5·N + 1 for `h = exp(δ·A)·h + (δ·u)·B`, 2 for D,
        3 for the gate `y·silu(z)`, 1 for the bias of δ and 4 for its softplus.
    Ignores: that the first state of a sequence may be nothing.
    Source: docs/spec/fm-1.md#scan.

    Raises:
        FormulaError: A is no (D, N), or u has no D channels.

    Example:
        >>> u, a, b = (2, 8, 5), (8, 16), (2, 1, 16, 5)
        >>> op = "_C::selective_scan_fwd"
        >>> call = OpCall.of(op, u, u, a, b, b, (8,), u, (8,), True, None, None, None, (2, 8, 16), -1)
        >>> [(part.kind, part.flop) for part in count_selective_scan(call).parts]
        [('recurrent', 2560), ('pointwise', 7280)]
    """
    u, a = call.tensor(0), call.tensor(2)
    if len(a.shape) != 2 or a.shape[0] not in u.shape or call.tensor(1).shape != u.shape:
        msg = f"u {u.shape}, delta {call.tensor(1).shape} and A {a.shape} do not fit"
        raise FormulaError(msg, where=call.op)
    skip, gate, bias = (call.arg(place) is not None for place in (5, 6, 7))
    each = 5 * a.shape[1] + 1 + 2 * skip + (SILU + 1) * gate + bias + SOFTPLUS * (call.arg(8) is True)
    return Cost.of(
        Part(kind="recurrent", flop=2 * a.shape[1] * u.size),
        Part(kind="pointwise", flop=each * u.size),
    )


def count_delta_rule(call: OpCall) -> Cost:
    """Cost of a gated delta rule, with the norms of q and k that come in the same operator.

    Shapes: q, k (B, T, J, K), v (B, T, H, V), g and beta (B, T, H), J divides H → o as v.
    Counts: for each token and head recurrent 6·K·V, pointwise K·V + 2·V + K + 1: `S = exp(g)·S`, `d = β·(v − Sᵀk)`,
        `S = S + k dᵀ`, `o = Sᵀ(q·scale)`. Normalization 3·K + 1 for each q and k: square, sum, eps, root, multiply.
    Ignores: products inside of chunks.
    Source: docs/spec/fm-1.md#scan.

    Raises:
        FormulaError: the shapes do not fit.

    Example:
        >>> q, v, g = (1, 4, 2, 8), (1, 4, 2, 16), (1, 4, 2)
        >>> cost = count_delta_rule(OpCall.of("unsloth::qwen3_5_gdn_chunk", q, q, v, g, g, 0.35))
        >>> [(part.kind, part.flop) for part in cost.parts]
        [('recurrent', 6144), ('pointwise', 1352), ('normalization', 400)]
    """
    q, k, v, g, beta = (call.tensor(place).shape for place in range(5))
    vectors, heads, width, value = _read_delta(call, q, k, v)
    if not g == beta == v[:3]:
        msg = f"v {v}, g {g} and beta {beta} do not fit"
        raise FormulaError(msg, where=call.op)
    return Cost.of(
        Part(kind="recurrent", flop=6 * heads * width * value),
        Part(kind="pointwise", flop=heads * (width * value + 2 * value + width + 1)),
        Part(kind="normalization", flop=2 * vectors * (3 * width + 1)),
    )


def count_delta_rule_backward(call: OpCall) -> Cost:
    """Cost of the gradients of a gated delta rule, and of the norms of q and k.

    Shapes: q and k (B, T, J, K) after their norms, with the inverse of the norms (B, T, J); v, do (B, T, H, V); g and
        beta (B, T, H) → gradients of q, k, v, g and beta.
    Counts: for each token and head recurrent 12·K·V: `dS += q doᵀ`, `dq = S do`, `dd = dSᵀk`, `dk = dS d`, and through
        `d` again `dS += k drᵀ`, `dk += S' dr`; pointwise 2·K·V for the decay and the gradient of g, 5·V for those of v,
        β and `r = Sᵀk`, K for the scale; reduction K·V − 1 + V − 1 for g and β. In phase `recompute` the states:
        recurrent 4·K·V, pointwise K·V + 2·V + 1. Normalization 5·K − 1 for each q and k; reduction 2·T·K·(H − J) for
        heads that share q and k.
    Ignores: products inside of chunks.
    Source: docs/spec/fm-1.md#scan.

    Raises:
        FormulaError: the shapes do not fit.

    Example:
        >>> q, r, v, g = (1, 4, 2, 8), (1, 4, 2), (1, 4, 2, 16), (1, 4, 2)
        >>> op = "unsloth::qwen3_5_gdn_chunk_bwd"
        >>> cost = count_delta_rule_backward(OpCall.of(op, q, r, q, r, v, g, g, (1, 4, 2, 64), v, 0.35))
        >>> [(part.kind, part.phase, part.flop) for part in cost.parts][:2]
        [('recurrent', None, 12288), ('recurrent', 'recompute', 4096)]
    """
    q, k, v, dy = (call.tensor(place).shape for place in (0, 2, 4, 8))
    vectors, heads, width, value = _read_delta(call, q, k, v)
    if v != dy:
        msg = f"v {v} and the gradient {dy} differ"
        raise FormulaError(msg, where=call.op)
    return Cost.of(
        Part(kind="recurrent", flop=12 * heads * width * value),
        Part(kind="recurrent", flop=4 * heads * width * value, phase="recompute"),
        Part(kind="pointwise", flop=heads * (2 * width * value + 5 * value + width)),
        Part(kind="pointwise", flop=heads * (width * value + 2 * value + 1), phase="recompute"),
        Part(kind="normalization", flop=2 * vectors * (5 * width - 1)),
        Part(kind="reduction", flop=heads * (width * value + value - 2) + 2 * (heads - vectors) * width),
    )


def count_rwkv7(call: OpCall) -> Cost:
    """Cost of the recurrence of RWKV-7.

    Shapes: w, q, k, v, a, b (B, T, H, K) → y as v; the state of a head is (K, K).
    Counts: for each token and head recurrent 8·K²: `s = S a`, `S = S·w + s bᵀ + v kᵀ`, `y = S q`; pointwise K² for the
        decay and 3·K for `w = exp(−exp(w))`.
    Ignores: the states that are kept for backward.
    Source: docs/spec/fm-1.md#scan.

    Raises:
        FormulaError: the operands are not all (B, T, H, K).

    Example:
        >>> x, s = (1, 16, 2, 64), (1, 2, 1, 64, 64)
        >>> call = OpCall.of("wind_backstepping::forward", x, x, x, x, x, x, x, s, x)
        >>> [part.flop for part in count_rwkv7(call).parts]
        [1048576, 137216]
    """
    heads, width = _read_rwkv(call, 6)
    return Cost.of(
        Part(kind="recurrent", flop=8 * heads * width**2),
        Part(kind="pointwise", flop=heads * (width**2 + 3 * width)),
    )


def count_rwkv7_backward(call: OpCall) -> Cost:
    """Cost of the gradients of RWKV-7's recurrence.

    Shapes: as `count_rwkv7`, and dy → the gradients of all six.
    Counts: for each token and head recurrent 18·K²: `dq = Sᵀdy`, `dS += dy qᵀ`, `dv = dS k`, `dk = dSᵀv`, `ds = dS b`,
        `db = dSᵀs`, `dw = Σ S·dS`, `da = Sᵀds`, `dS += ds aᵀ`; pointwise K² for the decay and 4·K for the gradient of
        `exp(−exp(w))`. In phase `recompute` the state before, from the state after: recurrent 4·K², pointwise K² and
        3·K for w.
    Ignores: the states that were kept.
    Source: docs/spec/fm-1.md#scan.

    Raises:
        FormulaError: the operands are not all (B, T, H, K).

    Example:
        >>> x, s = (1, 16, 2, 64), (1, 2, 1, 64, 64)
        >>> call = OpCall.of("wind_backstepping::backward", x, x, x, x, x, x, x, s, x, x, x, x, x, x, x)
        >>> [part.flop for part in count_rwkv7_backward(call).parts]
        [2359296, 524288, 139264, 137216]
    """
    heads, width = _read_rwkv(call, 7)
    square = heads * width**2
    return Cost.of(
        Part(kind="recurrent", flop=18 * square),
        Part(kind="recurrent", flop=4 * square, phase="recompute"),
        Part(kind="pointwise", flop=square + 4 * heads * width),
        Part(kind="pointwise", flop=square + 3 * heads * width, phase="recompute"),
    )


def count_recursive_filter(call: OpCall) -> Cost:
    """Cost of the recursive part of a filter.

    Shapes: x (B, D, L) with n elements, coefficients (D, k), y (B, D, L + k − 1).
    Counts: recurrent 2·n·k for what has come out already; pointwise n to subtract it.
    Source: docs/spec/fm-1.md#scan.

    Raises:
        FormulaError: the shapes do not fit.

    Example:
        >>> count_recursive_filter(OpCall.of("torchaudio::_lfilter_core_loop", (2, 1, 10), (1, 3), (2, 1, 12))).flop
        140
    """
    x, coefficients = call.tensor(0), call.tensor(1).shape
    if len(x.shape) != 3 or len(coefficients) != 2 or coefficients[0] != x.shape[1]:
        msg = f"x {x} and coefficients {coefficients} do not fit"
        raise FormulaError(msg, where=call.op)
    return Cost.of(
        Part(kind="recurrent", flop=2 * x.size * coefficients[1]),
        Part(kind="pointwise", flop=x.size),
    )


def _taps(call: OpCall, x: tuple[int, ...], weight: tuple[int, ...]) -> int:
    if len(weight) != 2 or weight[0] not in x:
        msg = f"x {x} and weight {weight} do not fit"
        raise FormulaError(msg, where=call.op)
    return weight[1]


def _read_flag(call: OpCall) -> bool:
    """Return the only flag of a causal convolution: whether silu follows. Its place has moved with the versions."""
    flags = [arg for arg in call.args if isinstance(arg, bool)]
    if len(flags) != 1:
        msg = f"{len(flags)} flags, not the one that says whether silu follows"
        raise FormulaError(msg, where=call.op)
    return flags[0]


def _read_delta(call: OpCall, q: tuple[int, ...], k: tuple[int, ...], v: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Return vectors of q, heads of v over all tokens, and both widths."""
    if len(q) != 4 or len(v) != 4 or q != k or q[:2] != v[:2] or v[2] % max(q[2], 1):
        msg = f"q {q}, k {k} and v {v} do not fit"
        raise FormulaError(msg, where=call.op)
    tokens = q[0] * q[1]
    return tokens * q[2], tokens * v[2], q[3], v[3]


def _read_rwkv(call: OpCall, count: int) -> tuple[int, int]:
    """Return heads over all tokens, and their width."""
    shapes = {call.tensor(place).shape for place in range(count)}
    first = call.tensor(0).shape
    if len(shapes) != 1 or len(first) != 4:
        msg = f"operands {sorted(shapes)} are not all (B, T, H, K)"
        raise FormulaError(msg, where=call.op)
    return first[0] * first[1] * first[2], first[3]


_WEIGHT_AT = {
    "DaoAILab::_causal_conv1d_update_cpp": 2,
    "_C::causal_conv1d_update": 2,
    "sgl_kernel::causal_conv1d_update": 2,
}
"""Operators that take the state before the weight."""

FORMULAS: dict[str, tuple[str, Callable[[OpCall], int | Cost]]] = {
    "DaoAILab::_causal_conv1d_fwd_cpp": ("convolution", count_causal_conv),
    "_C::causal_conv1d_fwd": ("convolution", count_causal_conv),
    "sgl_kernel::causal_conv1d_fwd": ("convolution", count_causal_conv),
    **dict.fromkeys(_WEIGHT_AT, ("convolution", count_causal_conv)),
    "DaoAILab::_causal_conv1d_bwd_cpp": ("convolution", count_causal_conv_backward),
    "_C::selective_scan_fwd": ("recurrent", count_selective_scan),
    "torchaudio::_lfilter_core_loop": ("recurrent", count_recursive_filter),
    "unsloth::qwen3_5_gdn_chunk": ("recurrent", count_delta_rule),
    "unsloth::qwen3_5_gdn_chunk_bwd": ("recurrent", count_delta_rule_backward),
    "wind_backstepping::forward": ("recurrent", count_rwkv7),
    "wind_backstepping::backward": ("recurrent", count_rwkv7_backward),
}
