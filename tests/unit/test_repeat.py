"""The part of a passage that others do as well."""

import pytest

from flopmeter.errors import MalformedError
from flopmeter.repeat import Repeat, check_repeats
from flopmeter.tally import OpCount, Tally


def tally(flop, op="aten::mm"):
    return Tally.of([OpCount(op=op, kind="matmul", phase="forward", precision="fp32", calls=1, flop=flop)])


def test_a_repeat_travels():
    """If this failed, ledgers could not say what is repeated."""
    repeat = Repeat(over=("tp",), unsure=("dp",), tally=tally(60))
    assert Repeat.from_wire(repeat.to_wire()) == repeat


@pytest.mark.parametrize(("over", "unsure"), [((), ()), (("tp",), ("tp",))])
def test_a_repeat_over_nothing_or_surely_and_perhaps_is_refused(over, unsure):
    """If this failed, a ledger could say two things of one piece of work."""
    with pytest.raises(MalformedError):
        Repeat.from_wire({"over": list(over), "unsure": list(unsure), "tally": tally(60).to_wire()})


def test_parts_are_no_more_than_the_whole():
    """If this failed, a ledger could make its logical figure as small as it likes."""
    parts = (Repeat(over=("tp",), unsure=(), tally=tally(40)), Repeat(over=("dp",), unsure=(), tally=tally(20)))
    check_repeats(parts, tally(60))
    for whole in (tally(59), tally(60, op="aten::bmm"), Tally()):
        with pytest.raises(MalformedError, match="repeated"):
            check_repeats(parts, whole)
