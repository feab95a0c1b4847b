"""A fused operator costs what torch's own decomposition of it costs, operator by operator."""

import pytest
import torch
from torch._decomp import decomposition_table
from versions import IS_SINCE_2_14, since_2_10

from flopmeter.formulas.book import FormulaBook
from flopmeter.formulas.call import OpCall
from flopmeter.testing.calls import record_calls

BOOK = FormulaBook.standard()
aten = torch.ops.aten


def rand(*shape):
    return torch.rand(shape) + 0.1


def part(*shape):
    """Return probabilities that stay away from 0 and 1."""
    return 0.1 + 0.8 * torch.rand(shape)


def count(work):
    """Count everything that the work asks torch for, outside any autograd."""
    with torch.no_grad():
        rows = record_calls(work)
    total, uncounted = 0, []
    for row in rows:
        cost = BOOK.cost(row.call)
        if cost is None:
            uncounted.append(row.call.op)
        else:
            total += cost.flop * row.calls
    assert uncounted == []
    return total


X, W = (3, 4, 6), (6,)
IMAGE, C = (2, 4, 3, 5), (4,)
YES = [True, True, True]

CASES = {
    "addmm": (aten.addmm.default, (rand(5), rand(3, 4), rand(4, 5)), {}),
    "addmm scaled": (aten.addmm.default, (rand(5), rand(3, 4), rand(4, 5)), {"beta": 0.3, "alpha": 0.7}),
    "addmm without bias": (aten.addmm.default, (rand(5), rand(3, 4), rand(4, 5)), {"beta": 0}),
    "addmv": (aten.addmv.default, (rand(3), rand(3, 4), rand(4)), {"alpha": 0.7}),
    "baddbmm": (aten.baddbmm.default, (rand(2, 3, 5), rand(2, 3, 4), rand(2, 4, 5)), {"beta": 0.3}),
    "addr": (aten.addr.default, (rand(3, 5), rand(3), rand(5)), {"beta": 0.3, "alpha": 0.7}),
    "native_layer_norm": (aten.native_layer_norm.default, (rand(*X), [6], rand(*W), rand(*W), 1e-5), {}),
    "native_layer_norm plain": (aten.native_layer_norm.default, (rand(*X), [4, 6], None, None, 1e-5), {}),
    "native_layer_norm_backward": (
        aten.native_layer_norm_backward.default,
        (rand(*X), rand(*X), [6], rand(3, 4, 1), rand(3, 4, 1), rand(*W), rand(*W), YES),
        {},
    ),
    "native_layer_norm_backward plain": (
        aten.native_layer_norm_backward.default,
        (rand(*X), rand(*X), [4, 6], rand(3, 1, 1), rand(3, 1, 1), None, None, [True, False, False]),
        {},
    ),
    "native_group_norm": (aten.native_group_norm.default, (rand(*IMAGE), rand(*C), rand(*C), 2, 4, 15, 2, 1e-5), {}),
    "native_group_norm plain": (aten.native_group_norm.default, (rand(*IMAGE), None, None, 2, 4, 15, 2, 1e-5), {}),
    "native_group_norm_backward": (
        aten.native_group_norm_backward.default,
        (rand(*IMAGE), rand(*IMAGE), rand(2, 2), rand(2, 2), rand(*C), 2, 4, 15, 2, YES),
        {},
    ),
    "native_batch_norm training": (
        aten.native_batch_norm.default,
        (rand(*IMAGE), rand(*C), rand(*C), rand(*C), rand(*C), True, 0.1, 1e-5),
        {},
    ),
    "native_batch_norm without statistics": (
        aten.native_batch_norm.default,
        (rand(*IMAGE), None, None, None, None, True, 0.1, 1e-5),
        {},
    ),
    "native_batch_norm in evaluation": (
        aten.native_batch_norm.default,
        (rand(*IMAGE), rand(*C), rand(*C), rand(*C), rand(*C), False, 0.1, 1e-5),
        {},
    ),
    "native_batch_norm_backward training": (
        aten.native_batch_norm_backward.default,
        (rand(*IMAGE), rand(*IMAGE), rand(*C), rand(*C), rand(*C), rand(*C), rand(*C), True, 1e-5, YES),
        {},
    ),
    "_softmax": (aten._softmax.default, (rand(*X), 1, False), {}),
    "_log_softmax": (aten._log_softmax.default, (rand(*X), -1, False), {}),
    "_softmax_backward_data": (aten._softmax_backward_data.default, (rand(*X), rand(*X), 1, torch.float32), {}),
    "_log_softmax_backward_data": (
        aten._log_softmax_backward_data.default,
        (rand(*X), rand(*X), 1, torch.float32),
        {},
    ),
    "gelu_backward": (aten.gelu_backward.default, (rand(*X), rand(*X)), {}),
    "gelu_backward tanh": (aten.gelu_backward.default, (rand(*X), rand(*X)), {"approximate": "tanh"}),
    "silu": (aten.silu.default, (rand(*X),), {}),
    "silu_backward": (aten.silu_backward.default, (rand(*X), rand(*X)), {}),
    "sigmoid_backward": (aten.sigmoid_backward.default, (rand(*X), rand(*X)), {}),
    "tanh_backward": (aten.tanh_backward.default, (rand(*X), rand(*X)), {}),
    "elu": (aten.elu.default, (rand(*X), 0.7, 0.8, 0.9), {}),
    "leaky_relu": (aten.leaky_relu.default, (rand(*X), 0.1), {}),
    "leaky_relu_backward": (aten.leaky_relu_backward.default, (rand(*X), rand(*X), 0.1, False), {}),
    "hardsigmoid": (aten.hardsigmoid.default, (rand(*X),), {}),
    "hardsigmoid_backward": (aten.hardsigmoid_backward.default, (rand(*X), rand(*X)), {}),
    "hardswish": (aten.hardswish.default, (rand(*X),), {}),
    "hardswish_backward": (aten.hardswish_backward.default, (rand(*X), rand(*X)), {}),
    "glu_backward": (aten.glu_backward.default, (rand(3, 4, 3), rand(*X), 2), {}),
    "log_sigmoid_forward": (aten.log_sigmoid_forward.default, (rand(*X),), {}),
    "log_sigmoid_backward": (aten.log_sigmoid_backward.default, (rand(*X), rand(*X), rand(*X)), {}),
    "_prelu_kernel_backward": (aten._prelu_kernel_backward.default, (rand(*X), rand(*X), rand(1)), {}),
    "mse_loss": (aten.mse_loss.default, (rand(*X), rand(*X), 1), {}),
    "mse_loss_backward": (aten.mse_loss_backward.default, (rand(), rand(*X), rand(*X), 1), {}),
    "huber_loss": (aten.huber_loss.default, (rand(*X), rand(*X), 1, 0.7), {}),
    "huber_loss_backward": (aten.huber_loss_backward.default, (rand(), rand(*X), rand(*X), 1, 0.7), {}),
    "smooth_l1_loss": (aten.smooth_l1_loss.default, (rand(*X), rand(*X), 2, 0.7), {}),
    "smooth_l1_loss_backward": (aten.smooth_l1_loss_backward.default, (rand(), rand(*X), rand(*X), 1, 0.7), {}),
    "soft_margin_loss": (aten.soft_margin_loss.default, (rand(*X), rand(*X), 0), {}),
    "soft_margin_loss_backward": (aten.soft_margin_loss_backward.default, (rand(), rand(*X), rand(*X), 1), {}),
    "binary_cross_entropy": (aten.binary_cross_entropy.default, (part(*X), part(*X), rand(*X), 1), {}),
    "binary_cross_entropy_backward": (
        aten.binary_cross_entropy_backward.default,
        (rand(), part(*X), part(*X), rand(*X), 1),
        {},
    ),
    "native_dropout": (aten.native_dropout.default, (rand(*X), 0.3, True), {}),
    "native_dropout_backward": (aten.native_dropout_backward.default, (rand(*X), rand(*X) > 0, 2.0), {}),
    "addcmul": (aten.addcmul.default, (rand(*X), rand(*X), rand(*X)), {"value": 0.7}),
    "addcdiv": (aten.addcdiv.default, (rand(*X), rand(*X), rand(*X)), {"value": 0.7}),
    "logsumexp": (aten.logsumexp.default, (rand(*X), [1]), {}),
    "_adaptive_avg_pool2d": (aten._adaptive_avg_pool2d.default, (rand(2, 3, 4, 6), [2, 3]), {}),
    "linalg_vector_norm 3": (aten.linalg_vector_norm.default, (rand(*X), 2.5, [1]), {}),
    "linalg_vector_norm 1": (aten.linalg_vector_norm.default, (rand(*X), 1, [1]), {}),
    "logit_backward": (aten.logit_backward.default, (rand(*X), rand(*X)), {}),
    "celu": (aten.celu.default, (rand(*X), 0.7), {}),
    "elu_backward": (aten.elu_backward.default, (rand(*X), 0.7, 0.8, 0.9, False, rand(*X)), {}),
    "softplus": (aten.softplus.default, (rand(*X), 0.7), {}),
    "softplus_backward": (aten.softplus_backward.default, (rand(*X), rand(*X), 0.7, 20.0), {}),
    "mish": (aten.mish.default, (rand(*X),), {}),
    "mish_backward": (aten.mish_backward.default, (rand(*X), rand(*X)), {}),
    "binary_cross_entropy_with_logits": (
        aten.binary_cross_entropy_with_logits.default,
        (rand(*X), rand(*X), rand(*X), rand(6), 1),
        {},
    ),
    "nll_loss_forward": (
        aten.nll_loss_forward.default,
        (rand(4, 5), torch.tensor([0, 1, 2, 3]), None, 1, -100),
        {},
    ),
}


# Where torch's decomposition asks for more (or less) than the convention counts: how much, and why.
DIFFERENT = {
    "addmm without bias": (15, "it multiplies by alpha = 1"),
    "addmm": (15 + 5, "it multiplies by alpha = 1 and by beta = 1"),
    "addmv": (3, "it multiplies by beta = 1"),
    "nll_loss_forward": (3, "it counts the targets that are not ignored, in integers"),
    "logsumexp": (18, "it looks for an infinite maximum with an absolute value"),
    "native_batch_norm in evaluation": (4, "1/x is a reciprocal and a product by 1"),
    "log_sigmoid_backward": (-3 * 72, "on a CPU alone the forward keeps exp(-|x|)"),
    "native_group_norm": (756 - 968, "on a CPU alone it folds mean and deviation into scale and shift"),
}
if IS_SINCE_2_14:
    DIFFERENT["native_batch_norm in evaluation"] = (-4, "1/x of a root is one operation, and not two")
    DIFFERENT["native_group_norm_backward"] = (4, "it negates, and adds where it could subtract")


OLD = frozenset({"silu_backward", "log_sigmoid_backward"})


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=since_2_10("decomposed otherwise")) if name in OLD else name for name in CASES],
)
def test_a_fused_operator_costs_what_its_decomposition_costs(name):
    """Else the same training costs more or less depending on which kernels a backend happens to fuse."""
    op, args, kwargs = CASES[name]
    more, _ = DIFFERENT.get(name, (0, ""))
    fused = count(lambda: op(*args, **kwargs))
    apart = count(lambda: decomposition_table[op](*args, **kwargs))
    assert fused + more == apart


def test_each_difference_belongs_to_a_case():
    assert set(DIFFERENT) <= set(CASES)


def test_the_gradients_of_an_rms_norm_cost_what_their_decomposition_costs():
    """There is no CPU kernel to call, so the fused form is written down by hand."""
    op = aten._fused_rms_norm_backward.default
    args = (rand(*X), rand(*X), [6], rand(3, 4, 1), rand(*W), [True, True])
    call = OpCall.of("aten::_fused_rms_norm_backward", X, X, [6], (3, 4, 1), W, [True, True])
    assert BOOK.cost(call).flop == count(lambda: decomposition_table[op](*args))


def test_an_rms_norm_costs_the_same_fused_and_apart():
    """Else models with their own RMS norm and models with torch's differ in cost."""
    data, weight = rand(*X), rand(*W)
    call = OpCall.of("aten::_fused_rms_norm", X, [6], W, None)
    assert BOOK.cost(call).flop == count(lambda: data * torch.rsqrt(data.pow(2).mean(-1, keepdim=True) + 1e-6) * weight)


def test_attention_costs_what_it_costs_written_out():
    """Else a model's figure depends on whether its attention is fused."""
    query, key, value = rand(2, 3, 4, 8), rand(2, 3, 5, 8), rand(2, 3, 5, 8)

    def written_out():
        scores = torch.bmm(query.flatten(0, 1), key.flatten(0, 1).transpose(1, 2)) * 0.35
        return torch.bmm(torch.softmax(scores, -1), value.flatten(0, 1))

    fused = count(lambda: torch.nn.functional.scaled_dot_product_attention(query, key, value))
    assert fused == count(written_out)
