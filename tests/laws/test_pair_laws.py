"""What a mask leaves of attention, for any mask that kernels know."""

from hypothesis import given, settings
from hypothesis import strategies as st

from flopmeter.formulas.pairs import count_pairs

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

lengths = st.integers(0, 40)
bounds = st.none() | st.integers(0, 50)


@given(lengths, lengths, bounds, bounds, st.booleans())
def test_the_pairs_are_those_of_the_mask_drawn_out(queries, keys, left, right, bottom_right):
    """Else the closed form is wrong where a window, a diagonal and an edge meet."""
    shift = keys - queries if bottom_right else 0
    rows = [
        sum(
            (left is None or key >= query + shift - left) and (right is None or key <= query + shift + right)
            for key in range(keys)
        )
        for query in range(queries)
    ]
    found = count_pairs(queries=queries, keys=keys, left=left, right=right, bottom_right=bottom_right)
    assert found == (sum(rows), sum(row > 0 for row in rows))


@given(st.integers(0, 10**9), st.integers(0, 10**9), bounds, bounds, st.booleans())
def test_a_mask_never_leaves_more_than_everything(queries, keys, left, right, bottom_right):
    pairs, rows = count_pairs(queries=queries, keys=keys, left=left, right=right, bottom_right=bottom_right)
    assert rows <= pairs <= queries * keys
    assert rows <= queries


@given(lengths, lengths, bounds, st.integers(0, 50), st.booleans())
def test_a_wider_window_never_leaves_less(queries, keys, left, right, bottom_right):
    narrow = count_pairs(queries=queries, keys=keys, left=left, right=right, bottom_right=bottom_right)
    wide = count_pairs(queries=queries, keys=keys, left=left, right=right + 1, bottom_right=bottom_right)
    open_ended = count_pairs(queries=queries, keys=keys, left=left, bottom_right=bottom_right)
    assert narrow <= wide <= open_ended


@given(lengths, lengths, st.booleans())
def test_causal_attention_and_the_rest_of_it_are_the_whole(queries, keys, bottom_right):
    """Else a pair on the diagonal is counted twice or never."""
    # What lies above the diagonal is a band as well: from one key after it on, that is 1 to the left the other way.
    kept, _ = count_pairs(queries=queries, keys=keys, right=0, bottom_right=bottom_right)
    above, _ = count_pairs(queries=queries, keys=keys, left=-1, bottom_right=bottom_right)
    assert kept + above == queries * keys
