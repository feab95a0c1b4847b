"""Packed attention as torch and libraries call it: where arguments stand, what arrives, what torch counts."""

import random

import pytest
import torch
from torch.utils import flop_counter
from versions import IS_SINCE_2_14

from flopmeter.formulas.book import FormulaBook
from flopmeter.formulas.call import OpCall, TensorSpec
from flopmeter.formulas.packed import SCHEMAS
from flopmeter.tally import Tally
from flopmeter.testing.calls import record_calls

varlen = pytest.importorskip("torch.nn.attention.varlen", reason="torch before 2.10 has no packed attention")

BOOK = FormulaBook.standard()
H, J, D, E = 4, 2, 8, 8

# What torch calls the arguments that our schemas give a role.
NAMES = {
    "grad": {"grad_out", "grad_out_"},
    "query": {"query"},
    "key": {"key"},
    "value": {"value"},
    "cu_q": {"cum_seq_q", "cu_seqlens_q", "cu_seq_q"},
    "cu_k": {"cum_seq_k", "cu_seqlens_k", "cu_seq_k"},
    "used_k": {"seqused_k", "seqlen_k"},
    "dropout": {"dropout_p"},
    "causal": {"is_causal"},
    "mask": {"custom_mask_type"},
    "bias": {"bias", "attn_bias"},
    "scale": {"scale"},
    "left": {"window_size_left"},
    "right": {"window_size_right"},
    "window": {"window_size"},
    "keys": {"window_size"},
    "alibi": {"alibi_slopes"},
    "pages": {"block_table"},
    "q_factor": {"q_descale"},
    "k_factor": {"k_descale"},
    "v_factor": {"v_descale"},
}
THEIRS = {name for names in NAMES.values() for name in names}


def schemas_of(op):
    """Return the schemas of an operator's overloads, none where this torch has no such operator."""
    namespace, name = op.split("::")
    packet = getattr(getattr(torch.ops, namespace), name, None)
    return [getattr(packet, overload)._schema for overload in packet.overloads()] if packet else []


@pytest.mark.parametrize("op", [op for op in SCHEMAS if op.startswith(("aten::", "torch_attn::"))])
def test_arguments_stand_where_we_look_for_them(op):
    """Else a new torch moves an offset or a window, and packed attention is counted wrong, silently."""
    positional, _, options = SCHEMAS[op].partition("*")
    roles = dict(option.split("=") for option in options.split())
    for schema in schemas_of(op):
        places = [argument.name for argument in schema.arguments if not argument.kwarg_only]
        assert len(places) <= len(positional.split())
        for name, role in zip(places, positional.split(), strict=False):
            assert name in NAMES[role] if role != "-" else name not in THEIRS, (op, name, role)
        for name in [argument.name for argument in schema.arguments if argument.kwarg_only]:
            assert name in NAMES[roles[name]] if roles[name] != "-" else name not in THEIRS, (op, name)


def test_this_torch_has_the_operators_that_we_think_of():
    missing = {op for op in SCHEMAS if op.startswith(("aten::", "torch_attn::")) and not schemas_of(op)}
    assert missing <= {"aten::_cudnn_attention_forward_no_dropout_inplace"}  # new in 2.15


def offsets(lengths):
    return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)


def known(tensor):
    return TensorSpec(tuple(tensor.shape), "int32", values=tuple(tensor.tolist()))


def products_of(cost):
    return sum(part.flop + part.masked_flop for part in cost.parts if part.kind == "attention")


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("causal", [False, True])
def test_products_and_masked_products_are_those_of_torchs_counter(seed, causal):
    """Else a figure of ours cannot be set beside what others publish."""
    draw = random.Random(seed)
    lengths = [(draw.randint(0, 9), draw.randint(1, 12)) for _ in range(6)]
    cu_q, cu_k = (offsets([pair[side] for pair in lengths]) for side in range(2))
    rows, columns = int(cu_q[-1]), int(cu_k[-1])
    query, key, value = torch.empty(rows, H, D), torch.empty(columns, J, D), torch.empty(columns, J, E)
    shapes = [tuple(tensor.shape) for tensor in (query, key, value)]
    places = (known(cu_q), known(cu_k), 9, 12)
    lse = (H, rows)
    ours = {
        "torch_attn::_varlen_attn": (*shapes, *places, causal),
        "aten::_flash_attention_forward": (*shapes, *places, 0.0, causal, False),
        "aten::_efficient_attention_forward": (
            *((1, *shape) for shape in shapes),
            *(None, *places, 0.0, 2 * causal),
        ),
    }
    theirs = flop_counter._varlen_attn_forward_flop(query, key, value, cu_q, cu_k, 9, 12)
    for op, args in ours.items():
        assert products_of(BOOK.cost(OpCall.of(op, *args))) == theirs
    ours = {
        "torch_attn::_varlen_attn_backward": (shapes[0], *shapes, shapes[0], lse, *places, causal),
        "aten::_flash_attention_backward": (shapes[0], *shapes, shapes[0], lse, *places, 0.0, causal),
    }
    theirs = flop_counter._varlen_attn_backward_flop(query, query, key, value, query, None, cu_q, cu_k, 9, 12)
    for op, args in ours.items():
        assert products_of(BOOK.cost(OpCall.of(op, *args))) == theirs


@pytest.mark.parametrize("causal", [False, True])
def test_batches_of_one_length_agree_with_torchs_counter_too(causal):
    shapes = (2, 5, H, D), (2, 7, H, D), (2, 7, H, E)
    plain = [torch.empty(shape) for shape in shapes]
    tensors = [tensor.transpose(1, 2) for tensor in plain]
    # Before torch 2.14 their formula takes these for (B, H, S, D), so it wants them with the heads first.
    theirs = flop_counter.flop_registry[torch.ops.aten._flash_attention_forward](
        *(plain if IS_SINCE_2_14 else tensors), None, None, 5, 7, out_val=None
    )
    call = OpCall.of("aten::_flash_attention_forward", *shapes, None, None, 5, 7, 0.0, causal, False)
    assert products_of(BOOK.cost(call)) == theirs
    first = [tuple(tensor.shape) for tensor in tensors]
    call = OpCall.of("aten::_cudnn_attention_forward", *first, None, None, None, 5, 7, True, 0.0, causal)
    assert products_of(BOOK.cost(call)) == theirs


def record(work):
    return record_calls(work, book=BOOK)


def count(work):
    tally = Tally()
    for row in record(work):
        tally += BOOK.count(row.call, calls=row.calls, phase="other")
    return tally


@pytest.fixture
def flash_on_the_cpu():
    """Stand in for the kernels that only a GPU has: the shapes of what they return."""

    def forward(query, key, value, cu_q, cu_k, max_q, max_k, dropout, causal, debug, **options):
        empty = torch.empty(0)
        return torch.zeros_like(query), torch.zeros(query.shape[1], query.shape[0]), empty, empty, empty

    def backward(grad, query, key, value, *args, **options):
        return torch.zeros_like(query), torch.zeros_like(key), torch.zeros_like(value)

    with torch.library._scoped_library("aten", "IMPL") as library:
        library.impl("_flash_attention_forward", forward, "CPU")
        library.impl("_flash_attention_backward", backward, "CPU")
        yield


@pytest.mark.parametrize("window", [(-1, -1), (-1, 0), (2, 0), (1, 3)])
def test_torchs_packed_attention_is_counted_from_the_offsets_that_it_is_given(flash_on_the_cpu, window):
    """Else the offsets arrive somewhere else than the formula looks, or nobody reads them."""
    lengths = (4, 1, 7)
    cu = offsets(lengths)
    query, key, value = (torch.rand(12, H, D, requires_grad=True) for _ in range(3))

    def train():
        varlen.varlen_attn(query, key, value, cu, cu, 7, 7, window_size=window).sum().backward()

    tally = count(train)
    kept = sum(
        (window[0] < 0 or j >= i - window[0]) and (window[1] < 0 or j <= i + window[1])
        for length in lengths
        for i in range(length)
        for j in range(length)
    )
    assert tally.uncounted == ()
    attention = tally.select(kind="attention")
    assert attention.flop == 2 * H * kept * 2 * D + 4 * H * kept * 2 * D + 2 * H * kept * D
    everything = sum(length**2 for length in lengths)
    assert attention.flop + attention.masked_flop == H * everything * (4 * D + 8 * D + 2 * D)


def test_inside_it_nothing_is_counted_a_second_time(flash_on_the_cpu):
    """Else attention counts twice: as torch's packed attention and as the kernel that it calls."""
    query, cu = torch.rand(12, H, D), offsets((4, 8))
    ops = [row.call.op for row in record(lambda: varlen.varlen_attn(query, query, query, cu, cu, 8, 8))]
    assert ops.count("torch_attn::_varlen_attn") == 1
    assert "aten::_flash_attention_forward" not in ops


def test_a_librarys_operator_that_is_called_by_keywords_arrives_by_position():
    """Else flash-attn, which names all its options, is counted without them."""

    def kernel(
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        cu_seqlens_q: torch.Tensor,
        cu_seqlens_k: torch.Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        dropout_p: float,
        softmax_scale: float,
        causal: bool,
        window_size_left: int = -1,
        window_size_right: int = -1,
        softcap: float = 0.0,
        alibi_slopes: torch.Tensor | None = None,
        return_softmax: bool = False,
        block_table: torch.Tensor | None = None,
        leftpad_k: torch.Tensor | None = None,
        seqused_k: torch.Tensor | None = None,
        zero_tensors: bool = False,
    ) -> torch.Tensor:
        return torch.zeros_like(q)

    op = torch.library.custom_op("flash_attn::_flash_attn_varlen_forward", kernel, mutates_args=())
    query, cu = torch.rand(9, H, D), offsets((4, 5))
    options = {"causal": True, "window_size_left": 1, "window_size_right": -1, "softcap": 30.0, "alibi_slopes": None}
    used = {"seqused_k": torch.tensor([3, 5], dtype=torch.int32)}
    tally = count(lambda: op(query, query, query, cu, cu, 5, 5, 0.0, 0.3, **options, **used))
    kept = [max(0, min(keys, i + keys - rows + 1) - max(0, i + keys - rows - 1)) for rows, keys in ((4, 3), (5, 5))
            for i in range(rows)]  # fmt: skip
    assert tally.uncounted == ()
    assert tally.select(kind="attention").flop == 2 * H * sum(kept) * 2 * D
    assert tally.select(kind="pointwise").flop == H * sum(kept) * (1 + 3)


def test_a_softcap_and_alibi_cost_what_they_cost_written_out():
    """Else a model's figure depends on whether its attention is fused."""
    query, slopes, distance = torch.rand(2, 5, H, D), torch.rand(H, 1, 1), torch.rand(5, 5)

    def written_out():
        rows, columns, values = (query.transpose(1, 2).flatten(0, 1) for _ in range(3))
        scores = (torch.bmm(rows, columns.transpose(1, 2)) * 0.35).unflatten(0, (2, H))
        scores = torch.tanh(scores / 30.0) * 30.0
        bias = slopes * distance
        torch.bmm(torch.softmax(scores + bias, -1).flatten(0, 1), values)

    shape = (2, 5, H, D)
    call = OpCall.of("flash_attn::_flash_attn_forward", *[shape] * 3, 0.0, 0.35, False, -1, -1, 30.0, (H,), False)
    # Written out, the slopes meet the distances once for all batches; in the kernel each score takes its own product.
    assert BOOK.cost(call).flop == count(written_out).flop + (2 - 1) * H * 25


def test_the_gradient_of_a_softcap_costs_what_it_costs_written_out():
    scores = torch.rand(3, 7, requires_grad=True)

    def chain():
        (torch.tanh(scores / 30.0) * 30.0).backward(torch.ones(3, 7))

    forward = count(lambda: torch.tanh(scores.detach() / 30.0) * 30.0).flop
    assert forward == 3 * 21
    assert count(chain).flop - forward == 5 * 21
