"""Packed sequences, windows and caches: every kernel called as its schema says, every pair asked whether it is in."""

import pytest

from flopmeter.errors import FormulaError
from flopmeter.formulas.book import FormulaBook
from flopmeter.formulas.call import AnyNumber, OpCall, TensorSpec
from flopmeter.formulas.packed import FORMULAS, READS, SCHEMAS

BOOK = FormulaBook.standard()
ANY = AnyNumber()

# The arguments of each operator as its own source names them, in order; `*` before those that come by name alone.
# flash-attn 2.8.3.post2, flash_attn/flash_attn_interface.py
FLASH_2 = {
    "_flash_attn_forward": (
        "q k v dropout_p softmax_scale causal window_size_left window_size_right softcap alibi_slopes return_softmax"
    ),
    "_flash_attn_varlen_forward": (
        "q k v cu_seqlens_q cu_seqlens_k max_seqlen_q max_seqlen_k dropout_p softmax_scale causal window_size_left"
        " window_size_right softcap alibi_slopes return_softmax block_table leftpad_k seqused_k zero_tensors"
    ),
    "_flash_attn_backward": (
        "dout q k v out softmax_lse dq dk dv dropout_p softmax_scale causal window_size_left window_size_right softcap"
        " alibi_slopes deterministic rng_state"
    ),
    "_flash_attn_varlen_backward": (
        "dout q k v out softmax_lse dq dk dv cu_seqlens_q cu_seqlens_k max_seqlen_q max_seqlen_k dropout_p"
        " softmax_scale causal window_size_left window_size_right softcap alibi_slopes deterministic rng_state"
        " zero_tensors"
    ),
}
# FlashAttention 3, hopper/flash_attn_interface.py; `fwd` and `bwd` as xformers 0.0.35 checks them, ops/fmha/flash3.py
FLASH_3_FORWARD = (
    "q k v k_new v_new q_v out cu_seqlens_q cu_seqlens_k cu_seqlens_k_new seqused_q seqused_k max_seqlen_q max_seqlen_k"
    " page_table kv_batch_idx leftpad_k rotary_cos rotary_sin seqlens_rotary q_descale k_descale v_descale"
    " softmax_scale is_causal window_size_left window_size_right attention_chunk softcap is_rotary_interleaved"
    " scheduler_metadata num_splits pack_gqa sm_margin"
)
FLASH_3 = {
    "fwd": FLASH_3_FORWARD,
    "_flash_attn_forward": FLASH_3_FORWARD,
    "bwd": (
        "dout q k v out softmax_lse dq dk dv cu_seqlens_q cu_seqlens_k seqused_q seqused_k max_seqlen_q max_seqlen_k"
        " softmax_scale is_causal window_size_left window_size_right softcap deterministic sm_margin"
    ),
    "_flash_attn_backward": (
        "dout q k v out softmax_lse cu_seqlens_q cu_seqlens_k seqused_q seqused_k max_seqlen_q max_seqlen_k dq dk dv"
        " softmax_scale is_causal window_size_left window_size_right softcap deterministic sm_margin"
    ),
}
# xformers 0.0.35, ops/fmha/flash.py, ops/fmha/flash3.py, csrc/attention/attention.cpp, ops/fmha/__init__.py
XFORMERS = {
    "xformers_flash::flash_fwd": (
        "query key value cu_seqlens_q cu_seqlens_k seqused_k max_seqlen_q max_seqlen_k p softmax_scale is_causal"
        " window_left window_right return_softmax block_tables"
    ),
    "xformers_flash::flash_bwd": (
        "grads_share_storage grad query key value out lse cu_seqlens_q cu_seqlens_k max_seqlen_q max_seqlen_k p"
        " softmax_scale is_causal window_left window_right rng_state"
    ),
    "xformers_flash3::flash_fwd": (
        "query key value cu_seqlens_q cu_seqlens_k seqused_k leftpad_k max_seqlen_q max_seqlen_k p softmax_scale"
        " is_causal descale_q descale_k descale_v block_table use_kvsplit window_left window_right"
    ),
    "xformers_flash3::flash_bwd": (
        "grads_share_storage dout query key value out softmax_lse cu_seqlens_q cu_seqlens_k max_seqlen_q max_seqlen_k"
        " softmax_scale is_causal window_left window_right"
    ),
    "xformers::efficient_attention_forward_ck": (
        "query key value attn_bias seqstart_q seqstart_k max_seqlen_q dropout_p compute_logsumexp custom_mask_type"
        " scale seqlen_k window_size block_tables page_size"
    ),
    "xformers::efficient_attention_backward_ck": (
        "grad_out query key value attn_bias seqstart_q seqstart_k max_seqlen_q max_seqlen_k seqlen_k logsumexp output"
        " dropout_p rng_seed rng_offset custom_mask_type scale window_size"
    ),
    "xformers::efficient_attention_forward_decoder_splitk_ck": "query key value seq_positions scale split_k",
    "xformer::memory_efficient_attention_forward": "q k v b p scale",
}
# torch 2.13, nn/attention/varlen.py; 2.15 adds `backend` behind them
VARLEN = (
    "query key value cu_seq_q cu_seq_k max_q max_k is_causal scale window_size enable_gqa seqused_k block_table"
    " num_splits backend"
)
TORCH = {
    "torch_attn::_varlen_attn": VARLEN,
    "torch_attn::_varlen_attn_out": f"out {VARLEN}",
    "torch_attn::_varlen_attn_backward": (
        "grad_out query key value out lse cu_seq_q cu_seq_k max_q max_k is_causal rng_state scale window_size backend"
    ),
    # torch 2.15 alone, native_functions.yaml; the others of aten are compared with torch itself in tests/agreement
    "aten::_cudnn_attention_forward_no_dropout_inplace": (
        "out query key value cum_seq_q cum_seq_k max_q max_k is_causal * scale seqused_k block_table"
    ),
}
# torch 2.13, native_functions.yaml
FLASH_OPTIONS = "* scale window_size_left window_size_right seqused_k alibi_slopes block_table num_splits"
FLASH = "query key value cum_seq_q cum_seq_k max_q max_k dropout_p is_causal return_debug_mask"
ATEN = {
    "_flash_attention_forward": f"{FLASH} q_descale k_descale v_descale {FLASH_OPTIONS}",
    "_flash_attention_forward_no_dropout_inplace": f"out {FLASH} {FLASH_OPTIONS}",
    "_flash_attention_backward": (
        "grad_out query key value out logsumexp cum_seq_q cum_seq_k max_q max_k dropout_p is_causal rng_state unused"
        " * scale window_size_left window_size_right"
    ),
    "_efficient_attention_forward": (
        "query key value bias cu_seqlens_q cu_seqlens_k max_seqlen_q max_seqlen_k dropout_p custom_mask_type"
        " compute_log_sumexp * scale seqlen_k window_size"
    ),
    "_efficient_attention_backward": (
        "grad_out_ query key value bias out cu_seqlens_q cu_seqlens_k max_seqlen_q max_seqlen_k logsumexp dropout_p"
        " philox_seed philox_offset custom_mask_type bias_requires_grad * scale num_splits_key window_size"
        " shared_storage_dqdkdv"
    ),
    "_cudnn_attention_forward": (
        "query key value attn_bias cum_seq_q cum_seq_k max_q max_k compute_log_sumexp dropout_p is_causal"
        " return_debug_mask * scale seqused_k block_table"
    ),
    "_cudnn_attention_backward": (
        "grad_out query key value out logsumexp philox_seed philox_offset attn_bias cum_seq_q cum_seq_k max_q max_k"
        " dropout_p is_causal * scale"
    ),
}
SOURCES = {
    **{f"flash_attn::{name}": text for name, text in FLASH_2.items()},
    **{f"flash_attn_3::{name}": text for name, text in FLASH_3.items()},
    **{f"aten::{name}": text for name, text in ATEN.items()},
    **XFORMERS,
    **TORCH,
}
# One word of ours for what the sources call by many names.
WORDS = {
    "query": "query q",
    "key": "key k",
    "value": "value v",
    "cu_q": "cu_seqlens_q cum_seq_q cu_seq_q seqstart_q",
    "cu_k": "cu_seqlens_k cum_seq_k cu_seq_k seqstart_k",
    "used_k": "seqused_k seqlen_k seq_positions",
    "causal": "causal is_causal",
    "left": "window_size_left window_left",
    "right": "window_size_right window_right",
    "pages": "block_table block_tables page_table",
    "dropout": "dropout_p p",
    "scale": "scale softmax_scale",
    "bias": "bias attn_bias b",
    "grad": "dout grad grad_out grad_out_",
    "q_factor": "q_descale descale_q",
    "k_factor": "k_descale descale_k",
    "v_factor": "v_descale descale_v",
}
OURS = {theirs: word for word, names in WORDS.items() for theirs in names.split()}

# What a caller who wants nothing in particular hands over; all else is None then.
DEFAULTS = {"causal": False, "left": -1, "right": -1, "dropout": 0.0, "softcap": 0.0}
DEFAULTS |= {"custom_mask_type": 0, "attention_chunk": 0}


def names_of(op):
    positional, _, options = SOURCES[op].partition("*")
    return positional.split(), options.split()


def call_of(op, **given):
    """Write a call down in the order of the operator's schema, by our words or the source's own."""
    positional, options = names_of(op)
    unused = set(given)

    def find(name):
        ours = OURS.get(name, name)
        for word in (name, ours):
            if word in given:
                unused.discard(word)
                return given[word]
        return [-1, -1] if name == "window_size" and op.startswith("torch_attn") else DEFAULTS.get(ours)

    args = [find(name) for name in positional]
    named = {name: value for name in options if (value := find(name)) is not None}
    if "causal" in given and "custom_mask_type" in positional:
        unused.discard("causal")
        args[positional.index("custom_mask_type")] = 2 * given["causal"]
    assert not unused, unused
    return OpCall.of(op, *args, **named)


def cost_of(op, **given):
    return FORMULAS[op][1](call_of(op, **given))


def has(op, word):
    positional, options = names_of(op)
    return any(OURS.get(name, name) == word for name in (*positional, *options))


def ints(*values):
    return TensorSpec((len(values),), "int32", values=values)


def attention_of(cost, phase=None):
    (part,) = (part for part in cost.parts if part.kind == "attention" and part.phase == phase)
    return part.flop, part.masked_flop


def look(lengths, *, left=None, right=None, bottom_right=True):
    """Go through every pair of every sequence."""
    total = 0
    for queries, keys in lengths:
        shift = keys - queries if bottom_right else 0
        total += sum(
            (left is None or j >= i + shift - left) and (right is None or j <= i + shift + right)
            for i in range(queries)
            for j in range(keys)
        )
    return total


H, J, D, E = 4, 2, 6, 8
LENGTHS = [(3, 5), (0, 2), (4, 4), (2, 7)]
CU_Q, CU_K = ints(0, 3, 3, 7, 9), ints(0, 5, 7, 11, 18)
FULL = sum(queries * keys for queries, keys in LENGTHS)
PACKED = sorted(op for op in SOURCES if has(op, "cu_q"))
FORWARDS = [op for op in PACKED if not has(op, "grad")]
BACKWARDS = [op for op in PACKED if has(op, "grad")]
IS_4D = ("aten::_efficient", "xformers::efficient")


def packed(op, *, rows_q=9, rows_k=18, **given):
    """Call a kernel on four packed sequences, the second of which has no queries."""
    lead = (1,) if op.startswith(IS_4D) else ()
    query, key, value = (*lead, rows_q, H, D), (*lead, rows_k, J, D), (*lead, rows_k, J, E)
    named = {"query": query, "key": key, "value": value, "cu_q": CU_Q, "cu_k": CU_K} | given
    return cost_of(op, **({"grad": query} if has(op, "grad") else {}), **named)


@pytest.mark.parametrize("op", FORWARDS)
def test_packed_sequences_meet_only_themselves(op):
    """Else a packed batch is counted as one long sequence."""
    assert attention_of(packed(op)) == (2 * H * FULL * (D + E), 0)


@pytest.mark.parametrize("op", BACKWARDS)
def test_the_backward_over_packed_sequences(op):
    cost = packed(op)
    assert attention_of(cost) == (4 * H * FULL * (D + E), 0)
    assert attention_of(cost, "recompute") == (2 * H * FULL * D, 0)
    (shared,) = (part.flop for part in cost.parts if part.kind == "reduction")
    assert shared == 18 * (D + E) * (H - J)


@pytest.mark.parametrize("op", PACKED)
def test_a_causal_mask_is_laid_on_each_sequence(op):
    """Else the diagonal runs through the whole pack."""
    kept = look(LENGTHS, right=0, bottom_right=not op.startswith("aten::_cudnn"))
    assert 0 < kept < FULL
    factor = 4 if has(op, "grad") else 2
    found = attention_of(packed(op, causal=True))
    assert found == (factor * H * kept * (D + E), factor * H * (FULL - kept) * (D + E))


@pytest.mark.parametrize("op", [op for op in PACKED if has(op, "left")])
@pytest.mark.parametrize(("left", "right"), [(1, 0), (0, 0), (2, 1), (-1, 2), (3, -1), (-1, -1), (100, 100)])
@pytest.mark.parametrize("causal", [False, True])
def test_a_window_is_laid_on_each_sequence(op, left, right, causal):
    """Else sliding windows cost the whole square, or what one kernel calls left is another's right."""
    bounds = [None if bound < 0 else bound for bound in (left, 0 if causal else right)]
    kept = look(LENGTHS, left=bounds[0], right=bounds[1])
    found = attention_of(packed(op, left=left, right=right, causal=causal))
    assert found[0] == (4 if has(op, "grad") else 2) * H * kept * (D + E)


@pytest.mark.parametrize("op", [op for op in PACKED if op.startswith("torch_attn")])
def test_the_window_of_torchs_own_packed_attention_is_a_pair(op):
    kept = look(LENGTHS, left=1, right=0)
    factor = 4 if has(op, "grad") else 2
    assert attention_of(packed(op, window_size=[1, 0]))[0] == factor * H * kept * (D + E)
    assert packed(op, window_size=[-1, 0], causal=True) == packed(op, window_size=[-1, 0])
    assert packed(op, window_size=None) == packed(op)


@pytest.mark.parametrize("op", [op for op in PACKED if op.startswith(IS_4D)])
@pytest.mark.parametrize(("mask", "bottom_right"), [(1, False), (2, True)])
@pytest.mark.parametrize("keys", [None, 1, 3])
def test_the_masks_of_memory_efficient_attention_have_numbers_and_windows_of_keys(op, mask, bottom_right, keys):
    """Else a window of three keys, which is two to the left, is counted as one more."""
    kept = look(LENGTHS, left=None if keys is None else keys - 1, right=0, bottom_right=bottom_right)
    factor = 4 if has(op, "grad") else 2
    found = attention_of(packed(op, custom_mask_type=mask, window_size=keys))
    assert found[0] == factor * H * kept * (D + E)


@pytest.mark.parametrize("op", [op for op in PACKED if has(op, "used_k")])
def test_keys_that_are_not_in_use_are_skipped(op):
    """Else a cache costs its size and not its filling."""
    used = [(3, 4), (0, 0), (4, 4), (2, 1)]
    kept = sum(queries * keys for queries, keys in used)
    factor = 4 if has(op, "grad") else 2
    found = attention_of(packed(op, used_k=ints(4, 0, 4, 1)))
    assert found == (factor * H * kept * (D + E), factor * H * (FULL - kept) * (D + E))
    if has(op, "left"):
        kept = look(used, left=1, right=0)
        assert attention_of(packed(op, used_k=ints(4, 0, 4, 1), left=1, causal=True))[0] == factor * H * kept * (D + E)


@pytest.mark.parametrize("op", [op for op in FORWARDS if has(op, "pages") and not has(op, "page_size")])
def test_decoding_with_pages_looks_at_the_tokens_that_they_hold(op):
    """Else serving inside training, which keeps its keys in pages, is not counted at all."""
    table, used = (4, 3), (10, 12, 1, 7)
    pool = {"query": (4, H, D), "key": (99, 4, J, D), "value": (99, 4, J, E), "cu_q": ints(0, 1, 2, 3, 4)}
    found = attention_of(cost_of(op, **pool, pages=table, used_k=ints(*used), causal=True))
    assert found == (2 * H * sum(used) * (D + E), 2 * H * (4 * 12 - sum(used)) * (D + E))


def test_pages_of_a_pool_without_a_shape_of_its_own():
    op = "xformers::efficient_attention_forward_ck"
    pool = {"query": (1, 4, H, D), "key": (1, 400, J, D), "value": (1, 400, J, E), "cu_q": ints(0, 1, 2, 3, 4)}
    paged = {"pages": (4, 3), "page_size": 4, "used_k": ints(10, 12, 1, 7)}
    assert attention_of(cost_of(op, **pool, **paged, cu_k=ints(0, 12, 24, 36)))[0] == 2 * H * 30 * (D + E)


def test_pages_whose_lengths_are_told_by_offsets_or_not_at_all():
    pool = {"query": (2, H, D), "key": (99, 4, J, D), "value": (99, 4, J, E), "cu_q": ints(0, 1, 2), "pages": (2, 3)}
    offsets = cost_of("flash_attn::_flash_attn_varlen_forward", **pool, cu_k=ints(0, 5, 9))
    assert attention_of(offsets)[0] == 2 * H * 9 * (D + E)
    assert attention_of(cost_of("flash_attn_3::fwd", **pool))[0] == 2 * H * 24 * (D + E)


def test_keys_with_gaps_between_them_tell_where_they_begin_and_how_long_they_are():
    op = "xformers::efficient_attention_forward_ck"
    given = {"cu_k": ints(0, 5, 7, 11), "used_k": ints(4, 1, 2, 7)}
    assert attention_of(packed(op, **given)) == (2 * H * (3 * 4 + 4 * 2 + 2 * 7) * (D + E), 0)


def test_a_cache_in_batches_with_new_keys_appended_and_padding_on_the_left():
    """Else decoding with FlashAttention 3 forgets the token that it has just brought."""
    batch = {"query": (2, 3, H, D), "key": (2, 20, J, D), "value": (2, 20, J, E)}
    assert attention_of(cost_of("flash_attn_3::fwd", **batch)) == (2 * H * 2 * 3 * 20 * (D + E), 0)
    given = {"k_new": (2, 3, J, D), "used_k": ints(5, 9), "leftpad_k": ints(0, 2), "is_causal": True}
    kept = look([(3, 5 + 3), (3, 9 - 2 + 3)], right=0)
    assert attention_of(cost_of("flash_attn_3::fwd", **batch, **given))[0] == 2 * H * kept * (D + E)
    given = {"k_new": (4, J, D), "cu_seqlens_k_new": ints(0, 1, 4), "used_k": ints(5, 9)}
    assert attention_of(cost_of("flash_attn_3::fwd", **batch, **given))[0] == 2 * H * 3 * (6 + 12) * (D + E)
    other = {"query": (2, 3, H, D), "key": (9, 20, J, D), "value": (9, 20, J, E), "kv_batch_idx": (2,)}
    assert attention_of(cost_of("flash_attn_3::fwd", **other, used_k=ints(5, 9)))[0] == 2 * H * 3 * 14 * (D + E)


def test_queries_that_are_not_in_use_are_skipped():
    found = attention_of(packed("flash_attn_3::fwd", seqused_q=ints(1, 0, 4, 0)))
    assert found == (2 * H * (1 * 5 + 4 * 4) * (D + E), 2 * H * (FULL - 21) * (D + E))
    back = attention_of(packed("flash_attn_3::_flash_attn_backward", seqused_q=ints(1, 0, 4, 0)))
    assert back[0] == 4 * H * 21 * (D + E)


def test_a_second_query_makes_the_scores_wider():
    """Else latent attention with absorbed weights loses the product over its compressed part."""
    plain, wider = packed("flash_attn_3::fwd"), packed("flash_attn_3::fwd", q_v=(9, H, E))
    assert attention_of(wider)[0] - attention_of(plain)[0] == 2 * H * FULL * E


@pytest.mark.parametrize("op", [op for op in FORWARDS if has(op, "q_factor")])
def test_quantized_operands_are_scaled_back(op):
    query, key, value = (TensorSpec(shape, "fp8_e4m3") for shape in ((9, H, D), (18, J, D), (18, J, E)))
    given = {"query": query, "key": key, "value": value}
    factor = TensorSpec((4, J))
    plain, scaled = packed(op, **given), packed(op, **given, q_factor=factor, k_factor=factor, v_factor=factor)
    assert scaled.flop - plain.flop == 4 * J + 4 * J + 9 * H * E
    assert scaled.parts[0].precision == "fp8_e4m3"


BATCHED = sorted(op for op in SOURCES if not op.startswith("torch_attn") and "varlen" not in op and "splitk" not in op)
BATCHED.remove("aten::_cudnn_attention_forward_no_dropout_inplace")


def batched(op, **given):
    """Call a kernel on two sequences of three queries and five keys."""
    query, key, value = ((2, 3, H, D), (2, 5, J, D), (2, 5, J, E))
    if op.startswith("aten::_cudnn"):
        query, key, value = ((b, h, s, d) for b, s, h, d in (query, key, value))
    return cost_of(op, query=query, key=key, value=value, **({"grad": query} if has(op, "grad") else {}), **given)


@pytest.mark.parametrize("op", BATCHED)
def test_batches_of_one_length_need_no_offsets(op):
    """Else a kernel called directly is counted with heads and length swapped."""
    factor = 4 if has(op, "grad") else 2
    assert attention_of(batched(op)) == (factor * H * 2 * 15 * (D + E), 0)
    if op != "xformer::memory_efficient_attention_forward":
        kept = 2 * look([(3, 5)], right=0, bottom_right=not op.startswith("aten::_cudnn"))
        assert attention_of(batched(op, causal=True))[0] == factor * H * kept * (D + E)


@pytest.mark.parametrize("op", sorted(SOURCES))
def test_each_kernel_finds_its_dropout_its_bias_its_cap_and_its_scale(op):
    """Else a number that stands elsewhere in another kernel's schema is free."""
    if op not in BATCHED + PACKED:
        return
    call = batched if op in BATCHED else packed
    pairs, passes = (2 * 15 if op in BATCHED else FULL) * H, 2 if has(op, "grad") else 1
    base = call(op).flop
    assert base - call(op, scale=1.0).flop == passes * pairs
    if has(op, "dropout") and not op.startswith("xformers_flash3"):
        assert call(op, dropout=ANY).flop - base == passes * 2 * pairs
    if has(op, "bias"):
        assert call(op, bias=(3, 5)).flop - base == pairs
    if has(op, "alibi_slopes"):
        assert call(op, alibi_slopes=(H,)).flop - base == 2 * pairs
    if has(op, "softcap"):
        assert call(op, softcap=ANY).flop - base == (3 + 5 if passes == 2 else 3) * pairs
        assert call(op, softcap=0.0).flop == base


def test_decoding_in_groups_of_heads():
    op = "xformers::efficient_attention_forward_decoder_splitk_ck"
    shapes = {"query": (2, 1, 3, 4, D), "key": (2, 50, 3, 1, D), "value": (2, 50, 3, 1, D)}
    assert attention_of(cost_of(op, **shapes, used_k=ints(7, 50)))[0] == 2 * 12 * 57 * 2 * D
    assert attention_of(cost_of(op, **shapes))[0] == 2 * 12 * 100 * 2 * D


def test_the_backward_multiplies_in_the_precision_of_its_operands():
    query, key, value = (TensorSpec(shape, "bf16") for shape in ((9, H, D), (18, J, D), (18, J, E)))
    given = {"query": query, "key": key, "value": value, "softmax_lse": (H, 9)}
    cost = packed("flash_attn::_flash_attn_varlen_backward", **given)
    assert {part.precision for part in cost.parts if part.kind == "attention"} == {"bf16"}


LATE = TensorSpec((5,), "int32")


@pytest.mark.parametrize("op", PACKED)
def test_values_that_are_not_known_are_never_guessed(op):
    """Else a packed batch whose offsets are still on the device is counted as something that it may not be."""
    for word in ("cu_q", "cu_k", "used_k"):
        if has(op, word):
            with pytest.raises(FormulaError, match="not known"):
                packed(op, **{word: LATE})
    given = {"grad": (9, H, D)} if has(op, "grad") else {}
    lead = (1,) if op.startswith(IS_4D) else ()
    shapes = {"query": (*lead, 9, H, D), "key": (*lead, 18, J, D), "value": (*lead, 18, J, E)}
    call = call_of(op, **given, **shapes, cu_q=LATE, cu_k=LATE)
    assert BOOK.count(call, calls=2, phase="forward").uncounted[0].calls == 2


@pytest.mark.parametrize("op", PACKED)
def test_what_does_not_fit_is_refused(op):
    """Else a mistake in a caller's offsets, or in our reading of them, becomes a figure."""
    for given, words in (
        ({"cu_q": ints(0, 3, 2, 7, 9)}, "offsets"),
        ({"cu_q": ints(0, 3, 3, 7, 10)}, "offsets"),
        ({"cu_k": ints(-1, 5, 7, 11, 18)}, "offsets"),
        ({"cu_q": ints(0, 3, 9)}, "sequences"),
        ({"value": (1, 19, J, E) if op.startswith(IS_4D) else (19, J, E)}, "do not fit"),
        ({"query": (9, D)}, "query"),
        ({"query": (2, 9, H, D)}, "packed sequences"),
    ):
        with pytest.raises(FormulaError, match=words):
            packed(op, **given)


@pytest.mark.parametrize(
    ("op", "given", "words"),
    [
        ("flash_attn_3::fwd", {"attention_chunk": 4}, "no formula"),
        ("flash_attn_3::fwd", {"rotary_cos": (9, 4), "rotary_sin": (9, 4)}, "no formula"),
        ("flash_attn_3::fwd", {"leftpad_k": ints(9, 9, 9, 9)}, "room"),
        ("flash_attn_3::fwd", {"leftpad_k": ints(0, 0)}, "paddings"),
        ("flash_attn_3::fwd", {"used_k": ints(6, 0, 4, 1)}, "lengths"),
        ("flash_attn_3::fwd", {"used_k": ints(5, 0, 4)}, "lengths"),
        ("flash_attn_3::fwd", {"pages": (4,)}, "table of pages"),
        ("flash_attn_3::fwd", {"left": 0.5}, "bound"),
        ("flash_attn_3::fwd", {"causal": None, "is_causal": 3}, "causal"),
        ("flash_attn_3::fwd", {"softcap": True}, "softcap"),
        ("aten::_efficient_attention_forward", {"window_size": 4}, "mask 0"),
        ("aten::_efficient_attention_forward", {"custom_mask_type": 3}, "mask 3"),
        ("aten::_efficient_attention_forward", {"custom_mask_type": None}, "mask None"),
        ("torch_attn::_varlen_attn", {"window_size": [1]}, "window"),
    ],
)
def test_an_option_that_is_not_understood_is_refused(op, given, words):
    given = {name: value for name, value in given.items() if value is not None or name != "causal"}
    with pytest.raises(FormulaError, match=words):
        packed(op, **given)


@pytest.mark.parametrize("op", sorted(SOURCES))
def test_an_argument_more_than_the_schema_has_is_refused(op):
    """Else a newer library's new option changes what is computed, and nothing shows it."""
    call = call_of(op, query=(2, 3, H, D), key=(2, 3, H, D), value=(2, 3, H, D))
    for more in (
        OpCall(op=op, args=(*call.args, True), options=call.options),
        OpCall(op=op, args=call.args, options=(*call.options, ("sink", TensorSpec((4,))))),
    ):
        with pytest.raises(FormulaError, match="newer schema"):
            FORMULAS[op][1](more)


@pytest.mark.parametrize("op", ["aten::_flash_attention_forward", "aten::_efficient_attention_forward"])
def test_lengths_without_offsets_mean_different_things_to_different_kernels(op):
    """Else a length that one kernel heeds and another leaves aside is counted as heeded."""
    with pytest.raises(FormulaError, match="without offsets"):
        batched(op, used_k=ints(2, 2))


def test_a_batch_without_offsets_has_four_dimensions():
    with pytest.raises(FormulaError, match="no batch"):
        cost_of("flash_attn_3::fwd", query=(9, H, D), key=(9, H, D), value=(9, H, D))


def test_every_operator_is_called_in_these_tests():
    assert set(SOURCES) == set(SCHEMAS) == set(FORMULAS)


@pytest.mark.parametrize("op", sorted(SOURCES))
def test_the_values_that_are_asked_for_stand_where_the_sources_keep_them(op):
    """Else the sensor copies a block table to the host and leaves the offsets on the device."""
    positional, options = names_of(op)
    wanted = {"cu_q", "cu_k", "used_k", "leftpad_k", "seqused_q", "cu_seqlens_k_new"}
    places = {index for index, name in enumerate(positional) if OURS.get(name, name) in wanted}
    places |= {name for name in options if OURS.get(name, name) in wanted}
    assert set(READS.get(op, ())) == places


def test_more_sequences_than_any_batch_has_are_refused():
    """Else one row of a ledger that claims any size takes all time or memory of whoever reads it."""
    many = (10**18, 5, 4, 8)
    with pytest.raises(FormulaError, match="too long to walk"):
        cost_of("aten::_flash_attention_forward", query=many, key=many, value=many)
    pool, used = (3, 256, 4, 8), TensorSpec((1,), "int32", values=(1,))
    with pytest.raises(FormulaError, match="too long to walk"):
        cost_of(
            "aten::_flash_attention_forward", query=(1, 5, 4, 8), key=pool, value=pool, pages=(10**18, 2), used_k=used
        )
