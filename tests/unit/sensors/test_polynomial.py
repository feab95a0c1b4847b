"""Polynomials through points, exactly: frames, ladders, what a sum of counts rests on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flopmeter.sensors.polynomial import (
    COUNTS,
    MAX_MONOMIALS,
    PROOFS,
    Frame,
    Point,
    climb,
    eliminate,
    fit,
    ladder,
)


def placed(function, *places):
    return [(place, Point(place, list(function(*place)))) for place in places]


def square(x):
    return (x * x, x * (x + 1) // 2, 7)


LINE = [(n,) for n in (10, 3, 50, 22, 31, 44)]


def test_a_frame_finds_what_varies_and_by_which_rules_the_rest_follows():
    seen = [(8, s, s, 3 * s + 1, b, 2 * b - s) for s, b in [(10, 4), (20, 5), (30, 9)]]
    frame = Frame(seen)
    assert frame.free == [1, 4]
    assert frame.read((8, 99, 99, 298, 7, -85)) == (99, 7)
    for sizes in [(7, 99, 99, 298, 7, -85), (8, 99, 98, 298, 7, -85), (8, 99, 99, 298, 7, -84), (8, 99)]:
        assert frame.read(sizes) is None


def test_one_point_has_no_coordinates():
    frame = Frame([(8, 10)])
    assert frame.coordinates == 0
    assert frame.read((8, 10)) == ()
    assert frame.read((8, 11)) is None


def test_places_are_those_of_points_that_keep_the_rules():
    frame = Frame([(8, 10), (8, 20)])
    points = [Point((8, 30), [1]), Point((7, 30), [1])]
    assert frame.place(points) == [((30,), points[0])]


@given(st.lists(st.tuples(*[st.integers(-50, 50)] * 3), min_size=1, max_size=6))
def test_every_size_that_was_seen_is_in_its_frame(seen):
    """Else a count would have no place."""
    frame = Frame(seen)
    assert all(frame.read(sizes) is not None for sizes in seen)
    assert len({frame.read(sizes) for sizes in seen}) == len(set(seen))


@pytest.mark.parametrize("coordinates", range(20))
def test_ladders_go_up_and_stay_short(coordinates):
    """Else a fit takes more counts than anybody has, or more time than the meter may spend."""
    sizes = [len(monomials) for monomials in ladder(coordinates)]
    assert sizes == sorted(sizes)
    assert sizes[0] == 1
    assert sizes[-1] <= MAX_MONOMIALS
    assert all((0,) * coordinates in monomials for monomials in ladder(coordinates))


def test_ladders_hold_what_transformers_need():
    causal = {(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)}
    assert any(causal == set(monomials) for monomials in ladder(2))
    encoder_decoder = {(1, 1, 0), (1, 2, 0), (1, 1, 1), (1, 0, 2), (0, 1, 0)}
    assert any(encoder_decoder <= set(monomials) for monomials in ladder(3))
    assert [len(monomials) for monomials in ladder(1)] == [1, 2, 3, 4]


def test_elimination_leaves_zeros_at_pivots_and_small_numbers():
    row = eliminate([4, 6, 2], [(0, [2, 0, 0])])
    assert row == [0, 3, 1]
    assert eliminate([0, 5, 5], [(0, [2, 0, 0])]) == [0, 5, 5]


def test_the_smallest_polynomial_is_taken():
    piece = fit(placed(square, *LINE), 1)
    assert piece.rung == 2
    assert piece.is_proven
    assert piece.foretell((40,)) == [1600, 820, 7]
    assert fit(placed(lambda x: (2**x,), *LINE), 1) is None


def test_a_fit_that_must_be_proven_is_none_otherwise():
    assert fit(placed(square, *LINE[:5]), 1) is not None
    assert fit(placed(square, *LINE[:5]), 1, must_be_proven=True) is None


def test_a_count_that_contradicts_changes_nothing():
    piece = fit(placed(square, *LINE), 1)
    before = piece.members
    ((place, point),) = placed(lambda x: (x * x, x * (x + 1) // 2, 8), (37,))
    assert not piece.add(place, point)
    assert not piece.agrees(place, point)
    assert piece.members == before


def test_equal_digests_do_not_stand_for_equal_figures():
    """The digest saves time where figures differ; that they agree is told by the figures."""
    piece = fit(placed(square, *LINE), 1)
    ((place, point),) = placed(square, (37,))
    point.figures[0] += 1
    assert not piece.add(place, point)


def test_a_figure_that_is_not_whole_is_none():
    piece = fit(placed(lambda x: (x * (x - 1) // 3,), (3,), (4,), (30,), (10,), (22,), (25,)), 1)
    assert piece.foretell((24,)) == [184]
    assert piece.foretell((11,)) == [None]


def test_a_place_is_trusted_only_between_counts_in_every_coordinate():
    def area(x, y):
        return (x * y + 3 * x,)

    piece = fit(placed(area, (2, 9), (9, 2), (5, 5), (8, 8), (4, 3), (3, 4), (6, 7), (7, 5), (5, 6)), 2)
    assert piece.foretell((6, 6)) == [54]
    assert piece.foretell((8, 2)) is None, "inside of the convex hull, but nothing was as small or smaller"
    assert piece.foretell((2, 8)) is None


def test_a_slice_is_proven_by_itself_alone():
    def area(x, y):
        return (x * x * y,)

    counts = placed(area, *[(8, y) for y in (1, 20, 7, 9, 15, 4)], (3, 5))
    piece = fit(counts, 2)
    assert piece.foretell((8, 10)) == [640]
    assert piece.foretell((3, 10)) is None
    assert piece.foretell((5, 10)) is None


def test_as_many_counts_stand_behind_a_constant_as_behind_a_quadric():
    for many in range(1, COUNTS + 1):
        piece = fit(placed(lambda _: (5,), *[(n,) for n in range(many)]), 1)
        assert piece.is_proven is (many == COUNTS)
    assert COUNTS >= PROOFS + 3


def test_climbing_does_not_give_up_what_is_proven():
    piece = fit(placed(lambda x: (3 * x,), *LINE), 1)
    ((place, point),) = placed(lambda _: (1,), (60,))
    assert climb(piece, (place, point)) is None
    young = fit(placed(lambda x: (3 * x,), *LINE[:2]), 1)
    assert climb(young, (place, point)).rung == 2


def test_proofs_are_let_go_where_others_make_up_for_them():
    piece = fit(placed(square, *LINE), 1)
    assert piece.drop_dispensable() is None
    for at in range(11, 20):
        assert piece.add(*placed(square, (at,))[0])
    dropped = piece.drop_dispensable()
    assert dropped is not None
    assert dropped.sizes not in {place for place, _ in piece.members}
    assert piece.foretell((40,)) == [1600, 820, 7]
    assert piece.span(0) == (3, 50)


def test_figures_may_get_zeros_added():
    """An operator that comes up later cost nothing before."""
    counts = placed(square, *LINE)
    piece = fit(counts, 1)
    assert piece.foretell((40,)) == [1600, 820, 7]
    for _, point in counts:
        point.figures += [0]
    assert piece.foretell((40,)) == [1600, 820, 7, 0]
