"""A run whose devices cannot be measured, from training to verification, as a user goes through it.

Nothing here is a real driver: the library is the scripted one, or none. What a real one says is for tests/gpu.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flopmeter.cli.main import main
from flopmeter.sensors.driver import SCRIPTED
from flopmeter.testing.fake_clusters import h100
from flopmeter.testing.fake_devices import FakeMachine, Fault
from flopmeter.testing.fake_nvml import FakeNvml

pytest.importorskip("torch")
pytestmark = [pytest.mark.torch, pytest.mark.slow]

CODE = 7
"""What the script ends with: not ours, and not that of any error of ours."""
TRAIN = f"""
import sys, time, torch
from torch import nn
from flopmeter import Meter

torch.set_num_threads(1)
model = nn.Linear(8, 8)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
with Meter("run", model=model, optimizer=optimizer) as meter:
    for _ in range(3):
        model(torch.randn(4, 8)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        meter.step(tokens=4)
    time.sleep(0.3)
sys.exit({CODE})
"""
WITH_CALLBACK = f"""
import logging, sys, warnings
warnings.filterwarnings("ignore")
logging.disable(logging.INFO)  # the framework has much to say
import lightning.pytorch as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from flopmeter.integrations.lightning import FlopmeterCallback

class Task(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = nn.Linear(8, 8)

    def training_step(self, batch, index):
        return self.model(batch[0]).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
trainer = pl.Trainer(max_epochs=1, accelerator="cpu", callbacks=[FlopmeterCallback("run")], **quiet)
trainer.fit(Task(), DataLoader(TensorDataset(torch.randn(12, 8)), batch_size=4))
sys.exit({CODE})
"""
NO_PERMISSION, NOT_LOADED, MISMATCH, UNKNOWN = 4, 9, 18, 999
DEVICE = h100()
STRANGER = "GPU-00000000-0000-0000-0000-000000000000"
NAMED = {"FLOPMETER_DEVICES": DEVICE.uuid}
UNSHARE = ["unshare", "--user", "--map-root-user", "--fork", "--pid", "--mount-proc"]


def machine(*faults: Fault) -> FakeMachine:
    return FakeMachine((DEVICE,), faults=faults)


class Journey:
    """Commands in one folder and one environment, each of which must end without a traceback.

    The training always has a process of its own; the commands have where `is_apart`, else they share this one, which
    sees the same machine.
    """

    def __init__(self, folder: Path, said: pytest.CaptureFixture[str], *, is_apart: bool) -> None:
        self.folder, self.said, self.is_apart = folder, said, is_apart

    def call(self, *command: str, code: int = 0) -> str:
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == code, done.stdout + done.stderr
        assert done.stderr == ""
        assert "Traceback" not in done.stdout
        return done.stdout

    def flopmeter(self, *words: str) -> str:
        if self.is_apart:
            return " ".join(self.call(sys.executable, "-m", "flopmeter", *words).split())
        self.said.readouterr()
        assert main(words) == 0
        printed = self.said.readouterr()
        assert printed.err == ""
        return " ".join(printed.out.split())

    def go(self, *before: str, script: str = TRAIN) -> "Journey":
        """Train, report, attest and verify; keep what each said."""
        (self.folder / "train.py").write_text(script, encoding="utf-8")
        self.call(*before, sys.executable, "train.py", code=CODE)
        self.report = self.flopmeter("report", "run")
        self.summary = json.loads(self.flopmeter("report", "run", "--json"))
        self.flopmeter("keygen", "key")
        self.attest = self.flopmeter("attest", "run", "--key", "key", "--out", "run.json")
        self.verify = self.flopmeter("verify", "run.json", "--key", "key.pub", "--ledger", "run")
        self.doctor = self.flopmeter("doctor")
        flop = int(self.summary["flop"])
        assert flop == 3765 if script == TRAIN else flop > 3072, "products alone are 3072 in either"
        assert f"FLOP executed {flop} FLOP" in self.report
        assert f"verdict: yes: {flop} FLOP" in self.verify
        return self

    def assert_unknown(self, reason: str, *, doctor: str | None = None) -> None:
        """Every figure of devices is null, the reason stands where a reader looks, and no zero stands in for it."""
        usage = self.summary["usage"]
        assert (usage["held_s"], usage["busy_s"], usage["energy_mj"]) == (None, None, None)
        for device in usage["devices"]:
            figures = ("held_ns", "busy_ns", "energy_mj", "power_mj", "sm_cycles", "pipes")
            assert [device[name] for name in figures] == [None] * len(figures)
        (hardware,) = (one for one in self.summary["estimates"] if one["method"] == "hardware")
        assert (hardware["flop"], hardware["lower"], hardware["upper"]) == (None, None, None)
        assert hardware["note"]
        assert reason in self.report
        whose = [
            f"{one['uuid'][:12]}: time, utilisation, energy" for one in usage["devices"] if one["uuid"].isprintable()
        ]
        missing = ["device time and energy: "] if usage["notes"] or not whose else whose
        assert all(f"without {each}" in self.attest for each in missing)
        assert reason in self.attest
        assert (reason if doctor is None else doctor) in self.doctor
        assert usage["host"]["cpu_ns"] is not None
        assert "of processor time" in self.report


@pytest.fixture
def start(tmp_path, monkeypatch, capsys):
    def begin(environment=None, *, is_apart=False):
        for name, value in {"COLUMNS": "100", "NO_COLOR": "1", **(environment or {})}.items():
            if os.environ.get(name) != value:  # what the fake has set it takes back itself
                monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path)
        return Journey(tmp_path, capsys, is_apart=is_apart)

    return begin


def test_without_the_library_the_host_is_all_there_is_and_that_is_said(start, tmp_path):
    """If this failed, a laptop would report zero joules, or nothing, or fall over."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libnvidia-ml.so.1").touch()  # no library, on machines that have one, too
    done = start({"LD_LIBRARY_PATH": str(tmp_path / "lib")}, is_apart=True).go()
    reason = "no NVIDIA driver: NVML Shared Library Not Found"
    done.assert_unknown(reason)
    assert f"NVIDIA devices: {reason}; device time and energy are unknown, not zero" in done.report
    assert "that is all that was measured of the hardware" in done.report
    assert done.summary["usage"]["devices"] == []
    assert done.summary["plausibility"] == []


def test_without_the_binding_the_sentence_names_it(start, tmp_path):
    (tmp_path / "pynvml.py").write_text("raise ModuleNotFoundError(\"No module named 'pynvml'\")\n", encoding="utf-8")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    start({"PYTHONPATH": path}, is_apart=True).go().assert_unknown(
        "nvidia-ml-py is not installed: No module named 'pynvml'"
    )


@pytest.mark.parametrize(
    ("code", "reason", "is_named"),
    [
        (NOT_LOADED, "no NVIDIA driver: Driver Not Loaded", False),
        (NOT_LOADED, "no NVIDIA driver: Driver Not Loaded", True),
        (NO_PERMISSION, "the NVIDIA driver refuses: Insufficient Permissions", True),
        (MISMATCH, "the NVIDIA driver's library and its kernel module are of different versions: ", True),
        (UNKNOWN, "the NVIDIA driver does not answer: Unknown Error", True),
    ],
)
def test_a_driver_that_does_not_open_is_told_from_one_that_is_not_there(start, code, reason, is_named):
    """Else whoever lacks a permission looks for a driver, and whoever has to restart asks for a permission."""
    target = "*" if code == UNKNOWN else "nvmlInit*"
    with FakeNvml(machine(Fault(target, code)), speed=1) as fake:
        done = start({**fake.environment(), **(NAMED if is_named else {})}).go()
    done.assert_unknown(reason)
    assert ("not seen" in done.report) is is_named


def test_a_callback_of_a_framework_is_no_different(start):
    """Else the script that nobody changed is the one that a missing driver breaks."""
    pytest.importorskip("lightning")
    with FakeNvml(machine(Fault("nvmlInit*", NO_PERMISSION)), speed=1) as fake:
        done = start({**fake.environment(), **NAMED}).go(script=WITH_CALLBACK)
    done.assert_unknown("the NVIDIA driver refuses: Insufficient Permissions")


def test_a_device_that_refuses_every_call_is_a_gap_with_a_length(start):
    faults = (Fault("nvmlDevice*", NO_PERMISSION), Fault("nvmlGpm*", NO_PERMISSION))
    with FakeNvml(machine(*faults), speed=1) as fake:
        done = start({**fake.environment(), **NAMED}).go()
    done.assert_unknown("the device did not answer: Insufficient Permissions", doctor="Insufficient Permissions")
    (device,) = done.summary["usage"]["devices"]
    assert int(device["unseen_ns"]) > 0
    assert "nothing is known: it may have done nothing, or all that it can" in done.report


def test_a_device_that_refuses_some_calls_tells_the_rest(start):
    """Else a container without one right loses all that it may see, or shows a refused counter as none."""
    refused = ("nvmlDeviceGetTotalEnergyConsumption", "field:83", "nvmlGpm*")
    with FakeNvml(machine(*(Fault(name, NO_PERMISSION) for name in refused)), speed=1) as fake:
        done = start({**fake.environment(), **NAMED}).go()
    (device,) = done.summary["usage"]["devices"]
    assert (device["energy_mj"], device["pipes"]) == (None, None)
    assert min(int(device[name]) for name in ("held_ns", "busy_ns", "power_mj", "sm_cycles")) > 0
    for what in ("energy", "pipe activity"):
        sentence = f"{what} could not be read: Insufficient Permissions"
        assert all(sentence in said for said in (done.report, done.doctor))
    assert f"without {DEVICE.uuid[:12]}: energy (energy could not be read: " in done.attest


@pytest.mark.parametrize("named", [STRANGER, " ;;, \x07é,"], ids=["a stranger", "garbage"])
def test_names_of_devices_that_are_not_there_are_said_to_be_unknown(start, named):
    """Else a misspelt UUID is a run that used no device."""
    with FakeNvml(machine(), speed=1) as fake:
        done = start({**fake.environment(), "FLOPMETER_DEVICES": named}).go()
    done.assert_unknown("the driver lists no device with this UUID here")
    assert all(word.isprintable() for word in done.report.split())


def test_a_process_that_used_no_device_says_so(start):
    with FakeNvml(machine(), speed=1) as fake:
        done = start({**fake.environment(), "FLOPMETER_DEVICES": " , "}).go()
    done.assert_unknown("no CUDA device was found held by this process, so none was sampled", doctor=DEVICE.uuid)


def test_devices_of_a_script_are_said_to_be_one_wherever_they_stand(start, tmp_path):
    """Else a demo's attestation is evidence of eight H100s."""
    with FakeNvml(machine(), speed=1) as fake:
        done = start({**fake.environment(), **NAMED}).go()
    assert done.summary["usage"]["devices"][0]["held_ns"] is not None
    assert done.summary["usage"]["notes"] == [SCRIPTED]
    assert done.summary["usage"]["devices"][0]["identity"]["named_by"] == "FLOPMETER_DEVICES"
    assert f"NVIDIA devices: {SCRIPTED}" in done.report
    assert "devices named by FLOPMETER_DEVICES, whether the run used them or not: all of them" in done.report
    assert f"without device time and energy: {SCRIPTED}" in done.attest
    assert SCRIPTED in done.verify
    assert SCRIPTED in done.doctor
    assert SCRIPTED in "".join(file.read_text() for file in (tmp_path / "run" / "ledger").glob("*.jsonl"))


def test_in_a_pid_namespace_devices_are_measured_all_the_same(start):
    """Numbers of processes mean nothing there: whoever went by them would take our own work for somebody else's."""
    if (
        shutil.which("unshare") is None
        or subprocess.run([*UNSHARE, "true"], check=False, capture_output=True).returncode
    ):
        pytest.skip("no PID namespace can be made here: unshare is missing or not permitted")
    with FakeNvml(machine(), speed=1) as fake:
        done = start({**fake.environment(), **NAMED}).go(*UNSHARE)
    (device,) = done.summary["usage"]["devices"]
    assert min(int(device[name]) for name in ("held_ns", "busy_ns", "energy_mj", "sm_cycles")) > 0
    assert device["note"] == ""
    assert done.attest.count("without") == 1, "that they are a script, and nothing else"
    assert f"without device time and energy: {SCRIPTED}" in done.attest
