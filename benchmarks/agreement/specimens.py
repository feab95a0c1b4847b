"""Small computations whose products are counted by hand, one for each way in which counters are known to differ.

The figures are written out from layer sizes, one term for each product that the mathematics asks for, and take nothing
from `flopmeter.formulas`. A figure is the forward's, and the whole training step's: forward and backward.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from subject import Built
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True, slots=True)
class Case:
    """What a specimen runs and what its products cost by hand; None where there is no such run."""

    work: Callable[[], Any]
    forward: int | None
    step: int | None
    after: Callable[[], object] = lambda: None

    def run_step(self) -> None:
        """Make one training step."""
        torch.manual_seed(1)
        out = self.work()
        if out is not None:
            out.abs().sum().backward()
        self.after()

    def run_forward(self) -> Any:
        """Make one forward without gradients."""
        torch.manual_seed(1)
        with torch.no_grad():
            return self.work()

    def built(self) -> Built:
        """Return the case as the benchmark runs subjects."""
        return Built(self.run_step, self.run_forward)


@dataclass(frozen=True, slots=True)
class Specimen:
    """A case by name; `shows` says what is to be seen in it, `known` why torch's counter is wrong about all of it."""

    name: str
    shows: str
    make: Callable[[], Case]
    known: str = ""


SPECIMENS: dict[str, Specimen] = {}


def specimen(shows: str, *, known: str = "") -> Callable[[Callable[[], Case]], Callable[[], Case]]:
    """Keep a maker under its name."""

    def keep(make: Callable[[], Case]) -> Callable[[], Case]:
        def seeded() -> Case:
            torch.manual_seed(0)
            return make()

        name = make.__name__.replace("_", " ")
        SPECIMENS[name] = Specimen(name, shows, seeded, known)
        return make

    return keep


class Free(nn.Module):
    """A function of parameters, as a module, since most counters want to see one."""

    def __init__(self, function: Callable[..., Any], *operands: torch.Tensor) -> None:
        """Take floating-point operands for parameters, the others as they are."""
        super().__init__()
        self.function = function
        for index, operand in enumerate(operands):
            trained = operand.is_floating_point() or operand.is_complex()
            setattr(self, f"operand_{index}", nn.Parameter(operand) if trained else operand)
        self.count = len(operands)

    def forward(self) -> Any:
        """Call it."""
        return self.function(*(getattr(self, f"operand_{index}") for index in range(self.count)))


def train(model: nn.Module, *data: torch.Tensor) -> Callable[[], Any]:
    """Return the forward of a model, which is in training mode where gradients are on."""

    def work() -> Any:
        model.train(torch.is_grad_enabled())
        return model(*data)

    return work


# ── what all should know ──


@specimen("one linear layer with bias")
def linear() -> Case:
    """The backward makes the weight's gradient; the data wants none."""
    rows, wide, out = 5, 7, 3
    product = 2 * rows * wide * out
    return Case(train(nn.Linear(wide, out), torch.rand(rows, wide)), product, 2 * product)


@specimen("a weight that is not trained (as in LoRA): its own gradient is not made, that of its input is")
def frozen_weight() -> Case:
    """Two layers, the second one frozen."""
    rows, wide, inner, out = 5, 7, 6, 3
    first, second = nn.Linear(wide, inner), nn.Linear(inner, out).requires_grad_(requires_grad=False)
    products = 2 * rows * wide * inner, 2 * rows * inner * out
    return Case(
        train(nn.Sequential(first, second), torch.rand(rows, wide)), sum(products), 2 * products[0] + 2 * products[1]
    )


@specimen("`torch.bmm` and `Tensor.mm` called by themselves")
def plain_products() -> Case:
    """One batch of products, one product of their sum; both operands of both want gradients."""
    batch, rows, wide, out = 2, 4, 6, 5
    operands = torch.rand(batch, rows, wide), torch.rand(batch, wide, out), torch.rand(out, rows)
    forward = batch * 2 * rows * wide * out + 2 * rows * out * rows
    return Case(train(Free(lambda a, b, c: torch.bmm(a, b).sum(0).mm(c), *operands)), forward, 3 * forward)


@specimen("the operator `@`")
def at_sign() -> Case:
    """As `torch.matmul`."""
    rows, wide, out = 4, 6, 5
    forward = 2 * rows * wide * out
    model = Free(lambda a, b: a @ b, torch.rand(rows, wide), torch.rand(wide, out))
    return Case(train(model), forward, 3 * forward)


@specimen("`torch.matmul` of batches that broadcast")
def broadcast() -> Case:
    """Batches of 2 and of 3, so 6 products of (4 × 8) and (8 × 5); forward only, since a gradient sums as well."""
    operands = torch.rand(2, 1, 4, 8), torch.rand(3, 8, 5)
    # Looked up when it runs, because some counters replace it.
    model = Free(lambda a, b: torch.matmul(a, b), *operands)  # noqa: PLW0108
    return Case(train(model), 2 * 3 * 2 * 4 * 8 * 5, None)


@specimen("`torch.einsum`")
def einsum() -> Case:
    """A product of matrices, written with letters."""
    rows, wide, out = 4, 6, 5
    forward = 2 * rows * wide * out
    model = Free(lambda a, b: torch.einsum("rw,ow->ro", a, b), torch.rand(rows, wide), torch.rand(out, wide))
    return Case(train(model), forward, 3 * forward)


class Checkpointed(nn.Module):
    """A layer and a square, which needs the layer's output in the backward."""

    def __init__(self, layer: nn.Module) -> None:
        """Take the layer."""
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> Any:
        """Keep nothing but the input."""
        return checkpoint(lambda data: self.layer(data).square(), x, use_reentrant=False)


@specimen("a checkpointed layer: its forward runs again in the backward")
def recomputed() -> Case:
    """Forward, forward again, the weight's gradient."""
    rows, wide, out = 5, 7, 3
    product = 2 * rows * wide * out
    model = Checkpointed(nn.Linear(wide, out))
    return Case(train(model, torch.rand(rows, wide)), product, 3 * product)


# ── convolutions ──


def taps(batch: int, out: int, in_per_group: int, kernel: int, places: int) -> int:
    """Return the products of a convolution: each output at each place meets each tap of its own group."""
    return 2 * batch * out * places * in_per_group * kernel


@specimen("a convolution in one group")
def convolution() -> Case:
    """Batch 2, 4 → 8 channels, 3 × 3 taps, 6 × 6 → 4 × 4 places."""
    product = taps(2, 8, 4, 9, 16)
    return Case(train(nn.Conv2d(4, 8, 3), torch.rand(2, 4, 6, 6)), product, 2 * product)


@specimen("a convolution in 4 groups")
def grouped_convolution() -> Case:
    """Batch 2, 8 → 8 channels, 2 of them in each group, 3 × 3 taps, 6 × 6 → 4 × 4 places."""
    product = taps(2, 8, 2, 9, 16)
    return Case(train(nn.Conv2d(8, 8, 3, groups=4), torch.rand(2, 8, 6, 6)), product, 2 * product)


@specimen("a depthwise convolution of 8 channels")
def depthwise_convolution() -> Case:
    """Each channel meets its own 3 taps, padded: 10 places."""
    product = taps(2, 8, 1, 3, 10)
    return Case(train(nn.Conv1d(8, 8, 3, padding=1, groups=8), torch.rand(2, 8, 10)), product, 2 * product)


@specimen("a transposed convolution in 2 groups")
def transposed_convolution() -> Case:
    """Batch 2, 4 → 6 channels in 2 groups: each input at each of 5 × 5 places is spread over 3 outputs, 2 × 2 taps."""
    product = 2 * 2 * 4 * 25 * 3 * 4
    return Case(train(nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2), torch.rand(2, 4, 5, 5)), product, 2 * product)


# ── attention ──


def pairs_of(lengths: tuple[int, int], *, causal: bool) -> int:
    """Return how many pairs of a query and a key are looked at, by looking at each."""
    return sum(1 for i in range(lengths[0]) for j in range(lengths[1]) if not causal or j <= i)


def attention_case(*, causal: bool) -> Case:
    """Batch 2, 3 heads of 4, 6 queries, 6 keys, through the fused kernel of the CPU."""
    batch, heads, length, deep = 2, 3, 6, 4
    operands = [torch.rand(batch, heads, length, deep) for _ in range(3)]
    one = batch * heads * pairs_of((length, length), causal=causal) * 2 * deep
    # Forward: scores and mixture. Backward: scores again, and the gradients of v, of the weights, of q, of k.
    model = Free(lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, is_causal=causal), *operands)
    return Case(train(model), 2 * one, 2 * one + 5 * one)


@specimen("`scaled_dot_product_attention` on a CPU")
def attention() -> Case:
    """All pairs."""
    return attention_case(causal=False)


@specimen("the same with a causal mask: 21 of 36 pairs")
def causal_attention() -> Case:
    """The kernel is told to look at pairs below the diagonal and at no others."""
    return attention_case(causal=True)


def encoder_layer_products(batch: int, length: int, wide: int, inner: int) -> int:
    """Return what a transformer layer multiplies: q, k, v, out, two of the inner network, scores and mixture."""
    rows = batch * length
    return 2 * rows * wide * (4 * wide + 2 * inner) + 2 * 2 * batch * length * length * wide


@specimen("`nn.TransformerEncoderLayer`; in evaluation it is one operator")
def encoder_layer() -> Case:
    """Batch 2, 5 tokens of 8, inner width 12; in training linear layers and the CPU's fused attention."""
    batch, length, wide, inner, heads = 2, 5, 8, 12, 2
    layer = nn.TransformerEncoderLayer(wide, heads, inner, dropout=0.0, batch_first=True)
    forward = encoder_layer_products(batch, length, wide, inner)
    square = 2 * batch * length * length * wide
    rows = batch * length
    # Each product twice in the backward, but for the input of q, k, v, which is data; the scores once more.
    backward = 2 * forward - 2 * rows * wide * 3 * wide + square
    return Case(train(layer, torch.rand(batch, length, wide)), forward, forward + backward)


@specimen("`nn.MultiheadAttention`; in evaluation it is one operator")
def multihead_attention() -> Case:
    """Batch 2, 5 tokens of 8, 2 heads; without the weights of its pairs."""
    batch, length, wide, heads = 2, 5, 8, 2
    layer, data = nn.MultiheadAttention(wide, heads, batch_first=True), torch.rand(batch, length, wide)

    def work() -> torch.Tensor:
        layer.train(torch.is_grad_enabled())
        return layer(data, data, data, need_weights=False)[0]

    rows, square = batch * length, 2 * batch * length * length * wide
    forward = 2 * rows * wide * 4 * wide + 2 * square
    return Case(work, forward, 3 * forward - 2 * rows * wide * 3 * wide + square)


@specimen("`flex_attention`, not compiled")
def flex_attention() -> Case:
    """Batch 1, 2 heads of 4, 8 queries and keys, no block mask: all pairs, and backward as in other kernels."""
    from torch.nn.attention.flex_attention import flex_attention as flex  # imports the compiler

    one = 2 * pairs_of((8, 8), causal=False) * 2 * 4
    model = Free(flex, *(torch.rand(1, 2, 8, 4) for _ in range(3))).requires_grad_(requires_grad=False)
    return Case(train(model), 2 * one, None)


# ── recurrent ──


@specimen("`nn.LSTM`, which a CPU runs as one operator")
def lstm() -> Case:
    """3 steps of a batch of 2, 4 → 5: four gates from input and state at each step; backward each product twice."""
    steps, batch, wide, hidden = 3, 2, 4, 5
    forward = sum(2 * batch * 4 * hidden * wide + 2 * batch * 4 * hidden * hidden for _ in range(steps))
    model, data = nn.LSTM(wide, hidden), torch.rand(steps, batch, wide)

    def work() -> torch.Tensor:
        model.train(torch.is_grad_enabled())
        return model(data)[0]

    return Case(work, forward, 3 * forward)


@specimen("`nn.GRU`, which a CPU takes apart")
def gru() -> Case:
    """3 steps of a batch of 2, 4 → 5: three gates; the input is data, and its three products are one."""
    steps, batch, wide, hidden = 3, 2, 4, 5
    from_input, from_state = 2 * steps * batch * 3 * hidden * wide, 2 * steps * batch * 3 * hidden * hidden
    model, data = nn.GRU(wide, hidden), torch.rand(steps, batch, wide)

    def work() -> torch.Tensor:
        model.train(torch.is_grad_enabled())
        return model(data)[0]

    # Backward: the weights' gradients, and the states' but for the first, which is no state of anybody's.
    backward = from_input + from_state + from_state // steps * (steps - 1)
    return Case(work, from_input + from_state, from_input + from_state + backward)
