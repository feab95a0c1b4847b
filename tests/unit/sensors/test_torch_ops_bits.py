"""No bit changes where torch lets a mode be without effect; where any mode changes bits, a mode of nothing does too."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from flopmeter import Account, Meter


class ModeOfNothing(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # torch's own signature
        return func(*args, **(kwargs or {}))


def flat(out) -> list[torch.Tensor]:
    return [out] if isinstance(out, torch.Tensor) else [part for part in out if part is not None]


def programs():
    torch.manual_seed(0)
    image, words, heads = torch.randn(1, 3, 7, 7), torch.randn(2, 5, 8), torch.randn(2, 2, 5, 8)
    turned = torch.randn(2, 5, 8).transpose(0, 1)
    conv, linear, norm = nn.Conv2d(3, 4, 3), nn.Linear(8, 24), nn.LayerNorm(8)
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    fast, gru = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval(), nn.GRU(8, 8, batch_first=True)
    return {
        "bilinear": lambda: functional.interpolate(image, scale_factor=2, mode="bilinear"),
        "bicubic": lambda: functional.interpolate(image, scale_factor=2, mode="bicubic"),
        "conv": lambda: conv(image),
        "layer norm": lambda: norm(words),
        "group norm": lambda: functional.group_norm(image, 3),
        "sdpa": lambda: functional.scaled_dot_product_attention(heads, heads, heads, is_causal=True),
        "attention": lambda: attention(words, words, words),
        "cross attention": lambda: attention(words, words.clone(), words.clone()),
        "views of a weight": lambda: [
            *linear.weight.chunk(3),
            linear.weight.reshape(-1),
            torch.einsum("ij->ji", linear.weight),
        ],
        "encoder layer": lambda: layer(words),
        "encoder layer, fast path": lambda: fast(words),
        "linear of a turned batch": lambda: linear(turned),
        "gru": lambda: gru(words),
        "singular values": lambda: torch.linalg.svdvals(image[0]),
        "condition": lambda: torch.linalg.cond(image[0]),
        "eigenvalues": lambda: torch.linalg.eigvalsh(image[0] @ image[0].mT),
        "complex inverse": lambda: torch.linalg.pinv(torch.complex(image[0], image[0].flip(-1))),
        "complex product of vectors": lambda: torch.linalg.vecdot(*[torch.complex(image, image.flip(-1))] * 2),
        "hermitian transform": lambda: torch.fft.hfft(torch.complex(image, image.flip(-1))),
        "hermitian transform of real numbers": lambda: torch.fft.hfft2(image),
    }


@pytest.mark.parametrize("name", list(programs()))
def test_inference_mode_gives_the_same_bits_and_the_same_kind_of_tensor(tmp_path, name):
    """If this failed, switching the meter on would change what a model answers."""
    program = programs()[name]
    with torch.inference_mode():
        plain = flat(program())
    with Meter(tmp_path, exact=True), torch.inference_mode():
        metered = flat(program())
    for one, other in zip(plain, metered, strict=True):
        assert torch.equal(one, other)
        assert (one.stride(), one.is_inference()) == (other.stride(), other.is_inference())


def test_what_is_interpolated_under_inference_mode_is_called_what_it_is_elsewhere(tmp_path):
    """If this failed, the pieces of a decomposition would be counted that torch does not run."""
    seen = []
    for number, without in enumerate((torch.no_grad, torch.inference_mode)):
        with Meter(tmp_path / str(number), exact=True), without():
            functional.interpolate(torch.ones(1, 3, 7, 7), scale_factor=2, mode="bilinear")
        seen.append(Account.of(tmp_path / str(number)).tally)
    assert seen[0].uncounted == seen[1].uncounted
    assert seen[0].flop == seen[1].flop


def test_singular_values_take_another_way_below_any_mode(tmp_path):
    """If this failed, torch would no longer do so, and the exception in the promise could be taken out."""
    torch.manual_seed(0)
    matrix = torch.randn(64, 64)
    plain = torch.linalg.svdvals(matrix)
    with ModeOfNothing():
        nothing = torch.linalg.svdvals(matrix)
    with Meter(tmp_path, exact=True):
        metered = torch.linalg.svdvals(matrix)
    assert torch.equal(nothing, metered)
    assert not torch.equal(nothing, plain)
    assert torch.allclose(nothing, plain, rtol=1e-4)


def test_a_custom_operator_is_no_view_whatever_its_annotation_says(tmp_path):
    """If this failed, work could be hidden from the meter by declaring that an operator returns its argument."""
    library = torch.library.Library("flopmeter_test_alias", "DEF")
    library.define("same(Tensor(a) x) -> Tensor(a)")
    library.impl("same", lambda x: (torch.mm(x, x), x.view(8, 8))[1], "CPU")
    with Meter(tmp_path, exact=True):
        torch.ops.flopmeter_test_alias.same(torch.ones(8, 8))
    assert [seen.op for seen in Account.of(tmp_path).tally.uncounted] == ["flopmeter_test_alias::same"]


COMPLEX = torch.randn(4, 4, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))


def test_an_inverse_of_complex_numbers_is_right_though_it_is_wrong_below_a_mode_of_nothing(tmp_path):
    """If this failed, metering would train a model with wrong gradients: no rounding, another matrix."""

    def invert(data):
        leaf = data.clone().requires_grad_()
        out = torch.linalg.pinv(leaf)
        out.abs().sum().backward()
        return out.detach(), leaf.grad

    plain = invert(COMPLEX)
    with ModeOfNothing():
        unlike, _ = invert(COMPLEX)
    with Meter(tmp_path, exact=True):
        metered = invert(COMPLEX)
    assert not torch.allclose(unlike @ COMPLEX, torch.eye(4, dtype=torch.complex64), atol=1e-3)
    for one, other in zip(plain, metered, strict=True):
        torch.testing.assert_close(one, other)


def test_marks_of_complex_numbers_are_heeded_inside_a_branch(tmp_path):
    torch._dynamo.reset()  # after a `cond` of other sizes these are symbols, and torch refuses branches unlike in them

    def work():
        with torch.no_grad():
            return torch.cond(torch.tensor(1.0) > 0, torch.fft.hfft, lambda x: x.real.clone(), (COMPLEX,))

    plain = torch.fft.hfft(COMPLEX)
    with Meter(tmp_path, exact=True):
        torch.testing.assert_close(work(), plain)


MARKED = {
    "conjugated": COMPLEX.conj,
    "negated": lambda: COMPLEX.conj().imag,
    "nothing": lambda: torch._efficientzerotensor(4, 4),
}
WORK = {
    "clone": torch.clone,
    "copy": lambda x: torch.empty_like(x).copy_(x),
    "double": lambda x: x.to(torch.complex128 if x.is_complex() else torch.float64),
    "product": lambda x: x @ x,
    "sum": lambda x: x.sum(0) + x[0],
    "in place": lambda x: torch.ones_like(x).mul_(x).add_(x, alpha=2),
    "one of them": lambda x: x[1, 2].item(),
    "views": lambda x: [x.t()[1:].unsqueeze(0).resolve_neg().resolve_conj(), x.split(2)[1].clone()],
}


@pytest.mark.parametrize("work", WORK)
@pytest.mark.parametrize("mark", MARKED)
def test_marks_are_heeded_whichever_way_a_call_takes(tmp_path, mark, work):
    """If this failed, a part of a complex number, or a tangent of zeros, would have another sign while metered."""
    plain = WORK[work](MARKED[mark]())
    with Meter(tmp_path, exact=True, strict=True):
        metered = WORK[work](MARKED[mark]())
    for one, other in zip(*[out if isinstance(out, list) else [out] for out in (plain, metered)], strict=True):
        assert torch.equal(torch.as_tensor(one), torch.as_tensor(other))
