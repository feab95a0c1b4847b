"""Products agree with torch's own counter wherever that one is right; where it is not, by a known amount."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from flopmeter.formulas.book import FormulaBook
from flopmeter.formulas.call import OpCall
from flopmeter.tally import Tally
from flopmeter.testing.calls import record_calls

BOOK = FormulaBook.standard()
LENGTH, WIDTH, HEADS, WORDS = 12, 32, 4, 40


class Block(nn.Module):
    """A transformer block, as GPT (layer norm, gelu) or as Llama (RMS norm, gated silu, grouped heads) has it."""

    def __init__(self, *, llama):
        super().__init__()
        self.llama = llama
        self.key_heads = HEADS // 2 if llama else HEADS
        norm = nn.RMSNorm if llama else nn.LayerNorm
        self.norms = nn.ModuleList([norm(WIDTH), norm(WIDTH)])
        wide = WIDTH * self.key_heads // HEADS
        self.query, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.key, self.value = nn.Linear(WIDTH, wide), nn.Linear(WIDTH, wide)
        self.up, self.gate, self.down = nn.Linear(WIDTH, 80), nn.Linear(WIDTH, 80), nn.Linear(80, WIDTH)

    def forward(self, x, *, causal=True):
        batch, length, _ = x.shape
        normed = self.norms[0](x)
        query = self.query(normed).view(batch, length, HEADS, -1).transpose(1, 2)
        key = self.key(normed).view(batch, length, self.key_heads, -1).transpose(1, 2)
        value = self.value(normed).view(batch, length, self.key_heads, -1).transpose(1, 2)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=causal, enable_gqa=self.llama)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, WIDTH))
        normed = self.norms[1](x)
        inner = functional.silu(self.gate(normed)) * self.up(normed) if self.llama else functional.gelu(self.up(normed))
        return x + self.down(inner)


class Language(nn.Module):
    def __init__(self, *, llama):
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.blocks = nn.ModuleList([Block(llama=llama) for _ in range(2)])
        self.head = nn.Linear(WIDTH, WORDS, bias=False)

    def forward(self, tokens):
        x = self.words(tokens)
        for block in self.blocks:
            x = block(x)
        return functional.cross_entropy(self.head(x).flatten(0, 1), tokens.flatten())


def perceptron():
    return nn.Sequential(
        nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 3)
    )


def image_model(*, groups):
    layers = [nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(8, 8, 3, stride=2, groups=groups), nn.GroupNorm(2, 8), nn.ConvTranspose2d(8, 4, 2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


MODELS = {
    "gpt": lambda: (Language(llama=False), torch.randint(0, WORDS, (2, LENGTH))),
    "llama": lambda: (Language(llama=True), torch.randint(0, WORDS, (2, LENGTH))),
    "perceptron": lambda: (perceptron(), torch.rand(5, 8)),
    "images": lambda: (image_model(groups=1), torch.rand(2, 4, 12, 12)),
}


def record(work):
    rows = record_calls(work)
    tally = Tally()
    for row in rows:
        tally += BOOK.count(row.call, calls=row.calls, phase="other")
    return tally


def count_theirs(work):
    with FlopCounterMode(display=False) as mode:
        work()
    return mode.get_total_flops()


@pytest.mark.parametrize("name", MODELS)
def test_products_of_whole_models_agree(name):
    """Else a figure of ours cannot be set beside what others publish."""
    model, data = MODELS[name]()

    def train():
        model(data).sum().backward()

    ours = record(train)
    theirs = count_theirs(train)
    assert theirs > 0
    assert ours.contraction_flop - ours.select(kind="attention").flop == theirs


@pytest.mark.parametrize("name", MODELS)
def test_every_operator_of_these_models_is_counted(name):
    """Else work that models do is missing from their figure."""
    model, data = MODELS[name]()
    assert record(lambda: model(data).sum().backward()).uncounted == ()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (4, 2), (6, 1)])
def test_attention_on_a_cpu_agrees_with_their_formula_though_their_counter_says_zero(causal, heads, key_heads):
    """Else attention on a CPU is free, as it is for torch's counter."""
    shapes = (2, heads, 10, 8), (2, key_heads, 14, 8), (2, key_heads, 14, 8)
    query, key, value = (torch.rand(shape, requires_grad=True) for shape in shapes)

    def train():
        functional.scaled_dot_product_attention(query, key, value, is_causal=causal, enable_gqa=True).sum().backward()

    assert count_theirs(train) == 0
    attention = record(train).select(kind="attention")
    # Their formula wants as many key heads as query heads; key heads cost nothing of their own.
    full = [(2, heads, *shape[2:]) for shape in shapes]
    expected = sdpa_flop_count(*full) + sdpa_backward_flop_count(full[0], *full)
    assert attention.flop + attention.masked_flop == expected
    assert (attention.masked_flop > 0) is causal


@pytest.mark.parametrize("causal", [False, True])
def test_attention_of_every_backend_costs_the_same(causal):
    """Else a run costs more on one kernel than on another for the same mathematics."""
    query = (2, 4, 6, 8)
    lse, none = (2, 4, 6), None
    drop = 0.0
    forward = {
        "aten::_scaled_dot_product_flash_attention_for_cpu": (query, query, query, drop, causal),
        "aten::_scaled_dot_product_flash_attention": (query, query, query, drop, causal),
        "aten::_scaled_dot_product_efficient_attention": (query, query, query, none, True, drop, causal),
        "aten::_scaled_dot_product_cudnn_attention": (query, query, query, none, True, drop, causal),
        "aten::_scaled_dot_product_fused_attention_overrideable": (query, query, query, none, drop, causal),
    }
    mask = [True, True, True, False]
    five = (query,) * 5
    backward = {
        "aten::_scaled_dot_product_flash_attention_for_cpu_backward": (*five, lse, drop, causal),
        "aten::_scaled_dot_product_flash_attention_backward": (*five, lse, none, none, 6, 6, drop, causal, none, none),
        "aten::_scaled_dot_product_efficient_attention_backward": (
            *(*five[:4], none, query, lse, none, none, drop, mask, causal),
        ),
        "aten::_scaled_dot_product_cudnn_attention_backward": (
            *(*five, lse, none, none, none, none, none, 6, 6, drop, causal),
        ),
        "aten::_scaled_dot_product_fused_attention_overrideable_backward": (
            *(*five[:4], none, mask, query, lse, none, none, 6, 6, drop, causal, none, none),
        ),
    }
    for calls in (forward, backward):
        costs = {BOOK.cost(OpCall.of(op, *args)) for op, args in calls.items()}
        assert len(costs) == 1


SCHEMAS = {
    "flash_attention_for_cpu": (3, 4, None),
    "flash_attention": (3, 4, None),
    "efficient_attention": (5, 6, 3),
    "cudnn_attention": (5, 6, 3),
    "fused_attention_overrideable": (4, 5, 3),
    "attention_math_for_mps": (4, 5, 3),
    "flash_attention_for_cpu_backward": (6, 7, None),
    "flash_attention_backward": (10, 11, None),
    "efficient_attention_backward": (9, 11, 4),
    "cudnn_attention_backward": (13, 14, 8),
    "fused_attention_overrideable_backward": (12, 13, 4),
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_attention_arguments_stand_where_we_look_for_them(name):
    """Else a new torch moves `is_causal` and causal attention is counted in full, silently."""
    schema = getattr(torch.ops.aten, f"_scaled_dot_product_{name}").default._schema
    names = [argument.name for argument in schema.arguments]
    dropout, causal, bias = SCHEMAS[name]
    assert (names[dropout], names[causal]) == ("dropout_p", "is_causal")
    assert bias is None or names[bias] in {"attn_bias", "attn_mask"}


def test_the_overload_for_quantized_attention_has_its_scales_before_the_dropout():
    overload = getattr(torch.ops.aten._scaled_dot_product_flash_attention, "quantized", None)
    names = [argument.name for argument in overload._schema.arguments] if overload else []
    assert names[3:8] in ([], ["q_descale", "k_descale", "v_descale", "dropout_p", "is_causal"])


@pytest.mark.parametrize("way", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_attention_that_torch_takes_apart_arrives_apart(way):
    """Else its composite form is uncounted where autograd does not take it apart first."""
    query = torch.rand(2, 3, 5, 8)
    with sdpa_kernel(SDPBackend.MATH), way():
        tally = record(lambda: functional.scaled_dot_product_attention(query, query, query))
    assert tally.uncounted == ()
    assert tally.select(kind="matmul").flop == sdpa_flop_count(*[query.shape] * 3)
    assert tally.select(kind="attention").flop == 0


def test_the_backward_of_half_precision_attention_multiplies_in_half_precision():
    """Else half of a bf16 run is written down in fp32, because the log-sum-exp is kept in it."""
    query = torch.rand(1, 2, 6, 8).bfloat16().requires_grad_()
    tally = record(lambda: functional.scaled_dot_product_attention(query, query, query).sum().backward())
    assert set(tally.select(kind="attention").by("precision")) == {"bf16"}


def test_their_counter_multiplies_a_grouped_weight_gradient_by_the_groups_and_ours_does_not():
    """Else depthwise models look many times as expensive as they are."""
    weight = torch.rand(8, 2, 3, 3, requires_grad=True)
    data = torch.rand(2, 8, 6, 6)

    def train():
        functional.conv2d(data, weight, groups=4).sum().backward()

    forward = 2 * 2 * 8 * 2 * 9 * 16
    assert record(train).contraction_flop == 2 * forward
    assert count_theirs(train) == forward + 4 * forward


def test_vectors_are_counted_where_their_counter_says_zero():
    """Else a model that multiplies vectors is free."""
    matrix, vector = torch.rand(5, 7), torch.rand(7)

    def work():
        torch.mv(matrix, vector)
        torch.dot(vector, vector)
        torch.addmv(torch.rand(5), matrix, vector)

    assert count_theirs(work) == 0
    assert record(work).contraction_flop == 2 * 35 + 2 * 7 + 2 * 35
