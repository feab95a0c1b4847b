"""Several polynomials side by side: where counts are cut, and where later ones find a place."""

from flopmeter.sensors.pieces import MAX_PIECES, Pieces
from flopmeter.sensors.polynomial import Point


def low(x):
    return [3 * x, x * x]


def high(x):
    return [5 * x + 1000, 2]


def points(function, *sizes):
    return [Point((8, at), function(at)) for at in sizes]


LOW, HIGH = points(low, 10, 20, 33, 41, 55, 62), points(high, *range(101, 140, 4))


def test_one_polynomial_is_one_piece():
    pieces = Pieces.through(LOW)
    assert pieces.is_one
    assert pieces.foretell((8, 30)) == low(30)
    assert Pieces.through([*LOW, *HIGH]) is None


def test_points_are_cut_where_the_program_changes():
    pieces = Pieces.cut([*HIGH, *points(low, 10, 20, 33, 41, 55, 62, 11, 13, 14)])
    assert not pieces.is_one
    assert pieces.foretell((8, 30)) == low(30)
    assert pieces.foretell((8, 121)) == high(121)
    assert pieces.foretell((8, 80)) is None
    assert pieces.foretell((7, 30)) is None


def test_a_cut_takes_more_proofs_because_it_was_chosen_by_looking():
    """Else chance, given enough places to cut at, proves something."""
    assert not Pieces.cut([*LOW, *HIGH[:1]]).is_proven


def test_too_many_pieces_are_none():
    """Any row of numbers is polynomials side by side, if there may be enough of them."""
    stairs = [Point((at,), [at // 16 * 16]) for at in range(16 * (MAX_PIECES + 2))]
    assert Pieces.cut(stairs) is None


def test_a_newcomer_beyond_begins_a_piece_and_others_join_it():
    pieces = Pieces.through(LOW)
    for point in HIGH:
        assert pieces.admit(point) == []
    assert pieces.foretell((8, 30)) == low(30)
    assert pieces.foretell((8, 121)) == high(121)
    assert pieces.admit(points(low, 70)[0]) == []
    assert pieces.foretell((8, 65)) == low(65)


def test_a_newcomer_within_that_disagrees_has_no_place():
    pieces = Pieces.through(points(low, 10, 20, 34, 42, 56, 62))
    (odd,) = points(high, 33)
    assert pieces.admit(odd) == [odd]
    assert pieces.foretell((8, 30)) == low(30)


def test_a_piece_that_is_not_proven_makes_way():
    pieces = Pieces.through(LOW)
    strange = points(lambda x: [x**5], 200, 201, 202, 203, 204)
    left = [point for newcomer in strange for point in pieces.admit(newcomer)]
    assert {point.sizes for point in left} == {point.sizes for point in strange[:4]}
    assert pieces.foretell((8, 30)) == low(30)


def test_another_coordinate_takes_nothing_away():
    pieces = Pieces.through(LOW)
    for batch, at in [(3, 10), (3, 30)]:
        assert pieces.admit(Point((batch, at), [1, at])) == []
        assert pieces.foretell((8, 30)) == low(30)
        assert pieces.foretell((3, 20)) is None


def test_two_pieces_take_another_coordinate_together():
    pieces = Pieces.through(LOW)
    for point in HIGH:
        pieces.admit(point)
    pieces.admit(Point((3, 20), [1, 2]))
    assert pieces.foretell((8, 30)) == low(30)
    assert pieces.foretell((8, 121)) == high(121)


def test_points_are_let_go_where_others_make_up_for_them():
    pieces = Pieces.through(LOW)
    assert pieces.drop_dispensable() is None
    for point in points(low, *range(21, 33)):
        pieces.extend(point)
    assert pieces.drop_dispensable() is not None


def test_what_belongs_to_none_is_not_taken():
    pieces = Pieces.through(LOW)
    assert not pieces.extend(Point((7, 30), low(30)))
    assert not pieces.extend(points(high, 30)[0])
    assert pieces.extend(points(low, 30)[0])
