"""A training loop that goes on as before is told at a glance; what breaks into it is told all the same."""

import contextlib
import sys
import threading
from collections import Counter

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn.functional import cross_entropy  # noqa: E402
from versions import since_2_10  # noqa: E402

from flopmeter import Account, Meter  # noqa: E402
from flopmeter.sensors import budget, lap  # noqa: E402
from flopmeter.sensors.bookkeeper import Bookkeeper  # noqa: E402
from flopmeter.sensors.draws import Draws  # noqa: E402
from flopmeter.sensors.replay import ReplayPlan  # noqa: E402
from flopmeter.sensors.sink import INTERRUPTED  # noqa: E402
from flopmeter.sensors.trail import FOLLOWED, FOLLOWED_IN, PATIENCE, Trail  # noqa: E402

STEPS, AT = 52, 42
"""So many steps are made, and in one of them something else happens; by then a lap is on."""


class Net(nn.Module):
    """Three layers, of which one can be left out, or see some rows alone; in evaluation there is one more product."""

    def __init__(self, *, is_led_by_values=False):
        super().__init__()
        self.is_led_by_values = is_led_by_values
        self.first, self.second, self.third = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        self.is_short = False

    def forward(self, x):
        x = self.first(x).relu()
        if self.is_led_by_values:
            rows = torch.where(x[:, 0] > 0.3)[0]
            x = x.index_add(0, rows, self.second(x[rows]).relu()) if rows.numel() else x
        elif not self.is_short:
            x = self.second(x).relu()
        if not self.training:
            x = x @ torch.ones(8, 8, dtype=x.dtype)
        return self.third(x)


class Program:
    """A model, an optimizer and one step of both; each other method is a step that is something else.

    Each step may have other sizes, or other values that decide what is done.
    """

    step = 0  # of the one that runs

    def __init__(self, kind="alike"):
        torch.manual_seed(0)
        self.kind = kind
        self.model = Net(is_led_by_values=kind == "values")
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.other = torch.optim.SGD(nn.Linear(4, 4).parameters(), lr=1e-3)
        self.x, self.y = torch.randn(6, 8), torch.randint(4, (6,))

    def begin(self, step):
        Program.step = step
        generator = torch.Generator().manual_seed(step)
        rows = {"alike": 6, "values": 6, "sizes": 4 + step * 7 % 23}[self.kind]
        if self.kind != "alike":
            self.x = torch.randn(rows, 8, generator=generator, dtype=self.x.dtype)
            self.y = torch.randint(4, (rows,), generator=generator)

    def loss(self, x=None, y=None):
        return cross_entropy(self.model(self.x if x is None else x), self.y if y is None else y)

    def usual(self):
        self.loss().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def another_shape(self):
        self.loss(self.x[:3], self.y[:3]).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def a_layer_left_out(self):
        self.model.is_short = True
        self.usual()
        self.model.is_short = False

    def two_micro_batches(self):
        self.loss().backward()
        self.usual()

    def no_optimizer(self):
        self.loss().backward()
        self.optimizer.zero_grad()

    def gradients_kept(self):
        self.loss().backward()
        self.optimizer.step()

    def evaluation(self):
        self.model.eval()
        with torch.no_grad():
            self.loss()
        self.model.train()
        self.usual()

    def evaluation_with_gradients(self):
        self.model.eval()
        self.loss().backward()
        self.model.train()
        self.usual()

    def another_gradient(self):
        torch.autograd.grad(self.loss(), list(self.model.third.parameters()))
        self.optimizer.step()

    def no_backward(self):
        self.loss()
        self.usual()

    def autocast(self):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = self.loss()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def an_error(self):
        with contextlib.suppress(RuntimeError):
            self.loss(self.x[:, :5])
        self.usual()

    def vmap(self):
        torch.func.vmap(self.model)(torch.ones(5, 6, 8))
        self.usual()

    def another_optimizer(self):
        self.loss().backward()
        self.optimizer.step()
        for parameter in self.other.param_groups[0]["params"]:
            parameter.grad = torch.ones_like(parameter)
        self.other.step()
        self.optimizer.zero_grad()

    def another_layer(self):
        self.model.fourth = nn.Linear(2, 2)
        self.usual()

    def more_between(self):
        self.usual()
        (torch.ones(4, 4, requires_grad=True) @ torch.ones(4, 4)).sum().backward()

    def inference_mode(self):
        with torch.inference_mode():
            self.model(self.x)
        self.usual()

    def another_type(self):
        self.usual()
        self.model.double()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.x = self.x.double()

    def on_another_thread(self):
        thread = threading.Thread(target=lambda: self.model(self.x))
        thread.start()
        thread.join()
        self.usual()


CHANGES = [
    name for name, value in vars(Program).items() if callable(value) and name not in {"__init__", "loss", "begin"}
]


@pytest.fixture
def turns(monkeypatch):
    """Make every meter one whose hooks are too dear to look much, and count what its laps took in."""
    found = Counter()
    begin = budget.Budget.__init__

    def be_tight(self, *args, **kwargs):
        begin(self, *args, **kwargs)
        self.is_ample = False

    monkeypatch.setattr(budget.Budget, "__init__", be_tight)
    monkeypatch.setattr(budget.Budget, "weigh_hooks", lambda _self, _now: None)
    monkeypatch.setattr(budget.Budget, "one_in", lambda _self, **_costs: 0)
    monkeypatch.setattr(budget.Budget, "can_afford", lambda _self, _calls: True)
    monkeypatch.setattr(lap, "TAPED", 4)
    for name in ("forward", "optimizer", "between"):
        turn = getattr(lap.Lap, name)

        def counted(self, *args, turn=turn, name=name):
            is_taken = turn(self, *args)
            found[name] += is_taken
            return is_taken

        monkeypatch.setattr(lap.Lap, name, counted)
    return found


def meter(folder, change, *, exact, has_steps, kind="alike"):
    program = Program(kind)
    Program.step = 0
    with Meter(folder, model=program.model, exact=exact, strict=True, interval_s=1000) as running:
        for step in range(STEPS):
            program.begin(step)
            getattr(program, change if step == AT else "usual")()
            if has_steps:
                running.step(tokens=6)
    state = [parameter.detach().clone() for parameter in program.model.parameters()]
    return Account.of(folder), state, program


@pytest.mark.parametrize("has_steps", [True, False], ids=["steps told", "steps found"])
@pytest.mark.parametrize("change", CHANGES)
def test_what_breaks_into_a_lap_is_told_or_its_figure_says_that_it_is_not_sure(tmp_path, turns, change, has_steps):
    """If this failed, a run that goes on as before for long would hide whatever comes then."""
    ours, exact = compare(tmp_path, turns, change, has_steps=has_steps)
    if not (ours.passages.get("modelled") or ours.gaps):
        assert ours.flop == exact.flop
    if change == "usual":
        assert ours.passages.get("modelled") is None


@pytest.mark.parametrize("change", CHANGES)
def test_what_breaks_into_a_lap_of_ever_other_sizes_is_told_as_well(tmp_path, turns, change):
    ours, exact = compare(tmp_path, turns, change, has_steps=True, kind="sizes")
    assert ours.passages["interpolated"]
    if not (ours.passages.get("modelled") or ours.gaps):
        assert ours.flop == exact.flop
    if change == "usual":
        assert ours.passages.get("modelled") is None


@pytest.mark.parametrize("change", [change for change in CHANGES if change != "vmap"])  # torch refuses it
def test_what_breaks_into_a_lap_of_ever_other_values_is_told_as_well(tmp_path, turns, change):
    ours, _ = compare(tmp_path, turns, change, has_steps=True, kind="values")
    assert ours.passages["sampled"]


@since_2_10("other counts are due when the budget ends")
@pytest.mark.parametrize("kind", ["alike", "sizes", "values"])
def test_what_the_budget_refuses_to_count_goes_on_in_laps_until_it_does_not(tmp_path, turns, monkeypatch, kind):
    """If this failed, a program that cannot be known within the budget would cost several times it in looks."""
    monkeypatch.setattr(budget.Budget, "can_afford", lambda _self, _calls: not 2 <= Program.step < AT)
    ours, exact = compare(tmp_path, turns, "usual", has_steps=True, kind=kind)
    assert ours.passages["counted"] > 7 + 6, "seven were counted before it was refused"
    assert turns["forward"] > 20
    assert sum(ours.passages.values()) == sum(exact.passages.values())


def compare(folder, turns, change, **ways):
    """Let a program run with laps, and all counted; hold the one against the other."""
    ours, state, program = meter(folder / "ours", change, exact=False, **ways)
    taken = Counter(turns)
    exact, other, _ = meter(folder / "exact", change, exact=True, **ways)
    assert taken["forward"] > 5, "a lap was on"
    assert taken["optimizer"] > 5
    lower, upper = ours.interval
    assert lower <= exact.flop
    assert upper is None or exact.flop <= upper
    if not ours.gaps:  # one that could not be told from its neighbours is a gap
        assert sum(ours.passages.values()) == sum(exact.passages.values())
    assert (ours.steps, ours.tokens) == (exact.steps, exact.tokens)
    assert all(torch.equal(one, two) for one, two in zip(state, other, strict=True))
    hooks = [*program.model._forward_hooks, *program.model._forward_pre_hooks]
    assert hooks == [], "a hook was left behind"
    return ours, exact


def test_a_layer_that_is_exchanged_in_the_second_of_two_models_is_not_booked_as_the_old_one(tmp_path, turns):
    """If this failed, a lap that goes on with the first model would hide what was done to the second."""

    def work(folder, *, exact):
        torch.manual_seed(0)
        first, second = nn.Linear(8, 8).requires_grad_(requires_grad=False), Net()
        optimizer = torch.optim.AdamW(second.parameters())
        with Meter(folder, model=[first, second], exact=exact, strict=True, interval_s=1000) as running:
            for step in range(STEPS):
                if step == AT:
                    second.second = nn.Linear(8, 8, bias=False)
                second(first(torch.ones(6, 8))).sum().backward()
                optimizer.step()
                optimizer.zero_grad()
                running.step(tokens=6)
        return Account.of(folder)

    ours, exact = work(tmp_path / "ours", exact=False), work(tmp_path / "exact", exact=True)
    assert turns["forward"] > 5
    assert ours.flop == exact.flop or ours.passages.get("modelled")


def test_a_flush_in_a_lap_takes_no_hook_of_ours_for_a_change(tmp_path, turns):
    """If this failed, a healthy run would be full of guesses."""
    program = Program()
    with Meter(tmp_path, model=program.model, strict=True, interval_s=1000) as running:
        for step in range(STEPS):
            program.usual()
            running.step(tokens=6)
            if step in {AT, AT + 1, AT + 4}:
                assert turns["forward"] > 0
                running.account()
                running._flush()
    assert not Account.of(tmp_path).passages.get("modelled")


class Ran(nn.Linear):
    """A layer of which it is known how often it ran: not by itself, a module that changes is another program."""

    times = 0

    def forward(self, x):
        Ran.times += 1
        return super().forward(x)


def interrupt_at(line, functions):
    """Return a trace function that raises at the nth line of ours that runs in these functions, and what it saw."""
    seen = [0]

    def trace(frame, event, _):
        if frame.f_code not in functions:
            return None
        if event == "line":
            seen[0] += 1
            if seen[0] == line:
                raise KeyboardInterrupt
        return trace

    return trace, seen


def interrupted_run(folder, line, *, goes_on):
    """Train in laps, interrupted once where one is read or left; return account, forwards that ran, lines met."""
    torch.manual_seed(0)
    model, Ran.times = Ran(8, 4), 0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    functions = {lap.Lap.settle.__code__, Bookkeeper._settle_lap.__code__, Bookkeeper.leave_lap.__code__}
    trace, seen = interrupt_at(line, functions)
    with Meter(folder, model=model, strict=True, interval_s=1000) as running:
        for step in range(STEPS):
            before = sys.gettrace()
            sys.settrace(trace if AT <= step < AT + 6 else before)
            try:
                model(torch.ones(3 if step == AT + 3 else 6, 8)).sum().backward()
                optimizer.step()
                optimizer.zero_grad()
                running.step(tokens=6)
            except KeyboardInterrupt:
                if not goes_on:
                    break
            finally:
                sys.settrace(before)
    return Account.of(folder), Ran.times, seen[0]


@pytest.mark.parametrize("goes_on", [True, False], ids=["goes on", "ends"])
def test_an_interrupt_while_a_lap_is_read_or_left_books_nothing_twice_and_leaves_a_gap(tmp_path, turns, goes_on):
    """If this failed, Ctrl-C in an unlucky microsecond would add work that never ran, or take some in silence."""
    _, _, lines = interrupted_run(tmp_path / "whole", 0, goes_on=True)
    assert turns["forward"] > 5
    assert lines > 40
    for line in sorted({*range(1, lines + 1, 7), *range(1, 30)}):
        account, ran, _ = interrupted_run(tmp_path / str(line), line, goes_on=goes_on)
        products = [one for one in account.tally.counts if one.op == "aten::addmm" and one.kind == "matmul"]
        booked = sum(one.calls for one in products if one.basis != "modelled")  # a guess: its forward may not have run
        assert booked <= ran, line
        assert booked == ran or account.gaps or account.passages.get("modelled"), line


def test_a_failure_of_ours_while_a_lap_is_read_never_reaches_the_run_and_leaves_a_gap(tmp_path, turns, monkeypatch):
    """If this failed, the handler of one failure would meet it again, and raise it into somebody's training."""

    def fail(*_, **__):
        raise RuntimeError("ours")

    program = Program()
    with Meter(tmp_path, model=program.model, interval_s=1000) as running:
        for step in range(STEPS):
            if step == AT:
                assert turns["forward"] > 5
                monkeypatch.setattr(ReplayPlan, "wait_for", fail)
            program.usual()
            running.step(tokens=6)
    account = Account.of(tmp_path)
    assert account.steps == STEPS
    assert {INTERRUPTED} <= {gap.detail for gap in account.gaps}


def test_another_thread_that_runs_the_model_meanwhile_turns_no_lap(tmp_path, turns):
    """If this failed, its forwards would be taken for ours; at worst the process would crash."""
    program, is_done = Program(), threading.Event()

    def serve():
        while not is_done.wait(0.0003):
            with torch.no_grad():
                program.model(program.x)

    with Meter(tmp_path, model=program.model, strict=True, interval_s=1000) as running:
        for step in range(STEPS):
            program.usual()
            running.step(tokens=6)
            if step == AT - 5:
                thread = threading.Thread(target=serve)
                thread.start()
        is_done.set()
        thread.join()
    account = Account.of(tmp_path)
    assert sum(account.passages.values()) == 3 * STEPS + 1
    assert [gap.reason for gap in account.gaps] == ["passage"], "that it ran there is a gap with a name"


def test_a_module_that_another_thread_builds_meanwhile_ends_a_lap_and_disturbs_nothing(tmp_path, turns):
    """If this failed, somebody's loader thread would change our books under the running training."""
    program = Program()
    with Meter(tmp_path, model=program.model, strict=True, interval_s=1000) as running:
        for step in range(STEPS + 10):
            if step == AT:
                taken = turns["forward"]
                thread = threading.Thread(target=lambda: nn.Linear(2, 2))
                thread.start()
                thread.join()
            program.usual()
            running.step(tokens=6)
    account = Account.of(tmp_path)
    assert taken > 5
    assert turns["forward"] > taken, "another lap began"
    assert sum(account.passages.values()) == 3 * (STEPS + 10) + 1
    assert not account.gaps
    assert not account.passages.get("modelled")


def test_steps_that_never_are_alike_are_followed_now_and_then():
    """To follow one costs something, and a program may become regular at any time."""
    trail, draws = Trail(), Draws(1)
    followed = []
    for _ in range(PATIENCE + 4 * FOLLOWED_IN):
        trail.begin_step(None, draws)
        followed.append(trail._legs is not None)
    assert all(followed[:PATIENCE])
    assert sum(followed[PATIENCE:]) == 4 * FOLLOWED
