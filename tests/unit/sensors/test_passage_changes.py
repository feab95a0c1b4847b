"""What can change under a passage between two steps: shapes, settings, layers. None of it may be replayed unseen."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint


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


@dataclass
class Batch:
    """An object of the user's that carries tensors."""

    x: torch.Tensor


class SlottedBatch:
    __slots__ = ("x",)

    def __init__(self, x):
        self.x = x


@pytest.mark.parametrize("kind", [Batch, SlottedBatch, lambda x: {"x": [x]}, lambda x: (None, (x, "mask"))])
def test_batch_shapes_change_inside_an_object(replayed_truly, kind):
    """Else shapes that travel in a batch object are invisible, and the figure silently wrong."""

    class Unpack(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = mlp()

        def forward(self, batch):
            if isinstance(batch, dict):
                batch = Batch(batch["x"][0])
            elif isinstance(batch, tuple):
                batch = Batch(batch[1][0])
            return self.inner(batch.x)

    def program(meter):
        model, optimizer = start(meter, Unpack())
        for index in range(18):
            update(meter, optimizer, model(kind(torch.randn(2 + index // 6, 8))).sum())

    replayed_truly(program)


def test_parameters_are_frozen_and_thawed(replayed_truly):
    def program(meter):
        model, optimizer = start(meter, mlp())
        for index in range(24):
            model[0].requires_grad_(index % 6 < 3)
            update(meter, optimizer, model(torch.randn(3, 8)).sum())

    replayed_truly(program, may_be_assumed=True)


def test_the_model_switches_between_train_and_eval(replayed_truly):
    def program(meter):
        model, optimizer = start(meter, nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.BatchNorm1d(8)))
        for index in range(20):
            model.train(index % 3 != 0)
            update(meter, optimizer, model(torch.randn(4, 8)).sum())

    replayed_truly(program)


def test_autocast_is_switched(replayed_truly):
    def program(meter):
        model, optimizer = start(meter, mlp())
        for index in range(16):
            with torch.autocast("cpu", torch.bfloat16, enabled=index % 4 > 1):
                loss = model(torch.randn(4, 8)).sum()
            update(meter, optimizer, loss.float())

    by_precision = replayed_truly(program).tally.by("precision")
    assert by_precision["bf16"].contraction_flop > 0
    assert by_precision["fp32"].contraction_flop > 0


class Checkpointed(nn.Module):
    def __init__(self, *, reentrant: bool):
        super().__init__()
        self.inner, self.last = mlp(), nn.Linear(4, 4)
        self.reentrant, self.is_on = reentrant, True

    def forward(self, x):
        hidden = checkpoint(self.inner, x, use_reentrant=self.reentrant) if self.is_on else self.inner(x)
        return self.last(hidden)


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing_is_switched(replayed_truly, reentrant):
    """No flag tells that a model checkpoints: only the number of autograd nodes gives it away."""

    def program(meter):
        model, optimizer = start(meter, Checkpointed(reentrant=reentrant))
        for index in range(16):
            model.is_on = index % 4 != 0
            update(meter, optimizer, model(torch.randn(3, 8, requires_grad=True)).sum())

    account = replayed_truly(program)
    assert account.tally.select(phase="recompute").contraction_flop % (2 * 3 * 8 * 16) == 0
    assert account.tally.select(phase="recompute").contraction_flop > 0


class Attention(nn.Module):
    def forward(self, q):
        return functional.scaled_dot_product_attention(q, q, q, is_causal=True)


def test_the_attention_kernel_is_switched(replayed_truly):
    """The math kernel computes the whole square: replayed as the fused one it would lose half of the operations."""

    def program(meter):
        model = Attention()
        meter.watch(model)
        for index in range(60):
            kernel = SDPBackend.MATH if index >= 9 else SDPBackend.FLASH_ATTENTION
            with torch.no_grad(), sdpa_kernel(kernel):
                model(torch.randn(1, 2, 6, 8))
            meter.step()

    replayed_truly(program)


def test_layers_are_added_exchanged_and_removed(replayed_truly):
    """Without gradients no autograd node tells of a new layer."""

    def program(meter):
        model = nn.Sequential(nn.Linear(8, 8))
        meter.watch(model)
        for index in range(140):
            if index == 6:
                model.append(nn.Linear(8, 8))
            elif index == 12:
                model[1] = nn.Linear(8, 32)
            elif index == 18:
                del model[1]
            with torch.no_grad():
                model(torch.randn(3, 8))
            meter.step()

    account = replayed_truly(program)
    assert account.tally.contraction_flop == 2 * 3 * (140 * 64 + 6 * 64 + 6 * 8 * 32)


def test_vmap_hides_the_batch(metered):
    """Inside vmap a tensor shows the shape of one sample; what cannot be told apart is counted each time."""

    def program(meter):
        model, _ = start(meter, mlp())
        for index in range(12):
            torch.func.vmap(model)(torch.randn(2 if index < 6 else 5, 8)).sum().backward()
            meter.step()

    ours, exact = metered(program), metered(program, exact=True)
    assert ours.tally.flop == exact.tally.flop
    assert not ours.gaps


def test_functional_gradients_of_samples_are_counted(metered):
    def program(meter):
        model, _ = start(meter, mlp())
        parameters = dict(model.named_parameters())

        def loss_of(given, x):
            return torch.func.functional_call(model, given, (x,)).square().sum()

        for index in range(9):
            torch.func.vmap(torch.func.grad(loss_of), in_dims=(None, 0))(parameters, torch.randn(2 + index // 3, 1, 8))
            meter.step()

    ours, exact = metered(program), metered(program, exact=True)
    assert ours.tally.contraction_flop == exact.tally.contraction_flop > 0
    assert not ours.gaps
