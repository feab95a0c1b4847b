"""Attention with a block mask, counted block by block and pair by pair."""

import pytest

from flopmeter.errors import FormulaError
from flopmeter.formulas.book import FormulaBook
from flopmeter.formulas.call import AnyNumber, OpCall, TensorSpec
from flopmeter.formulas.flex import FORMULAS, NO_MASK, READS

BOOK = FormulaBook.standard()
FORWARD, BACKWARD = FORMULAS
H, J, D, E = 4, 2, 6, 8
ANY = AnyNumber()


def spec(shape, values):
    return TensorSpec(tuple(shape), "int32", values=None if values is None else tuple(values))


def lists_of(rows, room):
    """Write blocks down as torch does: how many in each row, and which, padded to the room that there is."""
    counts = [len(row) for row in rows]
    places = [place for row in rows for place in (*row, *[0] * (room - len(row)))]
    return counts, places


def mask_of(partial, full, *, room, block, outer=(1, 1), lengths=(1, 1), known=True, wide=True):
    """Write a block mask down: `partial` and `full` are the blocks of keys of each block of queries."""
    tensors = []
    for rows in (partial, full):
        if rows is None:
            tensors += [None, None]
            continue
        counts, places = lists_of(rows, room)
        height = len(rows) // (outer[0] * outer[1])
        tensors += [spec((*outer, height), counts), spec((*outer, height, room), places if known else None)]
    return [*lengths, *tensors, *[None] * (8 if wide else 4), *block, None]


def cost_of(mask, *, op=FORWARD, batch=1, queries=8, keys=8, key_batch=None, scale=ANY, dtype="fp32", **more):
    query = TensorSpec((batch, H, queries, D), dtype)
    key, value = (TensorSpec((key_batch or batch, J, keys, width), dtype) for width in (D, E))
    before = (None,) if op == FORWARD else (query, TensorSpec((batch, H, queries)), query, None, None, None)
    call = OpCall.of(op, query, key, value, *before, mask, scale, None, [], [], **more)
    return FORMULAS[op][1](call)


def by_kind(cost):
    return {(part.kind, part.phase): (part.flop, part.masked_flop) for part in cost.parts}


def go_through(partial, full, *, queries, keys, block):
    """Ask each pair whether its block is on a list."""
    pairs = rows = 0
    for i in range(queries):
        row = i // block[0]
        found = {*partial[row], *(full[row] if full else ())}
        kept = sum(j // block[1] in found for j in range(keys))
        pairs, rows = pairs + kept, rows + bool(kept)
    return pairs, rows


CAUSAL = ([[0], [1], [2], [3]], [[], [0], [0, 1], [0, 1, 2]])
CASES = {
    "causal": (*CAUSAL, 8, 8, (2, 2)),
    "partial only": ([[0], [0, 1], [1, 2], [2, 3]], None, 8, 8, (2, 2)),
    "the last blocks are cut": (*CAUSAL, 7, 7, (2, 2)),
    "the last block of keys is cut": ([[3], [0], [], [2, 3]], [[], [3], [], []], 8, 7, (2, 2)),
    "a row that sees nothing": ([[], [0], [1], []], [[], [], [], [2]], 8, 8, (2, 2)),
    "blocks that are not square": ([[0], [1]], [[], [0]], 8, 8, (4, 3)),
    "one query decodes": ([[3]], [[0, 1, 2]], 1, 8, (2, 2)),
    "nothing at all": ([[], [], [], []], None, 8, 8, (2, 2)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("wide", [True, False])
def test_the_pairs_are_those_in_the_blocks_that_the_mask_names(name, wide):
    """Else a document mask or a sliding window costs the whole square."""
    partial, full, queries, keys, block = CASES[name]
    mask = mask_of(partial, full, room=4, block=block, wide=wide)
    pairs, rows = go_through(partial, full, queries=queries, keys=keys, block=block)
    found = by_kind(cost_of(mask, queries=queries, keys=keys))
    every = queries * keys
    assert found["attention", None] == (2 * H * pairs * (D + E), 2 * H * (every - pairs) * (D + E))
    assert found.get(("pointwise", None), (0, 0))[0] == H * pairs
    assert found.get(("normalization", None), (0, 0))[0] == H * (4 * pairs - rows)


def test_a_backward_over_blocks():
    mask = mask_of(*CAUSAL, room=4, block=(2, 2))
    found = by_kind(cost_of(mask, op=BACKWARD))
    pairs = go_through(*CAUSAL, queries=8, keys=8, block=(2, 2))[0]
    assert found["attention", None] == (4 * H * pairs * (D + E), 4 * H * (64 - pairs) * (D + E))
    assert found["attention", "recompute"] == (2 * H * pairs * D, 2 * H * (64 - pairs) * D)
    assert found["reduction", None] == (8 * (D + E) * (H - J), 0)


def test_a_mask_of_one_head_is_that_of_all():
    """Else a mask that is broadcast counts once and not for each head and batch."""
    one = cost_of(mask_of(*CAUSAL, room=4, block=(2, 2)), batch=3)
    each = mask_of(CAUSAL[0] * 3 * H, CAUSAL[1] * 3 * H, room=4, block=(2, 2), outer=(3, H))
    assert one == cost_of(each, batch=3)


def test_each_head_has_blocks_of_its_own():
    partial = [[0], [1], [2], [3]] + [[0], [0, 1], [1, 2], [2, 3]] + [[], [], [], [3]] + [[0, 1, 2, 3]] * 4
    found = by_kind(cost_of(mask_of(partial, None, room=4, block=(2, 2), outer=(1, H))))
    assert found["attention", None][0] == 2 * (16 + 28 + 4 + 64) * (D + E)


def test_without_a_mask_all_pairs_are_looked_at_whether_or_not_its_one_number_is_known():
    """Else flex attention without a mask is uncounted on a device, where the number comes late."""
    for known in (True, False):
        numbers = (1,) if known else None
        mask = [1, 1, spec((1, 1, 1), numbers), spec((1, 1, 1, 1), (0,)), *[None] * 10, NO_MASK, NO_MASK, None]
        found = by_kind(cost_of(mask, queries=5, keys=9, batch=2))
        assert found["attention", None] == (2 * 2 * H * 45 * (D + E), 0)
        assert found["normalization", None] == (2 * H * (4 * 45 - 5), 0)


def test_a_batch_of_queries_may_share_one_batch_of_keys():
    mask = mask_of(*CAUSAL, room=4, block=(2, 2))
    assert cost_of(mask, batch=3, key_batch=1) == cost_of(mask, batch=3)
    shared = by_kind(cost_of(mask, op=BACKWARD, batch=3, key_batch=1))["reduction", None][0]
    assert shared == 8 * (D + E) * (3 * H - J)


def test_which_blocks_they_are_matters_only_where_the_last_one_is_cut():
    """Else a long mask, whose places are too many to be read, is uncounted although its counts tell all."""
    known, unknown = (mask_of(*CAUSAL, room=4, block=(2, 2), known=known) for known in (True, False))
    assert cost_of(unknown) == cost_of(known)
    whole = mask_of([[0, 1, 2, 3]] * 4, None, room=4, block=(2, 2), known=False)
    assert by_kind(cost_of(whole, keys=7))["attention", None] == (2 * H * 56 * (D + E), 0)
    with pytest.raises(FormulaError, match="not a whole one"):
        cost_of(unknown, keys=7)


def test_a_scale_of_exactly_one_is_free():
    mask = mask_of(*CAUSAL, room=4, block=(2, 2))
    pairs = go_through(*CAUSAL, queries=8, keys=8, block=(2, 2))[0]
    assert cost_of(mask).flop - cost_of(mask, scale=1.0).flop == H * pairs
    assert cost_of(mask, op=BACKWARD).flop - cost_of(mask, op=BACKWARD, scale=1.0).flop == 2 * H * pairs


def test_the_backward_multiplies_in_the_precision_of_its_operands():
    cost = cost_of(mask_of(*CAUSAL, room=4, block=(2, 2)), op=BACKWARD, dtype="bf16")
    assert {part.precision for part in cost.parts if part.kind == "attention"} == {"bf16"}


def test_a_mask_whose_values_are_not_known_is_never_guessed():
    """Else a sparse mask that is still on the device is counted in full."""
    mask = mask_of(*CAUSAL, room=4, block=(2, 2))
    for place in (2, 4):
        late = [*mask[:place], spec((1, 1, 4), None), *mask[place + 1 :]]
        with pytest.raises(FormulaError, match="not known"):
            cost_of(late)
    shape = TensorSpec((1, H, 8, D))
    call = OpCall.of(FORWARD, shape, shape, shape, None, [*mask[:2], spec((1, 1, 4), None), *mask[3:]], ANY)
    assert BOOK.count(call, calls=3, phase="forward").uncounted[0].calls == 3


GOOD = mask_of(*CAUSAL, room=4, block=(2, 2))


@pytest.mark.parametrize(
    ("mask", "more", "words"),
    [
        (None, {}, "no block mask"),
        ([8, 8, None], {}, "no block mask"),
        ([*GOOD[:2], None, *GOOD[3:]], {}, "blocks None"),
        ([*GOOD[:-3], None, 2, None], {}, "blocks"),
        ([*GOOD[:-3], 0, 2, None], {}, "blocks"),
        (GOOD, {"queries": 9}, "blocks"),
        (mask_of(*(rows * 3 for rows in CAUSAL), room=4, block=(2, 2), outer=(3, 1)), {"batch": 2}, "blocks"),
        (mask_of(*(rows * 3 for rows in CAUSAL), room=4, block=(2, 2), outer=(1, 3)), {}, "blocks"),
        ([*GOOD[:3], spec((1, 1, 4, 2), (0,) * 8), *GOOD[4:]], {"keys": 2}, "blocks of 2 among 2 keys"),
        ([*GOOD[:2], spec((1, 1, 4), (1, 1, 1, 9)), *GOOD[3:]], {}, "numbers of blocks"),
        ([*GOOD[:3], spec((1, 1, 3, 4), (0,) * 12), *GOOD[4:]], {}, "numbers of blocks"),
        ([*GOOD[:3], None, *GOOD[4:]], {}, "not known"),
        ([*GOOD[:4], spec((1, 1, 3), (0,) * 3), *GOOD[5:]], {}, "numbers of blocks"),
        (GOOD, {"batch": 2, "key_batch": 3}, "do not fit"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(mask, more, words):
    """Else a block mask of another version, or of another length, becomes a figure."""
    with pytest.raises(FormulaError, match=words):
        cost_of(mask, **more)


@pytest.mark.parametrize(
    ("query", "key", "value", "words"),
    [
        ((8, D), (8, D), (8, D), "dimensions"),
        ((1, 3, 8, D), (1, 2, 8, D), (1, 2, 8, D), "do not fit"),
        ((1, 2, 8, D), (1, 2, 8, E), (1, 2, 8, D), "do not fit"),
        ((1, 2, 8, D), (1, 2, 8, D), (1, 2, 7, D), "do not fit"),
    ],
)
def test_operands_that_do_not_fit_are_refused(query, key, value, words):
    with pytest.raises(FormulaError, match=words):
        FORMULAS[FORWARD][1](OpCall.of(FORWARD, query, key, value, None, GOOD, ANY))


def test_the_values_that_are_asked_for_are_those_that_are_read():
    """Else the sensor copies the mask of the gradients to the host as well, or not enough of it."""
    assert READS == {
        FORWARD: ((4, 2), (4, 3), (4, 4), (4, 5)),
        BACKWARD: ((9, 2), (9, 3), (9, 4), (9, 5)),
    }
    assert BOOK.reads(FORWARD) == frozenset(READS[FORWARD])
