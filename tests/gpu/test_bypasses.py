"""Kernels past the dispatcher on a device: those of the libraries that are installed.

Not run on a GPU by its authors yet: a result file here is the proof that it was. Skipped without an NVIDIA GPU, and
each test without its library.
"""

import pytest
import torch

from flopmeter.account import Account
from flopmeter.meter import Meter

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

T, K, N = 64, 128, 256


def metered(run_dir, work) -> Account:
    with Meter(run_dir, exact=True):
        work()
    return Account.of(run_dir)


def report(findings, name, account) -> None:
    findings[name] = {
        "products": {
            precision: str(part.contraction_flop) for precision, part in account.tally.by("precision").items()
        },
        "uncounted": {one.op: str(one.calls) for one in account.tally.uncounted},
        "gaps": [gap.detail for gap in account.gaps],
    }


def test_launches_of_triton_are_heard_with_what_they_declare(tmp_path, findings, monkeypatch):
    triton = pytest.importorskip("triton")
    (tmp_path / "kernels_of_a_test.py").write_text(
        "import triton\nimport triton.language as tl\n"
        "def scale(x, n, SIZE: tl.constexpr):\n"
        "    at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)\n"
        "    tl.store(x + at, tl.load(x + at, mask=at < n) * 2, mask=at < n)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import kernels_of_a_test

    plain = triton.jit(kernels_of_a_test.scale)
    told = triton.jit(kernels_of_a_test.scale, launch_metadata=lambda *_: {"name": "scale", "flops32": 64})
    x = torch.ones(64, device="cuda")

    def work() -> None:
        for kernel in (plain, told, told):
            kernel[4,](x, 64, SIZE=16)

    account = metered(tmp_path / "run", work)
    report(findings, "triton", account)
    assert (x == 8).all()
    assert {one.op: one.calls for one in account.tally.uncounted} == {"triton::scale": 1}
    assert account.tally.select(basis="declared").flop == 2 * 64
    assert not account.gaps


def test_weight_gradients_of_apex(tmp_path, findings):
    apex = pytest.importorskip("fused_weight_gradient_mlp_cuda")
    x, dy = (torch.ones(T, width, device="cuda", dtype=torch.bfloat16) for width in (K, N))
    main = torch.zeros(N, K, device="cuda")
    account = metered(tmp_path, lambda: apex.wgrad_gemm_accum_fp32(x, dy, main))
    report(findings, "apex", account)
    assert (main == T).all()
    assert account.tally.select(precision="bf16").contraction_flop == 2 * T * K * N


@pytest.mark.parametrize("recipe", [None, "DelayedScaling", "MXFP8BlockScaling"])
def test_layers_of_transformer_engine(tmp_path, findings, recipe):
    """Its products are the layer's three, whatever its formats."""
    te = pytest.importorskip("transformer_engine.pytorch")
    from transformer_engine.common import recipe as recipes

    layer = te.Linear(K, N, params_dtype=torch.bfloat16)
    x = torch.ones(T, K, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    is_quantized = recipe is not None
    if is_quantized and not hasattr(recipes, recipe):
        pytest.skip(f"this version has no {recipe}")
    chosen = getattr(recipes, recipe)() if is_quantized else None

    def work() -> None:
        try:
            with te.fp8_autocast(enabled=is_quantized, fp8_recipe=chosen):
                layer(x).sum().backward()
        except (RuntimeError, AssertionError) as error:
            pytest.skip(f"this GPU has no {recipe}: {error}")

    account = metered(tmp_path, work)
    report(findings, f"transformer engine, {recipe}", account)
    assert account.tally.contraction_flop == 3 * 2 * T * K * N
    assert account.tally.select(phase="forward").contraction_flop == 2 * T * K * N


def test_products_of_groups(tmp_path, findings):
    ops = pytest.importorskip("grouped_gemm.ops")
    a = torch.ones(T, K, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    b = torch.ones(2, K, N, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    account = metered(tmp_path, lambda: ops.gmm(a, b, torch.tensor([24, T - 24]), False).sum().backward())
    report(findings, "grouped_gemm", account)
    assert account.tally.contraction_flop == 3 * 2 * T * K * N


def test_products_of_deepgemm(tmp_path, findings):
    deep = pytest.importorskip("deep_gemm")
    a, b = (torch.ones(rows, K, device="cuda", dtype=torch.bfloat16) for rows in (T, N))
    d = torch.empty(T, N, device="cuda", dtype=torch.bfloat16)
    account = metered(tmp_path, lambda: deep.bf16_gemm_nt(a, b, d))
    report(findings, "deep_gemm", account)
    assert (d == K).all()
    assert account.tally.contraction_flop == 2 * T * K * N
