"""Which passages are counted and what the others are booked at, driven by hand: no torch, no clock."""

import random
from contextlib import suppress
from typing import NamedTuple

import pytest

from flopmeter.sensors import replay
from flopmeter.sensors.budget import Budget
from flopmeter.sensors.draws import Draws
from flopmeter.sensors.kinship import Booking, Verdict
from flopmeter.sensors.place import COUNTS_AFTER_A_MISS, COUNTS_IN_VAIN, ENOUGH, MAX_OWED
from flopmeter.sensors.replay import (
    FIRST_COUNTS,
    FIRST_OWNERS,
    FIRST_SAMPLED_CALLS,
    FIRST_SAMPLES,
    MAX_KINSHIPS,
    MAX_PLACES,
    MAX_SITUATIONS,
    MAX_STRANGE_MARKS,
    ONE_IN_UNAFFORDABLE,
    ReplayPlan,
)
from flopmeter.step import Table
from flopmeter.testing.ledgers import product_table


class Seen(NamedTuple):
    """A witness: nodes may grow with sizes, the end must be the same."""

    nodes: int = 1
    end: str = "next"

    @property
    def sort(self):
        return self.end

    @property
    def numbers(self):
        return (self.nodes,)


USUAL = Seen()


class Purse(Budget):
    """A budget that says what a test tells it to."""

    def __init__(self, *, one_in: int = 1 << 20, affords: bool = True) -> None:
        super().__init__(1.0, lambda: 1)
        self.rate, self.affords = one_in, affords

    def one_in(self, *, calls, usual_ns):
        return self.rate

    def can_afford(self, calls):
        return self.affords


TABLES = {cost: product_table(1, 1, cost) for cost in range(1, 40)}


def table_of(cost: int) -> Table:
    """A table of 2 FLOP times `cost`."""
    return TABLES[cost]


class Run:
    """A plan, and a program whose passages a test runs one by one."""

    def __init__(self, *, exact: bool = False, one_in: int = 1 << 20, affords: bool = True, seed: int = 1) -> None:
        self.purse, self.draws, self.seed = Purse(one_in=one_in, affords=affords), Draws(seed), seed
        self.plan = ReplayPlan(budget=self.purse, draws=self.draws, exact=exact)
        self.booked: list[Booking] = []
        self.verdicts: list[Verdict] = []
        self.now = 0

    def run(
        self,
        cost=1,
        *,
        situation=("s", "me"),
        given=(),
        at=1,
        seen=USUAL,
        calls=10,
        ns=1000,
        fixed=True,
        trusted=True,
        marks=(),
        step=None,
    ):
        """Run a passage; say whether it was counted."""
        if step is not None:
            self.draws.step, self.draws.at = step, 0
        self.draws.at += 1
        self.now += ns
        place = self.plan.pass_by(situation, given, at)
        if place is not None:
            if self.plan.wait(place, tuple(seen), ns, marks):
                return False
            choice = replay.Choice(situation, given, at, trusted, is_counted=False, place=place)
        else:
            choice = self.plan.begin(situation, given, at, is_trusted=trusted)
        if not choice.is_counted:
            self.book(self.plan.end_uncounted(choice, seen, ns, marks=marks))
            return False
        table = table_of(cost)
        self.booked.append(Booking("counted", 1, ns, table=table))
        verdict = self.plan.end_counted(choice, seen, table, calls=calls, ns=ns, is_fixed=fixed, marks=marks)
        if verdict is not None:
            self.verdicts.append(verdict)
        return True

    def book(self, booking) -> None:
        if booking is not None:
            self.booked.append(booking)

    def settle(self, **options) -> list[Booking]:
        found = list(self.plan.settle(self.now, **options))
        self.booked += found
        return found

    def learn(self, cost=1, **options) -> None:
        for _ in range(FIRST_COUNTS):
            assert self.run(cost, **options)

    def draws_at(self, step: int, at: int = 1) -> bool:
        """Say whether chance has this passage counted."""
        draws = Draws(self.seed)
        draws.step, draws.at = step, at
        return draws.is_drawn(self.purse.rate)

    @property
    def flop(self) -> int:
        return sum(item.table.tally.flop * item.times for item in self.booked)


def test_a_passage_is_replayed_once_two_counts_agree():
    run = Run()
    run.learn(3)
    assert not run.run(3, ns=700)
    assert not run.run(3, ns=900)
    (booking,) = run.settle()
    assert (booking.basis, booking.times, booking.ns, booking.table) == ("replayed", 2, 1600, table_of(3))
    assert (booking.chance.one_in, booking.chance.longest_ns, booking.chance.lower) == (1 << 20, 900, None)
    assert run.settle() == []


def test_exact_counts_everything():
    run = Run(exact=True)
    assert all(run.run(given=(size,)) for size in (3, 3, 3, 4) * 20)
    assert run.settle(is_last=True) == []


def test_a_warm_up_does_not_settle_and_does_not_condemn():
    """A cache filled in the first step costs once; the steady state behind it must still be replayed."""
    run = Run()
    assert run.run(9)
    assert run.run(2)
    assert run.run(2)
    assert not run.run(2)
    assert run.settle()[0].table == table_of(2)
    assert run.settle(is_last=True) == []
    assert run.verdicts == []


def test_two_variants_with_witnesses_of_their_own_are_both_replayed():
    run = Run()
    run.learn(2, seen=Seen(2))
    assert not run.run(5, seen=Seen(5))
    while run.run(5, seen=Seen(5)):
        pass
    run.settle()
    run.booked.clear()
    assert not run.run(2, seen=Seen(2))
    assert not run.run(5, seen=Seen(5))
    run.settle()
    assert run.flop == 2 * (2 + 5)
    assert {booking.basis for booking in run.booked} == {"replayed"}


def test_a_witness_never_seen_is_a_guess_and_the_next_ones_are_counted():
    """Else a layer that was dropped is booked as if it had run, and stays so."""
    run = Run()
    run.learn(2)
    assert not run.run(5, seen=Seen(99))
    (guess,) = run.settle()
    assert (guess.basis, guess.table, guess.chance) == ("modelled", table_of(2), None)
    assert [run.run(5, seen=Seen(99)) for _ in range(COUNTS_AFTER_A_MISS + 1)] == [True] * COUNTS_AFTER_A_MISS + [False]
    assert run.settle()[0].table == table_of(5)


@pytest.mark.parametrize("period", [5, 7, 16])
def test_what_comes_once_in_many_steps_is_counted_at_last(period):
    """A penalty every 16 steps falls between the counts that follow its first appearance: else a guess for ever."""
    run = Run()
    run.learn(2)
    for step in range(40 * period):
        rare = step % period == 0
        run.run(5 if rare else 2, seen=Seen(99 if rare else 1))
    run.settle()
    by_table = [(booking.basis, booking.table.name) for booking in run.booked]
    assert ("replayed", table_of(5).name) in by_table
    guessed = sum(booking.times for booking in run.booked if booking.basis == "modelled")
    assert guessed <= 5


def test_what_never_comes_again_is_looked_for_no_longer():
    """Else each passage that is unlike all others has 64 counted after it, as long as the run is."""
    run = Run()
    run.learn(2)
    counted = []
    for odd in range(20):
        run.run(5, seen=Seen(1000 + odd))
        counted.append(sum(run.run(2) for _ in range(2 * MAX_OWED)))
    assert max(counted) <= MAX_OWED
    assert sum(counted[5:]) <= 2 * COUNTS_IN_VAIN


def test_a_cost_that_changes_under_the_same_witness_is_a_miss_and_sampled_from_then_on():
    """It names what was booked before, which may have been as wrong."""
    run = Run()
    run.learn(2, step=0)
    run.purse.rate = 2
    assert not run.run(2, step=1)
    run.settle()
    step = next(step for step in range(2, 100) if run.run(7, step=step))
    assert run.verdicts == [Verdict(is_miss=True, booked=table_of(2).name)]
    later = [run.run(7, step=step + further) for further in range(1, 400)]
    assert 0 < sum(later) < len(later)
    assert run.settle()[-1].basis == "sampled"


def test_an_audit_that_finds_the_same_says_so():
    run = Run(one_in=4)
    run.learn(2, step=0)
    found = sum(run.run(2, step=step) for step in range(1, 400))
    assert run.verdicts == [Verdict()] * found
    assert 60 < found < 140


def test_an_audit_of_a_cost_outside_of_what_was_seen_is_a_miss_of_sampled_passages():
    run = Run(one_in=2)
    for step in range(FIRST_SAMPLES):
        assert run.run(4, trusted=False, step=step)
    while not run.run(4, trusted=False, step=step):
        step += 1
    assert run.verdicts == [Verdict()]
    step += 1
    while not run.run(9, trusted=False, step=step):
        step += 1
    assert run.verdicts == [Verdict(), Verdict(is_miss=True)]


def test_what_nothing_vouches_for_is_sampled_after_a_number_of_counts():
    run = Run()
    costs = [1 + index % 7 for index in range(FIRST_SAMPLES)]
    assert all(run.run(cost, trusted=False) for cost in costs)
    assert not run.run(1, trusted=False)
    (booking,) = run.settle()
    assert (booking.basis, booking.table) == ("sampled", table_of(costs[-1]))
    assert (booking.chance.lower, booking.chance.upper) == (2, 14)


def test_of_long_passages_fewer_are_counted_before_they_are_sampled():
    run = Run()
    assert run.run(1, trusted=False, calls=FIRST_SAMPLED_CALLS + 1)
    assert run.run(1, trusted=False), "the one that ends it is more often a dear one than not"
    assert not run.run(1, trusted=False)


def test_values_inside_tensors_make_a_passage_sampled():
    run = Run()
    assert all(run.run(1, fixed=False) for _ in range(FIRST_SAMPLES))
    assert not run.run(1)
    assert run.settle()[0].basis == "sampled"


@pytest.mark.parametrize("one_in", [2, 8])
@pytest.mark.parametrize("dear", [(1, 1), (1, 30), (4, 30)])
def test_sampling_is_right_on_average_and_its_interval_holds_the_truth(one_in, dear):
    """A mix of costs that chance makes: no bias towards dear or cheap ones, however much dearer these are to count."""
    errors, true = [], 0
    for seed in range(150):
        run, chance, costs = Run(one_in=one_in, seed=seed), random.Random(seed), (1, *dear)
        run.purse.one_in = lambda *, calls, usual_ns: one_in if calls < 100 else 4 * one_in
        truth = 0
        for step in range(400):
            cost = chance.choice(costs)
            truth += 2 * cost
            run.run(cost, trusted=False, step=step, calls=10 * cost)
        run.settle(is_last=True)
        assert sum(item.times for item in run.booked) == 400
        ends = [(item.chance.lower, item.chance.upper) for item in run.booked if item.basis == "sampled"]
        known = sum(item.table.tally.flop for item in run.booked if item.basis == "counted")
        assert known + sum(low for low, _ in ends) <= truth <= known + sum(high for _, high in ends)
        errors.append(run.flop - truth)
        true += truth
    scatter = sum(error**2 for error in errors) ** 0.5
    assert scatter < 0.04 * true, "else this would see no bias"
    assert abs(sum(errors)) <= 4 * scatter


def test_how_often_passages_are_drawn_does_not_hang_on_the_last_count():
    """Else a dear one is followed by a longer wait, in which all others are booked as dear."""
    run, asked = Run(), []
    run.purse.one_in = lambda *, calls, usual_ns: asked.append(calls) or 1
    for index in range(2000):
        run.run(1, trusted=False, calls=(10, 1000)[index % 2])
    assert len(asked) > 1900
    assert max(asked[-10:]) - min(asked[-10:]) <= 1


def test_the_last_of_a_shorter_accumulation_is_known_from_another_place():
    run = Run()
    run.learn(2, at=1)
    run.learn(3, at=2, seen=Seen(end="optimizer"))
    assert not run.run(3, at=1, seen=Seen(end="optimizer"))
    (booking,) = run.settle()
    assert (booking.basis, booking.table) == ("replayed", table_of(3))


def test_places_that_disagree_do_not_vouch_for_another():
    run = Run()
    run.learn(1, at=1)
    run.learn(2, at=2, seen=Seen(7))
    run.learn(3, at=3, seen=Seen(7))
    assert not run.run(2, at=1, seen=Seen(7))
    assert run.settle()[-1].basis == "modelled"


def test_guesses_are_handed_over_together():
    """Each for itself costs more than to say that it is one."""
    run = Run()
    run.learn(2)
    run.learn(3, at=2)
    run.purse.affords = False
    for index in range(6):
        run.run(5, at=1 + index % 2, seen=Seen(90 + index), step=index, ns=10)
    assert {(item.basis, item.times, item.ns, item.table) for item in run.settle()} == {
        ("modelled", 3, 30, table_of(2)),
        ("modelled", 3, 30, table_of(3)),
    }


def test_a_program_that_is_new_to_a_known_model_and_not_counted_is_a_guess():
    """A gap would say less: that nothing ran."""
    run = Run()
    run.learn(2)
    run.purse.affords = False
    assert not run.run(2, situation=("s", "me", "in another state"), step=1)
    assert [(item.basis, item.table) for item in run.settle()] == [("modelled", table_of(2))]
    assert run.run(2, situation=("s", "another model"), step=1), "nothing at all is known of this one"


def test_programs_of_which_nothing_is_known_are_not_counted_without_end():
    """A model that is made anew for each step is never known."""
    run = Run(affords=False)
    found = []
    for index in range(2 * FIRST_OWNERS):
        with suppress(LookupError):
            found.append(run.run(1, situation=("s", index), step=index))
    assert found == [True] * FIRST_OWNERS


def test_what_values_decide_is_counted_by_chance_from_some_time_on():
    """Else each rank counts in steps of its own, and all wait for each of them in turn."""
    run = Run(one_in=64)
    run.learn(1)
    found = [run.run(1, seen=Seen(100 + step), fixed=False, step=step) for step in range(4000)]
    assert sum(found[:200]) > MAX_OWED // 2
    late = {step for step, is_counted in enumerate(found) if is_counted and step >= 200}
    drawn = {step for step in range(200, 4000) if run.draws_at(step)}
    assert drawn <= late
    assert len(late - drawn) <= 4, "one in 1,024 is still counted for itself"
    assert len(drawn) > 20


def test_sizes_of_which_values_decide_as_well_are_counted_by_chance_from_some_time_on():
    run = Run(one_in=64)
    found = [
        run.run(1 + index * index % 37, given=(2 + index * 7919 % 100_003,), fixed=False, step=index)
        for index in range(4000)
    ]
    late = [step for step, is_counted in enumerate(found) if is_counted and step >= 200]
    assert sum(found[:200]) > MAX_OWED // 2
    assert late == [step for step in range(200, 4000) if run.draws_at(step)]


def test_what_chance_counts_where_no_figure_was_ready_is_no_audit():
    """A miss would widen the interval of what nobody booked."""
    run = Run(one_in=64)
    for index in range(2000):
        run.run(1 + index % 5, given=(2 + index * 7919 % 100_003,), fixed=False, step=index)
    assert run.verdicts == []


def test_a_program_in_daily_use_is_not_forgotten_for_others_that_come_up_once():
    """If this failed, its passages would wait where nobody ever books them."""
    run = Run()
    for size in range(2, 12):
        run.run(size, given=(size,), seen=Seen(size))
    run.purse.affords, begun = False, len(run.booked)
    for index in range(2 * MAX_KINSHIPS):
        assert not run.run(5, given=(5,), seen=Seen(5), step=index)
        run.run(1, given=(f"another {index}",), step=index)
    run.settle(is_last=True)
    assert sum(item.times for item in run.booked[begun:]) == 4 * MAX_KINSHIPS


def test_what_was_counted_once_is_relied_on_only_until_it_is_counted_again():
    """It may have been a warm-up."""
    run = Run()
    assert run.run(9, seen=Seen(9))
    run.learn(2)
    assert not run.run(8, seen=Seen(9))
    assert run.run(8, seen=Seen(9))
    assert run.verdicts == [Verdict(is_miss=True, booked=table_of(9).name)], "what was booked at it is not silent"
    assert [(booking.basis, booking.table) for booking in run.settle()] == [("replayed", table_of(9))]


def test_a_passage_that_is_drawn_judges_the_place_that_would_have_vouched():
    run = Run(one_in=2)
    run.learn(1, at=1)
    run.learn(3, at=2, seen=Seen(7), step=50)
    step = 100
    while not run.run(4, at=1, seen=Seen(7), step=step):
        step += 1
    assert run.verdicts[-1] == Verdict(is_miss=True, booked=table_of(3).name)


def test_what_the_budget_does_not_allow_is_still_counted_now_and_then():
    """Else a run that began beyond its budget never learns that it changed."""
    run = Run(affords=False)
    assert run.run(1)
    found = sum(run.run(1, seen=Seen(1 + index % 9), step=index) for index in range(1, 20 * ONE_IN_UNAFFORDABLE))
    assert 5 < found < 50


def test_what_counting_adds_is_learned_before_any_audit():
    """A run that takes itself for dearer than it is has no room for audits, and would never find out."""
    run, learned = Run(), []
    run.purse.compare = lambda **seen: learned.append(seen)
    run.learn(2, calls=100, ns=5000)
    for _ in range(3 * ENOUGH):
        assert not run.run(2, ns=1000)
    (seen,) = learned
    assert (seen["calls"], seen["counted_ns"]) == (100, 5000)
    assert 900 < seen["usual_ns"] < 1200


def test_passages_of_a_step_that_does_not_end_share_a_place():
    """An evaluation, or a generation, of thousands of forwards would else be counted to its last."""
    run = Run()
    found = [run.run(1, at=at) for at in range(1, 1000)]
    assert sum(found) == MAX_PLACES - 1 + FIRST_COUNTS
    assert not any(found[-900:])


def test_what_a_device_handed_out_tells_passages_apart():
    """On CUDA no autograd node tells of a backward."""
    run = Run()
    run.learn(2, marks=(8, 3))
    assert not run.run(2, marks=(7, 3))
    assert not run.run(2, marks=(7, 3))
    assert run.settle()[0].basis == "replayed"
    assert not run.run(5, marks=(9, 9))
    assert run.settle()[0].basis == "modelled"
    assert run.run(5, marks=(9, 9))


def test_marks_that_are_always_strange_are_no_witness():
    """Somebody else allocates meanwhile: then nothing vouches, and the passage is sampled."""
    run = Run()
    run.learn(2, marks=(8,))
    mark = 9
    for _ in range(20 * MAX_STRANGE_MARKS):
        mark += 1
        run.run(2, marks=(mark,))
    run.booked.clear()
    while run.run(2, marks=(mark,)):
        mark += 1
    assert [booking.basis for booking in run.settle()][-1] == "sampled"


def test_a_chance_that_changed_is_told_as_the_smallest():
    """Whoever was drawn one time in 64 is no surer for those that were drawn one time in 2."""
    run = Run(one_in=1 << 20)
    run.learn(2)
    place = run.plan.pass_by(("s", "me"), (), 1)
    run.run(2)
    place.one_in = 1 << 21
    run.run(2)
    place.one_in = 1 << 19
    run.run(2)
    assert run.settle()[0].chance.one_in == 1 << 21


def test_a_new_size_is_interpolated_once_its_family_is_proven():
    run = Run()
    for size in (3, 20, 9, 14, 5, 17, 11):
        run.run(size, given=((size,),), seen=Seen(size))
    run.settle()
    assert not run.run(10, given=((10,),), seen=Seen(10))
    (booking,) = run.settle()
    assert (booking.basis, booking.family, booking.tally.flop, booking.most_flop) == ("interpolated", "0", 20, 20)
    assert not run.run(10, given=((10,),), seen=Seen(77))
    assert [item.basis for item in run.settle(is_last=True)] == ["modelled"]


def test_what_waits_when_an_owner_is_doubted_is_a_guess():
    run = Run()
    run.learn(2)
    run.learn(3, situation=("s", "other"))
    run.run(2)
    run.run(3, situation=("s", "other"))
    assert {booking.table: booking.basis for booking in run.settle(doubted="me")} == {
        table_of(2): "modelled",
        table_of(3): "replayed",
    }


def test_what_was_booked_since_a_time_is_named():
    """Doubts reach back over what was booked already."""
    run = Run()
    run.learn(2)
    run.run(2)
    run.settle()
    assert set(run.plan.booked_since("me", run.now)) == {(table_of(2).name, None)}
    assert set(run.plan.booked_since("me", run.now + 1)) == set()
    assert set(run.plan.booked_since("other", 0)) == set()


def test_families_that_were_booked_since_a_time_are_named_as_well():
    """Else sizes that vary would hide what was changed a second ago."""
    run = Run()
    for size in (2, 3, 5, 8, 12, 17, 23, 30):
        run.run(size, given=(size,), seen=Seen(size))
    assert not run.run(20, given=(20,), seen=Seen(20))
    (family,) = {item.family for item in run.settle() if item.basis == "interpolated"}
    assert (None, family) in set(run.plan.booked_since("me", run.now))
    assert set(run.plan.booked_since("me", run.now + 1)) == set()


def test_what_waited_is_booked_at_what_was_known_then():
    run = Run(one_in=2)
    run.learn(2, step=0)
    step = 1
    while run.run(2, step=step):
        step += 1
    while not run.run(7, step=step):
        step += 1
    assert {booking.table for booking in run.settle()} == {table_of(2)}


def test_what_is_not_known_is_not_made_up():
    run = Run()
    assert not run.plan.is_known(("s", "me"), ())
    with pytest.raises(LookupError):
        run.plan.end_uncounted(replay.Choice(("s",), (), 1, True, False), Seen(), 1)
    run.learn()
    assert run.plan.is_known(("s", "me"), ())


def test_room_is_bounded_and_the_oldest_goes_first_and_is_booked():
    """A setting that is new at every step would else fill the memory of a long run; none of it may be lost."""
    run = Run()
    run.learn(1, situation=("old", "me"))
    assert not run.run(1, situation=("old", "me"))
    run.learn(2, situation=("used", "me"))
    for index in range(MAX_SITUATIONS + 10):
        assert run.run(1, situation=(index, "me"))
        assert not run.run(2, situation=("used", "me"))
    assert len(run.plan._known) <= MAX_SITUATIONS
    assert len(run.plan._kin) <= replay.MAX_KINSHIPS
    assert table_of(1) in {booking.table for booking in run.settle()}
    assert run.run(1, situation=("old", "me"))


def test_rows_are_bounded(monkeypatch):
    monkeypatch.setattr(replay, "MAX_ROWS", 40)
    run = Run()
    for index in range(200):
        run.learn(1 + index % 30, situation=(index, "me"))
    assert run.plan._rows <= 40
    assert run.plan._rows == sum(
        variant.table.size + 1
        for places in run.plan._known.values()
        for place in places.values()
        for variant in place.variants.values()
    )
    assert not run.run(1 + 199 % 30, situation=(199, "me"))


def test_a_count_that_comes_late_belongs_to_the_place_that_was_made_meanwhile():
    """Integers that a formula asks for come after the passage: two of them began when nothing was known."""
    run = Run()
    choices = [run.plan.begin(("s", "me"), (), 1, is_trusted=True) for _ in range(FIRST_COUNTS)]
    for choice in choices:
        run.plan.end_counted(choice, Seen(), table_of(1), calls=1, ns=1, is_fixed=True)
    assert not run.run(1)
    assert run.plan._rows == table_of(1).size + 1
