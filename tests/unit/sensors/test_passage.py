"""A replayed passage is the one that ran: programs counted throughout, against the same programs replayed."""

import copy
import threading

import pytest
import torch
from torch import nn
from torch.nn import functional

from flopmeter import Meter


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4))


def start(meter, model, kind=torch.optim.AdamW):
    meter.watch(model)
    return model, kind(model.parameters(), lr=0.01)


def update(meter, optimizer, loss, *, tokens: int = 0) -> None:
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    meter.step(tokens=tokens)


def test_steady_training_is_replayed(replayed_truly):
    def program(meter):
        model, optimizer = start(meter, mlp())
        for _ in range(8):
            loss = functional.cross_entropy(model(torch.randn(6, 8)), torch.zeros(6, dtype=torch.long))
            update(meter, optimizer, loss, tokens=6)

    account = replayed_truly(program)
    assert (account.steps, account.tokens) == (8, 48)
    # forward 2·6·(8·16 + 16·4), as much for the weights' gradients, and 2·6·16·4 for the hidden layer's
    assert account.tally.contraction_flop == 8 * (2 * 2 * 6 * (8 * 16 + 16 * 4) + 2 * 6 * 16 * 4)


def test_batch_shapes_change(replayed_truly):
    """Else a run with bucketed lengths is billed as if every batch had the size of the first."""

    def program(meter):
        model, optimizer = start(meter, mlp())
        for index in range(20):
            update(meter, optimizer, model(torch.randn(2 + index % 3, 8)).sum())

    replayed_truly(program)


@pytest.mark.parametrize("explicit", [True, False])
def test_gradients_are_accumulated_and_the_last_accumulation_is_shorter(replayed_truly, explicit):
    def program(meter):
        model, optimizer = start(meter, mlp())
        for index in range(12):
            for _ in range(2 if index % 4 == 3 else 4):
                model(torch.randn(3, 8)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            if explicit:
                meter.step()

    assert replayed_truly(program).steps == 12


def test_evaluation_runs_between_steps(replayed_truly):
    def program(meter):
        model, optimizer = start(meter, mlp())
        for index in range(12):
            update(meter, optimizer, model(torch.randn(3, 8)).sum())
            if index % 3 == 0:
                model.eval()
                with torch.no_grad(), meter.purpose("evaluation"):
                    for size in (5, 5, 2):
                        functional.mse_loss(model(torch.randn(size, 8)), torch.zeros(size, 4))
                model.train()

    account = replayed_truly(program)
    assert account.tally.select(phase="inference").contraction_flop == 4 * 2 * 12 * (8 * 16 + 16 * 4)
    assert account.tally.select(purpose="evaluation", phase="backward").flop == 0


def test_two_models_train_each_other(replayed_truly):
    def program(meter):
        maker, judge = mlp(), nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
        meter.watch([maker, judge])
        of_maker, of_judge = torch.optim.Adam(maker.parameters()), torch.optim.SGD(judge.parameters(), lr=0.01)
        for _ in range(10):
            made = maker(torch.randn(3, 8))
            (judge(torch.randn(3, 4)).mean() - judge(made.detach()).mean()).backward()
            of_judge.step()
            of_judge.zero_grad()
            judge(made).mean().backward()
            of_maker.step()
            of_maker.zero_grad()
            of_judge.zero_grad()
            meter.step()

    assert replayed_truly(program).steps == 10


def test_several_optimizers_take_turns(replayed_truly):
    def program(meter):
        model = mlp()
        meter.watch(model)
        first = torch.optim.AdamW(model[0].parameters())
        second = torch.optim.SGD(model[2].parameters(), lr=0.1, momentum=0.9)
        for index in range(16):
            model(torch.randn(3, 8)).sum().backward()
            (first if index % 3 else second).step()
            if index % 2:
                second.step()
            model.zero_grad()
            meter.step()

    replayed_truly(program)


class Fragile(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.last = mlp(), nn.Linear(4, 4)
        self.error: BaseException | None = None

    def forward(self, x):
        hidden = self.inner(x)
        if self.error is not None:
            raise self.error
        return self.last(hidden)


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_a_forward_that_fails_is_never_replayed_unseen(metered, kind):
    """The first failure after replay began is a guess and called one; the interval holds the truth all the while."""

    def program(meter):
        model, optimizer = start(meter, Fragile())
        for index in range(20):
            model.error = kind() if index % 5 == 4 else None
            try:
                update(meter, optimizer, model(torch.randn(3, 8)).sum())
            except kind:
                optimizer.zero_grad()
                meter.step()

    ours, exact = metered(program), metered(program, exact=True)
    assert ours.passages["replayed"] > 5
    assert sum(ours.passages.values()) == sum(exact.passages.values()), "a failure must not hide later passages"
    assert ours.lower <= exact.flop <= ours.upper
    assert ours.steps == 20


def test_a_backward_that_fails_is_never_replayed_unseen(metered):
    def program(meter):
        model, optimizer = start(meter, mlp())

        def refuse(_gradient):
            raise ValueError

        for index in range(20):
            out = model(torch.randn(3, 8))
            if index % 5 == 4:
                out.register_hook(refuse)
            try:
                update(meter, optimizer, out.sum())
            except ValueError:
                meter.step()

    ours, exact = metered(program), metered(program, exact=True)
    assert ours.passages["modelled"] >= 1
    assert ours.lower <= exact.flop <= ours.upper


def test_clipping_and_an_average_of_weights_are_part_of_the_count(replayed_truly):
    def program(meter):
        model, optimizer = start(meter, mlp())
        average = copy.deepcopy(model)
        for _ in range(10):
            model(torch.randn(3, 8)).sum().backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad():
                for kept, now in zip(average.parameters(), model.parameters(), strict=True):
                    kept.lerp_(now, 0.1)
            meter.step()

    account = replayed_truly(program)
    parameters = 8 * 16 + 16 + 16 * 4 + 4
    average = account.tally.select(op="aten::lerp_", phase="other")
    assert (average.calls, average.flop) == (10 * 4, 10 * 3 * parameters)


def call_a_closure(kind):
    def program(meter):
        model, optimizer = start(meter, mlp(), kind)
        x = torch.randn(3, 8)

        def closure():
            optimizer.zero_grad()
            loss = model(x).square().sum()
            loss.backward()
            return loss

        for _ in range(10):
            optimizer.step(closure)
            meter.step()

    return program


def test_an_optimizer_calls_a_closure(replayed_truly):
    account = replayed_truly(call_a_closure(torch.optim.SGD))
    assert account.tally.select(phase="optimizer").flop > 0
    assert account.tally.select(phase="forward").contraction_flop > 0


def test_an_optimizer_that_calls_a_closure_as_often_as_it_likes_stays_in_the_interval(metered):
    program = call_a_closure(torch.optim.LBFGS)
    ours, exact = metered(program), metered(program, exact=True)
    assert ours.passages["replayed"]
    assert ours.lower <= exact.flop <= ours.upper


def test_gradients_are_asked_for_without_backward(replayed_truly):
    def program(meter):
        model, _ = start(meter, mlp())
        parameters = list(model.parameters())
        for _ in range(10):
            gradients = torch.autograd.grad(model(torch.randn(3, 8)).square().sum(), parameters)
            with torch.no_grad():
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.sub_(gradient, alpha=0.01)
            meter.step()

    replayed_truly(program)


def test_gradients_of_a_part_alone_are_no_replay_of_gradients_of_all(metered):
    """`autograd.grad` leaves no gradient behind; a hook on either end tells how far it went."""

    def program(meter):
        model, _ = start(meter, mlp())
        for index in range(12):
            wanted = list(model.parameters()) if index < 6 else list(model[2].parameters())
            torch.autograd.grad(model(torch.randn(3, 8)).square().sum(), wanted)
            meter.step()

    ours, exact = metered(program), metered(program, exact=True)
    assert ours.passages["replayed"]
    assert ours.passages["modelled"] == 1, "the first one that went less far was noticed when it had run"
    assert ours.lower <= exact.flop <= ours.upper


def test_gradients_of_gradients(replayed_truly):
    def program(meter):
        model, optimizer = start(meter, nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1)))
        for index in range(16):
            x = torch.randn(3, 8, requires_grad=True)
            out = model(x).sum()
            if index % 4:
                (gradient,) = torch.autograd.grad(out, x, create_graph=True)
                out = out + gradient.square().sum()
            update(meter, optimizer, out)

    replayed_truly(program, may_be_assumed=True)  # the first kind was counted once, as a warm-up


def test_what_runs_between_forwards_of_inference_mode_is_not_counted_for_ever(tmp_path):
    """The end of such a block finds the mode as its beginning left it; the chain must break where no block is open."""
    model, x = nn.Linear(8, 4), torch.ones(3, 8)
    counted = []
    with Meter(tmp_path, model=model, strict=True) as meter:
        for turn in range(1, 61):
            with torch.inference_mode():
                for _ in range(3):
                    model(x) @ torch.ones(4, 4)
            meter.step()
            if turn in {40, 60}:
                counted.append(meter.account().passages["counted"])
    assert counted[1] - counted[0] <= 6, "the reading of the account begins one such block anew"


def test_inference_mode(replayed_truly):
    def program(meter):
        model, _ = start(meter, mlp())
        for _ in range(50):
            with torch.inference_mode():
                model(torch.randn(3, 8))
            meter.step()

    account = replayed_truly(program)
    assert account.tally.contraction_flop == account.tally.select(phase="inference").contraction_flop


def test_an_optimizer_steps_inside_the_backward(replayed_truly):
    """The engine puts back the modes that it found: a boundary in there would leave the counter off without a word."""

    def program(meter):
        model = mlp()
        meter.watch(model)
        average = copy.deepcopy(model)
        of = {parameter: torch.optim.SGD([parameter], lr=0.01, momentum=0.9) for parameter in model.parameters()}

        def step_at_once(parameter):
            of[parameter].step()
            of[parameter].zero_grad()

        for parameter in model.parameters():
            parameter.register_post_accumulate_grad_hook(step_at_once)
        for _ in range(12):
            model(torch.randn(3, 8)).sum().backward()
            with torch.no_grad():
                for kept, now in zip(average.parameters(), model.parameters(), strict=True):
                    kept.lerp_(now, 0.1)
            meter.step()

    account = replayed_truly(program)
    assert account.tally.select(phase="optimizer").flop > 0
    assert account.tally.select(op="aten::lerp_", phase="other").calls == 12 * 4


def test_a_forward_on_another_thread_is_counted_and_yet_a_gap(metered):
    def program(meter):
        model, optimizer = start(meter, mlp())
        worker = threading.Thread(target=lambda: model(torch.randn(3, 8)))
        worker.start()
        worker.join()
        update(meter, optimizer, model(torch.randn(3, 8)).sum())

    account = metered(program)
    (gap,) = account.gaps
    assert "another thread" in gap.detail
    assert account.upper is None, "nobody knows how much ran there"
    assert account.tally.select(phase="forward").contraction_flop == 2 * 2 * 3 * (8 * 16 + 16 * 4)
