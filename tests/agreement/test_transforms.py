"""What a Fourier transform asks torch for: which operators arrive, and that the same work costs the same."""

import pytest
import torch

from flopmeter.formulas.book import FormulaBook
from flopmeter.testing.calls import price_rows, record_calls

BOOK = FormulaBook.standard()
RADIX_2 = 5 * 8 * 3
"""A transform of eight points."""


def record(work):
    tally = price_rows(record_calls(work), BOOK)
    return {kind: part.flop for kind, part in tally.by("kind").items() if part.flop}


def complex_rand(*shape):
    return torch.rand(*shape, dtype=torch.complex64)


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (lambda: torch.fft.fft(complex_rand(4, 8)), {"fft": 4 * RADIX_2}),
        (lambda: torch.fft.ifft(complex_rand(4, 8)), {"fft": 4 * RADIX_2, "pointwise": 64}),
        (lambda: torch.fft.fft(complex_rand(4, 8), norm="ortho"), {"fft": 4 * RADIX_2, "pointwise": 64}),
        (lambda: torch.fft.rfft(torch.rand(4, 8)), {"fft": 2 * RADIX_2}),
        (lambda: torch.fft.fft(torch.rand(4, 8)), {"fft": 2 * RADIX_2}),
        (lambda: torch.fft.irfft(complex_rand(4, 5)), {"fft": 2 * RADIX_2, "pointwise": 32}),
        (lambda: torch.fft.hfft(complex_rand(4, 5)), {"fft": 2 * RADIX_2}),
        (lambda: torch.fft.fft2(complex_rand(4, 8, 8)), {"fft": 4 * 8 * 2 * RADIX_2}),
        (lambda: torch.fft.rfft2(torch.rand(4, 8, 8)), {"fft": 4 * 8 * RADIX_2}),
        (lambda: torch.fft.fftshift(torch.rand(4, 8)), {}),
        (lambda: torch.fft.fftfreq(8, d=0.5), {"pointwise": 8}),
    ],
)
def test_each_function_of_torch_costs_its_transform(work, expected):
    assert record(work) == expected


def test_a_short_time_transform_is_framing_a_window_and_a_transform():
    """Else spectrograms, most of what audio models transform, go uncounted."""
    sound, window = torch.rand(2, 64), torch.rand(8)
    frames = 2 * 17
    assert record(lambda: torch.stft(sound, 8, 4, window=window, return_complex=True)) == {
        "fft": frames * RADIX_2 // 2,
        "pointwise": frames * 8,
    }


def test_the_gradient_of_a_transform_is_the_transform_back():
    data = torch.rand(4, 8, dtype=torch.complex64, requires_grad=True)
    result = torch.fft.fft(data)
    assert record(lambda: result.backward(torch.ones_like(result))) == {"fft": 4 * RADIX_2}
    data = torch.rand(4, 8, requires_grad=True)
    result = torch.fft.rfft(data)
    assert record(lambda: result.backward(torch.ones_like(result)))["fft"] == 4 * RADIX_2


@pytest.mark.parametrize("periodic", [True, False])
def test_a_hann_window_costs_what_torch_writes_out(periodic):
    def written_out():
        points = torch.arange(8 + periodic, dtype=torch.float32) * 0.7
        return torch.cos(points) * -0.4 + 0.4

    assert record(lambda: torch.hann_window(8, periodic)) == record(written_out)
