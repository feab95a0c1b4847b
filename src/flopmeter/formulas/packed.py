"""Attention over packed sequences, windows and caches, and the kernels of attention libraries.

Packed sequences lie one behind the other in one tensor; where each begins is a value inside another. So the pairs are
counted sequence by sequence from those values, and a call whose values are not known is left uncounted.
Not here: SDPA's own kernels (`attention.py`), block masks (`flex.py`), what a pair costs (`pairs.py`).
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import NoReturn, Self, TypeAlias

from flopmeter.errors import FormulaError
from flopmeter.formulas.call import AnyNumber, Arg, OpCall, TensorSpec, is_exactly
from flopmeter.formulas.cost import Cost
from flopmeter.formulas.pairs import Work, count_pairs, is_scaled_by, price_backward, price_forward, product_precision

# Per sequence: S query length, T key length; H query heads, J key heads, D head width of Q and K, E head width of V
# P pairs that are looked at, F pairs within the sequences, R query rows with at least one pair

Lengths: TypeAlias = tuple[int, ...]

# Schemas in our words, argument by argument; after `*` those that come by name alone, as name=role. `-` changes no
# cost; `!` is not understood and must be absent.
_FLASH = "query key value cu_q cu_k - - dropout causal -"
_FLASH_OPTIONS = (
    "* scale=scale window_size_left=left window_size_right=right seqused_k=used_k alibi_slopes=alibi block_table=pages"
    " num_splits=-"
)
_VARLEN = "query key value cu_q cu_k - - causal scale window - used_k pages - -"
_FLASH_3 = (
    "query key value new_k - query_v - cu_q cu_k cu_new used_q used_k - - pages batch_idx leftpad ! ! ! q_factor"
    " k_factor v_factor scale causal left right ! softcap - - - - -"
)
SCHEMAS = {
    "aten::_flash_attention_forward": f"{_FLASH} q_factor k_factor v_factor {_FLASH_OPTIONS}",
    "aten::_flash_attention_forward_no_dropout_inplace": f"- {_FLASH} {_FLASH_OPTIONS}",
    "aten::_flash_attention_backward": (
        "grad query key value - - cu_q cu_k - - dropout causal - - * scale=scale window_size_left=left"
        " window_size_right=right"
    ),
    "aten::_efficient_attention_forward": (
        "query key value bias cu_q cu_k - - dropout mask - * scale=scale seqlen_k=used_k window_size=keys"
    ),
    "aten::_efficient_attention_backward": (
        "grad query key value bias - cu_q cu_k - - - dropout - - mask - * scale=scale num_splits_key=-"
        " window_size=keys shared_storage_dqdkdv=-"
    ),
    "aten::_cudnn_attention_forward": (
        "query key value bias cu_q cu_k - - - dropout causal - * scale=scale seqused_k=used_k block_table=pages"
    ),
    "aten::_cudnn_attention_forward_no_dropout_inplace": (
        "- query key value cu_q cu_k - - causal * scale=scale seqused_k=used_k block_table=pages"
    ),
    "aten::_cudnn_attention_backward": ("grad query key value - - - - bias cu_q cu_k - - dropout causal * scale=scale"),
    "torch_attn::_varlen_attn": _VARLEN,
    "torch_attn::_varlen_attn_out": f"- {_VARLEN}",
    "torch_attn::_varlen_attn_backward": "grad query key value - - cu_q cu_k - - causal - scale window -",
    "flash_attn::_flash_attn_forward": "query key value dropout scale causal left right softcap alibi -",
    "flash_attn::_flash_attn_varlen_forward": (
        "query key value cu_q cu_k - - dropout scale causal left right softcap alibi - pages leftpad used_k -"
    ),
    "flash_attn::_flash_attn_backward": (
        "grad query key value - - - - - dropout scale causal left right softcap alibi - -"
    ),
    "flash_attn::_flash_attn_varlen_backward": (
        "grad query key value - - - - - cu_q cu_k - - dropout scale causal left right softcap alibi - - -"
    ),
    "flash_attn_3::fwd": _FLASH_3,
    "flash_attn_3::_flash_attn_forward": _FLASH_3,
    "flash_attn_3::bwd": (
        "grad query key value - - - - - cu_q cu_k used_q used_k - - scale causal left right softcap - -"
    ),
    "flash_attn_3::_flash_attn_backward": (
        "grad query key value - - cu_q cu_k used_q used_k - - - - - scale causal left right softcap - -"
    ),
    "xformers_flash::flash_fwd": "query key value cu_q cu_k used_k - - dropout scale causal left right - pages",
    "xformers_flash::flash_bwd": "- grad query key value - - cu_q cu_k - - dropout scale causal left right -",
    "xformers_flash3::flash_fwd": (
        "query key value cu_q cu_k used_k leftpad - - - scale causal q_factor k_factor v_factor pages - left right"
    ),
    "xformers_flash3::flash_bwd": "- grad query key value - - cu_q cu_k - - scale causal left right",
    "xformers::efficient_attention_forward_ck": (
        "query key value bias cu_q cu_k - dropout - mask scale used_k keys pages page_size"
    ),
    "xformers::efficient_attention_backward_ck": (
        "grad query key value bias cu_q cu_k - - used_k - - dropout - - mask scale keys"
    ),
    "xformers::efficient_attention_forward_decoder_splitk_ck": "query key value used_k scale -",
    "xformer::memory_efficient_attention_forward": "query key value bias dropout scale",
}
_CUDNN = "aten::_cudnn_attention"
_VALUES = frozenset({"cu_q", "cu_k", "cu_new", "used_q", "used_k", "leftpad"})
_USES_LENGTHS_ALONE = ("flash_attn_3::", "xformers_flash3::", "xformers::efficient_attention_forward_decoder")
"""Kernels that look at lengths per sequence also where no offsets are given; the others leave them aside then."""


@dataclass(frozen=True, slots=True)
class _Schema:
    """What stands where among the arguments of an operator: roles by position, and by keyword."""

    positional: tuple[str, ...]
    options: Mapping[str, str]

    @classmethod
    def of(cls, text: str) -> Self:
        """Read one row of `SCHEMAS`."""
        positional, _, options = text.partition("*")
        named = (option.partition("=") for option in options.split())
        return cls(tuple(positional.split()), {name: role for name, _, role in named})


_SCHEMAS = {op: _Schema.of(text) for op, text in SCHEMAS.items()}


@dataclass(frozen=True, slots=True)
class _Args:
    """The arguments of one call by role."""

    call: OpCall
    found: Mapping[str, Arg]

    @classmethod
    def of(cls, call: OpCall) -> Self:
        """Sort a call's arguments; FormulaError where the schema has no place for one, or it is not understood."""
        schema = _SCHEMAS[call.op]
        found = list(zip(schema.positional, call.args, strict=False))
        found += [(schema.options.get(name, "!"), value) for name, value in call.options]
        args = cls(call, dict(found))
        if len(call.args) > len(schema.positional) or any(role == "!" and value for role, value in found):
            args.refuse("an argument that no formula is written for: a newer schema, rotary embedding inside, chunks")
        return args

    def __contains__(self, role: str) -> bool:
        return self.found.get(role) is not None

    def tensor(self, role: str) -> TensorSpec:
        """Return a tensor of at least three dimensions."""
        spec = self.found.get(role)
        if not isinstance(spec, TensorSpec) or len(spec.shape) < 3:
            self.refuse(f"{role} is {spec}")
        return spec

    def values(self, role: str) -> Lengths | None:
        """Return the integers in a tensor, None where there is no such tensor."""
        spec = self.found.get(role)
        if isinstance(spec, TensorSpec) and spec.values is not None:
            return spec.values
        if spec is not None:
            self.refuse(f"the values of {role} are not known")
        return None

    def is_on(self, role: str) -> bool:
        """Say whether a number is there and not 0."""
        number = self.found.get(role, 0.0)
        if not isinstance(number, (AnyNumber, int, float)) or isinstance(number, bool):
            self.refuse(f"{role} is {number}")
        return not is_exactly(number, 0)

    def refuse(self, what: str) -> NoReturn:
        """Leave the call uncounted."""
        raise FormulaError(what, where=self.call.op)

    @property
    def is_heads_first(self) -> bool:
        """Say whether heads stand before the length, as in cuDNN's batches."""
        return self.call.op.startswith(_CUDNN) and "cu_q" not in self


def count_packed(call: OpCall) -> Cost:
    """Cost of a forward over sequences of lengths of their own.

    Shapes: packed q (ΣS, H, D), k (ΣT, J, D), v (ΣT, J, E), offsets (N + 1); or q (N, S, H, D) and so on, cuDNN's
        (N, H, S, D); or pages k (pages, size, J, D) with a table (N, pages per sequence).
    Counts: as `count_attention`, P = H·Σ over the sequences of the pairs in the band that causal mask and window leave:
        row i looks at the keys i + s − left … i + s + right, s = T − S (bottom right) or 0 (top left). T is the length
        in use where one is given, less the padding on the left, plus what is appended. F are the pairs of the slots
        that offsets, shapes or page tables give. Besides, on each pair 2 for ALiBi and 3 for a softcap; products with
        a second query (q_v) make D wider; factors of quantized operands as in `count_attention`.
    Ignores: what `count_attention` ignores, the distance that ALiBi multiplies, copies into a cache, splitting the
        keys.
    Source: docs/spec/fm-1.md#packed; torch 2.9 to 2.15 `native_functions.yaml` and `nn/attention/varlen.py`; flash-attn
        2.8.3 `flash_attn_interface.py`, `block_info.h`, `mask.h`; FlashAttention 3 `hopper/flash_attn_interface.py`,
        `seqlen.h`; xformers 0.0.35 `ops/fmha/flash.py`, `flash3.py`, `csrc/attention/attention.cpp`. Pairs without
        masks agree with torch `_varlen_attn_forward_flop`.

    Raises:
        FormulaError: offsets or lengths whose values are not known or do not fit, options that are not understood.

    Example:
        >>> q, cu = (5, 2, 8), TensorSpec((3,), "int32", values=(0, 2, 5))
        >>> call = OpCall.of("torch_attn::_varlen_attn", q, q, q, cu, cu, 3, 3, True)
        >>> [(part.kind, part.flop, part.masked_flop) for part in count_packed(call).parts]
        [('attention', 576, 256), ('pointwise', 18, 0), ('normalization', 62, 0)]
    """
    return price_forward(_read(call))


def count_packed_backward(call: OpCall) -> Cost:
    """Cost of a backward over sequences of lengths of their own.

    Shapes: those of the forward.
    Counts: as `count_attention_backward` over the pairs of `count_packed`; reduction ΣT·(D + E)·(H − J).
    Ignores: what `count_packed` ignores, and the gradient of a mask.
    Source: docs/spec/fm-1.md#packed; the same files as `count_packed`. Pairs without masks agree with torch
        `_varlen_attn_backward_flop`.

    Raises:
        FormulaError: offsets or lengths whose values are not known or do not fit, options that are not understood.

    Example:
        >>> q, lse, cu = (5, 2, 8), (2, 5), TensorSpec((3,), "int32", values=(0, 2, 5))
        >>> call = OpCall.of("torch_attn::_varlen_attn_backward", q, q, q, q, q, lse, cu, cu, 3, 3, True)
        >>> count_packed_backward(call).parts[0].flop
        1152
    """
    return price_backward(_read(call))


def _read(call: OpCall) -> Work:
    args = _Args.of(call)
    operands = [args.tensor(role) for role in ("query", "key", "value")]
    query, key, value = operands
    heads, key_heads, width, v_width = _heads(args, query), _heads(args, key), query.shape[-1], value.shape[-1]
    if width != key.shape[-1] or key.shape[:-1] != value.shape[:-1] or heads % max(key_heads, 1):
        args.refuse(f"query {query}, key {key} and value {value} do not fit")
    query_slots = _slots(args, "cu_q", query)
    queries = _used(args, "used_q", query_slots)
    key_slots, keys = _keys(args, key, sequences=len(queries))
    left, right, bottom_right = _band(args)
    counted = [
        (*count_pairs(queries=rows, keys=columns, left=left, right=right, bottom_right=bottom_right), times)
        for (rows, columns), times in Counter(zip(queries, keys, strict=True)).items()
    ]
    pairs = heads * sum(found * times for found, _, times in counted)
    factors = [args.found.get(f"{name}_factor") for name in "qkv"]
    besides = sum(factor.size for factor in factors[:2] if isinstance(factor, TensorSpec))
    return Work(
        pairs=pairs,
        skipped=heads * sum(rows * room for rows, room in zip(query_slots, key_slots, strict=True)) - pairs,
        rows=heads * sum(rows * times for _, rows, times in counted),
        qk_width=width + (args.tensor("query_v").shape[-1] if "query_v" in args else 0),
        v_width=v_width,
        shared=sum(keys) * (width + v_width) * (heads - key_heads),
        is_scaled=is_scaled_by(args.found.get("scale")),
        bias=("bias" in args) + 2 * ("alibi" in args),
        has_dropout=args.is_on("dropout"),
        has_softcap=args.is_on("softcap"),
        besides=besides + ("v_factor" in args) * sum(queries) * heads * v_width,
        precision=product_precision(call, *operands),
    )


def _heads(args: _Args, spec: TensorSpec) -> int:
    """Return the heads of a tensor; with five dimensions they come in groups."""
    if args.is_heads_first:
        return spec.shape[1]
    return spec.shape[-2] * (spec.shape[2] if len(spec.shape) == 5 else 1)


def _slots(args: _Args, offsets: str, spec: TensorSpec) -> Lengths:
    """Return how many rows each sequence has: from its offsets, or all the same in a batch."""
    starts = args.values(offsets)
    if starts is not None:
        if len(spec.shape) != 3 and (len(spec.shape) != 4 or spec.shape[0] != 1):
            args.refuse(f"{spec} does not hold packed sequences")
        return _lengths(args, starts, rows=spec.shape[-3])
    if len(spec.shape) < 4:
        args.refuse(f"{spec} is no batch, and there are no offsets")
    return (spec.shape[2 if args.is_heads_first else 1],) * len(args.call.walk(spec.shape[0]))


def _keys(args: _Args, key: TensorSpec, *, sequences: int) -> tuple[Lengths, Lengths]:
    """Return how many keys each sequence has room for, and how many of them are looked at."""
    starts = args.found.get("cu_k")
    has_ends = not isinstance(starts, TensorSpec) or starts.shape[0] != sequences or "used_k" not in args
    if "pages" in args:
        slots, keys = _pages(args, key)
    else:
        slots = _slots(args, "cu_k", key) if has_ends else args.values("used_k") or ()
        keys = slots
    if "batch_idx" in args:
        slots = keys = slots[:1] * sequences
    if len(slots) != sequences:
        args.refuse(f"{sequences} sequences of queries, {len(slots)} of keys")
    keys = _used(args, "used_k", keys)
    padding = args.values("leftpad") or (0,) * sequences
    new = _slots(args, "cu_new", args.tensor("new_k")) if "new_k" in args else (0,) * sequences
    if not len(padding) == len(new) == sequences:
        args.refuse(f"{len(padding)} paddings and {len(new)} new lengths for {sequences} sequences")
    keys = tuple(length - pad + more for length, pad, more in zip(keys, padding, new, strict=True))
    if any(not 0 <= length <= room for length, room in zip(keys, slots, strict=True)):
        args.refuse("a sequence uses more keys than it has room for, or fewer than none")
    return slots, keys


def _pages(args: _Args, key: TensorSpec) -> tuple[Lengths, Lengths]:
    """Return the room that a table of pages gives each sequence, and the lengths where offsets tell them."""
    pages, size = args.found.get("pages"), args.found.get("page_size", key.shape[1])
    if not isinstance(pages, TensorSpec) or len(pages.shape) != 2 or not isinstance(size, int):
        args.refuse(f"{pages} is no table of pages of {size} keys")
    room = pages.shape[1] * size
    slots = (room,) * len(args.call.walk(pages.shape[0]))
    starts = None if "used_k" in args else args.values("cu_k")
    return slots, slots if starts is None else _lengths(args, starts, rows=room * pages.shape[0])


def _used(args: _Args, role: str, slots: Lengths) -> Lengths:
    """Return the lengths in use, where a tensor gives them."""
    lengths = args.values(role)
    if lengths is None:
        return slots
    if "cu_q" not in args and not args.call.op.startswith(_USES_LENGTHS_ALONE):
        args.refuse("lengths per sequence without offsets, which some kernels heed and others do not")
    if len(lengths) != len(slots) or any(not 0 <= length <= room for length, room in zip(lengths, slots, strict=True)):
        args.refuse(f"lengths {lengths[:8]} of sequences of {slots[:8]}")
    return lengths


def _lengths(args: _Args, starts: Lengths, *, rows: int) -> Lengths:
    lengths = tuple(end - begin for begin, end in pairwise(starts))
    if not starts or starts[0] < 0 or starts[-1] > rows or any(length < 0 for length in lengths):
        args.refuse(f"offsets {starts[:8]} into {rows} rows")
    return lengths


def _band(args: _Args) -> tuple[int | None, int | None, bool]:
    """Return how far to the left and right of the diagonal a query looks, and whether that ends bottom right."""
    if "mask" in _SCHEMAS[args.call.op].positional:
        mask, keys = args.found.get("mask"), args.found.get("keys")
        left = keys - 1 if isinstance(keys, int) and keys > 0 else None
        if isinstance(mask, bool) or mask not in (0, 1, 2) or (mask == 0 and left is not None):
            args.refuse(f"mask {mask} with a window of {keys} keys")
        return left, 0 if mask else None, mask == 2
    window = args.found.get("window") or (args.found.get("left"), args.found.get("right"))
    causal = args.found.get("causal", False)
    if not isinstance(window, tuple) or len(window) != 2 or not isinstance(causal, bool):
        args.refuse(f"window {window}, causal {causal}")
    left, right = (_bound(args, bound) for bound in window)
    return left, 0 if causal else right, not args.call.op.startswith(_CUDNN) or "used_k" in args


def _bound(args: _Args, bound: Arg) -> int | None:
    if bound is not None and (not isinstance(bound, int) or isinstance(bound, bool)):
        args.refuse(f"{bound} is no bound of a window")
    return None if bound is None or bound < 0 else bound


def _reads(schema: _Schema) -> tuple[int | str, ...]:
    places = [index for index, role in enumerate(schema.positional) if role in _VALUES]
    return (*places, *(name for name, role in schema.options.items() if role in _VALUES))


FORMULAS: dict[str, tuple[str, Callable[[OpCall], int | Cost]]] = {
    op: ("attention", count_packed_backward if "grad" in schema.positional else count_packed)
    for op, schema in _SCHEMAS.items()
}
READS: dict[str, tuple[int | str, ...]] = {op: found for op, schema in _SCHEMAS.items() if (found := _reads(schema))}
