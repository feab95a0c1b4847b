"""Activations: the operations of each form, written out and added up."""

import pytest

from flopmeter.formulas.activation import FORMULAS, RATES
from flopmeter.formulas.call import OpCall

SIGMOID = EXP = LOG = TANH = ERF = MUL = ADD = SUB = DIV = NEG = ABS = 1
SOFTPLUS = MUL + EXP + LOG + DIV  # log1p(exp(beta x)) / beta

FORMS = {
    "silu": SIGMOID + MUL,  # x s(x)
    "silu_backward": SIGMOID + MUL + SUB + MUL + ADD + MUL,  # dy s (1 + x (1 - s))
    "sigmoid_backward": SUB + MUL + MUL,  # dy (y (1 - y))
    "tanh_backward": MUL + SUB + MUL,  # dy (1 - y y)
    "logit_backward": SUB + MUL + DIV,  # dy / (x (1 - x))
    "softplus": SOFTPLUS,
    "softplus_backward": MUL + EXP + MUL + MUL + ADD + DIV,  # z = exp(beta x); beta x > threshold; dy z / (z + 1)
    "mish": SOFTPLUS + TANH + MUL,  # x tanh(softplus(x))
    "mish_backward": SOFTPLUS + TANH + SIGMOID + MUL + MUL + SUB + MUL + ADD + MUL,
    "elu": MUL + MUL + EXP + MUL,  # scale x, alpha scale expm1(input_scale x)
    "celu": DIV + EXP + MUL,  # alpha expm1(x / alpha)
    "selu": EXP + MUL + MUL,  # scale (x, alpha expm1(x))
    "elu_backward": MUL + MUL + MUL + EXP + MUL + MUL,
    "leaky_relu": MUL,
    "leaky_relu_backward": MUL,
    "_prelu_kernel": MUL,
    "_prelu_kernel_backward": MUL + MUL,  # w dy, x dy
    "rrelu_with_noise": MUL,
    "rrelu_with_noise_functional": MUL,
    "rrelu_with_noise_backward": MUL,
    "hardsigmoid": ADD + DIV,
    "hardsigmoid_backward": MUL,
    "hardswish": ADD + MUL + DIV,
    "hardswish_backward": DIV + ADD + MUL,
    "softshrink": SUB,
    "glu": SIGMOID + MUL,
    "glu_jvp": SIGMOID + MUL + MUL + SUB + MUL + ADD,  # da s + y (db - s db)
    "glu_backward": (SIGMOID + SUB + MUL + MUL + MUL + MUL) // 2,  # per element of both halves
    "log_sigmoid_forward": ABS + NEG + EXP + LOG + SUB,  # min(0, x) - log1p(exp(-|x|))
    "log_sigmoid_backward": ABS + NEG + EXP + ADD + DIV + MUL + SUB + MUL,
}


def flop_of(op, shape, **options):
    found = FORMULAS.get(op) or FORMULAS[op.removesuffix("_")]
    return found[1](OpCall.of(op, shape, out=[shape], **options))


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("shape", [(2, 3), (7,), (0,), ()])
def test_an_activation_costs_the_operations_of_its_form(name, shape):
    """Else models differ in cost by how their activation was implemented."""
    size = 1
    for length in shape:
        size *= length
    assert flop_of(f"aten::{name}", OpCall.of("", shape).args[0].shape) == FORMS[name] * size


def test_every_form_is_in_the_table_and_the_other_way_round():
    assert {f"aten::{name}" for name in FORMS} == set(RATES)


def test_in_place_costs_the_same():
    assert flop_of("aten::silu_", (2, 3)) == flop_of("aten::silu", (2, 3))


@pytest.mark.parametrize(
    ("approximate", "forward", "backward"),
    [
        ("none", MUL + ERF + ADD + MUL + MUL, (MUL + ERF + ADD + MUL) + (MUL + MUL + EXP + MUL) + (MUL + ADD + MUL)),
        (
            "tanh",
            (MUL + MUL) + (MUL + ADD + MUL) + TANH + ADD + MUL + MUL,
            # x², x³, the inner sum, its tanh; ½x, 1 + tanh, ½(1 + tanh); 1 − tanh²; β(1 + 3κx²); products; dy(a + b)
            2 + 3 + TANH + 3 + 2 + 3 + 2 + 2,
        ),
    ],
)
def test_gelu_has_two_forms(approximate, forward, backward):
    """Else GPT's activation costs what BERT's does."""
    assert flop_of("aten::gelu", (2, 3), approximate=approximate) == 6 * forward
    assert flop_of("aten::gelu_backward", (2, 3), approximate=approximate) == 6 * backward


def test_gelu_is_exact_unless_told_otherwise():
    assert flop_of("aten::gelu", (2, 3)) == flop_of("aten::gelu", (2, 3), approximate="none")


def test_the_tangent_of_a_gated_gradient_counts_by_the_gate():
    unit, tangent, value = SIGMOID + MUL, MUL + ADD, MUL + MUL + ADD
    inner = MUL + ADD + MUL + ADD
    found = FORMULAS["aten::glu_backward_jvp"][1](
        OpCall.of("aten::glu_backward_jvp", (2, 6), (2, 3), (2, 6), (2, 3), (2, 6), 1)
    )
    assert found == 6 * (unit + tangent + value + (ADD + MUL + inner + MUL + ADD))
