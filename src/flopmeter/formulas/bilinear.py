"""Products of three tensors: bilinear layers and their gradients, which arrive in one operator.

It is priced by the two steps that torch's own kernel takes for each slice of an unrolled dimension. A step that sums is
a product (`matmul`), one that does not is pointwise; slices that are added up are a reduction.
Not here: products of two tensors (`matmul`), and the bias, which is an operator of its own.
"""

import math
from collections.abc import Callable

from flopmeter.errors import FormulaError
from flopmeter.formulas.call import COMPLEX, OpCall, TensorSpec, parse_sizes
from flopmeter.formulas.cost import Cost, Part

# U slices of the unrolled dimension


def count_trilinear(call: OpCall) -> Cost:
    """Cost of multiplying three tensors and summing over some of their dimensions.

    Shapes: three tensors, each with dimensions put in where it has none, so that they broadcast; the dimensions that
        are summed; one that is unrolled, of size U.
    Counts: for each of U slices two steps: the first two tensors, summed over what the third has not; the result and
        the third, summed over what it has. A step costs 2 for each element of what it broadcasts to where it sums
        (matmul), else 1 (pointwise). Where the unrolled dimension is summed, U − 1 adds for each element of the
        result (reduction). On complex numbers 8, 6 and 2.
    Ignores: that the first term of each sum needs no add; adding to zeros.
    Source: docs/spec/fm-1.md#bilinear; torch's own form.

    Raises:
        FormulaError: the tensors do not broadcast, or a sum is over a dimension that only one of two has.

    Example:
        >>> forward = [[1, 3], [0], [1, 2], [2, 3]]
        >>> count_trilinear(OpCall.of("aten::_trilinear", (5, 4), (6, 4, 3), (5, 3), *forward)).flop
        900
    """
    shapes = [_expand(call, call.tensor(place), parse_sizes(call.arg(place + 3))) for place in range(3)]
    summed, unrolled = set(parse_sizes(call.arg(6))), call.arg(7, 1)
    if len({len(shape) for shape in shapes}) > 1 or not isinstance(unrolled, int):
        msg = f"{shapes} do not broadcast"
        raise FormulaError(msg, where=call.op)
    slices = _broadcast(call, *shapes)[unrolled]
    one, two, three = ([1 if d == unrolled else size for d, size in enumerate(shape)] for shape in shapes)
    absent = set(parse_sizes(call.arg(5)))
    early, late = (summed & absent) - {unrolled}, summed - absent - {unrolled}
    between, first = _step(call, one, two, summed=early)
    result, second = _step(call, between, three, summed=late)
    add, multiply = (2, 6) if call.precision in COMPLEX else (1, 1)
    steps = ((first, bool(early)), (second, bool(late)))
    terms = slices * sum(size for size, is_sum in steps if is_sum)
    others = slices * sum(size for size, is_sum in steps if not is_sum)
    adds = (slices - 1) * math.prod(result) if unrolled in summed and slices else 0
    return Cost.of(
        Part(kind="matmul", flop=(multiply + add) * terms),
        Part(kind="pointwise", flop=multiply * others),
        Part(kind="reduction", flop=add * adds),
    )


def _expand(call: OpCall, spec: TensorSpec, places: tuple[int, ...]) -> list[int]:
    """Return a shape with ones put in at these places of the result."""
    sizes = iter(spec.shape)
    total = len(spec.shape) + len(places)
    if not set(places) <= set(range(total)) or len(set(places)) != len(places):
        msg = f"{list(places)} are no dimensions to put into {spec}"
        raise FormulaError(msg, where=call.op)
    return [1 if place in places else next(sizes) for place in range(total)]


def _broadcast(call: OpCall, *shapes: list[int]) -> list[int]:
    found = []
    for sizes in zip(*shapes, strict=True):
        others = {size for size in sizes if size != 1}
        if len(others) > 1:
            msg = f"{shapes} do not broadcast"
            raise FormulaError(msg, where=call.op)
        found.append(others.pop() if others else 1)
    return found


def _step(call: OpCall, one: list[int], two: list[int], *, summed: set[int]) -> tuple[list[int], int]:
    """Return the shape of a product of two tensors with some dimensions summed, and the elements it went over."""
    if any(one[place] != two[place] for place in summed):
        msg = f"{one} and {two} are summed over a dimension that one of them has not"
        raise FormulaError(msg, where=call.op)
    whole = _broadcast(call, one, two)
    return [1 if place in summed else size for place, size in enumerate(whole)], math.prod(whole)


FORMULAS: dict[str, tuple[str, Callable[[OpCall], int | Cost]]] = {
    "aten::_trilinear": ("matmul", count_trilinear),
    "complex::aten._trilinear": ("matmul", count_trilinear),
}
