"""A known-answer test of the counter on this torch build: a few products whose cost is known by hand.

Runs on the CPU with constant tensors; draws no random number and touches no setting of the user's.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.utils._python_dispatch import _disable_current_modes

from flopmeter import wire
from flopmeter.formulas.book import FormulaBook
from flopmeter.sensors.shadows import rows_of
from flopmeter.sensors.torch_ops import OpRecorder
from flopmeter.sensors.torch_phase import PhaseTracker
from flopmeter.tally import Tally


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One question, the known answer and what was counted.

    Units: FLOP of products.
    """

    name: str
    expected_flop: int
    counted_flop: int

    @property
    def is_right(self) -> bool:
        """Say whether the counter knows."""
        return self.expected_flop == self.counted_flop

    def to_wire(self) -> dict[str, wire.Wire]:
        """Return the fields as the ledger keeps them."""
        return {
            "name": self.name,
            "expected_flop": wire.print_count(self.expected_flop),
            "counted_flop": wire.print_count(self.counted_flop),
        }


@dataclass(frozen=True, slots=True)
class SelfTest:
    """All answers, and on which torch."""

    torch_version: str
    answers: tuple[Answer, ...]

    @property
    def has_passed(self) -> bool:
        """Say whether every answer is right."""
        return all(answer.is_right for answer in self.answers)

    def to_wire(self) -> dict[str, wire.Wire]:
        """Return the fields as the ledger keeps them."""
        return {
            "passed": self.has_passed,
            "torch": self.torch_version,
            "answers": [answer.to_wire() for answer in self.answers],
        }


def run_self_test(book: FormulaBook) -> SelfTest:
    """Count a linear layer and causal attention, forward and backward, and compare with the sums by hand.

    Source: 2·M·N·K per product; attention over S(S+1)/2 pairs of a causal square, docs/spec/fm-1.md.
    """
    recorder = OpRecorder(PhaseTracker().now, _raise)
    with _alone(), torch.inference_mode(mode=False), torch.enable_grad(), torch.autocast("cpu", enabled=False):
        inputs = torch.ones(8, 16, dtype=torch.float32, device="cpu", requires_grad=True)
        weight = torch.ones(4, 16, dtype=torch.float32, device="cpu", requires_grad=True)
        query = torch.ones(1, 2, 6, 8, dtype=torch.float32, device="cpu", requires_grad=True)
        with recorder:
            torch.nn.functional.linear(inputs, weight).sum().backward()
            linear = recorder.take()
            # two steps, so that the answers do not depend on a backward formula of one kernel alone
            out = torch.nn.functional.scaled_dot_product_attention(query, query, query, is_causal=True)
            forward = recorder.take()
            out.sum().backward()
            backward = recorder.take()
    pairs = 2 * 6 * 7 // 2
    product = 2 * pairs * 8
    counted = [_count(book, calls) for calls in (linear, forward, backward)]
    known = (
        ("linear layer, forward and backward", 3 * 2 * 8 * 4 * 16, counted[0].contraction_flop),
        ("causal attention, forward", 2 * product, counted[1].contraction_flop),
        ("causal attention, backward", 4 * product, counted[2].select(phase="backward").contraction_flop),
    )
    answers = tuple(Answer(name=name, expected_flop=right, counted_flop=ours) for name, right, ours in known)
    return SelfTest(torch.__version__, answers)


@contextmanager
def _alone() -> Iterator[None]:
    """Take all modes of the user's off for a moment, other meters too, and their hooks on tensors that autograd saves.

    The hooks on top are those that autograd asks: ours hand everything on as it is.
    """
    graph = torch._C._autograd  # noqa: SLF001
    with torch._C.DisableTorchFunction(), _disable_current_modes():  # noqa: SLF001
        before = graph._saved_tensors_hooks_get_disabled_error_message()  # noqa: SLF001
        graph._saved_tensors_hooks_enable()  # noqa: SLF001
        try:
            with torch.autograd.graph.saved_tensors_hooks(_same, _same):
                yield
        finally:
            if before is not None:
                graph._saved_tensors_hooks_disable(before)  # noqa: SLF001


def _same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _count(book: FormulaBook, calls: dict[tuple[object, ...], int]) -> Tally:
    total = Tally()
    for row in rows_of(calls):
        total += book.count(row.call, calls=row.calls, phase=row.phase)
    return total


def _raise(error: Exception) -> None:
    raise error
