"""The dispatch hook without autograd's layer, where torch hands composite operators over whole."""

from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from torch import nn

from flopmeter import Account, Meter
from flopmeter.formulas.call import TensorSpec
from flopmeter.sensors.shadows import rows_of
from flopmeter.sensors.torch_ops import OpRecorder


def meter_once(run_dir: Path, without_gradients: AbstractContextManager[object]) -> tuple[Account, list[torch.Tensor]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(4, 8, 3), nn.GroupNorm(2, 8), nn.Flatten(), nn.Linear(8 * 14, 16), nn.SiLU()).eval()
    with Meter(run_dir, model=model, exact=True, strict=True), without_gradients:
        query = torch.ones(1, 2, 6, 8)
        outs = [
            model(torch.ones(3, 4, 16)),
            nn.functional.scaled_dot_product_attention(query, query, query, is_causal=True),
            nn.functional.cross_entropy(torch.ones(4, 5), torch.zeros(4, dtype=torch.long)),
        ]
    return Account.of(run_dir), outs


def test_inference_mode_counts_what_no_grad_counts(tmp_path: Path) -> None:
    """If this failed, whoever generates data under inference mode would generate it for nothing."""
    plain, outs = meter_once(tmp_path / "plain", torch.no_grad())
    inference, same = meter_once(tmp_path / "inference", torch.inference_mode())
    assert plain.tally.uncounted == inference.tally.uncounted == ()
    assert {op: part.flop for op, part in plain.tally.by("op").items() if part.flop} == {
        op: part.flop for op, part in inference.tally.by("op").items() if part.flop
    }
    assert all(torch.equal(one, other) for one, other in zip(outs, same, strict=True))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage:UserWarning")
def test_nested_tensors_are_uncounted_with_their_elements(tmp_path: Path) -> None:
    """If this failed, work on packed sequences would be a fault of ours, or nothing."""
    with Meter(tmp_path):
        packed = torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(4, 3)])
        _ = packed + packed
    (seen,) = [seen for seen in Account.of(tmp_path).tally.uncounted if seen.op == "nested::aten.add"]
    assert (seen.calls, seen.elements) == (1, 18)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage:UserWarning")
def test_a_nested_tensor_is_kept_as_the_list_of_its_tensors() -> None:
    """If this failed, a batch would cost what the batch before it cost, whose sequences were longer."""
    recorder = OpRecorder(lambda: "other", pytest.fail)
    packed = torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(4, 3)])
    with recorder:
        packed.to_padded_tensor(0.0)
    assert recorder.has_values
    (row,) = rows_of(recorder.take())
    assert row.call.args[0] == (TensorSpec((2, 3)), TensorSpec((4, 3)))
    assert row.call.out == (TensorSpec((2 * 4 * 3,)),)


def test_an_infinite_order_is_kept(tmp_path: Path) -> None:
    """If this failed, the largest element would be priced as a root of sums."""
    with Meter(tmp_path, strict=True):
        torch.linalg.vector_norm(torch.ones(10), ord=float("inf"))
    finite = Account.of(tmp_path).tally.select(op="aten::linalg_vector_norm").flop
    assert 0 < finite <= 10
