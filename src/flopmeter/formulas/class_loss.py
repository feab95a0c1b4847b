"""Losses over classes and sequences: margins, CTC, and a linear layer with its cross entropy in one operator.

Not here: losses between two tensors and the log-likelihood of class targets (`loss`).
"""

from collections.abc import Callable

from flopmeter.formulas.call import Arg, OpCall, TensorSpec, is_exactly, parse_sizes
from flopmeter.formulas.cost import Cost, Part

# N samples, C classes, n = N·C; T steps of a sequence, L labels of its target; R rows, K features

NONE, MEAN, SUM = 0, 1, 2

CELL = 11
"""One cell of the recursion over a sequence: log(eˣ + eʸ + eᶻ) against their maximum 9, its probability 2."""
JOIN = 8
"""One cell of both recursions together: add them, and log(eˣ + eʸ) against their maximum, 7, for its label."""
CLASS = 6
"""One class of one step: e^p − e^(s + l − p), times dy."""
END = 8
"""The end of a sequence: log(eˣ + eʸ) against their maximum 7, and its sign."""


def count_multi_margin(call: OpCall) -> Cost:
    """Cost of a margin between the target's class and every other.

    Shapes: x (N, C) or (C,), targets (N,), weight (C,) optional → one number, or N.
    Counts: N for margin − x_t, n to add x, n for a square (p = 2), n for a weight (pointwise); n for the mean over the
        classes (reduction).
    Ignores: compares, and that the target's own class drops out.
    Source: docs/spec/fm-1.md#class_loss; the decomposition in torch.

    Raises:
        FormulaError: a power that is neither 1 nor 2.

    Example:
        >>> count_multi_margin(OpCall.of("aten::multi_margin_loss", (4, 5), (4,))).flop
        44
    """
    size, samples = _samples(call.tensor(0))
    rate = 1 + _square(call, call.arg(2, 1)) + (call.arg(4) is not None)
    return Cost.of(Part(kind="pointwise", flop=samples + rate * size), Part(kind="reduction", flop=size))


def count_multi_margin_backward(call: OpCall) -> Cost:
    """Cost of the gradient of a margin between the target's class and every other.

    Shapes: dy, x (N, C) or (C,), targets (N,), weight (C,) optional → dx.
    Counts: the margin again N + n, n to multiply with it (p = 2), n for a weight, n to multiply by dy (pointwise);
        n − N for the target's own, the negative sum of the others (reduction).
    Ignores: compares, and that classes beyond the margin are zero.
    Source: docs/spec/fm-1.md#class_loss.

    Raises:
        FormulaError: a power that is neither 1 nor 2.

    Example:
        >>> scalar = OpCall.of("", ()).args[0]
        >>> count_multi_margin_backward(OpCall.of("aten::multi_margin_loss_backward", scalar, (4, 5), (4,), 1, 1)).flop
        60
    """
    size, samples = _samples(call.tensor(1))
    rate = 2 + _square(call, call.arg(3)) + (call.arg(5) is not None)
    return Cost.of(Part(kind="pointwise", flop=samples + rate * size), Part(kind="reduction", flop=size - samples))


def count_multilabel_margin(call: OpCall) -> Cost:
    """Cost of margins between every class that is a target and every class that is none.

    Shapes: x, targets (N, C), (C,) or () → one number, or N.
    Counts: n for 1 − x_t, n·C to add x, n·C to divide by C (pointwise); the sum over all pairs, n·C − N, N more for
        a mean over the samples, n·C − 1 for a sum (reduction).
    Ignores: how many targets there are, which only values would tell: every class is taken for one.
    Source: docs/spec/fm-1.md#class_loss; the decomposition in torch.

    Example:
        >>> count_multilabel_margin(OpCall.of("aten::multilabel_margin_loss_forward", (4, 5), (4, 5), 1)).flop
        320
    """
    size, samples = _samples(call.tensor(0))
    pairs = size * _classes(call.tensor(0))
    left = 1 if is_exactly(call.arg(2), SUM) else samples
    mean = samples if is_exactly(call.arg(2), MEAN) else 0
    return Cost.of(
        Part(kind="pointwise", flop=size + 2 * pairs), Part(kind="reduction", flop=max(pairs - left, 0) + mean)
    )


def count_multilabel_margin_backward(call: OpCall) -> Cost:
    """Cost of the gradient of margins between classes that are targets and classes that are none.

    Shapes: dy, x, targets (N, C), (C,) or () → dx.
    Counts: the margins again n + n·C, n to multiply by dy (pointwise); 2·n·C adds, to either side of a pair (scatter).
    Ignores: how many targets there are: every class is taken for one.
    Source: docs/spec/fm-1.md#class_loss.

    Example:
        >>> scalar = OpCall.of("", ()).args[0]
        >>> call = OpCall.of("aten::multilabel_margin_loss_backward", scalar, (4, 5), (4, 5), 1, (4, 5))
        >>> count_multilabel_margin_backward(call).flop
        340
    """
    size, _ = _samples(call.tensor(1))
    pairs = size * _classes(call.tensor(1))
    return Cost.of(Part(kind="pointwise", flop=2 * size + pairs), Part(kind="scatter", flop=2 * pairs))


def count_ctc(call: OpCall) -> int:
    """Cost of the CTC loss.

    Shapes: log-probabilities (T, N, C) or (T, C), targets, lengths of each sequence and of each target → N losses.
    Counts: for a sequence of T steps and L labels 11·(T − 1)·(2·L + 1) for the recursion, 8 for its end.
    Ignores: that a label cannot be reached from everywhere; where lengths are not known, all are taken for the longest
        that the shapes allow.
    Source: docs/spec/fm-1.md#class_loss; the kernels in torch.

    Raises:
        FormulaError: shapes that do not fit.

    Example:
        >>> count_ctc(OpCall.of("aten::_ctc_loss", (6, 2, 5), (2, 3), [6, 5], [3, 2], out=[(2,), (2, 6, 7)]))
        621
    """
    return sum(_alpha(steps, labels) for steps, labels in _sequences(call, 0))


def count_ctc_backward(call: OpCall) -> int:
    """Cost of the gradient of the CTC loss.

    Shapes: dy (N,), log-probabilities (T, N, C) or (T, C), targets, lengths, losses, the forward's recursion → dx.
    Counts: for a sequence of T steps and L labels 19·(T − 1)·(2·L + 1): 11 for the recursion from its end, 8 to join
        both; 2 to join them at the end, 6·T·C for the gradient.
    Ignores: what the forward ignores.
    Source: docs/spec/fm-1.md#class_loss; the kernels in torch.

    Raises:
        FormulaError: shapes that do not fit.

    Example:
        >>> call = OpCall.of("aten::_ctc_loss_backward", (2,), (6, 2, 5), (2, 3), [6, 5], [3, 2], (2,), (2, 6, 7), 0)
        >>> count_ctc_backward(call)
        1379
    """
    classes = call.tensor(1).shape[-1]
    return sum(_beta(steps, labels, classes) for steps, labels in _sequences(call, 1))


def count_ctc_with_gradient(call: OpCall) -> int:
    """Cost of the CTC loss where its kernel computes the gradient with it.

    Shapes: as the forward → N losses and the gradient (T, N, C).
    Counts: forward and backward, but for the product with dy, T·C, which comes later.
    Ignores: what they ignore.
    Source: docs/spec/fm-1.md#class_loss.

    Raises:
        FormulaError: shapes that do not fit.

    Example:
        >>> op = "aten::_cudnn_ctc_loss"
        >>> count_ctc_with_gradient(OpCall.of(op, (6, 2, 5), (5,), [6, 5], [3, 2], 0, False, False))
        1945
    """
    classes = call.tensor(0).shape[-1]
    return sum(
        _alpha(steps, labels) + _beta(steps, labels, classes) - steps * classes for steps, labels in _sequences(call, 0)
    )


def count_linear_cross_entropy(call: OpCall) -> Cost:
    """Cost of a linear layer and its cross entropy, chunk after chunk of the rows, gradients included.

    Shapes: x (R, K), w (C, K), targets (R,), bias (C,) and weight (C,) optional → the loss and, with a reduction, the
        gradients that the flags ask for.
    Counts: matmul 2·R·C·K for the logits, as much for dx and for dw, 4·R for the two sums of the loss; pointwise and
        reduction as torch's code asks for them, row by row of the table; chunks make C·K and C more adds each.
    Ignores: casts, buffers in another precision, and targets that are ignored.
    Source: docs/spec/fm-1.md#class_loss; torch.nn.modules.linear_cross_entropy.

    Raises:
        FormulaError: a reduction that is not known, or sizes that do not fit.

    Example:
        >>> call = OpCall.of("torch_nn::_linear_cross_entropy_batch_chunked", (7, 3), (11, 3), (7,), None, None, "mean",
        ...                  -100, 0.0, 7, "accurate", None, False, False, False, False)
        >>> count_linear_cross_entropy(call).flop
        737
    """
    data, weight = call.tensor(0).shape, call.tensor(1).shape
    if len(data) != 2 or len(weight) != 2 or data[1] != weight[1]:
        call.refuse(f"x {list(data)} and weight {list(weight)} do not fit")
    rows, features, classes = data[0], data[1], weight[0]
    reduced = not call.op.endswith("no_reduction")
    (chunk,) = parse_sizes(call.arg(8 if reduced else 6))
    chunks = -(-rows // chunk) if chunk > 0 else 0
    logits = rows * classes
    products, steps = 2 * logits * features, (1 + (call.arg(3) is not None)) * logits + logits
    sums, scatter = logits - rows, 0
    if not reduced:
        # log, subtract, and a product with 1, which torch's code writes as a tensor.
        steps += 3 * rows
        return Cost.of(
            Part(kind="matmul", flop=products), Part(kind="pointwise", flop=steps), Part(kind="reduction", flop=sums)
        )
    how, into_x, into_w, into_bias = call.arg(5), *(call.arg(place) is True for place in (12, 13, 14))
    if how not in {"mean", "sum"}:
        call.refuse(f"the reduction is {how!r}")
    products += 4 * rows
    steps += 2 * rows + 2 * chunks + (how == "mean")
    sums += rows - 1 if how == "mean" else 0
    if into_x or into_w or into_bias:
        steps += rows + logits
    if into_bias:
        sums += logits - chunks * classes
        steps += chunks * classes
        scatter += rows
    if into_x:
        products += 2 * logits * features
        steps += 3 * rows * features
    if into_w:
        products += 2 * logits * features
        steps += 2 * rows * features + chunks * classes * features
        scatter += rows * features
    return Cost.of(
        Part(kind="matmul", flop=products),
        Part(kind="pointwise", flop=steps),
        Part(kind="reduction", flop=sums),
        Part(kind="scatter", flop=scatter),
    )


def _samples(data: TensorSpec) -> tuple[int, int]:
    """Return elements and samples; without a batch there is one sample."""
    return data.size, data.shape[0] if len(data.shape) > 1 else 1


def _classes(data: TensorSpec) -> int:
    """Return the classes of a sample; a number alone is one."""
    return data.shape[-1] if data.shape else 1


def _square(call: OpCall, power: Arg) -> int:
    if not is_exactly(power, 1) and not is_exactly(power, 2):
        call.refuse(f"the power is {power}, neither 1 nor 2")
    return int(is_exactly(power, 2))


def _alpha(steps: int, labels: int) -> int:
    return CELL * max(steps - 1, 0) * (2 * labels + 1) + END


def _beta(steps: int, labels: int, classes: int) -> int:
    return (CELL + JOIN) * max(steps - 1, 0) * (2 * labels + 1) + 2 + CLASS * steps * classes


def _sequences(call: OpCall, at: int) -> list[tuple[int, int]]:
    """Return steps and labels of each sequence; at most as many as the shapes allow where they are not known."""
    data, targets = call.tensor(at), call.tensor(at + 1)
    if len(data.shape) not in {2, 3}:
        call.refuse(f"{data} are no log-probabilities of steps, sequences and classes")
    count = len(call.walk(data.shape[1] if len(data.shape) == 3 else 1))
    # Targets one after the other are as many as there are: which sequence has them changes nothing.
    longest = (targets.shape[1],) * count if len(targets.shape) == 2 else (targets.size, *(0,) * (count - 1))
    steps = _lengths(call.arg(at + 2)) or (data.shape[0],) * count
    labels = _lengths(call.arg(at + 3)) or longest
    if len(steps) != count or len(labels) != count or max(steps, default=0) > data.shape[0]:
        call.refuse(f"{steps} steps and {labels} labels are no lengths for {data}")
    return list(zip(steps, labels, strict=True))


def _lengths(arg: Arg) -> tuple[int, ...] | None:
    """Return lengths that the host knows; None where they are a tensor that was not read."""
    return arg.values if isinstance(arg, TensorSpec) else parse_sizes(arg)


FORMULAS: dict[str, tuple[str, Callable[[OpCall], int | Cost]]] = {
    "aten::multi_margin_loss": ("pointwise", count_multi_margin),
    "aten::multi_margin_loss_backward": ("pointwise", count_multi_margin_backward),
    "aten::multilabel_margin_loss_forward": ("pointwise", count_multilabel_margin),
    "aten::multilabel_margin_loss_backward": ("pointwise", count_multilabel_margin_backward),
    "aten::_ctc_loss": ("pointwise", count_ctc),
    "aten::_ctc_loss_backward": ("pointwise", count_ctc_backward),
    "aten::_cudnn_ctc_loss": ("pointwise", count_ctc_with_gradient),
    "aten::miopen_ctc_loss": ("pointwise", count_ctc_with_gradient),
    "torch_nn::_linear_cross_entropy_batch_chunked": ("matmul", count_linear_cross_entropy),
    "torch_nn::_linear_cross_entropy_batch_chunked_no_reduction": ("matmul", count_linear_cross_entropy),
}
READS: dict[str, tuple[int | str, ...]] = {
    "aten::_ctc_loss": (2, 3),
    "aten::_ctc_loss_backward": (3, 4),
    "aten::_cudnn_ctc_loss": (2, 3),
    "aten::miopen_ctc_loss": (2, 3),
}
