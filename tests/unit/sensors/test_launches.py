"""A sum that tells how much was launched, and of what."""

import pytest

pytest.importorskip("torch")

from flopmeter.sensors.launches import NODES, covered, is_covered, number_launch


def test_autograds_nodes_and_launches_do_not_mix():
    """Else a forward without a graph that launches something is taken for one whose backward is still to come."""
    assert (7 + 3 * number_launch("a kernel") + number_launch("another")) & NODES == 7
    assert 2 * number_launch("a kernel") & NODES == 0


def test_other_names_and_other_numbers_have_other_sums():
    """Else a passage with another kernel, or with one more, is replayed as the one that was counted."""
    names = [f"kernel {number}" for number in range(200)]
    numbers = {number_launch(name) for name in names} | {2 * number_launch(name) for name in names}
    assert len(numbers) == 2 * len(names)
    assert number_launch("kernel 1") == number_launch("kernel 1"), "the same in each process"


def test_what_is_covered_is_so_until_the_outermost_ends():
    with covered():
        with covered():
            assert is_covered()
        assert is_covered()
    assert not is_covered()


def test_an_error_uncovers():
    with pytest.raises(ValueError, match="own"), covered():
        raise ValueError("own")
    assert not is_covered()
