"""What NVML does on a device: what our sampler takes for granted, and what nobody has documented. Skipped without one.

Not run on a GPU yet: a result file with these findings is the proof that it was. All of it takes less than five
minutes on one device: `pytest tests/gpu/test_nvml.py tests/gpu/test_probes.py -m "gpu or not gpu"`. Where nobody
knows what is right, a test writes down what it saw and demands only what physics does. The probes are in
`tests/shared/nvml_probes.py`; `test_probes.py` tries them on a script.
"""

import os
import time
from pathlib import Path

import nvml_probes as probes
import pynvml
import pytest
import torch

from flopmeter.devices.peaks import identify, print_device_id
from flopmeter.devices.table import MHZ
from flopmeter.sensors.nvml import NvmlSampler

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

SIDE = 8192
SECONDS = 4
FLOP = 2 * SIDE**3
MUCH = 1.03
"""How far above its maker's word a rate may come: clocks are read at two ends of a stretch."""


def product(kind):
    """Return a function that does one product of two square matrices, or skip where the device or torch has none."""
    if kind == "fp8":
        if torch.cuda.get_device_capability() < (8, 9):
            pytest.skip("this GPU has no fp8")
        a = torch.randn(SIDE, SIDE, device="cuda").to(torch.float8_e4m3fn)
        b = torch.randn(SIDE, SIDE, device="cuda").to(torch.float8_e4m3fn).t()
        one = torch.ones((), device="cuda")
        return lambda: torch._scaled_mm(a, b, scale_a=one, scale_b=one, out_dtype=torch.bfloat16)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}.get(kind, torch.float32)
    a, b = (torch.randn(SIDE, SIDE, device="cuda", dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=out)


def settle(run, seconds):
    """Return how many products take about so long, when the device is warm."""
    run()
    torch.cuda.synchronize()
    begun, count = time.monotonic(), 0
    while time.monotonic() - begun < 1:
        run()
        torch.cuda.synchronize()
        count += 1
    return max(1, int(count * seconds))


@pytest.fixture(scope="module")
def bench():
    torch.zeros(1, device="cuda")
    run = product("bf16")
    run()
    torch.cuda.synchronize()

    def wait(seconds):
        begun = time.monotonic()
        while time.monotonic() - begun < seconds - 0.02:
            run()
            torch.cuda.synchronize()
        time.sleep(max(0.0, begun + seconds - time.monotonic()))

    pynvml.nvmlInit()
    uuid = f"GPU-{torch.cuda.get_device_properties(0).uuid}"
    yield probes.Bench(pynvml, uuid, time.monotonic_ns, wait)
    pynvml.nvmlShutdown()


@pytest.fixture(scope="module")
def part(bench):
    pci = print_device_id(pynvml.nvmlDeviceGetPciInfo(bench.handle).pciDeviceId)
    return identify(device_id=pci, name=pynvml.nvmlDeviceGetName(bench.handle)).part


def capabilities():
    """Return who asks: what an ordinary user may, and root, differ."""
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    params = Path("/proc/driver/nvidia/params")
    lines = params.read_text(encoding="utf-8").splitlines() if params.exists() else []
    return {
        "uid": os.getuid(),
        "effective": next((line.split()[1] for line in status if line.startswith("CapEff")), None),
        "RmProfilingAdminOnly": next((line.split(":")[1].strip() for line in lines if "AdminOnly" in line), None),
    }


def test_every_uuid_of_torch_is_one_of_nvml_and_their_order_is_written_down(bench, findings):
    """Else energy is read from another device than the one that works."""
    handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    theirs = [pynvml.nvmlDeviceGetUUID(handle) for handle in handles]
    ours = [f"GPU-{torch.cuda.get_device_properties(index).uuid}" for index in range(torch.cuda.device_count())]
    findings["nvml, order"] = {"torch": ours, "nvml": theirs, "order": os.environ.get("CUDA_DEVICE_ORDER")}
    assert set(ours) <= set(theirs)
    assert bench.uuid in theirs


def test_fields_answer_to_the_numbers_that_this_driver_gives_them(bench, findings):
    """251 to 253, or 269 to 271: the wrong ones answer, too, with something else."""
    found = probes.read_fields(bench)
    findings["nvml, fields"] = found
    energy = found["fields"]["83: energy"]
    assert energy["code"] == 0
    assert energy["value"] > 0


def test_the_highest_clock_is_beside_the_one_in_our_table(bench, findings, part):
    highest = probes.ask(pynvml, lambda: pynvml.nvmlDeviceGetMaxClockInfo(bench.handle, pynvml.NVML_CLOCK_SM))
    said = {"nvml": highest} if part is None else {"nvml": highest, "part": part.part, "table": part.max_clock_mhz}
    if part is not None and isinstance(highest, int):
        said["peak at it over the stated one"] = {
            name: part.sms * highest * MHZ * rate / part.dense[name]
            for name, rate in part.per_clock.items()
            if part.sms and name in part.dense
        }
    findings["nvml, highest clock"] = said
    if part is not None and part.max_clock_mhz is not None and isinstance(highest, int):
        assert highest == part.max_clock_mhz


def test_the_energy_counter_moves_in_steps_and_agrees_with_the_power_readings(bench, findings):
    """Over a minute under load and some seconds idle; a disagreement of a tenth would be in every report."""
    idle = probes.Bench(bench.library, bench.uuid, bench.clock_ns, time.sleep)
    found = {
        "step": probes.find_step(idle),
        "loaded": probes.compare_energy(bench, seconds=60),
        "idle": probes.compare_energy(idle, seconds=15),
    }
    findings["nvml, energy"] = found
    assert found["step"]["changes"] > 5
    assert 0.9 < found["loaded"]["counter_to_integral"] < 1.1


def test_gpm_is_given_to_this_user_for_a_minute_and_how_its_counters_run(bench, findings):
    """Hopper and newer. By one convention alone every second has to fit, else our reader uses percentages."""
    found = probes.watch_gpm(bench, seconds=45) | {"who": capabilities()}
    findings["nvml, gpm"] = found
    if not found["supported"]:
        pytest.skip("this GPU or driver has no GPM")
    told = found["codes"].get("248: 0", 0)
    if told:
        assert max(found["conventions"].values(), default=0) >= 0.8 * told


RATES = {"bf16": "bf16", "fp16": "fp16", "fp8": "fp8", "tf32": "tf32", "fp64": "fp64_tensor"}


@pytest.mark.parametrize("kind", RATES)
def test_products_take_of_the_tensor_pipes_what_our_table_says(bench, findings, part, kind):
    """FLOP a cycle and SM: all that stands between cycles of pipes and a figure in FLOP, and nobody documents it."""
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        run = product(kind)
        count = settle(run, SECONDS)

        def work():
            for _ in range(count):
                run()
            torch.cuda.synchronize()

        sms = torch.cuda.get_device_properties(0).multi_processor_count
        found = probes.measure_rate(bench, flop=count * FLOP, sms=sms, work=work)
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
    rate = None if part is None else part.per_clock.get(RATES[kind])
    findings[f"nvml, rate of {kind}"] = found | {"table": rate}
    measured = found.get("flop_per_tensor_cycle_and_sm")
    if measured is None:
        pytest.skip("no activity of tensor pipes was told")
    if rate is not None:
        assert measured <= MUCH * rate, "more than its tensor pipes can do: our table or our reading is wrong"


def test_a_reading_of_one_device_costs_what_we_say(bench, findings):
    """At 1 Hz under 0.1 % of a core, so a reading may take a millisecond of it."""
    found = probes.time_reads(bench, cpu_ns=time.thread_time_ns)
    findings["nvml, cost"] = found
    assert found["cpu_median_us"] < 1000


def test_xid_events_and_memory_errors_are_told_to_this_user(bench, findings):
    findings["nvml, health"] = probes.read_health(bench)


def test_our_sampler_tells_all_of_it_together(bench, findings):
    sampler = NvmlSampler(lambda: [bench.uuid])
    sampler.start()
    begun = time.monotonic_ns()
    bench.wait(10)
    sampler.stop()
    lasted = time.monotonic_ns() - begun
    usage = sampler.read()
    findings["nvml, sampler"] = {"usage": usage.to_wire(), "identity": sampler.identities(), "wall_ns": str(lasted)}
    (device,) = usage.devices
    assert 8_000_000_000 < device.held_ns <= lasted
    assert device.basis("energy_mj") == "measured"
    assert device.basis("sm_cycles") == "measured"
    assert device.busy_ns > device.held_ns // 2
