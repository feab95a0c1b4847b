"""Losses over classes and sequences, bags, weight norm and the rest: as torch runs them and as it writes them out."""

import itertools

import pytest
import torch
from torch import nn
from torch._decomp import decomposition_table
from torch.nn import functional

from flopmeter.formulas.book import FormulaBook
from flopmeter.formulas.call import OpCall, is_integer
from flopmeter.testing.calls import record_calls

BOOK = FormulaBook.standard()
aten = torch.ops.aten


def record(work):
    rows = record_calls(work, book=BOOK)
    return [(row.call, BOOK.cost(row.call), row.calls) for row in rows]


def count(work, *, grad=False):
    """Count floating-point operations of everything that the work asks torch for."""
    with torch.set_grad_enabled(grad):
        rows = record(work)
    assert [call.op for call, cost, _ in rows if cost is None] == []
    return sum(cost.flop * times for call, cost, times in rows if not is_integer(call.precision))


def rand(*shape):
    return torch.rand(shape) + 0.1


CLASSES = torch.tensor([0, 1, 4, 3])
CASES = {
    **{
        f"multi_margin_loss {p} {reduction} {weight is not None}": (
            aten.multi_margin_loss.default,
            (rand(4, 5), CLASSES, p, 1, weight, reduction),
        )
        for p, reduction, weight in itertools.product((1, 2), (0, 1, 2), (None, rand(5)))
    },
    **{
        f"multilabel_margin_loss_forward {reduction}": (
            aten.multilabel_margin_loss_forward.default,
            (rand(4, 5), torch.randint(0, 5, (4, 5)), reduction),
        )
        for reduction in (0, 1, 2)
    },
    "multilabel_margin_loss_forward of one": (
        aten.multilabel_margin_loss_forward.default,
        (rand(5), torch.randint(0, 5, (5,)), 1),
    ),
    "dist": (aten.dist.default, (rand(4, 5), rand(5), 2)),
    "dist 3": (aten.dist.default, (rand(4, 5), rand(4, 1), 3)),
    "renorm": (aten.renorm.default, (rand(4, 5), 2, 0, 0.3)),
    "renorm 1": (aten.renorm.default, (rand(4, 5, 2), 1, 2, 0.3)),
    "_weight_norm_interface": (aten._weight_norm_interface.default, (rand(4, 5, 6), rand(4, 1, 1), 0)),
    "_weight_norm_interface last": (aten._weight_norm_interface.default, (rand(4, 5, 6), rand(1, 1, 6), 2)),
    "_unsafe_masked_index_put_accumulate": (
        aten._unsafe_masked_index_put_accumulate.default,
        (rand(10, 4), torch.tensor([[True], [False], [True]]), [torch.tensor([1, 2, 1])], rand(3, 4)),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_fused_operator_costs_what_its_decomposition_costs(name):
    """Else the same training costs more or less depending on which kernels a backend happens to fuse."""
    op, args = CASES[name]
    apart = count(lambda: decomposition_table[op](*args))
    assert count(lambda: op(*args)) == apart


def test_gradients_of_a_weight_in_two_parts_cost_what_torch_writes_out():
    v, g = rand(4, 5, 6), rand(4, 1, 1)
    weight, norms = aten._weight_norm_interface(v, g, 0)
    fused = count(lambda: aten._weight_norm_interface_backward(weight, v, g, norms, 0))
    assert fused == count(lambda: aten._weight_norm_differentiable_backward(weight, v, g, norms, 0))


@pytest.mark.parametrize("library", ["cudnn", "miopen"])
def test_a_vendors_gradients_of_a_batch_norm_cost_what_their_decomposition_costs(library):
    image, c = rand(2, 4, 3, 5), rand(4)
    op = getattr(aten, f"{library}_batch_norm_backward").default
    reserve = (torch.empty(0, dtype=torch.uint8),) if library == "cudnn" else ()
    apart = count(lambda: decomposition_table[op](image, image, c, c, c, c, c, 1e-5, *reserve))
    call = OpCall.of(f"aten::{library}_batch_norm_backward", *(tuple(image.shape),) * 2, *((4,),) * 5, 1e-5)
    assert BOOK.cost(call).flop == apart


LOG_PROBABILITIES = torch.log_softmax(rand(6, 2, 5), -1)
LABELS = torch.tensor([[1, 2, 3], [4, 1, 2]])


@pytest.mark.parametrize("as_tensor", [False, True])
def test_a_sequence_loss_costs_by_the_lengths_that_it_is_given(as_tensor):
    """Else what a speech model costs depends on whether its lengths are a list or a tensor."""
    lengths, sizes = ([6, 5], [3, 2]) if not as_tensor else (torch.tensor([6, 5]), torch.tensor([3, 2]))
    forward = 11 * (5 * 7 + 4 * 5) + 2 * 8
    backward = 19 * (5 * 7 + 4 * 5) + 2 * 2 + 6 * (6 + 5) * 5
    logits = LOG_PROBABILITIES.clone().requires_grad_()
    losses = []
    rows = record(lambda: losses.append(functional.ctc_loss(logits, LABELS, lengths, sizes, reduction="sum")))
    assert [cost.flop for call, cost, _ in rows if call.op == "aten::_ctc_loss"] == [forward]
    rows = record(losses[0].backward)
    assert [cost.flop for call, cost, _ in rows if call.op == "aten::_ctc_loss_backward"] == [backward]


R, K, V = 7, 3, 11


@pytest.mark.parametrize("chunk", [7, 3])
@pytest.mark.parametrize("how", ["mean", "sum"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("trains", [False, True])
def test_a_linear_layer_with_its_loss_costs_what_its_code_asks_for(chunk, how, bias, trains):
    """Torch writes it in Python: run below the recorder, it shows every step."""
    module = pytest.importorskip("torch.nn.modules.linear_cross_entropy", reason="torch 2.13 and later")
    data, weight, targets = rand(R, K), rand(V, K), torch.randint(0, V, (R,))
    offset = rand(V) if bias else None
    policy = (chunk, "accurate", torch.float32)
    flags = (trains, trains, trains and bias)
    start = (data, weight, targets, offset, None)
    apart = count(
        lambda: module._linear_cross_entropy_batch_chunked_accumulator(*start, how, -100, 0.0, *policy, *flags)
    )
    rest = (-100, 0.0, *policy[:2], None, False, *flags)
    call = OpCall.of(
        "torch_nn::_linear_cross_entropy_batch_chunked",
        *((R, K), (V, K), (R,), (V,) if bias else None, None, how),
        *rest,
    )
    assert BOOK.cost(call).flop == apart


def bags(mode, **options):
    layer = nn.EmbeddingBag(10, 4, mode=mode, **options)
    weights = rand(6) if mode == "sum" else None
    layer(torch.tensor([1, 2, 4, 5, 4, 3]), torch.tensor([0, 4]), per_sample_weights=weights).sum().backward()


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("options", [{}, {"max_norm": 0.5}, {"padding_idx": 0}], ids=str)
def test_bags_run_forward_and_backward_without_a_gap(mode, options):
    assert count(lambda: bags(mode, **options), grad=True) > 0


def every_loss():
    data, target = rand(4, 5).requires_grad_(), rand(4, 5)
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0])
    classes, image = torch.tensor([0, 1, 2, 4]), torch.randint(0, 5, (4, 3, 3))
    losses = [
        functional.kl_div(data, target, reduction="batchmean"),
        functional.kl_div(data, target.log(), log_target=True, reduction="sum"),
        functional.hinge_embedding_loss(data, signs.unsqueeze(1)),
        functional.cosine_embedding_loss(data, target, signs),
        functional.poisson_nll_loss(data, target, full=True),
        functional.gaussian_nll_loss(data, target, rand(4, 5), full=True),
        functional.triplet_margin_loss(data, target, rand(4, 5), swap=True),
        functional.triplet_margin_with_distance_loss(data, target, rand(4, 5)),
        functional.margin_ranking_loss(data[:, 0], target[:, 0], signs),
        functional.multilabel_soft_margin_loss(data, target.round()),
        functional.multilabel_margin_loss(data, torch.randint(0, 5, (4, 5))),
        functional.multi_margin_loss(data, classes, p=2),
        functional.l1_loss(data, target),
        functional.cross_entropy(data, classes, label_smoothing=0.1, weight=rand(5)),
        functional.cross_entropy(data, target),
        functional.cross_entropy(data.view(4, 5, 1, 1).expand(4, 5, 3, 3), image),
        functional.nll_loss(data, classes),
        functional.soft_margin_loss(data, target.sign()),
        functional.binary_cross_entropy_with_logits(data, target, pos_weight=rand(5)),
    ]
    torch.stack(losses).sum().backward()


def test_every_loss_of_torch_runs_forward_and_backward_without_a_gap():
    """Else a training with an unusual loss has work nobody counted."""
    assert count(every_loss, grad=True) > 0


def every_layer():
    image = rand(2, 4, 8, 8).requires_grad_()
    layers = [
        nn.LocalResponseNorm(2),
        nn.LPPool2d(3, 2),
        nn.FractionalMaxPool2d(2, output_size=3),
        nn.AdaptiveMaxPool2d(3),
        nn.AdaptiveAvgPool2d((3, 5)),
        nn.AvgPool2d(3, stride=2, ceil_mode=True),
        nn.AlphaDropout(0.2),
        nn.FeatureAlphaDropout(0.2),
        nn.Dropout2d(0.2),
        nn.RReLU(),
        nn.GLU(1),
        nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
        nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3)),
        nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 4, 3)),
        nn.PixelShuffle(2),
        nn.PixelUnshuffle(2),
        nn.ChannelShuffle(2),
        nn.Softmax2d(),
        nn.CrossMapLRN2d(2) if hasattr(nn, "CrossMapLRN2d") else nn.Identity(),
    ]
    total = sum(layer(image).sum() for layer in layers[:-1])
    pooled, where = functional.max_pool2d(image, 2, return_indices=True)
    total = total + functional.max_unpool2d(pooled, where, 2).sum()
    total.backward()


def test_unusual_layers_run_forward_and_backward_without_a_gap():
    assert count(every_layer, grad=True) > 0


def every_number():
    data, rows = rand(6, 5).requires_grad_(), torch.tensor([4, 2])
    values = [
        torch.segment_reduce(data, "mean", lengths=rows).sum(),
        torch.quantile(data, 0.3),
        torch.nanmean(data),
        data.median(),
        data.mode(0).values.sum(),
        torch.trapezoid(data).sum(),
        torch.cumulative_trapezoid(data).sum(),
        torch.diff(data).sum(),
        torch.cov(data).sum(),
        torch.corrcoef(data).sum(),
        data.cumprod(0).sum(),
        data.cummax(0).values.sum(),
        data.logcumsumexp(0).sum(),
        torch.dist(data, data.flip(0)),
        torch.renorm(data, 2, 0, 0.5).sum(),
        torch.special.entr(data).sum(),
    ]
    torch.stack(values).sum().backward()
    for name in ("bessel_j0", "bessel_y1", "modified_bessel_i0", "scaled_modified_bessel_k1", "airy_ai"):
        getattr(torch.special, name)(data.detach())
    for name in ("chebyshev_polynomial_t", "hermite_polynomial_he", "laguerre_polynomial_l", "legendre_polynomial_p"):
        getattr(torch.special, name)(data.detach(), 3)
    plain = data.detach()
    torch.histogram(plain, 4, weight=plain, density=True)
    torch.histogramdd(plain, [2, 2, 2, 2, 2])
    torch.bincount(rows, weights=rand(2))
    torch.distributions.Dirichlet(plain.requires_grad_()).rsample().sum().backward()
    torch.distributions.Gamma(rand(3).requires_grad_(), rand(3)).rsample().sum().backward()


def test_statistics_and_special_functions_run_without_a_gap():
    assert count(every_number, grad=True) > 0
