"""Costs as functions of sizes: what is foretold is exact, and nothing is foretold that was not proven."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flopmeter.sensors.interpolation import MAX_KEPT, MAX_MISSES, MAX_POINTS, Family, Foretold
from flopmeter.tally import OpCount, Tally, Uncounted


def tally_of(*flop: int, masked: int = 0, uncounted: int = 0) -> Tally:
    counts = [
        OpCount(
            op=f"aten::{n}", kind="matmul", phase="forward", precision="fp32", calls=n + 1, flop=value, int_op=value
        )
        for n, value in enumerate(flop)
    ]
    if masked:
        count = OpCount(
            op="aten::sdpa", kind="attention", phase="backward", precision="bf16", calls=0, flop=1, masked_flop=masked
        )
        counts.append(count)
    unknown = [Uncounted(op="mylib::op", calls=1, elements=uncounted)] if uncounted else []
    return Tally.of(counts, unknown)


def transformer(batch: int, length: int) -> Tally:
    """What scales like a transformer: products, causal attention, biases, tables of positions."""
    pairs = length * (length + 1) // 2
    return tally_of(
        128 * batch * length,
        64 * batch * pairs,
        7 * length,
        99,
        masked=batch * (length * length - pairs),
        uncounted=3 * batch * length,
    )


def teach(family: Family, cost, many) -> None:
    for sizes in many:
        assert family.learn(sizes, cost(*sizes))


def lengths(*values: int) -> list[tuple[int, int]]:
    return [(8, length) for length in values]


@pytest.fixture
def taught() -> Family:
    family = Family()
    teach(family, transformer, lengths(100, 20, 60, 500, 333, 64))
    return family


def test_three_counts_determine_a_quadric_and_three_more_prove_it():
    """Else a figure is booked that any three numbers would have led to."""
    family = Family()
    for sizes in lengths(100, 20, 60, 500, 333):
        teach(family, transformer, [sizes])
        assert not family.is_proven
        assert family.predict((8, 100)) is None
        assert family.wants((8, 200))
    teach(family, transformer, lengths(64))
    assert family.is_proven
    assert not family.wants((8, 200))
    assert family.predict((8, 200)).tally == transformer(8, 200)


def test_sizes_that_repeat_prove_nothing():
    family = Family()
    teach(family, transformer, lengths(100, 20, 60, 100, 20, 60, 100, 20, 60))
    assert not family.is_proven


def test_a_constant_needs_as_many_counts_as_a_quadric():
    """Four equal counts may be chance, where a value decides between two costs."""
    family = Family()
    teach(family, lambda _: tally_of(5), [(n,) for n in (3, 9, 4, 7, 5)])
    assert not family.is_proven
    teach(family, lambda _: tally_of(5), [(20,)])
    assert family.predict((8,)).tally == tally_of(5)


def test_nothing_is_foretold_outside_of_what_was_counted(taught):
    """A longer sequence may run another kernel."""
    for length in (19, 501):
        assert taught.predict((8, length)) is None
        assert taught.wants((8, length))
    teach(taught, transformer, lengths(700))
    assert taught.predict((8, 699)).tally == transformer(8, 699)


def test_lengths_off_the_grid_are_outside():
    """Where all counted lengths were padded to multiples of 8, what the padding of others costs is not known."""
    family = Family()
    teach(family, transformer, lengths(16, 160, 80, 320, 64, 240, 88))
    assert family.predict((8, 96)) is not None
    assert family.predict((8, 97)) is None


def test_a_batch_never_counted_is_outside(taught):
    assert taught.predict((7, 100)) is None
    teach(taught, transformer, [(3, 100)])
    assert taught.predict((5, 100)) is None
    assert taught.predict((3, 200)) is None
    assert taught.predict((8, 200)).tally == transformer(8, 200), "the last, smaller batch takes nothing away"


def test_two_batch_sizes_say_nothing_of_a_third():
    """A straight line goes through any two, and a cost may well grow with the square of the batch."""
    family = Family()

    def cost(batch: int, length: int) -> Tally:
        return tally_of(batch * batch * length * 10 + length * length)

    for batch in (8, 3):
        teach(family, cost, [(batch, length) for length in (100, 20, 60, 500, 333, 64, 90)])
    for batch in (3, 8):
        assert family.predict((batch, 99)).tally == cost(batch, 99)
    assert family.predict((5, 99)) is None


def test_batches_and_lengths_together():
    draw = random.Random(0)
    family, foretold = Family(), 0
    for _ in range(300):
        sizes = (draw.randint(2, 8), draw.randint(16, 512))
        said = family.predict(sizes)
        if said is not None:
            assert said.tally == transformer(*sizes)
            foretold += 1
        else:
            teach(family, transformer, [sizes])
    assert foretold > 250
    assert family.misses == 0


def test_sizes_that_go_together_are_one_and_must_stay_together():
    """Inputs, masks and positions all have the length; a mask of another length is another program."""
    family = Family()
    for length in (100, 20, 60, 500, 333, 64):
        assert family.learn((8, length, 8, length, length + 1, 2 * length, 64), transformer(8, length))
    assert family.predict((8, 200, 8, 200, 201, 400, 64)).tally == transformer(8, 200)
    for sizes in [(8, 200, 8, 199, 201, 400, 64), (8, 200, 8, 200, 201, 400, 65), (8, 200, 7, 200, 201, 400, 64)]:
        assert family.predict(sizes) is None
    assert family.predict((8, 200)) is None


def test_a_product_of_sizes_among_the_sizes_is_no_obstacle():
    draw = random.Random(1)
    family = Family()
    for _ in range(60):
        batch, length = draw.randint(2, 8), draw.randint(16, 512)
        assert family.learn((batch * length, length, batch), transformer(batch, length))
    assert family.predict((4 * 200, 200, 4)).tally == transformer(4, 200)


def test_a_batch_of_one_is_learned_on_its_own():
    """Torch copies less and broadcasts more there, so that it runs other operators."""

    def cost(batch: int, length: int) -> Tally:
        return tally_of(batch * length) if batch == 1 else transformer(batch, length)

    family = Family()
    draw = random.Random(6)
    teach(family, cost, [(batch, draw.randint(20, 500)) for batch in [1, 4, 3, 2, 8] * 6])
    assert family.misses == 0
    assert family.predict((1, 220)).tally == cost(1, 220)
    assert family.predict((4, 220)).tally == cost(4, 220)


def test_the_witness_is_foretold_too():
    """A program that loops over the length makes as many nodes as it turns; the caller compares."""
    family = Family()
    for length in (100, 20, 60, 500, 333, 64):
        assert family.learn((length,), tally_of(length), (7 * length + 3, 2))
    said = family.predict((200,))
    assert said.witness == (1403, 2)
    assert family.learn((200,), tally_of(200), (1403, 2))
    assert not family.learn((201,), tally_of(201), (1403, 2))


@pytest.mark.parametrize(
    "other", [tally_of(1), tally_of(200, 1), Tally(), tally_of(200, uncounted=1), tally_of(200, masked=1)]
)
def test_a_miss_is_said_and_drops_the_model(other):
    """A silent miss is a figure that is wrong and called proven."""
    family = Family()
    teach(family, tally_of, [(n,) for n in (100, 20, 60, 500, 333, 64)])
    assert family.predict((200,)).tally == tally_of(200)
    assert not family.learn((200,), other)
    assert family.misses == 1
    assert not family.is_proven
    assert family.predict((201,)) is None
    assert family.wants((201,))


def test_a_figure_that_is_no_count_is_not_foretold_and_counts_as_a_miss():
    """Half an operation, or fewer than none: the program is not what it was taken for."""
    family = Family()
    teach(family, lambda n: tally_of(n * (n - 1) // 3), [(n,) for n in (3, 4, 30, 10, 22, 25)])
    assert family.predict((24,)).tally == tally_of(184)
    assert family.predict((11,)) is None
    assert family.wants((11,))
    assert not family.learn((11,), tally_of(36))
    family = Family()
    teach(family, lambda n: tally_of((n - 20) * (n - 30)), [(n,) for n in (10, 11, 12, 13, 45, 50, 61, 40)])
    assert family.predict((25,)) is None
    assert not family.learn((25,), tally_of(0))


def test_after_some_misses_the_family_gives_up():
    """Else a program whose cost does not follow from its sizes goes on being believed, again and again."""
    family = Family()
    for turn in range(MAX_MISSES):
        teach(family, lambda n, turn=turn: tally_of((turn + 2) * n), [(n,) for n in range(100, 170, 7)])
        assert family.is_proven
        assert not family.learn((107,), tally_of(1))
    assert family.is_closed
    assert not family.wants((120,))
    assert family.learn((120,), tally_of(1))
    assert family.predict((120,)) is None


def test_counts_that_differ_for_the_same_sizes_are_never_believed():
    """Work that values decide: the sizes say nothing of it."""
    draw = random.Random(2)
    family = Family()
    for _ in range(400):
        family.learn((draw.randint(2, 9),), tally_of(draw.randint(0, 10**6)))
        assert not family.is_proven
    assert not family.wants((5,))


def test_a_warm_up_does_not_condemn():
    """A cache that is filled at the first passage costs once."""
    family = Family()
    assert family.learn((8, 100), tally_of(10**6))
    teach(family, transformer, lengths(100, 20, 60, 500, 333, 64))
    assert family.misses == 0
    assert family.predict((8, 99)).tally == transformer(8, 99)


def kernel_of_two(limit: int):
    def cost(batch: int, length: int) -> Tally:
        return transformer(batch, length) if length <= limit else tally_of(31 * batch * length, 5, 17 * length)

    return cost


def test_a_kernel_that_takes_over_at_a_length_does_not_undo_what_is_proven():
    """Two programs side by side: what lies between their counts is of neither."""
    family, cost = Family(), kernel_of_two(600)
    teach(family, cost, lengths(100, 20, 60, 500, 333, 64))
    teach(family, cost, lengths(700, 900, 1000, 800, 750, 720, 710, 701, 990, 850, 702, 703))
    assert family.misses == 0
    assert family.predict((8, 400)).tally == cost(8, 400)
    assert family.predict((8, 760)).tally == cost(8, 760)
    assert family.predict((8, 650)) is None


def test_a_kernel_that_takes_over_is_found_where_lengths_come_as_they_like():
    draw = random.Random(3)
    family, cost, foretold = Family(), kernel_of_two(200), 0
    for _ in range(300):
        sizes = (8, draw.randint(16, 512))
        said = family.predict(sizes)
        if said is None:
            teach(family, cost, [sizes])
        else:
            assert said.tally == cost(*sizes)
            foretold += 1
    assert foretold > 200


def test_the_hull_does_not_grow_around_a_count_that_disagrees():
    """A single odd length between others: no threshold explains it, so the family has to start over."""

    def cost(batch: int, length: int) -> Tally:
        return tally_of(1) if length == 600 else transformer(batch, length)

    family = Family()
    teach(family, cost, lengths(100, 20, 60, 500, 333, 64, 600))
    for length in (700, 650, 601, 599):
        family.learn((8, length), cost(8, length))
        said = family.predict((8, 600))
        assert said is None or said.tally == cost(8, 600)


def test_sizes_that_code_rounds_up_are_not_believed():
    """Padding inside of the model makes stairs, which are no polynomial; they stay counted, and soon cheaply so."""
    draw = random.Random(4)
    family = Family()
    for _ in range(300):
        sizes = (8, draw.randint(16, 512))
        said = family.predict(sizes)
        assert said is None or said.tally == transformer(8, -(-sizes[1] // 8) * 8)
        assert family.learn(sizes, transformer(8, -(-sizes[1] // 8) * 8))
    assert not family.wants((8, 100))


def test_what_is_kept_is_bounded():
    """Else a run of many steps eats the host's memory."""
    draw = random.Random(5)
    family = Family()
    for _ in range(600):
        sizes = tuple(draw.randint(2, 60) for _ in range(4))
        a, b, c, d = sizes
        said = family.predict(sizes)
        assert said is None or said.tally == tally_of(a * b + c * d, a * d)
        if said is None:
            assert family.learn(sizes, tally_of(a * b + c * d, a * d))
    (branch,) = family._branches.values()
    assert len(branch._points) <= MAX_POINTS
    assert len(family._kept) <= MAX_KEPT
    assert family.is_proven


def test_what_is_covered_is_what_can_be_foretold_where_figures_are_whole(taught):
    """It is asked at each passage that begins, of sizes that need not be computed yet."""
    sizes = [(batch, length) for batch in (3, 8) for length in range(2, 800, 7)]
    covered = [one for one in sizes if taught.covers(one)]
    assert covered == [one for one in sizes if taught.predict(one) is not None]
    assert covered == [one for one in sizes if taught.covers(one)], "what was foretold meanwhile changes nothing"
    assert 10 < len(covered) < len(sizes) // 2 + 1


def test_sums_of_what_is_foretold_are_what_the_tallies_add_up_to(taught):
    """The caller adds figures up at each step, and makes one tally of them in the end."""
    one, two = taught.predict((8, 200)), taught.predict((8, 201))
    together = one + two + one
    assert together.tally == transformer(8, 200) * 2 + transformer(8, 201)
    assert together.flop == together.tally.flop
    assert (one * 3).tally == transformer(8, 200) * 3
    assert one.flop == transformer(8, 200).flop
    with pytest.raises(TypeError):
        one + Family()
    with pytest.raises(TypeError):
        one + Foretold(Family()._layout, (), ())


def test_figures_from_before_an_operator_came_up_add_up_with_later_ones(taught):
    before = taught.predict((8, 200))
    teach(taught, lambda _, n: tally_of(*[n] * 9), [(1, 40)])  # of another branch
    after = taught.predict((8, 210))
    assert before.tally == transformer(8, 200)
    assert (before + after).tally == transformer(8, 200) + transformer(8, 210)
    assert taught.learn((8, 222), transformer(8, 222))


coefficients = st.lists(st.integers(0, 10**9), min_size=6, max_size=6)


@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(coefficients, min_size=1, max_size=4),
    seed=st.integers(0, 10**6),
    one=st.booleans(),
)
def test_any_polynomial_with_halves_and_sixths_is_foretold_exactly(rows, seed, one):
    """Rational coefficients that give whole numbers: sums of binomials, as triangles and pyramids of pairs are."""

    def cost(batch: int, length: int) -> Tally:
        return tally_of(
            *[
                row[0]
                + batch * (row[1] + row[2] * length + row[3] * math.comb(length, 2))
                + row[4] * math.comb(length, 3)
                + row[5] * length
                for row in rows
            ]
        )

    draw = random.Random(seed)
    family, foretold = Family(), 0
    for _ in range(80):
        sizes = (8 if one else draw.randint(2, 9), draw.randint(2, 300))
        said = family.predict(sizes)
        if said is not None:
            assert said.tally == cost(*sizes)
            foretold += 1
        assert family.learn(sizes, cost(*sizes))
    assert foretold


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), limit=st.integers(30, 2500), by=st.sampled_from(["length", "batch", "product"]))
def test_what_is_foretold_is_right_wherever_a_program_changes(seed, limit, by):
    """Thresholds on sizes and on their products: never a wrong figure, however the counts fall."""

    def cost(batch: int, length: int) -> Tally:
        at = {"length": 5 * length, "batch": 250 * batch, "product": batch * length}[by]
        return transformer(batch, length) if at <= limit else tally_of(7 * batch * length * length, 3 * length, 41)

    draw = random.Random(seed)
    family = Family()
    for _ in range(80):
        sizes = (draw.randint(2, 9), draw.randint(2, 500))
        said = family.predict(sizes)
        assert said is None or said.tally == cost(*sizes)
        family.learn(sizes, cost(*sizes))
