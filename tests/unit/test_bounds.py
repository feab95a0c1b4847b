"""What audits let one say of passages that were booked and not counted."""

import random
import time
from fractions import Fraction
from math import exp, factorial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flopmeter.bounds import Booked, Bounds, Cost, product, weigh_unseen
from flopmeter.step import Chance, Ran
from flopmeter.tally import OpCount, Tally, Uncounted

NS, CEILING = 1000, 10**9  # so that a passage can have done 1000 FLOP
NAMES = ["a" * 64, "b" * 64, "c" * 64, "d" * 64]


def tally(flop, *, phase="forward", uncounted=False) -> Tally:
    count = OpCount(op="aten::mm", kind="matmul", phase=phase, precision="fp32", calls=1, flop=flop)
    return Tally((count,), (Uncounted(op="mylib::op", calls=1, elements=1),) if uncounted else ())


def line(times, *, one_in, name=NAMES[0], basis="replayed", purpose="undeclared", ns=NS, longest_ns=None, ends=None):
    lower, upper = ends or (None, None)
    chance = None if one_in is None else Chance(one_in=one_in, longest_ns=longest_ns or ns, lower=lower, upper=upper)
    return Ran(purpose=purpose, basis=basis, times=times, ns=times * ns, table=name, chance=chance)


def booked_of(*lines, flop=100, rank=0, ceiling=CEILING, **fields) -> Booked:
    booked = Booked()
    for item in lines:
        booked.add(item, Cost.of(tally(flop, **fields)), rank=rank, segment=0, ceiling=ceiling)
    return booked


def test_a_thousand_audits_without_a_miss_leave_three_in_a_thousand_in_doubt():
    """If this failed, the interval would say something else than what the contract says of n audits."""
    bounds = booked_of(line(100_000, one_in=100)).bound({0: 1000}, misses=0)
    assert bounds.unsure_passages == 300
    assert bounds.lower == (100_000 - 300) * 100
    assert bounds.upper == 100_000 * 100 + 300 * 1000
    assert bounds.unsure == {("forward", "undeclared"): 300 * 100}


def test_fewer_audits_than_the_chances_promise_leave_more_in_doubt():
    """Else a ledger that speaks of audits and holds none has a narrow interval."""
    assert booked_of(line(100_000, one_in=100)).bound({0: 500}, misses=0).unsure_passages == 600
    assert booked_of(line(100_000, one_in=100)).bound({0: 10**9}, misses=0).unsure_passages == 300


@pytest.mark.parametrize("audits", [{}, {0: 0}, {1: 50}, {0: 3}])
def test_without_audits_time_alone_bounds_what_was_not_counted(audits):
    """Else replayed work passes for counted work though nobody looked."""
    bounds = booked_of(line(100, one_in=2)).bound(audits, misses=0)
    assert bounds == Bounds(0, 100 * 1000, {("forward", "undeclared"): 100 * 100}, 100)


@pytest.mark.parametrize("basis", ["modelled", "declared", "replayed"])
@pytest.mark.parametrize("one_in", [0, 1, None])
def test_what_no_audit_can_have_reached_is_open(basis, one_in):
    """Else a passage that nobody could count is as sure as one that somebody could have."""
    sure, unsure = line(10**6, one_in=64), line(10, one_in=one_in, basis=basis, name=NAMES[1])
    alone = booked_of(sure).bound({0: 20_000}, misses=0)
    both = booked_of(sure, unsure).bound({0: 20_000}, misses=0)
    assert (both.lower, both.upper - alone.upper) == (alone.lower, 10 * 1000)
    assert both.unsure_passages == alone.unsure_passages + 10


def test_a_guess_is_open_whatever_chance_it_claims():
    """Else calling a guess audited makes it sure."""
    bounds = booked_of(line(10, one_in=2, basis="modelled")).bound({0: 10**6}, misses=0)
    assert (bounds.lower, bounds.upper) == (0, 10 * 1000)


def test_what_was_seen_to_be_wrong_is_open_before_and_after():
    """Else a mismatch corrects the future and leaves the past as sure as it was."""
    booked = booked_of(line(10**6, one_in=64), line(10**6, one_in=64, name=NAMES[1]))
    booked.open(NAMES[1])
    bounds = booked.bound({0: 40_000}, misses=1)
    weight = weigh_unseen(1)
    assert bounds.lower == 10**8 - weight * 64 * 100
    assert bounds.upper == 10**8 + weight * 64 * 1000 + 10**9


def test_loose_work_is_opened_with_its_rank_or_by_its_family():
    """Else a figure that was wrong stays sure where the room for tables was used up."""
    loose = Ran(purpose="undeclared", basis="replayed", times=10**6, ns=10**9, tally=tally(10**8), most_flop=100,
                chance=Chance(one_in=64, longest_ns=NS))  # fmt: skip
    kin = Ran(purpose="undeclared", basis="interpolated", times=10**6, ns=10**9, tally=tally(10**8), most_flop=100,
              family="7", chance=Chance(one_in=64, longest_ns=NS))  # fmt: skip
    for item, change in ((loose, lambda b: b.open_loose(0)), (kin, lambda b: b.open("0/3/7"))):
        booked = Booked()
        booked.add(item, Cost.of(item.tally, most_flop=100), rank=0, segment=3, ceiling=CEILING)
        assert booked.bound({0: 20_000}, misses=0).lower == 10**8 - 192 * 100
        change(booked)
        assert booked.bound({0: 20_000}, misses=0).lower == 0


def test_operators_without_a_formula_are_bounded_by_time():
    """Else uncounted work in a replayed passage counts as none."""
    bounds = booked_of(line(10**6, one_in=64), uncounted=True).bound({0: 20_000}, misses=0)
    assert (bounds.lower, bounds.upper) == (10**8 - 192 * 100, 10**9)


def test_without_a_ceiling_nothing_bounds_a_passage_that_may_be_wrong():
    assert booked_of(line(10**6, one_in=64), ceiling=None).bound({0: 20_000}, misses=0).upper is None
    assert Booked().bound({}, misses=0) == Bounds(0, 0, {}, 0)


def test_sampled_passages_lie_where_those_that_were_counted_did():
    sampled = line(10**6, one_in=64, basis="sampled", ends=(5 * 10**7, 2 * 10**8))
    bounds = booked_of(sampled).bound({0: 20_000}, misses=0)
    assert (bounds.lower, bounds.upper) == (5 * 10**7 - 192 * 100, 2 * 10**8 + 192 * 1000)
    assert bounds.unsure == {("forward", "undeclared"): 10**8}, "their sum was compared, not their phases"


def test_what_matters_most_for_its_chance_is_doubted_first():
    """Else a few dear passages that were hardly ever audited hide among many cheap ones."""
    booked = booked_of(line(10**6, one_in=64))
    booked.add(line(2, one_in=1024, name=NAMES[1]), Cost.of(tally(10**6)), rank=0, segment=0, ceiling=CEILING)
    lower = booked.bound({0: 20_000}, misses=0).lower
    left = 3 - Fraction(2, 1024)
    assert lower == 10**8 - -(-(left * 64 * 100) // 1)


def test_each_rank_is_bounded_and_what_one_missed_the_others_may_have_missed():
    """Else work that is wrong on every rank alike is doubted on one of them alone."""
    booked = Booked()
    for rank in range(3):
        booked.add(line(10**6, one_in=64), Cost.of(tally(100)), rank=rank, segment=0, ceiling=CEILING)
    audits = dict.fromkeys(range(3), 20_000)
    assert booked.bound(audits, misses=0).unsure_passages == 3 * 192
    assert booked.bound(audits, misses=1).unsure_passages == 3 * 320
    assert booked.bound({**audits, 2: 0}, misses=0).unsure_passages == 2 * 192 + 10**6


def test_what_may_not_have_run_is_kept_apart_by_phase_and_purpose():
    """Else evaluation that nobody audited makes training unsure."""
    booked = booked_of(line(10**6, one_in=64, purpose="pretraining"))
    booked.add(line(50, one_in=0, purpose="evaluation"), Cost.of(tally(100)), rank=0, segment=0, ceiling=CEILING)
    unsure = booked.bound({0: 20_000}, misses=0).unsure
    assert unsure == {("forward", "pretraining"): 192 * 100, ("forward", "evaluation"): 50 * 100}


@pytest.mark.parametrize("misses", range(40))
def test_the_weight_is_an_upper_limit_of_what_a_poisson_law_allows(misses):
    """Else the interval claims 95 % and holds less often."""
    mean = weigh_unseen(misses)
    assert sum(exp(-mean) * mean**seen / factorial(seen) for seen in range(misses + 1)) < 0.05


def test_a_product_is_rounded_up():
    assert [product(1, ns) for ns in (0, 1, 10**9, 10**9 + 1)] == [0, 1, 1, 2]


LINES = st.builds(
    line,
    st.integers(1, 10**6),
    one_in=st.none() | st.integers(0, 10**6) | st.integers(0, 10**60),
    name=st.sampled_from(NAMES),
    basis=st.sampled_from(["replayed", "interpolated", "modelled", "declared"]),
    purpose=st.sampled_from(["pretraining", "evaluation"]),
    ns=st.integers(1, 10**6),
)
ADDED = st.tuples(LINES, st.integers(0, 10**9), st.sampled_from(["forward", "backward"]), st.booleans(),
                  st.integers(0, 2), st.none() | st.integers(0, 10**15))  # fmt: skip


def add_all(added) -> tuple[Booked, int]:
    booked, total = Booked(), 0
    for item, flop, phase, uncounted, rank, ceiling in added:
        cost = Cost.of(tally(flop, phase=phase, uncounted=uncounted))
        booked.add(item, cost, rank=rank, segment=0, ceiling=ceiling)
        total += flop * item.times
    return booked, total


@settings(deadline=None)
@given(
    st.lists(ADDED, max_size=12),
    st.dictionaries(st.integers(0, 2), st.integers(0, 10**6)),
    st.integers(0, 9),
    st.sets(st.sampled_from(NAMES)),
)
def test_the_figure_lies_between_its_ends_and_less_evidence_never_makes_them_narrower(added, audits, misses, opened):
    """Else a mistaken ledger gains by what it leaves out."""
    booked, total = add_all(added)
    bounds = booked.bound(audits, misses=misses)
    assert 0 <= bounds.lower <= total
    assert bounds.upper is None or total <= bounds.upper
    assert 0 <= bounds.unsure_passages <= sum(item.times for item, *_ in added)
    assert total - bounds.lower <= sum(bounds.unsure.values()) <= total
    fewer = {rank: number // 2 for rank, number in audits.items()}
    for audits_then, misses_then, opened_then in (
        (fewer, misses, ()),
        (audits, misses + 1, ()),
        (audits, misses, opened),
    ):
        again, _ = add_all(added)
        for name in opened_then:
            again.open(name)
        wider = again.bound(audits_then, misses=misses_then)
        assert wider.lower <= bounds.lower
        assert wider.upper is None or (bounds.upper is not None and bounds.upper <= wider.upper)
        assert wider.unsure_passages >= bounds.unsure_passages


@given(st.lists(ADDED, max_size=8), st.randoms())
def test_the_order_of_lines_changes_nothing(added, shuffled):
    """Else an auditor who reads the ranks in another order gets other bounds."""
    audits = {0: 5, 1: 100, 2: 10**5}
    before = add_all(added)[0].bound(audits, misses=1)
    other = list(added)
    shuffled.shuffle(other)
    assert add_all(other)[0].bound(audits, misses=1) == before


def simulate(choice: random.Random, *, wrong_weight: float, opens: bool, ranks: int = 1) -> tuple[bool, bool]:
    """Run a program in which some passages are not what they are booked at; say whether the interval holds the truth.

    Wrong ones do nothing, or all that the hardware can: where the interval is tightest. What is wrong is fixed before
    anything is drawn, and the same on all ranks, as are the draws.
    """
    sorts = [(NAMES[0], 64, 100), (NAMES[1], 16, 700), (NAMES[2], 256, 900)]
    does_nothing = choice.random() < 0.5
    booked, truth, figure, audits, misses, opened = Booked(), 0, 0, 0, 0, set()
    for name, one_in, flop in sorts:
        number = 20_000
        wrong = min(number, round(choice.choice([0, wrong_weight, wrong_weight / 3]) * one_in))
        drawn_right = sum(choice.random() * one_in < 1 for _ in range(400)) * (number - wrong) // 400
        drawn_wrong = sum(choice.random() * one_in < 1 for _ in range(wrong))
        audits += drawn_right + drawn_wrong
        misses += drawn_wrong
        left = number - drawn_right - drawn_wrong
        truth += (left - wrong + drawn_wrong) * flop + (wrong - drawn_wrong) * (0 if does_nothing else 1000)
        figure += left * flop
        for rank in range(ranks):
            booked.add(
                line(left, one_in=one_in, name=name), Cost.of(tally(flop)), rank=rank, segment=0, ceiling=CEILING
            )
        opened |= {name} if drawn_wrong else set()
    for name in opened if opens else ():
        booked.open(name)
    bounds = booked.bound(dict.fromkeys(range(ranks), audits), misses=misses * ranks)
    assert bounds.lower <= figure * ranks <= bounds.upper
    return bounds.lower <= truth * ranks <= bounds.upper, misses > 0


@pytest.mark.parametrize("opens", [True, False])
@pytest.mark.parametrize("ranks", [1, 4])
@pytest.mark.parametrize("wrong_weight", [0.5, 2.0, 3.1, 5.0, 12.0])
def test_the_interval_holds_the_truth_as_often_as_it_says(wrong_weight, ranks, opens):
    """If this failed, 95 % would be a word."""
    choice = random.Random(f"{wrong_weight} {ranks} {opens}")
    found = [simulate(choice, wrong_weight=wrong_weight, opens=opens, ranks=ranks)[0] for _ in range(150)]
    assert sum(found) >= 0.95 * len(found)


def test_a_hundred_thousand_groups_are_bounded_in_a_few_seconds():
    """Else a ledger of many shapes, or a hostile one, keeps the auditor waiting."""
    booked, cost = Booked(), Cost.of(tally(100))
    for index in range(100_000):
        item = line(1000, one_in=10**50 + index, name=f"{index:064x}")
        booked.add(item, cost, rank=0, segment=0, ceiling=CEILING)
    begun = time.process_time()
    bounds = booked.bound({0: 1}, misses=0)
    assert time.process_time() - begun < 10
    assert bounds.lower == 0


def test_what_somebody_declared_bounds_nothing_from_below_and_leaves_the_top_open():
    """It is a claim about a kernel that nobody looked into: an interval that holds it for known is no interval."""
    count = OpCount(
        op="triton::declared", kind="other", phase="forward", precision="16-bit", basis="declared", calls=1, flop=30
    )
    cost = Cost.of(Tally.of((*tally(100).counts, count)))
    assert (cost.flop, cost.declared, cost.has_uncounted) == (130, 30, True)
    booked = Booked()
    booked.add(line(100_000, one_in=100), cost, rank=0, segment=0, ceiling=CEILING)
    bounds = booked.bound({0: 1000}, misses=0)
    assert bounds.lower <= 100_000 * 100
    assert bounds.upper == 100_000 * 1000
