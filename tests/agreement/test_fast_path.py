"""In evaluation torch may run a whole layer as one operator; it costs what its parts cost one by one."""

from collections import Counter

import pytest
import torch
from torch import nn

from flopmeter.formulas.book import FormulaBook
from flopmeter.testing.calls import record_calls

pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage:UserWarning")

BOOK = FormulaBook.standard()
B, T, D, H, F = 3, 7, 16, 4, 24
PADDED = torch.tensor([[0] * 5 + [1] * 2, [0] * 7, [0] * 2 + [1] * 5], dtype=torch.bool)
CAUSAL = torch.ones(T, T, dtype=torch.bool).triu(1)
PRODUCTS = ("matmul", "attention")


def record(work):
    """Products, everything, and the names of what was asked for."""
    with torch.no_grad():
        rows = record_calls(work)
    flop, names = Counter(), set()
    for row in rows:
        cost = BOOK.cost(row.call)
        assert cost is not None, row.call
        names.add(row.call.op)
        for part in cost.parts:
            flop["all"] += part.flop * row.calls
            flop["products"] += part.flop * row.calls * (part.kind in PRODUCTS)
    return flop, names


@pytest.fixture
def both_ways():
    """Give the work on the fast path and on the slow one."""

    def run(work):
        try:
            torch.backends.mha.set_fastpath_enabled(True)
            fast, names = record(work)
            torch.backends.mha.set_fastpath_enabled(False)
            slow, others = record(work)
        finally:
            torch.backends.mha.set_fastpath_enabled(True)
        return fast, slow, names - others

    return run


MASKS = {
    "no mask": {},
    "padding": {"src_key_padding_mask": PADDED},
    "causal": {"src_mask": CAUSAL},
    "both": {"src_mask": CAUSAL, "src_key_padding_mask": PADDED},
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_an_encoder_layer(both_ways, activation, norm_first, mask):
    """Else a model costs less in evaluation than in training, or nothing."""
    layer = nn.TransformerEncoderLayer(D, H, F, activation=activation, norm_first=norm_first, batch_first=True).eval()
    data = torch.rand(B, T, D)
    fast, slow, only_fast = both_ways(lambda: layer(data, **MASKS[mask]))
    assert "aten::_transformer_encoder_layer_fwd" in only_fast
    assert fast == slow


@pytest.mark.parametrize("options", [{}, {"need_weights": False}, {"average_attn_weights": False}], ids=str)
@pytest.mark.parametrize("mask", [None, PADDED], ids=["no mask", "padding"])
def test_attention(both_ways, mask, options):
    layer, data = nn.MultiheadAttention(D, H, batch_first=True).eval(), torch.rand(B, T, D)
    fast, slow, only_fast = both_ways(lambda: layer(data, data, data, key_padding_mask=mask, **options))
    assert "aten::_native_multi_head_attention" in only_fast
    assert fast == slow


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("without_gradients", [torch.no_grad, torch.inference_mode])
def test_an_encoder_over_nested_sequences(both_ways, activation, without_gradients):
    """Else padding costs what the encoder left out, or nobody knows what a served model costs."""
    layer = nn.TransformerEncoderLayer(D, H, F, activation=activation, batch_first=True).eval()
    encoder, data = nn.TransformerEncoder(layer, 2).eval(), torch.rand(B, T, D)

    def work():
        with without_gradients():
            encoder(data, src_key_padding_mask=PADDED)

    nested, _, only_fast = both_ways(work)
    assert "nested::aten._transformer_encoder_layer_fwd" in only_fast
    lengths = (~PADDED).sum(1).tolist()
    _, alone, _ = both_ways(lambda: [encoder(data[:1, :length]) for length in lengths])
    assert nested == alone


@pytest.mark.parametrize("options", [{}, {"need_weights": False}], ids=str)
def test_attention_over_nested_sequences(both_ways, options):
    layer = nn.MultiheadAttention(D, H, batch_first=True).eval()
    sequences = [torch.rand(length, D) for length in (5, 7, 2)]
    packed = torch.nested.nested_tensor(sequences)
    nested, names = record(lambda: layer(packed, packed, packed, **options))
    assert names == {"nested::aten._native_multi_head_attention"}
    batches = [one[None] for one in sequences]
    _, alone, _ = both_ways(lambda: [layer(one, one, one, **options) for one in batches])
    assert nested == alone


def test_bias_and_scale_of_the_queries():
    projections, bias = torch.rand(B, T, 3 * D), torch.rand(3 * D)
    fused, names = record(lambda: torch.ops.aten._transform_bias_rescale_qkv(projections, bias, H))
    apart, _ = record(lambda: (projections + bias)[..., :D] * (D // H) ** -0.5)
    assert "aten::_transform_bias_rescale_qkv" in names
    assert fused == apart
