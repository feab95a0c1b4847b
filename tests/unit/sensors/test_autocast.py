"""Autocast inside of operators: the hook must not take it away, and must not give it where torch has taken it."""

import pytest
import torch
from torch.nn import functional

from flopmeter.sensors import autocast
from flopmeter.sensors.shadows import rows_of
from flopmeter.sensors.torch_ops import OpRecorder

SQUARE = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
BATCH = torch.stack([SQUARE, SQUARE.t()])

CALL_PRODUCTS = {
    "einsum": lambda: torch.einsum("bij,bjk->bik", BATCH, BATCH),
    "tensordot": lambda: torch.tensordot(BATCH, BATCH, dims=([2], [1])),
    "inner": lambda: torch.inner(BATCH, BATCH),
    "pinv": lambda: torch.linalg.pinv(SQUARE),
    "bilinear": lambda: functional.bilinear(SQUARE, SQUARE, torch.ones(3, 4, 4)),
    "sparse product": lambda: torch.sparse.mm(SQUARE.to_sparse(), SQUARE),
}
DO_THEIR_OWN = {
    "mm": lambda: SQUARE @ SQUARE,
    "linear": lambda: functional.linear(BATCH, SQUARE, SQUARE[0]),
    "attention": lambda: functional.scaled_dot_product_attention(BATCH, BATCH, BATCH),
    "softmax": lambda: (SQUARE @ SQUARE).softmax(-1),
    "loss": lambda: functional.cosine_embedding_loss(SQUARE @ SQUARE, SQUARE, torch.ones(4)),
    "distances": lambda: torch.cdist(torch.cat([SQUARE] * 9), torch.cat([SQUARE] * 9)),
    "norm": lambda: functional.layer_norm(SQUARE @ SQUARE, [4]),
}


def noted(program):
    failures: list[Exception] = []
    recorder = OpRecorder(lambda: "forward", failures.append)
    with recorder:
        out = program()
    assert not failures
    return out, rows_of(recorder.take())


@pytest.mark.parametrize("is_inference", [False, True])
@pytest.mark.parametrize("name", [*CALL_PRODUCTS, *DO_THEIR_OWN])
def test_the_same_bits_in_the_same_precision(name, is_inference):
    """If this failed, a metered model would answer in another precision than the same model unmetered."""
    program = {**CALL_PRODUCTS, **DO_THEIR_OWN}[name]
    with torch.inference_mode(is_inference), torch.autocast("cpu", torch.bfloat16):
        plain = program()
        (out, _) = noted(program)
    assert out.dtype == plain.dtype
    assert torch.equal(out, plain)


def test_products_inside_are_counted_in_the_precision_in_which_they_ran():
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        _, rows = noted(CALL_PRODUCTS["einsum"])
    assert [row.call.precision for row in rows if row.call.op == "aten::bmm"] == ["bf16"]


def test_the_state_comes_back_whatever_happens():
    before = torch._C._dispatch_tls_local_exclude_set().raw_repr()
    key = torch._C.DispatchKey.AutocastCPU
    seen = []

    def fail():
        seen.append(torch.is_autocast_enabled("cpu"))
        raise LookupError

    with pytest.raises(LookupError), autocast.switched_on((key,)):
        fail()
    assert seen == [True]
    assert torch._C._dispatch_tls_local_exclude_set().raw_repr() == before
    assert not torch.is_autocast_enabled("cpu")


def test_an_operator_that_casts_by_itself_is_done_with_it():
    key = torch._C.DispatchKey.AutocastCPU
    assert autocast.keys_inside(torch.ops.aten.mm.default, (key,)) == ()
    assert autocast.keys_inside(torch.ops.aten.einsum.default, (key,)) == (key,)
