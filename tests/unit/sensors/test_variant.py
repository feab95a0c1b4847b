"""What the marks of a device say of a passage that was not counted."""

from flopmeter.sensors.variant import Variant
from flopmeter.testing.ledgers import product_table


def variant_of(*marks: int) -> Variant:
    made = Variant(product_table(), 60, 60)
    made.note_marks(marks)
    return made


def test_where_no_device_tells_any_passage_is_vouched_for():
    assert variant_of().vouches_for(())


def test_the_first_that_is_not_counted_may_allocate_less_and_the_next_ones_the_same():
    """Torch adds gradients in place where no mode is on."""
    variant = variant_of(5, 9)
    assert variant.vouches_for((4, 9))
    assert variant.vouches_for((4, 9))
    assert variant.marks == (4, 9)


def test_one_that_allocates_more_than_the_count_is_not_vouched_for():
    """Else a layer more that no node tells of is replayed away."""
    assert not variant_of(5, 9).vouches_for((6, 9))
    assert not variant_of(5, 9).vouches_for((5,))


def test_one_that_differs_from_the_last_makes_all_be_looked_at_anew():
    variant = variant_of(5, 9)
    assert variant.vouches_for((4, 9))
    assert not variant.vouches_for((3, 9))
    assert variant.marks == ()
    assert variant.vouches_for((3, 9))


def test_a_count_with_other_marks_begins_anew():
    variant = variant_of(5, 9)
    assert variant.vouches_for((4, 9))
    variant.note_marks((5, 9))
    assert variant.marks == (4, 9)
    variant.note_marks((7, 9))
    assert variant.marks == ()
