"""What only an NVIDIA GPU can settle. Skipped without one; what it finds is written down by `conftest.py`.

Not run on a GPU by its authors yet: a result file here is the proof that it was.
"""

import time

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from flopmeter.account import Account
from flopmeter.meter import Meter
from flopmeter.sensors.nvml import NvmlSampler
from flopmeter.sensors.visible import find_held_uuids

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 32)).cuda()


def train(run_dir, model, *, steps: int = 8, make=lambda: torch.randn(16, 64, device="cuda"), **options) -> Account:
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters())
    with Meter(run_dir, model=model, **options) as meter:
        for _ in range(steps):
            model(make()).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            meter.step(tokens=16)
    return Account.of(run_dir)


def test_backward_on_the_engines_threads_is_counted_and_called_backward(tmp_path, findings):
    """On CUDA the backward runs on other threads: a mode that does not travel there counts a third of a training."""
    account = train(tmp_path, mlp(), exact=True)
    forward = 8 * 2 * 16 * (64 * 128 + 128 * 32)
    backward = 8 * 2 * 16 * (64 * 128 + 2 * 128 * 32)
    findings["backward"] = {name: str(part.contraction_flop) for name, part in account.tally.by("phase").items()}
    assert account.tally.select(phase="forward").contraction_flop == forward
    assert account.tally.select(phase="backward").contraction_flop == backward
    assert not account.gaps


def test_replay_equals_counting(tmp_path, findings):
    ours, exact = train(tmp_path / "a", mlp()), train(tmp_path / "b", mlp(), exact=True)
    findings["replay"] = {"passages": dict(ours.passages), "flop": [str(ours.flop), str(exact.flop)]}
    assert ours.passages["replayed"] > 0
    assert ours.flop == exact.flop


@pytest.mark.parametrize("reentrant", [True, False])
def test_recomputation_on_the_engines_threads_is_recompute_and_no_gap(tmp_path, findings, reentrant):
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = mlp()

        def forward(self, x):
            return checkpoint(self.inner, x, use_reentrant=reentrant)

    model = Checkpointed()

    def make():
        return torch.randn(16, 64, device="cuda", requires_grad=True)

    account = train(tmp_path, model, make=make, exact=True)
    recomputed = account.tally.select(phase="recompute").contraction_flop
    findings[f"recompute, reentrant {reentrant}"] = str(recomputed)
    assert recomputed > 0
    assert not account.gaps


@pytest.mark.parametrize("backend", [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])
@pytest.mark.parametrize("is_causal", [True, False])
def test_every_attention_kernel_is_counted(tmp_path, findings, backend, is_causal):
    """Which of torch's kernels runs depends on the GPU; each must be known by name and by formula."""
    B, H, S, D = 2, 4, 64, 32
    q = torch.randn(B, H, S, D, device="cuda", dtype=torch.float16, requires_grad=True)
    with Meter(tmp_path, exact=True):
        try:
            with sdpa_kernel(backend):
                functional.scaled_dot_product_attention(q, q, q, is_causal=is_causal).sum().backward()
        except RuntimeError as error:
            pytest.skip(f"this GPU has no such kernel: {error}")
    tally = Account.of(tmp_path).tally
    forward = tally.select(phase="forward").contraction_flop
    findings[f"attention {backend.name}, causal {is_causal}"] = {
        "forward": str(forward),
        "uncounted": [seen.op for seen in tally.uncounted],
        "ops": sorted(tally.by("op")),
    }
    pairs = S * (S + 1) // 2 if is_causal and backend is not SDPBackend.MATH else S * S
    assert forward == 2 * 2 * B * H * pairs * D
    assert tally.select(phase="backward").contraction_flop == 2 * forward
    assert not tally.uncounted


@pytest.mark.parametrize(("setting", "precision"), [("tf32", "tf32"), ("ieee", "fp32")])
def test_products_in_tf32_are_called_so(tmp_path, findings, setting, precision):
    """The precision decides which peak a figure is held against."""
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = setting
    try:
        account = train(tmp_path, mlp())
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
    by_precision = {name: part.contraction_flop for name, part in account.tally.by("precision").items()}
    findings[f"precision {setting}"] = {name: str(flop) for name, flop in by_precision.items()}
    assert {name for name, flop in by_precision.items() if flop} == {precision}


def test_losses_and_parameters_are_bit_equal_with_and_without_a_meter(tmp_path):
    def run(meter=None):
        torch.manual_seed(0)
        torch.cuda.manual_seed(0)
        model = nn.Sequential(mlp(), nn.Dropout(0.1))
        optimizer = torch.optim.AdamW(model.parameters())
        if meter is not None:
            meter.watch(model)
        for _ in range(20):
            model(torch.randn(16, 64, device="cuda")).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            if meter is not None:
                meter.step()
        return list(model.parameters()), torch.cuda.get_rng_state()

    parameters, state = run()
    with Meter(tmp_path) as meter:
        metered, metered_state = run(meter)
    assert all(torch.equal(one, two) for one, two in zip(parameters, metered, strict=True))
    assert torch.equal(state, metered_state)


def test_regions_of_a_compiled_model_are_counted(tmp_path, findings):
    """Not run on a GPU yet as it stands: in the result file of 2026-11-26 regions were listed as uncounted."""
    model = torch.compile(mlp())
    account = train(tmp_path, model, steps=4)
    findings["compiled"] = {
        "uncounted": {seen.op: str(seen.calls) for seen in account.tally.uncounted},
        "contraction": str(account.tally.contraction_flop),
        "gaps": [gap.detail for gap in account.gaps],
    }
    assert account.tally.contraction_flop == 4 * 2 * 16 * (2 * 64 * 128 + 3 * 128 * 32)
    assert not account.tally.uncounted
    assert not account.gaps


def test_device_time_and_energy_are_read_from_the_device(tmp_path, findings):
    """Held time may not exceed the wall clock, and a busy second draws more than a watt and less than two kilowatts."""
    model = nn.Linear(4096, 4096, device="cuda")
    begun = time.monotonic_ns()
    with Meter(tmp_path, model=model):
        x = torch.randn(4096, 4096, device="cuda")
        while time.monotonic_ns() - begun < 5_000_000_000:
            with torch.no_grad():
                x = model(x).tanh()
            torch.cuda.synchronize()
    lasted = time.monotonic_ns() - begun
    usage = Account.of(tmp_path).usage
    findings["nvml"] = {"usage": usage.to_wire(), "wall_ns": str(lasted)}
    (device,) = usage.devices
    assert device.uuid.startswith("GPU-")
    assert 2_000_000_000 < device.held_ns <= lasted
    assert device.energy_mj is not None
    watts = device.energy_mj * 1e6 / device.held_ns
    assert 1 < watts < 2000


def test_the_uuid_of_torch_is_the_uuid_of_nvml(findings):
    torch.zeros(1, device="cuda")
    uuids = find_held_uuids()
    sampler = NvmlSampler(lambda: uuids, period_s=0.05)
    sampler.start()
    time.sleep(0.5)
    sampler.stop()
    findings["identity"] = sampler.identities()
    assert set(sampler.identities()) == set(uuids)


def test_the_cpu_alone_bounds_nothing_once_a_gpu_is_used(tmp_path):
    account = train(tmp_path, torch.compile(mlp()), steps=2)
    assert account.upper is None, "no peak of this device is known yet, so nothing bounds what is uncounted"
