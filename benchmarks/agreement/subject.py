"""Subject: one model with its training step, built anew from a seed each time it is asked for."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

Step = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Built:
    """What a subject does: one training step, and one forward without gradients where the model has one."""

    step: Step
    eval_step: Step | None = None
    parameters: int = 0


@dataclass(frozen=True, slots=True)
class Subject:
    """A name, and how the model of that name is built; building is seeded, so that two builds do the same work."""

    name: str
    build: Callable[[], Built]


class Table:
    """Subjects of one file, in the order in which they stand there."""

    def __init__(self) -> None:
        """Start with none."""
        self._makers: dict[str, Callable[[], Built]] = {}

    def add(self, maker: Callable[[], Built]) -> Callable[[], Built]:
        """Take a function as a subject under its own name."""
        self._makers[maker.__name__.replace("_", "-")] = maker
        return maker

    def put(self, name: str, maker: Callable[[], Built]) -> None:
        """Take a function as a subject under another name."""
        self._makers[name] = maker

    def __iter__(self) -> Iterator[Subject]:
        """Return the subjects, each seeded."""
        return (Subject(f"torch/{name}", seeded(maker)) for name, maker in self._makers.items())


def seeded(maker: Callable[[], Built]) -> Callable[[], Built]:
    """Return a builder that draws the same weights and data each time."""

    def build() -> Built:
        torch.manual_seed(0)
        return maker()

    return build


def train(
    model: nn.Module,
    loss: Callable[[], torch.Tensor],
    *,
    evaluate: Callable[[], Any] | None = None,
    optimizer: Callable[[Iterable[torch.Tensor]], torch.optim.Optimizer] = torch.optim.AdamW,
    after: Callable[[], Any] = lambda: None,
) -> Built:
    """Return a training step of a model, and its forward in evaluation mode (the loss, where nothing else is said)."""
    steps = optimizer([one for one in model.parameters() if one.requires_grad])
    forward = evaluate or loss

    def step() -> None:
        torch.manual_seed(1)
        model.train()
        loss().backward()
        steps.step()
        steps.zero_grad()
        after()

    def eval_step() -> None:
        model.eval()
        with torch.no_grad():
            forward()

    return Built(step, eval_step, sum(one.numel() for one in model.parameters()))
