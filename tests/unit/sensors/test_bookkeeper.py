"""Bookkeeper: passages begin, end and are booked one after the other, and nothing is lost silently."""

import collections
import itertools

import pytest
import torch
from torch import nn

from flopmeter.formulas.book import FormulaBook
from flopmeter.sensors.bookkeeper import LIFTED, Bookkeeper
from flopmeter.sensors.budget import Budget
from flopmeter.sensors.lap import FORWARD_END, OPTIMIZER_END
from flopmeter.sensors.pricing import Pricer
from flopmeter.sensors.replay import FIRST_COUNTS
from flopmeter.sensors.sink import INTERRUPTED, UNKNOWN
from flopmeter.sensors.situation import WatchedModel
from flopmeter.sensors.torch_ops import is_heard
from flopmeter.sensors.torch_phase import PhaseTracker

PRODUCT = 2 * 2 * 2 * 2


class Sink:
    """What a meter would hear."""

    def __init__(self):
        self.bookings, self.verdicts, self.doubted, self.lost, self.errors = [], [], [], [], []

    def passages_ran(self, booking):
        self.bookings.append(booking)

    def passage_audited(self, verdict):
        self.verdicts.append(verdict)

    def passages_doubted(self, table, *, family):
        self.doubted.append(table)

    def passage_lost(self, *, reason, ns):
        self.lost.append((reason, ns))

    def optimizer_steps(self, optimizer_id):
        pass

    def sensor_failed(self, error, *, ns=None):
        self.errors.append(error)

    @property
    def times(self):
        """How many passages were booked on each basis."""
        found = collections.Counter()
        for booking in self.bookings:
            found[booking.basis] += booking.times
        return dict(found)

    @property
    def flop(self):
        return sum(
            booking.tally.flop if booking.table is None else booking.times * booking.table.tally.flop
            for booking in self.bookings
        )


@pytest.fixture
def sink():
    return Sink()


@pytest.fixture
def books(sink, monkeypatch):
    """Books that are open, and closed whatever happens; nothing is drawn in them."""
    monkeypatch.setattr(Budget, "one_in", lambda self, *, calls, usual_ns: 0)
    found = Bookkeeper(sink, PhaseTracker(), book=FormulaBook.standard(), exact=False, budget=0.01, seed=0)
    found.start()
    yield found
    found.stop()


def product(times=1):
    for _ in range(times):
        torch.mm(torch.ones(2, 2), torch.ones(2, 2))


def passage(books, *, times=1, situation=("forward", 1), given=(), is_trusted=True):
    """Run products in a passage of their own; return whether it was counted."""
    books.end("forward")
    books.begin(situation, given, 1, is_trusted=is_trusted)
    is_on = is_heard()
    product(times)
    books.end("meter")
    books.begin_between("step")
    return is_on


def test_a_passage_is_counted_until_two_counts_agree_and_then_booked_again(books, sink):
    """If this failed, a figure would be too low by what was not counted."""
    counted = [passage(books) for _ in range(10)]
    books.end("meter")
    books.book_waiting(is_last=True)
    assert counted == [True] * FIRST_COUNTS + [False] * 8
    assert sink.times["replayed"] == 8
    assert sink.flop == 10 * PRODUCT
    assert not sink.lost
    assert not sink.errors


def test_what_waits_is_booked_when_it_is_asked_for_and_only_once(books, sink):
    for _ in range(5):
        passage(books)
    books.book_waiting()
    before = sink.flop
    books.book_waiting()
    assert sink.flop == before == 5 * PRODUCT


def test_passages_that_run_nothing_are_booked_too(books, sink):
    """If this failed, what a draw of one of them proves would be told of the wrong number."""
    for _ in range(4):
        books.end("meter")
        books.begin_between("step")
    assert sink.times["counted"] == 4
    assert sink.flop == 0


def test_a_passage_that_nobody_knows_and_that_was_not_counted_is_a_gap(books, sink):
    """If this failed, unknown would be zero."""
    books.end("forward")
    books.begin(("forward", 1), (), 1, is_trusted=True, is_counted=False)
    product()
    books.end("meter")
    books.book_waiting(is_last=True)
    assert [reason for reason, _ in sink.lost] == [UNKNOWN]
    assert all(ns > 0 for _, ns in sink.lost)


def test_a_change_that_may_be_older_leaves_what_waits_a_guess_and_doubts_what_was_booked(books, sink):
    """If this failed, a layer that was switched off days ago would stand as replayed without a doubt."""
    from flopmeter.sensors.rota import Change

    for _ in range(4):
        passage(books)
    books.book_waiting()
    for _ in range(3):
        passage(books)
    books.take_change(1, Change(doubted_since=0))
    assert len(sink.doubted) == 1
    assert sink.times["modelled"] == 3
    books.take_change(1, Change(doubted_since=None))
    assert len(sink.doubted) == 1


def test_an_interrupt_while_a_passage_is_booked_is_a_gap_and_goes_on_its_way(books, sink, monkeypatch):
    """If this failed, Ctrl-C at the right moment would take work out of every figure."""

    def interrupted(_self, _calls):
        raise KeyboardInterrupt

    product()
    with monkeypatch.context() as patch:
        patch.setattr(Pricer, "table", interrupted)
        with pytest.raises(KeyboardInterrupt):
            books.end("meter")
    assert sink.lost[0][0] == INTERRUPTED
    assert sink.lost[0][1] > 0
    books.end("meter")
    assert len(sink.lost) == 2, "from there to the next passage nothing was noted either"
    books.begin_between("step")
    assert books.is_running


def test_a_mode_that_was_taken_off_leaves_a_gap(books, sink):
    """If this failed, work behind somebody's clever handling of torch's modes would be missing in silence."""
    books.recorder.switch_off()
    product()
    books.end("meter")
    assert [reason for reason, _ in sink.lost] == [LIFTED]


def test_a_failure_of_ours_in_a_passage_is_told_once_and_its_length_when_it_has_ended(books, sink):
    books.on_failure(ValueError("a"))
    books.on_failure(ValueError("b"))
    books.end("meter")
    assert len(sink.errors) == 1
    assert len(sink.lost) == 1
    assert sink.lost[0][0].startswith("ValueError")
    assert sink.lost[0][1] > 0


def test_nothing_is_left_on_the_stack_after_stop(books):
    books.stop()
    assert torch._C._len_torch_dispatch_stack() == 0
    assert not is_heard()


# What an inference mode does: its end puts back the dispatch keys that its beginning found.


def counted_between(books):
    """Leave the first passages between others behind: from here on they are sampled, with the mode off."""
    for _ in range(200):
        books.end("meter")
        books.begin_between("step")
        if not is_heard():
            return
    raise AssertionError("passages between others are counted for ever")


@pytest.mark.parametrize("is_on", [True, False])
def test_the_mode_is_after_an_inference_mode_what_it_was_before(books, sink, is_on):
    """If this failed, torch would ask a stack with nobody on it, or not ask us: an error in the user's program."""
    if not is_on:
        counted_between(books)
    assert is_heard() is is_on
    with torch.inference_mode():
        product()
        books.end("forward")
        books.begin(("forward", 1), (), 1, is_trusted=False)
        product()
        books.end(FORWARD_END)
        books.begin_between(FORWARD_END)
        product()
        books.end("optimizer")
        books.begin(("optimizer", 1), (), 1, is_trusted=False, is_counted=not is_on)
        books.end(OPTIMIZER_END)
        books.begin_between(OPTIMIZER_END)
        product()
    product()
    torch.ones(2).sum().item()
    books.end("meter")
    books.begin_between("step")
    books.book_waiting(is_last=True)
    assert not sink.errors
    assert LIFTED not in [reason for reason, _ in sink.lost]


@pytest.mark.parametrize("is_on", [True, False])
def test_a_meter_that_stops_inside_an_inference_mode_leaves_nothing_that_raises(books, is_on):
    """If this failed, closing the meter in an evaluation would break the program at its next call."""
    if not is_on:
        counted_between(books)
    with torch.inference_mode():
        product()
        books.end("meter")
        books.stop()
        product()
    product()
    assert is_heard() is is_on, "what is left there lets calls through"
    while torch._C._len_torch_dispatch_stack():
        torch.utils._python_dispatch._pop_mode()


def test_a_forward_with_gradients_turned_on_inside_an_inference_mode_ends_there(metered):
    """If this failed, the mode would be off at the end of a block that found it on: an error in the user's program."""

    def program(meter):
        model = nn.Linear(8, 8)
        meter.watch(model)
        for index in range(20):
            with torch.inference_mode(), torch.enable_grad():
                model(torch.ones(3, 8))
            product()
            if index % 2:
                meter.step()

    assert metered(program).flop == pytest.approx(metered(program, exact=True).flop, rel=0.1)


def program_of(meter, model, optimizer, kinds):
    """Train and evaluate in turn; `kinds` says under what the evaluation runs."""
    x = torch.ones(3, 8)
    for index, kind in enumerate(kinds):
        if index >= 3 and kind is not None:
            with kind():
                model(x)
                torch.mm(x, x.T)  # behind the forward, still inside
            torch.mm(x, x.T)
        model(x).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        meter.step()


@pytest.mark.parametrize("decorate", [True, False])
def test_an_inference_mode_that_begins_after_replay_has_begun_loses_nothing_in_silence(metered, decorate):
    """If this failed, evaluation under inference mode would raise, or its products would be missing without a gap."""

    def program(meter):
        torch.manual_seed(0)
        model = nn.Linear(8, 8)
        meter.watch(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        kinds = [torch.inference_mode if index >= 40 else None for index in range(60)]
        if decorate:

            @torch.inference_mode()
            def evaluate():
                return model(torch.ones(3, 8))

            for index in range(60):
                if index >= 40:
                    evaluate()
                program_of(meter, model, optimizer, [None])
        else:
            program_of(meter, model, optimizer, kinds)

    ours, exact = metered(program), metered(program, exact=True)
    assert not exact.gaps
    assert not any("failure" in gap.reason for gap in ours.gaps)
    assert sum(ours.passages.values()) + len(ours.gaps) >= sum(exact.passages.values())
    if not ours.gaps:
        assert ours.flop == pytest.approx(exact.flop, rel=0.02)
    assert ours.lower <= exact.flop
    assert ours.upper is None or exact.flop <= ours.upper


def test_modes_of_all_kinds_in_turn_never_raise(metered):
    """If this failed, some order of evaluation and training would stop somebody's run."""
    kinds = [None, torch.no_grad, torch.inference_mode, torch.enable_grad]

    def program(meter):
        model = nn.Linear(8, 8)
        meter.watch(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        turns = [kind for pair in itertools.product(kinds, repeat=2) for kind in pair]
        program_of(meter, model, optimizer, turns + [None] * 30 + turns)

    ours, exact = metered(program), metered(program, exact=True)
    assert ours.lower <= exact.flop
    assert ours.upper is None or exact.flop <= ours.upper
    assert not any("failure" in gap.reason for gap in ours.gaps)


# Graphs that are open: a backward that runs in another model's passage.


def test_a_backward_in_another_models_passage_is_told_by_the_graphs_that_are_open(replayed_truly):
    """If this failed, a discriminator's passage would be booked without the generator's backward that ran in it."""

    def program(meter):
        generator, critic = nn.Linear(4, 8), nn.Linear(8, 4)
        meter.watch([generator, critic])
        both = [torch.optim.SGD(part.parameters(), lr=0.01) for part in (generator, critic)]
        for index in range(40):
            fake = generator(torch.randn(3, 4))
            if index % 2:
                fake = fake.detach()
            critic(fake).sum().backward()
            for optimizer in both:
                optimizer.step()
                optimizer.zero_grad()
            meter.step()

    replayed_truly(program)


def begin_forward(books, watched, number):
    books.end("forward")
    books.begin(*watched.situation((torch.ones(1, 2),), {}), number, is_trusted=True, owner=watched)


def test_a_graph_is_open_until_a_gradient_reaches_its_model_or_a_step_ends(books):
    """If this failed, an old loss that is kept for a plot would make every passage a new one."""
    first, second = (WatchedModel(nn.Linear(2, 2)) for _ in range(2))
    begin_forward(books, first, 1)
    loss = first.module(torch.ones(1, 2)).sum()
    begin_forward(books, second, 2)
    assert len(books.graphs.read()) == 1
    loss.backward()
    assert books.graphs.read() == ()
    begin_forward(books, first, 1)
    kept = first.module(torch.ones(1, 2)).sum()
    books.end("meter")
    assert len(books.graphs.read()) == 1
    books.graphs.close()
    assert books.graphs.read() == ()
    assert kept.requires_grad
    for watched in (first, second):
        watched.release()


def test_a_passage_between_others_says_so(books):
    assert books.is_between
    books.end("forward")
    books.begin(("forward", 1), (), 1, is_trusted=True)
    assert not books.is_between
