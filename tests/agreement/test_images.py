"""Convolutions of all backends that a CPU has, interpolation, grids: as torch runs them and as it decomposes them."""

import itertools

import pytest
import torch
from torch._decomp import decomposition_table
from torch._decomp.decompositions import _grid_sampler_2d
from torch.nn import functional

from flopmeter.formulas.book import FormulaBook
from flopmeter.formulas.call import is_integer
from flopmeter.testing.calls import record_calls

BOOK = FormulaBook.standard()
aten = torch.ops.aten


def record(work):
    """Return what the work asks torch for, each call with its parts."""
    rows = record_calls(work)
    return [(row.call, BOOK.cost(row.call), row.calls) for row in rows]


def count(work, *, grad=False):
    """Count floating-point operations; arithmetic on integers is that of addresses."""
    with torch.set_grad_enabled(grad):
        rows = record(work)
    assert [call.op for call, cost, _ in rows if cost is None] == []
    return sum(cost.flop * times for call, cost, times in rows if not is_integer(call.precision))


def rand(*shape):
    return torch.rand(shape) + 0.1


IMAGE = (2, 3, 4, 5)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize(
    ("op", "data", "sizes"),
    [
        ("upsample_linear1d", (2, 3, 4), [9]),
        ("upsample_bilinear2d", IMAGE, [7, 9]),
        ("upsample_bilinear2d", IMAGE, [2, 3]),
        ("upsample_trilinear3d", (1, 2, 3, 4, 5), [4, 2, 6]),
        ("upsample_bicubic2d", IMAGE, [7, 9]),
    ],
)
def test_interpolation_costs_what_its_decomposition_costs(op, data, sizes, aligned):
    """Else the same decoder costs more or less depending on which kernels a backend has."""
    function, image = getattr(aten, op).default, rand(*data)
    fused = count(lambda: function(image, sizes, aligned))
    assert fused == count(lambda: decomposition_table[function](image, sizes, aligned))


@pytest.mark.parametrize(("mode", "padding", "aligned"), list(itertools.product((0, 1, 2), (0, 1, 2), (False, True))))
def test_a_grid_costs_what_its_decomposition_costs(mode, padding, aligned):
    """Each point once for all channels, which the decomposition does where its grid is not expanded."""
    image, grid = rand(*IMAGE), rand(2, 6, 7, 2)
    fused = count(lambda: aten.grid_sampler_2d(image, grid, mode, padding, aligned))
    apart = count(lambda: _grid_sampler_2d(image, grid, mode, padding, aligned, _expand_grid=False))
    # The nearest pixel, and each of the sixteen, is multiplied with a mask that is 1 inside the image.
    masks = {0: 0, 1: 1, 2: 16}[mode] * 2 * 3 * 42
    assert fused + masks == apart


def test_an_affine_grid_costs_what_its_decomposition_costs_but_for_the_regular_grid():
    for sizes, theta, adds in [
        ([2, 3, 4, 5], rand(2, 2, 3), 2 * 20 * 3),
        ([2, 3, 4, 5, 6], rand(2, 3, 4), 30 * 4 + 2 * 120 * 4),
    ]:
        fused = count(lambda: aten.affine_grid_generator(theta, sizes, False))  # noqa: B023  # called at once
        apart = count(lambda: decomposition_table[aten.affine_grid_generator.default](theta, sizes, False))  # noqa: B023
        assert fused + adds == apart


def test_columns_are_added_up_as_in_the_decomposition():
    columns, rest = rand(2, 12, 9), ([4, 4], [2, 2], [1, 1], [0, 0], [1, 1])
    fused = count(lambda: aten.col2im(columns, *rest))
    assert fused == count(lambda: decomposition_table[aten.col2im.default](columns, *rest)) == 2 * 12 * 9


@pytest.mark.parametrize("padding", [[2, 1], [2, 1, 0, 3], [1, 1, 2, 0, 1, 1]])
def test_reflected_padding_adds_less_than_its_decomposition(padding):
    """The decomposition adds a masked image for each side and corner: more adds than there are elements."""
    dimensions = len(padding) // 2
    image = rand(2, 3, *(5,) * dimensions)
    gradient = functional.pad(image, padding, mode="reflect")
    function = getattr(aten, f"reflection_pad{dimensions}d_backward").default
    fused = count(lambda: function(gradient, image, padding))
    assert fused == gradient.numel()
    assert count(lambda: decomposition_table[function](gradient, image, padding)) >= gradient.numel() - image.numel()


def test_images_run_forward_and_backward_without_a_gap():
    """Else a decoder or a spatial transformer has work nobody counted."""

    def work():
        image = rand(1, 2, 6, 6).requires_grad_()
        grid = functional.affine_grid(rand(1, 2, 3).requires_grad_(), [1, 2, 4, 4], align_corners=False)
        total = functional.grid_sample(image, grid, align_corners=False).sum()
        for mode in ("nearest", "nearest-exact", "bilinear", "bicubic"):
            total = total + functional.interpolate(image, size=(9, 3), mode=mode).sum()
        for mode in ("bilinear", "bicubic"):
            total = total + functional.interpolate(image, size=(3, 3), mode=mode, antialias=True).sum()
        for mode in ("reflect", "replicate", "circular"):
            total = total + functional.pad(image, (1, 2, 1, 1), mode=mode).sum()
        folded = functional.fold(functional.unfold(image, 3), (6, 6), 3)
        volume = functional.interpolate(image.unsqueeze(0), size=(3, 3, 3), mode="trilinear")
        line = functional.interpolate(image.flatten(2), size=20, mode="linear")
        (total + folded.sum() + volume.sum() + line.sum()).backward()

    assert count(work, grad=True) > 0


X, W, B = (2, 4, 9, 9), (6, 2, 3, 3), (6,)
ONE = [1, 1]


def products_of(work):
    """Return the products and the other operations of one call."""
    with torch.no_grad():
        ((_, cost, times),) = [row for row in record(work) if row[1].flop]
    assert times == 1
    products = sum(part.flop for part in cost.parts if part.kind == "convolution")
    return products, cost.flop - products


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", [0, 2])
@pytest.mark.parametrize("dilation", [1, 2])
def test_backends_of_one_cpu_agree(stride, padding, dilation):
    """Else the figure depends on which library a build of torch happens to have."""
    s, p, d = [stride] * 2, [padding] * 2, [dilation] * 2
    image, weight, bias = rand(*X), rand(6, 4, 3, 3), rand(*B)
    expected = products_of(lambda: aten.convolution(image, weight, bias, s, p, d, False, [0, 0], 1))
    assert products_of(lambda: aten.slow_conv_dilated2d(image, weight, [3, 3], bias, s, p, d)) == expected
    if torch.backends.mkldnn.is_available():
        assert products_of(lambda: aten.mkldnn_convolution(image, weight, bias, p, s, d, 1)) == expected
        fused = products_of(
            lambda: torch.ops.mkldnn._convolution_pointwise(image, weight, bias, p, s, d, 1, "relu", [], "")
        )
        assert fused == expected
    if dilation == 1:
        assert products_of(lambda: aten._slow_conv2d_forward(image, weight, [3, 3], bias, s, p)) == expected
        assert products_of(lambda: aten.thnn_conv2d(image, weight, [3, 3], bias, s, p)) == expected


def test_other_forms_of_a_convolution_agree():
    volume, weight = rand(1, 2, 4, 4, 4), rand(3, 2, 2, 2, 2)
    expected = products_of(lambda: functional.conv3d(volume, weight))
    assert products_of(lambda: aten.slow_conv3d_forward(volume, weight, [2] * 3, None, [1] * 3, [0] * 3)) == expected
    assert products_of(lambda: aten.slow_conv_dilated3d(volume, weight, [2] * 3)) == expected
    image, weight = rand(2, 6, 5, 5), rand(6, 4, 3, 3)
    expected = products_of(lambda: functional.conv_transpose2d(image, weight, stride=2))
    assert products_of(lambda: aten.slow_conv_transpose2d(image, weight, [3, 3], None, [2, 2])) == expected
    sequence, weight, bias = rand(7, 2, 4), rand(3, 4, 6), rand(6)
    expected = products_of(lambda: functional.conv1d(sequence.permute(1, 2, 0), weight.permute(2, 1, 0), bias))
    assert products_of(lambda: torch.conv_tbc(sequence, weight, bias)) == expected


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_gradients_of_groups_cost_what_their_products_cost(groups):
    """Torch's own counter gives the weight's gradient `groups` times as much."""
    layer = torch.nn.Conv2d(4, 8, 3, groups=groups, padding=1)
    image = rand(2, 4, 6, 6).requires_grad_()
    loss = layer(image).sum()
    rows = record(loss.backward)
    found = sum(part.flop for _, cost, _ in rows for part in cost.parts if part.kind == "convolution")
    assert found == 2 * (2 * 2 * 8 * 36 * (4 // groups) * 9)


def test_a_linear_layer_costs_the_same_however_the_cpu_runs_it():
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this build has no oneDNN")
    data, weight, bias = rand(5, 3), rand(4, 3), rand(4)
    plain = count(lambda: functional.linear(data, weight, bias))
    assert count(lambda: torch.ops.mkldnn._linear_pointwise(data, weight, bias, "none", [], "")) == plain
    silu = count(lambda: functional.silu(functional.linear(data, weight, bias)))
    assert count(lambda: torch.ops.mkldnn._linear_pointwise(data, weight, bias, "swish", [], "")) == silu
    for form in ("none", "tanh"):
        gelu = count(lambda: functional.gelu(functional.linear(data, weight), approximate=form))  # noqa: B023
        fused = count(lambda: torch.ops.mkldnn._linear_pointwise(data, weight, None, "gelu", [], form))  # noqa: B023
        assert fused == gelu
