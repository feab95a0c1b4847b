"""Losses and their gradients: operations per element (`pointwise`), then a sum or a mean (`reduction`).

Losses that torch writes out in other operators (cross entropy, L1, KL divergence) are counted as those.
Not here: log-softmax (`normalization`).
"""

from collections.abc import Callable

from flopmeter.formulas.call import Arg, OpCall, is_exactly
from flopmeter.formulas.cost import Cost, Part

# n elements of the prediction, g of the incoming gradient (1, or n without a reduction), N targets of a class loss

RATES = {
    "aten::mse_loss": 2,
    "aten::huber_loss": 6,
    "aten::smooth_l1_loss": 6,
    "aten::soft_margin_loss": 4,
}
"""(x − t)²; ½z², δ·(z − ½δ) with z = |x − t|; ½z²/β, z − ½β; log1p(exp(−x·t))."""

BACKWARD_RATES = {
    "aten::mse_loss_backward": (3, 0),
    "aten::huber_loss_backward": (3, 4),
    "aten::smooth_l1_loss_backward": (5, 1),
    "aten::soft_margin_loss_backward": (5, 0),
}
"""Operations per element of the prediction, and of the incoming gradient."""

NONE, MEAN, SUM = 0, 1, 2


def count_loss(call: OpCall) -> Cost:
    """Cost of a loss between two tensors.

    Shapes: x, t with n elements → one number, or n without a reduction.
    Counts: `RATES` operations for each of n elements (pointwise); n for a mean, n − 1 for a sum (reduction).
    Ignores: compares, and which branch an element takes.
    Source: docs/spec/fm-1.md#loss.

    Example:
        >>> count_loss(OpCall.of("aten::mse_loss", (2, 3), (2, 3))).flop
        18
        >>> count_loss(OpCall.of("aten::mse_loss", (2, 3), (2, 3), 2)).flop
        17
    """
    size = call.tensor(0).size
    return _reduced(RATES[call.op] * size, size, call.arg(2, MEAN))


def count_loss_backward(call: OpCall) -> int:
    """Cost of the gradient of a loss between two tensors.

    Shapes: dy with g elements, x, t with n elements → dx.
    Counts: `BACKWARD_RATES` operations per element of x and of dy; n divisions for a mean of soft margins.
    Ignores: compares, the sign function, and numbers made on the host.
    Source: docs/spec/fm-1.md#loss; the decompositions in torch.

    Example:
        >>> scalar = OpCall.of("", ()).args[0]
        >>> count_loss_backward(OpCall.of("aten::mse_loss_backward", scalar, (2, 3), (2, 3), 1))
        18
    """
    each, incoming = BACKWARD_RATES[call.op]
    size = call.tensor(1).size
    mean = size if call.op == "aten::soft_margin_loss_backward" and is_exactly(call.arg(3), MEAN) else 0
    return each * size + incoming * call.tensor(0).size + mean


def count_cross_entropy(call: OpCall) -> Cost:
    """Cost of a binary cross entropy of probabilities.

    Shapes: x, t with n elements, weight optional → one number, or n without a reduction.
    Counts: 7·n for (t − 1)·log1p(−x) − t·log x, n for a weight (pointwise); the reduction as for other losses.
    Ignores: the bound on the logarithms (compares).
    Source: docs/spec/fm-1.md#loss.

    Example:
        >>> count_cross_entropy(OpCall.of("aten::binary_cross_entropy", (2, 3), (2, 3))).flop
        48
    """
    size = call.tensor(0).size
    weight = call.arg(2) is not None
    return _reduced((7 + weight) * size, size, call.arg(3, MEAN))


def count_cross_entropy_backward(call: OpCall) -> int:
    """Cost of the gradient of a binary cross entropy of probabilities.

    Shapes: dy, x, t with n elements, weight optional → dx.
    Counts: 5·n for dy·(x − t) / (x·(1 − x)), n for a weight, n for a mean.
    Ignores: the bound on the divisor (compares).
    Source: docs/spec/fm-1.md#loss.

    Example:
        >>> scalar = OpCall.of("", ()).args[0]
        >>> count_cross_entropy_backward(OpCall.of("aten::binary_cross_entropy_backward", scalar, (2, 3), (2, 3)))
        36
    """
    extra = (call.arg(3) is not None) + is_exactly(call.arg(4, MEAN), MEAN)
    return (5 + extra) * call.tensor(1).size


def count_logit_cross_entropy(call: OpCall) -> Cost:
    """Cost of a binary cross entropy of logits.

    Shapes: x, t with n elements, weight and pos_weight (p elements) optional → one number, or n.
    Counts: 8·n for (1 − t)·x − log σ(x), n for a weight, 3·n + p for a pos_weight (pointwise); then the reduction.
    Ignores: compares.
    Source: docs/spec/fm-1.md#loss.

    Example:
        >>> count_logit_cross_entropy(OpCall.of("aten::binary_cross_entropy_with_logits", (2, 3), (2, 3))).flop
        54
    """
    size = call.tensor(0).size
    pointwise = (8 + (call.arg(2) is not None)) * size
    if call.arg(3) is not None:
        pointwise += 3 * size + call.tensor(3).size
    return _reduced(pointwise, size, call.arg(4, MEAN))


def count_nll(call: OpCall) -> Cost:
    """Cost of the negative log-likelihood of class targets.

    Shapes: log-probabilities (N, K, …), targets (N, …), weight (K,) optional → one number or N, and a total weight.
    Counts: N negations, N products with a weight (pointwise); N for a mean, N − 1 for a sum, and N − 1 to add up the
        weights where there is one and a reduction (reduction).
    Ignores: targets that are ignored, which only values would tell, and counting targets.
    Source: docs/spec/fm-1.md#loss.

    Example:
        >>> count_nll(OpCall.of("aten::nll_loss_forward", (4, 10), (4,), None, 1, -100)).flop
        8
    """
    size = call.tensor(1).size
    weight = call.arg(2) is not None
    cost = _reduced((1 + weight) * size, size, call.arg(3))
    if not weight or is_exactly(call.arg(3), NONE):
        return cost
    return Cost.of(*cost.parts, Part(kind="reduction", flop=max(size - 1, 0)))


def count_nll_backward(call: OpCall) -> int:
    """Cost of the gradient of the negative log-likelihood: one value per target, the rest is zero.

    Shapes: dy, log-probabilities (N, K, …), targets (N, …), weight (K,) optional → (N, K, …).
    Counts: N negations, N products with a weight, one division for a mean.
    Ignores: zeros (torch's decomposition multiplies them, its kernels do not), and ignored targets.
    Source: docs/spec/fm-1.md#loss.

    Example:
        >>> scalar = OpCall.of("", ()).args[0]
        >>> count_nll_backward(OpCall.of("aten::nll_loss_backward", scalar, (4, 10), (4,), None, 1, -100, scalar))
        5
    """
    weight = call.arg(3) is not None
    return (1 + weight) * call.tensor(2).size + is_exactly(call.arg(4), MEAN)


def _reduced(pointwise: int, size: int, reduction: Arg) -> Cost:
    adds = 0
    if is_exactly(reduction, MEAN):
        adds = size
    elif is_exactly(reduction, SUM):
        adds = max(size - 1, 0)
    return Cost.of(Part(kind="pointwise", flop=pointwise), Part(kind="reduction", flop=adds))


FORMULAS: dict[str, tuple[str, Callable[[OpCall], int | Cost]]] = {
    **dict.fromkeys(RATES, ("pointwise", count_loss)),
    **dict.fromkeys(BACKWARD_RATES, ("pointwise", count_loss_backward)),
    "aten::binary_cross_entropy": ("pointwise", count_cross_entropy),
    "aten::binary_cross_entropy_backward": ("pointwise", count_cross_entropy_backward),
    "aten::binary_cross_entropy_with_logits": ("pointwise", count_logit_cross_entropy),
    "aten::nll_loss_forward": ("pointwise", count_nll),
    "aten::nll_loss2d_forward": ("pointwise", count_nll),
    "aten::nll_loss_backward": ("pointwise", count_nll_backward),
    "aten::nll_loss2d_backward": ("pointwise", count_nll_backward),
}
