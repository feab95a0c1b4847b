"""Products in groups, as mixtures of experts make them, and products of scaled operands: fp8, MX and NVFP4 blocks.

The products are kind `matmul`, in the precision of the operands (`fp8_e5m2*fp8_e4m3`, `mxfp8`, `nvfp4`), never in that
of their scales. Scaling is pointwise in fp32: the sum over each block of K that shares one scale is multiplied by the
scale of a and by that of b. Rows beyond the last offset are `masked_flop`.
Not here: casting to these formats, which frameworks write in other operators, and products without groups or scales.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from flopmeter.formulas.call import Arg, OpCall, TensorSpec, parse_sizes
from flopmeter.formulas.cost import Cost, Part

# M rows, K inner size, N columns, G groups; a size that groups share out is used up to the last offset

BLOCKS = {0: None, 1: None, 2: 16, 3: 32, 4: 128, 5: 128}
"""Elements of K that share one scale, by torch's `ScalingType`; None where all of them do."""

MICROSCALED = {
    ("fp8_e8m0", "fp8_e4m3"): "mxfp8",
    ("fp8_e8m0", "fp8_e5m2"): "mxfp8",
    ("fp8_e8m0", "fp4"): "mxfp4",
    ("fp8_e4m3", "fp4"): "nvfp4",
}
"""Precision of an operand whose format includes its scales, by the types of a scale and an element."""


@dataclass(frozen=True, slots=True)
class _Operand:
    """One operand of a scaled product: its shape in elements, its precision, how many scales one element has."""

    shape: tuple[int, ...]
    precision: str
    levels: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """A product, reduced to what decides its cost; `sums` are the partial sums that are scaled one by one."""

    terms: int
    skipped: int
    outputs: int
    sums: int


def count_grouped_mm(call: OpCall) -> Cost:
    """Cost of products of groups of rows, as mixtures of experts make them.

    Shapes: a (M, K), b (G, K, N), rows of a shared out among groups → (M, N); or a (G, M, K), b (K, N) with columns
        shared out → (M, N); or a (M, K), b (K, N) with K shared out → (G, M, N); or a (G, M, K), b (G, K, N); the
        groups end at the offsets (G,).
    Counts: 2·M·N·K, times G where both operands have groups; of the size that is shared out, what lies before the last
        offset, the rest is masked; one add per output for a bias. All of it where the offsets are not known.
    Ignores: that the first term of each sum needs no add.
    Source: docs/spec/fm-1.md#scaled.

    Raises:
        FormulaError: sizes or offsets that do not fit, or no offsets where groups share a size.

    Example:
        >>> ends = TensorSpec((4,), "int32", values=(1, 3, 3, 6))
        >>> parts = count_grouped_mm(OpCall.of("aten::_grouped_mm", (8, 3), (4, 3, 5), ends)).parts
        >>> parts[0].flop, parts[0].masked_flop
        (180, 60)
    """
    one, two = call.tensor(0), call.tensor(1)
    work = _share_out(call, one.shape, two.shape, offsets=call.arg(2), block=None)
    bias = work.outputs if call.arg(3) is not None else 0
    return Cost.of(
        Part(kind="matmul", flop=2 * work.terms, masked_flop=2 * work.skipped), Part(kind="pointwise", flop=bias)
    )


def count_grouped_mm_backward(call: OpCall) -> Cost:
    """Cost of both gradients of a product of groups of rows, where a library keeps them in one operator.

    Shapes: a (M, K), b (G, K, N), offsets (G,), dy (M, N) → da (M, K), db (G, K, N).
    Counts: 2·M·N·K for da and again for db, of the rows before the last offset; the others are masked.
    Ignores: that the first term of each sum needs no add.
    Source: docs/spec/fm-1.md#scaled; `grouped_mm_fallback_backward` in transformers 5.23, integrations/moe.py.

    Raises:
        FormulaError: sizes or offsets that do not fit.

    Example:
        >>> op = "transformers::grouped_mm_fallback_backward"
        >>> count_grouped_mm_backward(OpCall.of(op, (8, 3), (4, 3, 5), (4,), (8, 5))).flop
        480
    """
    one, two, grad = call.tensor(0), call.tensor(1), call.tensor(3)
    if len(one.shape) != 2 or len(two.shape) != 3 or grad.shape != (one.shape[0], two.shape[2]):
        call.refuse(f"{one}, {two} and {grad} are no product and its gradient")
    work = _share_out(call, one.shape, two.shape, offsets=call.arg(2), block=None)
    return Cost.of(Part(kind="matmul", flop=4 * work.terms, masked_flop=4 * work.skipped))


def count_scaled_mm(call: OpCall) -> Cost:
    """Cost of a product of scaled operands, whose scales tell by their shapes what shares one.

    Shapes: a (M, K), b (K, N), two values to an element in fp4; scales of one element, (M, 1) and (1, N), one for each
        128 of K, or in e8m0 for each 32, in e4m3 for each 16 → (M, N).
    Counts: 2·M·N·K products in the precision of the operands; pointwise in fp32 2·M·N for each block of K, M·N for a
        bias and M·N for a scale of the result.
    Ignores: adding up the blocks, which the products hold, and the cast of the result.
    Source: docs/spec/fm-1.md#scaled; shapes as torch's `_check_scaled_mm_sizes`; blocks as in OCP's Microscaling
        Formats 1.0, section 6.1.

    Raises:
        FormulaError: sizes that do not fit, or scales of a form that is not known.

    Example:
        >>> a, b, one = TensorSpec((16, 32), "fp8_e5m2"), TensorSpec((32, 8), "fp8_e4m3"), TensorSpec(())
        >>> cost = count_scaled_mm(OpCall.of("aten::_scaled_mm", a, b, one, one))
        >>> [(part.flop, part.precision) for part in cost.parts]
        [(8192, 'fp8_e5m2*fp8_e4m3'), (256, 'fp32')]
    """
    scales = call.tensor(2), call.tensor(3)
    one, two = _operand(call, 0, scales[:1]), _operand(call, 1, scales[1:])
    if len(one.shape) != 2 or len(two.shape) != 2:
        call.refuse("the operands are not matrices")
    block = _block_of_shapes(call, one.shape, two.shape, scales)
    work = _multiply(call, one.shape, two.shape, block=block)
    return _price(one, two, work, adds=(call.arg(4) is not None) + (call.arg(5) is not None))


def count_scaled_mm_v2(call: OpCall) -> Cost:
    """Cost of a product of scaled operands, whose recipes say what shares a scale.

    Shapes: a (M, K), b (K, N), two values to an element in fp4; a list of scales and of recipes for each → (M, N).
    Counts: as `count_scaled_mm`; a second scale of an operand multiplies each output once more.
    Ignores: what `count_scaled_mm` ignores.
    Source: docs/spec/fm-1.md#scaled; recipes are torch's `ScalingType`.

    Raises:
        FormulaError: sizes that do not fit, or recipes that are not known.

    Example:
        >>> a, b, one = TensorSpec((16, 32), "fp8_e4m3"), TensorSpec((32, 8), "fp8_e4m3"), TensorSpec(())
        >>> call = OpCall.of("aten::_scaled_mm_v2", a, b, [one], [0], [], [one], [0], [], None, None)
        >>> count_scaled_mm_v2(call).flop
        8448
    """
    one, two, block = _read_recipes(call)
    if len(one.shape) != 2 or len(two.shape) != 2:
        call.refuse("the operands are not matrices")
    work = _multiply(call, one.shape, two.shape, block=block)
    return _price(one, two, work, adds=call.arg(8) is not None)


def count_scaled_grouped_mm(call: OpCall) -> Cost:
    """Cost of products of groups with scaled operands.

    Shapes: as `count_grouped_mm`; scales in fp32 for each row of a and column of b, or in e8m0 for each 32 of K.
    Counts: the products of `count_grouped_mm`, and the scaling of `count_scaled_mm` for the outputs before the last
        offset. Where groups share out K in a way that is not known, each has as many blocks as it can.
    Ignores: what `count_scaled_mm` ignores.
    Source: docs/spec/fm-1.md#scaled; shapes as torch's `_meta_grouped_mm_common`.

    Raises:
        FormulaError: sizes or offsets that do not fit, or scales of a form that is not known.

    Example:
        >>> a, b, ends = TensorSpec((8, 32), "fp8_e4m3"), TensorSpec((2, 32, 5), "fp8_e4m3"), TensorSpec((2,), "int32")
        >>> call = OpCall.of("aten::_scaled_grouped_mm", a, b, TensorSpec((8,)), TensorSpec((2, 5)), ends)
        >>> count_scaled_grouped_mm(call).flop
        2640
    """
    scales = call.tensor(2), call.tensor(3)
    one, two = _operand(call, 0, scales[:1]), _operand(call, 1, scales[1:])
    kinds = {scale.dtype for scale in scales}
    if kinds not in ({"fp32"}, {"fp8_e8m0"}):
        call.refuse(f"scales in {sorted(kinds)} are of no form that is known")
    work = _share_out(call, one.shape, two.shape, offsets=call.arg(4), block=None if kinds == {"fp32"} else BLOCKS[3])
    return _price(one, two, work, adds=(call.arg(5) is not None) + (call.arg(6) is not None))


def count_scaled_grouped_mm_v2(call: OpCall) -> Cost:
    """Cost of products of groups with scaled operands, whose recipes say what shares a scale.

    Shapes: as `count_grouped_mm`, two values to an element in fp4; lists of scales and recipes as `count_scaled_mm_v2`.
    Counts: as `count_scaled_grouped_mm`; a second scale of an operand multiplies each output once more.
    Ignores: what `count_scaled_mm` ignores.
    Source: docs/spec/fm-1.md#scaled; recipes are torch's `ScalingType`.

    Raises:
        FormulaError: sizes or offsets that do not fit, or recipes that are not known.

    Example:
        >>> a, b, ends = TensorSpec((8, 32), "fp8_e4m3"), TensorSpec((2, 32, 5), "fp8_e4m3"), TensorSpec((2,), "int32")
        >>> rows, columns = TensorSpec((8,)), TensorSpec((2, 5))
        >>> call = OpCall.of("aten::_scaled_grouped_mm_v2", a, b, [rows], [1], [], [columns], [1], [], ends)
        >>> count_scaled_grouped_mm_v2(call).flop
        2640
    """
    one, two, block = _read_recipes(call)
    work = _share_out(call, one.shape, two.shape, offsets=call.arg(8), block=block)
    return _price(one, two, work, adds=call.arg(9) is not None)


def _price(one: _Operand, two: _Operand, work: _Work, *, adds: int) -> Cost:
    more = one.levels - 1 + two.levels - 1 + adds
    precision = one.precision if one.precision == two.precision else f"{one.precision}*{two.precision}"
    return Cost.of(
        Part(kind="matmul", flop=2 * work.terms, masked_flop=2 * work.skipped, precision=precision),
        Part(kind="pointwise", flop=2 * work.sums + more * work.outputs, precision="fp32"),
    )


def _operand(call: OpCall, index: int, scales: tuple[TensorSpec, ...]) -> _Operand:
    """Read an operand and what its scales make of it; two values of four bits lie in one element along K."""
    spec, scale = call.tensor(index), scales[0].dtype
    precision = spec.dtype if scale == "fp32" else MICROSCALED.get((scale, spec.dtype))
    if precision is None or not precision.startswith(("fp8", "fp4", "mx", "nv")):
        call.refuse(f"{spec} with scales in {scale} is of no form that is known")
    if any(level.dtype != "fp32" or level.size != 1 for level in scales[1:]):
        call.refuse("a second scale is not one number in fp32")
    shape = list(spec.shape)
    if spec.dtype == "fp4":
        shape[-1 if index == 0 else -2] *= 2
    return _Operand(tuple(shape), precision, len(scales))


def _block_of_shapes(
    call: OpCall, one: tuple[int, ...], two: tuple[int, ...], scales: tuple[TensorSpec, TensorSpec]
) -> int | None:
    """Return how many elements of K share a scale, as torch tells it from the scales themselves."""
    left, right = scales
    kinds = left.dtype, right.dtype
    if kinds in (("fp8_e8m0", "fp8_e8m0"), ("fp8_e4m3", "fp8_e4m3")):
        block = 32 if left.dtype == "fp8_e8m0" else 16
        if left.size < one[0] * _ceil(one[1], block) or right.size < two[1] * _ceil(one[1], block):
            call.refuse(f"scales {left} and {right} are too few")
        return block
    if kinds != ("fp32", "fp32"):
        call.refuse(f"scales {left} and {right} are of no form that is known")
    if left.size == right.size == 1:
        return None
    if len(left.shape) == len(right.shape) == 2 and left.shape[1] == right.shape[0]:
        rows = left.shape[0] in (one[0], _ceil(one[0], 128))
        columns = right.shape[1] in (two[1], _ceil(two[1], 128))
        if rows and columns and left.shape[1] in (1, _ceil(one[1], 128)):
            return None if left.shape[1] == 1 else 128
    return call.refuse(f"scales {left} and {right} are of no form that is known")


def _read_recipes(call: OpCall) -> tuple[_Operand, _Operand, int | None]:
    """Read operands, scales and recipes of a second version's schema."""
    scales = call.tensor_list(2), call.tensor_list(5)
    recipes = parse_sizes(call.arg(3)), parse_sizes(call.arg(6))
    if not all(len(found) == len(recipe) > 0 for found, recipe in zip(scales, recipes, strict=True)):
        call.refuse("scales and recipes are not as many")
    if any(recipe[1:] not in ((), (0,)) or recipe[0] not in BLOCKS for recipe in recipes):
        call.refuse(f"recipes {recipes} are not known")
    blocks = {BLOCKS[recipe[0]] for recipe in recipes}
    if len(blocks) != 1:
        call.refuse(f"recipes {recipes} cut the inner size in two ways")
    return _operand(call, 0, scales[0]), _operand(call, 1, scales[1]), blocks.pop()


def _multiply(call: OpCall, one: tuple[int, ...], two: tuple[int, ...], *, block: int | None) -> _Work:
    """Return the work of one product, or of a batch of them."""
    if one[-1] != two[-2] or one[:-2] != two[:-2]:
        call.refuse(f"{one} and {two} cannot be multiplied")
    inner = one[-1]
    outputs = one[-2] * two[-1] * (one[0] if len(one) == 3 else 1)
    return _Work(terms=outputs * inner, skipped=0, outputs=outputs, sums=outputs * _ceil(inner, block or inner))


def _share_out(call: OpCall, one: tuple[int, ...], two: tuple[int, ...], *, offsets: Arg, block: int | None) -> _Work:
    """Return the work of a product whose rows, columns or inner size groups share out."""
    dims = (len(one), len(two))
    if not set(dims) <= {2, 3} or one[-1] != two[-2]:
        call.refuse(f"{one} and {two} cannot be multiplied")
    if dims == (3, 3):
        return _multiply(call, one, two, block=block)
    shared = {(2, 3): one[0], (3, 2): two[1], (2, 2): one[1]}[dims]
    groups = {(2, 3): two[0], (3, 2): one[0]}.get(dims)
    sizes, count = _read_offsets(call, offsets, shared)
    if groups not in (None, count):
        call.refuse(f"{count} offsets for {groups} groups")
    rows, inner, columns = one[-2], one[-1], two[-1]
    used = shared if sizes is None else sum(sizes)
    each = (block or inner) or 1
    if dims == (2, 2):
        most = min(inner, (inner + count * (each - 1)) // each)
        pieces = most if sizes is None else sum(_ceil(size, each) for size in sizes)
        terms, outputs, sums = rows * columns * used, count * rows * columns, rows * columns * pieces
    else:
        outputs = used * (columns if dims == (2, 3) else rows)
        terms, sums = outputs * inner, outputs * _ceil(inner, each)
    return _Work(terms=terms, skipped=rows * columns * inner - terms, outputs=outputs, sums=sums)


def _read_offsets(call: OpCall, offsets: Arg, shared: int) -> tuple[tuple[int, ...] | None, int]:
    """Return the sizes of the groups, None where they are not known, and how many there are."""
    if not isinstance(offsets, TensorSpec) or len(offsets.shape) != 1:
        call.refuse(f"offsets {offsets} are not a list of ends")
    if offsets.values is None:
        return None, offsets.size
    ends = (0, *offsets.values)
    sizes = tuple(end - begin for begin, end in itertools.pairwise(ends))
    if len(sizes) != offsets.size or any(size < 0 for size in sizes) or ends[-1] > shared:
        call.refuse(f"offsets {offsets} do not share out {shared}")
    return sizes, offsets.size


def _ceil(size: int, block: int) -> int:
    return -(-size // block) if block else 0


FORMULAS: dict[str, tuple[str, Callable[[OpCall], int | Cost]]] = {
    "aten::_grouped_mm": ("matmul", count_grouped_mm),
    "transformers::grouped_mm_fallback": ("matmul", count_grouped_mm),
    "transformers::grouped_mm_fallback_backward": ("matmul", count_grouped_mm_backward),
    "aten::_scaled_mm": ("matmul", count_scaled_mm),
    "aten::_scaled_mm_v2": ("matmul", count_scaled_mm_v2),
    "aten::_scaled_grouped_mm": ("matmul", count_scaled_grouped_mm),
    "aten::_scaled_grouped_mm_v2": ("matmul", count_scaled_grouped_mm_v2),
}
READS: dict[str, tuple[int | str, ...]] = {
    "aten::_grouped_mm": (2,),
    "transformers::grouped_mm_fallback": (2,),
    "transformers::grouped_mm_fallback_backward": (2,),
    "aten::_scaled_grouped_mm": (4,),
    "aten::_scaled_grouped_mm_v2": (8,),
}
