"""Which passages are counted and what a replayed one was, driven by hand: no torch."""

from flopmeter.sensors.replay import COUNTS_AFTER_A_MISS, FIRST_COUNTS, MAX_PLACES, ReplayPlan


def settle(plan: ReplayPlan, situation="s", place=1, witness="w", table="t") -> None:
    for _ in range(FIRST_COUNTS):
        assert plan.is_to_be_counted(situation, place)
        plan.learn(situation, place, witness, table)


def test_a_passage_is_replayed_once_two_counts_agree():
    plan = ReplayPlan()
    settle(plan)
    assert not plan.is_to_be_counted("s", 1)
    assert plan.find("s", 1, "w") == ("t", True)


def test_exact_counts_everything():
    plan = ReplayPlan(exact=True)
    settle(plan)
    assert plan.is_to_be_counted("s", 1)


def test_a_warm_up_does_not_settle_and_does_not_condemn():
    """A cache filled in the first step costs once; the steady state behind it must still be replayed."""
    plan = ReplayPlan()
    plan.learn("s", 1, "w", "first")
    plan.learn("s", 1, "w", "steady")
    assert plan.is_to_be_counted("s", 1)
    plan.learn("s", 1, "w", "steady")
    assert not plan.is_to_be_counted("s", 1)
    assert plan.find("s", 1, "w") == ("steady", True)


def test_two_variants_with_witnesses_of_their_own_are_both_replayed():
    plan = ReplayPlan()
    settle(plan, witness="short", table="short table")
    plan.find("s", 1, "long")
    while plan.is_to_be_counted("s", 1):
        plan.learn("s", 1, "long", "long table")
    assert plan.find("s", 1, "short") == ("short table", True)
    assert plan.find("s", 1, "long") == ("long table", True)


def test_a_witness_never_seen_is_a_guess_and_the_next_ones_are_counted():
    plan = ReplayPlan()
    settle(plan)
    assert plan.find("s", 1, "strange") == ("t", False)
    for _ in range(COUNTS_AFTER_A_MISS):
        assert plan.is_to_be_counted("s", 1)
        plan.learn("s", 1, "strange", "t2")
    assert not plan.is_to_be_counted("s", 1)
    assert plan.find("s", 1, "strange") == ("t2", True)


def test_a_count_that_changes_under_the_same_witness_is_never_replayed_again():
    """Data-dependent work: no witness can be trusted, so it is counted each time."""
    plan = ReplayPlan()
    settle(plan)
    plan.learn("s", 1, "w", "other table")
    for _ in range(50):
        assert plan.is_to_be_counted("s", 1)
        plan.learn("s", 1, "w", "other table")


def test_the_last_of_a_shorter_accumulation_is_known_from_another_place():
    plan = ReplayPlan()
    settle(plan, place=1, witness="into the next", table="plain")
    settle(plan, place=2, witness="into the optimizer", table="clipped")
    assert plan.find("s", 1, "into the optimizer") == ("clipped", True)


def test_places_that_disagree_do_not_vouch_for_another():
    plan = ReplayPlan()
    settle(plan, place=1, witness="a", table="one")
    settle(plan, place=2, witness="b", table="two")
    settle(plan, place=3, witness="b", table="three")
    assert plan.find("s", 1, "b") == ("one", False)


def test_what_is_not_known_is_not_made_up():
    assert ReplayPlan().find("s", 1, "w") == (None, False)
    plan = ReplayPlan()
    settle(plan)
    plan.forget("s", 1)
    assert plan.is_to_be_counted("s", 1)


def test_room_is_bounded_and_the_oldest_goes_first():
    """A shape that is new at every step would else fill the memory of a long run."""
    plan = ReplayPlan()
    for shape in range(MAX_PLACES + 10):
        settle(plan, situation=shape)
    assert plan.is_to_be_counted(0, 1)
    assert not plan.is_to_be_counted(MAX_PLACES + 9, 1)
    assert len(plan._places) <= MAX_PLACES
    assert len(plan._variants) <= MAX_PLACES


def test_a_passage_in_use_is_not_the_oldest():
    plan = ReplayPlan()
    settle(plan, situation="kept")
    for shape in range(MAX_PLACES - 1):
        settle(plan, situation=shape)
    assert not plan.is_to_be_counted("kept", 1)
    settle(plan, situation="one too many")
    assert not plan.is_to_be_counted("kept", 1)
