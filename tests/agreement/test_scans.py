"""Scans written out in torch, one token after the other: right by autograd, and as dear as the formulas say."""

import pytest
import torch
from torch.nn.functional import conv1d, silu, softplus

from flopmeter.formulas import scan
from flopmeter.formulas.book import FormulaBook
from flopmeter.formulas.call import OpCall
from flopmeter.sensors.shadows import rows_of
from flopmeter.sensors.torch_ops import OpRecorder

BOOK = FormulaBook.standard()


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def run(program):
    """Return what a program gives, and what its operators cost by the book."""
    failures: list[Exception] = []
    recorder = OpRecorder(lambda: "forward", failures.append)
    with recorder, torch.no_grad():
        out = program()
    assert not failures
    tallies = [BOOK.count(row.call, calls=row.calls, phase="forward") for row in rows_of(recorder.take())]
    assert not [seen for tally in tallies for seen in tally.uncounted]
    return out, sum(tally.flop for tally in tallies)


def flop_of(op, *args):
    cost = scan.FORMULAS[op][1](OpCall.of(op, *args))
    again = sum(part.flop for part in cost.parts if part.phase == "recompute")
    return cost.flop - again, again


def rows(*matrices):
    """Products side by side are one product: adding up what they give is part of it."""
    return torch.cat(matrices, -1)


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("has_silu", [False, True])
@pytest.mark.parametrize("shape", [(2, 8, 5, 4), (1, 3, 9, 2)])
def test_causal_convolution(shape, has_bias, has_silu):
    b, d, length, k = shape
    x, w = torch.randn(b, d, length), torch.randn(d, k)
    bias = torch.randn(d) if has_bias else None

    def program():
        y = conv1d(x, w[:, None], bias, padding=k - 1, groups=d)[..., :length]
        return silu(y) if has_silu else y

    # torch computes the k - 1 outputs beyond the end as well.
    beyond = b * d * (k - 1) * (2 * k + has_bias)
    args = (b, d, length), (d, k), (d,) if has_bias else None, None, None, (b, d, length), None, has_silu
    assert flop_of("DaoAILab::_causal_conv1d_fwd_cpp", *args) == (run(program)[1] - beyond, 0)


def scan_by_hand(u, delta, a, b, c, skip, z, bias):
    delta = softplus(delta + bias[:, None])
    h, ys = torch.zeros(*u.shape[:2], a.shape[1]), []
    for t in range(u.shape[2]):
        scaled = delta[:, :, t, None]
        h = torch.exp(scaled * a) * h + (delta[:, :, t] * u[:, :, t])[..., None] * b[:, None, :, t]
        ys.append(torch.bmm(h, c[:, :, t, None])[..., 0])
    y = torch.stack(ys, -1) + u * skip[:, None]
    return y * silu(z)


@pytest.mark.parametrize("shape", [(2, 8, 5, 16), (1, 4, 3, 2)])
def test_selective_scan(shape):
    b, d, length, n = shape
    u, delta, z = torch.randn(3, b, d, length)
    a, skip, bias = torch.randn(d, n), torch.randn(d), torch.randn(d)
    bs, cs = torch.randn(2, b, n, length)
    _, flop = run(lambda: scan_by_hand(u, delta, a, bs, cs, skip, z, bias))
    x, states = (b, d, length), (b, 1, n, length)
    args = x, x, (d, n), states, states, (d,), x, (d,), True, None, None, None, (b, d, n), -1
    assert flop_of("_C::selective_scan_fwd", *args) == (flop, 0)


def normalize(x):
    return x * torch.rsqrt(torch.sum(x * x, -1, keepdim=True) + 1e-6)


def delta_rule(q, k, v, g, beta, scale, *, is_normed=False):
    """Tokens of one head; the states after decay and after the update are returned as well."""
    if not is_normed:
        q, k = normalize(q), normalize(k)
    state, outs, decayed, states, deltas = torch.zeros(k.shape[1], v.shape[1]), [], [], [], []
    for t in range(q.shape[0]):
        state = torch.exp(g[t]) * state
        decayed.append(state)
        delta = beta[t] * (v[t] - torch.mv(state.t(), k[t]))
        state = state + k[t][:, None] * delta
        states.append(state)
        deltas.append(delta)
        outs.append(torch.mv(state.t(), q[t] * scale))
    return torch.stack(outs), decayed, states, deltas


def delta_rule_backward(q, k, v, g, beta, scale, dy, kept):
    _, decayed, states, deltas = kept
    gradient = torch.zeros_like(states[0])
    dq, dk, dv, dg, dbeta = [], [], [], [], []
    for t in reversed(range(q.shape[0])):
        gradient = torch.addmm(gradient, q[t][:, None] * scale, dy[t][None]) - 0  # the sum is part of the product
        dq.append(torch.mv(states[t], dy[t]) * scale)
        ddelta = torch.mv(gradient.t(), k[t])
        error = v[t] - torch.mv(decayed[t].t(), k[t])
        dbeta.append(torch.dot(ddelta, error))
        dv.append(beta[t] * ddelta)
        dk.append(torch.mv(rows(gradient, decayed[t]), rows(deltas[t], -dv[-1])))
        gradient = gradient - k[t][:, None] * dv[-1]
        dg.append((gradient * decayed[t]).sum())
        gradient = torch.exp(g[t]) * gradient
    return [torch.stack(parts[::-1]) for parts in (dq, dk, dv, dg, dbeta)]


@pytest.mark.parametrize("shape", [(4, 8, 16), (3, 5, 2)])
def test_delta_rule(shape):
    tokens, width, value = shape
    q, k = torch.randn(2, tokens, width)
    v, g, beta = torch.randn(tokens, value), -torch.rand(tokens), torch.rand(tokens)
    _, flop = run(lambda: delta_rule(q, k, v, g, beta, 0.3)[0])
    key, val, head = (1, tokens, 1, width), (1, tokens, 1, value), (1, tokens, 1)
    assert flop_of("unsloth::qwen3_5_gdn_chunk", key, key, val, head, head, 0.3) == (flop, 0)


@pytest.mark.parametrize("shape", [(4, 8, 16), (3, 5, 2)])
def test_the_gradients_of_the_delta_rule_are_the_products_that_are_listed(shape):
    tokens, width, value = shape
    leaves = [*torch.randn(2, tokens, width), torch.randn(tokens, value), -torch.rand(tokens), torch.rand(tokens)]
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    dy = torch.randn(tokens, value)
    kept = delta_rule(*leaves, 0.3, is_normed=True)
    kept[0].backward(dy)
    plain = [leaf.detach() for leaf in leaves]
    gradients = delta_rule_backward(*plain, 0.3, dy, kept)
    for ours, leaf in zip(gradients, leaves, strict=True):
        torch.testing.assert_close(ours, leaf.grad)
    q, r, v, head = (1, tokens, 1, width), (1, tokens, 1), (1, tokens, 1, value), (1, tokens, 1)
    flop, again = flop_of("unsloth::qwen3_5_gdn_chunk_bwd", q, r, q, r, v, head, head, (1, tokens, 1, 64), v, 0.3)
    square, norm = width * value, 5 * width - 1
    # By hand, for each token: the products of `delta_rule_backward`; `r` is known from the states again.
    products = 2 * square * 6
    rest = square + square + (square - 1) + 5 * value + (value - 1) + width
    assert flop == tokens * (products + rest + 2 * norm)
    assert again == tokens * (2 * square * 2 + square + 2 * value + 1)


def rwkv7(w, q, k, v, a, b):
    state, outs, before, sums = torch.zeros(w.shape[1], w.shape[1]), [], [], []
    for t in range(w.shape[0]):
        before.append(state)
        total = torch.mv(state, a[t])
        sums.append(total)
        state = state * torch.exp(-torch.exp(w[t])) + total[:, None] * b[t] + v[t][:, None] * k[t]
        outs.append(torch.mv(state, q[t]))
    return torch.stack(outs), before, sums, state


def rwkv7_backward(w, q, k, v, a, b, dy, kept):
    _, before, sums, state = kept
    gradient = torch.zeros_like(state)
    found = []
    for t in reversed(range(w.shape[0])):
        factor = torch.exp(-torch.exp(w[t]))
        after = before[t] * factor + sums[t][:, None] * b[t] + v[t][:, None] * k[t]
        dq = torch.mv(after.t(), dy[t])
        gradient = gradient + dy[t][:, None] * q[t]
        dv, dk = torch.mv(gradient, k[t]), torch.mv(gradient.t(), v[t])
        dsum, db = torch.mv(gradient, b[t]), torch.mv(gradient.t(), sums[t])
        dfactor = (before[t] * gradient).sum(0)
        da = torch.mv(before[t].t(), dsum)
        gradient = gradient * factor + dsum[:, None] * a[t]
        found.append((-(dfactor * factor) * torch.exp(w[t]), dq, dk, dv, da, db))
    return [torch.stack(parts[::-1]) for parts in zip(*found, strict=True)]


@pytest.mark.parametrize(("tokens", "width"), [(3, 8), (2, 5)])
def test_rwkv7(tokens, width):
    operands = 0.5 * torch.randn(6, tokens, width)
    _, flop = run(lambda: rwkv7(*operands)[0])
    x, s = (1, tokens, 1, width), (1, 1, 1, width, width)
    assert flop_of("wind_backstepping::forward", *[x] * 7, s, x) == (flop, 0)


@pytest.mark.parametrize(("tokens", "width"), [(3, 8), (2, 5)])
def test_the_gradients_of_rwkv7_are_the_products_that_are_listed(tokens, width):
    leaves = [leaf.clone().requires_grad_() for leaf in 0.5 * torch.randn(6, tokens, width)]
    dy = torch.randn(tokens, width)
    kept = rwkv7(*leaves)
    kept[0].backward(dy)
    gradients = rwkv7_backward(*[leaf.detach() for leaf in leaves], dy, kept)
    for ours, leaf in zip(gradients, leaves, strict=True):
        torch.testing.assert_close(ours, leaf.grad)
    x, s = (1, tokens, 1, width), (1, 1, 1, width, width)
    flop, again = flop_of("wind_backstepping::backward", *[x] * 7, s, *[x] * 7)
    products = dict.fromkeys(["dq", "dS", "dv", "dk", "ds", "db", "dw", "da", "dS-again"], 2 * width**2)
    assert flop == tokens * (sum(products.values()) + width**2 + 4 * width)
    # The state before: subtract two products, divide by the decay, which is computed again.
    assert again == tokens * (2 * 2 * width**2 + width**2 + 3 * width)
