"""Losses over classes and sequences, counted cell by cell."""

import pytest

from flopmeter.errors import FormulaError
from flopmeter.formulas.call import OpCall, TensorSpec
from flopmeter.formulas.class_loss import CELL, CLASS, END, FORMULAS, JOIN, MEAN, NONE, READS, SUM
from flopmeter.formulas.cost import Cost

SCALAR = OpCall.of("", ()).args[0]
N, C = 4, 5
X, T, W = (N, C), (N,), (C,)


def parts_of(op, *args, out=()):
    name = op if "::" in op else f"aten::{op}"
    found = FORMULAS[name][1](OpCall.of(name, *args, out=out))
    if not isinstance(found, Cost):
        return {FORMULAS[name][0]: found}
    return {part.kind: part.flop for part in found.parts}


@pytest.mark.parametrize("power", [1, 2, 2.0])
@pytest.mark.parametrize("weight", [None, W])
def test_a_margin_to_every_other_class(power, weight):
    extra = N * C * ((power == 2) + (weight is not None))
    found = parts_of("multi_margin_loss", X, T, power, 1, weight)
    assert found == {"pointwise": N + N * C + extra, "reduction": N * (C - 1) + N}
    found = parts_of("multi_margin_loss_backward", SCALAR, X, T, power, 1, weight, MEAN)
    assert found == {"pointwise": N + N * C + extra + N * C, "reduction": N * (C - 1)}


def test_a_margin_without_a_batch_and_with_its_defaults():
    assert parts_of("multi_margin_loss", (C,), ()) == {"pointwise": 1 + C, "reduction": C}
    with pytest.raises(FormulaError):
        parts_of("multi_margin_loss", X, T, 3)


@pytest.mark.parametrize(
    ("reduction", "adds"), [(NONE, N * (C * C - 1)), (MEAN, N * (C * C - 1) + N), (SUM, N * C * C - 1)]
)
def test_margins_between_all_targets_and_all_others(reduction, adds):
    pairs = sum(1 for _ in range(N) for _ in range(C) for _ in range(C))
    found = parts_of("multilabel_margin_loss_forward", X, X, reduction)
    assert found == {"pointwise": N * C + pairs + pairs, "reduction": adds}
    found = parts_of("multilabel_margin_loss_backward", SCALAR, X, X, reduction, X)
    assert found == {"pointwise": N * C + pairs + N * C, "scatter": 2 * pairs}


def test_the_steps_of_a_cell():
    """Each of three terms is compared with, subtracted from and raised beside the maximum, then added up."""
    three = 3 + 3 + 2 + 1 + 1  # subtract, exp, add, log, add the maximum
    assert three + 1 == CELL  # its probability
    two = 2 + 2 + 1 + 1 + 1
    assert two + 1 == JOIN  # alpha + beta
    assert two + 1 == END  # the sign
    assert len(["exp p", "s + l", "minus p", "exp", "times dy", "subtract"]) == CLASS


def go_along(lengths, targets, classes):
    """Walk through the recursion of every sequence, forward and backward."""
    forward = backward = 0
    for steps, labels in zip(lengths, targets, strict=True):
        cells = [None, *(label for label in range(labels) for _ in range(2))]  # a blank before, between and after
        for step in range(steps):
            for _ in cells:
                forward += CELL if step else 0
                backward += CELL + JOIN if step < steps - 1 else 0
            backward += sum(CLASS for _ in range(classes))
        forward += END
        backward += 2
    return forward, backward


def ints(*values):
    return TensorSpec((len(values),), "int64", values=values)


@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize(("lengths", "targets"), [((6, 5), (3, 2)), ((1, 6), (0, 4)), ((6, 6), (4, 4))])
def test_sequences_cost_by_their_lengths(as_tensor, lengths, targets):
    """Else speech models cost by the longest sentence of each batch."""
    forward, backward = go_along(lengths, targets, C)
    logits, labels = OpCall.of("", (6, 2, C), (2, 4)).args
    steps, sizes = (ints(*lengths), ints(*targets)) if as_tensor else (lengths, targets)

    def flop_of(op, *args):
        return FORMULAS[op][1](OpCall(op=op, args=args))

    assert flop_of("aten::_ctc_loss", logits, labels, steps, sizes) == forward
    assert flop_of("aten::_ctc_loss_backward", SCALAR, logits, labels, steps, sizes) == backward
    for op in ("aten::_cudnn_ctc_loss", "aten::miopen_ctc_loss"):
        assert flop_of(op, logits, labels, steps, sizes) == forward + backward - sum(lengths) * C


def test_lengths_that_are_not_known_are_the_longest_that_shapes_allow():
    """Said so in the table: a loss on a device is not left out because its lengths stay there."""
    longest = go_along((6, 6), (4, 4), C)[0]
    assert parts_of("_ctc_loss", (6, 2, C), (2, 4), (2,), (2,)) == {"pointwise": longest}
    one_after_the_other = go_along((6, 6), (5, 2), C)[0]
    assert parts_of("_ctc_loss", (6, 2, C), (7,), (2,), (2,)) == {"pointwise": one_after_the_other}
    assert parts_of("_ctc_loss", (6, C), (4,), (), ()) == {"pointwise": go_along((6,), (4,), C)[0]}


@pytest.mark.parametrize(
    ("logits", "lengths", "targets"),
    [((6, 2, C), [6, 5, 4], [3, 2, 1]), ((6, 2, C), [7, 5], [3, 2]), ((6, 2, C), [6], [3]), ((6,), [6], [3])],
)
def test_lengths_that_do_not_fit_are_refused(logits, lengths, targets):
    call = OpCall(op="aten::_ctc_loss", args=(TensorSpec(logits), TensorSpec((2, 4)), tuple(lengths), tuple(targets)))
    with pytest.raises(FormulaError):
        FORMULAS[call.op][1](call)


def test_every_formula_that_reads_lengths_asks_for_them():
    assert set(READS) == {op for op in FORMULAS if "ctc" in op}


R, K, V, CHUNKED = 7, 3, 11, "torch_nn::_linear_cross_entropy_batch_chunked"


def go_through(chunk, how, *, bias, into_x, into_w, into_bias):
    """Walk through the chunks as torch's own code does."""
    matmul = pointwise = reduction = scatter = 0
    reduction += R - 1 if how == "mean" else 0
    pointwise += (1 + R) if how == "mean" else R  # the sign of the sum and a division, or signs
    for start in range(0, R, chunk):
        rows = min(chunk, R - start)
        matmul += 2 * rows * V * K + 2 * rows + 2 * rows  # logits; weight with logits, weight with logarithms
        pointwise += rows * V * bias + rows * V + rows * V + rows + 1 + 1  # bias, maximum, exp, log, two sums
        reduction += rows * (V - 1)
        if into_x or into_w or into_bias:
            pointwise += rows + rows * V  # weight over sum, times
        if into_bias:
            reduction += (rows - 1) * V
            pointwise += V
            scatter += rows
        if into_x:
            pointwise += rows * K + rows * K + rows * K  # times weight; subtract, times -1
            matmul += 2 * rows * V * K
        if into_w:
            matmul += 2 * rows * V * K
            pointwise += rows * K + rows * K + V * K  # times weight, times -1; subtract
            scatter += rows * K
    found = {"matmul": matmul, "pointwise": pointwise, "reduction": reduction, "scatter": scatter}
    return {kind: flop for kind, flop in found.items() if flop}


@pytest.mark.parametrize("how", ["mean", "sum"])
@pytest.mark.parametrize("chunk", [7, 3, 1])
@pytest.mark.parametrize("flags", [(False,) * 3, (True, False, False), (False, True, False), (True, True, True)])
def test_a_linear_layer_and_its_cross_entropy_chunk_by_chunk(how, chunk, flags):
    """Else the largest layer of a small model disappears with the loss that swallowed it."""
    bias = (V,) if flags[2] else None
    arguments = ((R, K), (V, K), (R,), bias, None, how, -100, 0.0, chunk, "accurate", None, False, *flags)
    expected = go_through(chunk, how, bias=flags[2], into_x=flags[0], into_w=flags[1], into_bias=flags[2])
    assert parts_of(CHUNKED, *arguments) == expected


def test_without_a_reduction_there_is_one_loss_for_each_row():
    found = parts_of(f"{CHUNKED}_no_reduction", (R, K), (V, K), (R,), (V,), None, -100, 3, "accurate", None)
    logits = R * V
    assert found == {"matmul": 2 * logits * K, "pointwise": logits + logits + logits + 3 * R, "reduction": logits - R}


def test_a_loss_that_is_not_understood_is_refused():
    rest = (-100, 0.0, 7, "accurate", None, False, True, True, False)
    with pytest.raises(FormulaError):
        parts_of(CHUNKED, (R, K), (V, K), (R,), None, None, "none", *rest)
    with pytest.raises(FormulaError):
        parts_of(CHUNKED, (R, K), (V, K + 1), (R,), None, None, "mean", *rest)


def test_more_sequences_than_any_batch_has_are_refused():
    """Else one row of a ledger that claims any size takes all time or memory of whoever reads it."""
    with pytest.raises(FormulaError, match="too long to walk"):
        parts_of("aten::_ctc_loss", (6, 10**9, 5), (10**9, 3), [6, 5], [3, 2])


def test_a_number_alone_is_one_sample_of_one_class():
    """Else torch runs a call that stays uncounted. Forward: 1 − x, add x, divide by 1 class; the mean divides once."""
    assert parts_of("aten::multilabel_margin_loss_forward", SCALAR, SCALAR, MEAN) == {"pointwise": 3, "reduction": 1}
    backward = parts_of("aten::multilabel_margin_loss_backward", SCALAR, SCALAR, SCALAR, MEAN, SCALAR)
    assert backward == {"pointwise": 3, "scatter": 2}
