"""Which process reads a device that several hold; tried with processes that end as they do."""

import os
import subprocess
import sys
import time

import pytest

from flopmeter.sensors import claims
from flopmeter.sensors.claims import DeviceClaims

UUID = "GPU-1"
HOLD = """import sys, time
from pathlib import Path
from flopmeter.sensors.claims import DeviceClaims
print(DeviceClaims("run", Path(sys.argv[1])).take("GPU-1"), flush=True)
time.sleep(60)"""


@pytest.fixture
def other(tmp_path):
    """Another process of the run, which reads the device until it is killed."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        assert process.stdout.readline() == "True\n"
        yield process
        process.kill()


def test_a_device_is_read_by_one_process_of_a_run(tmp_path, other):
    ours = DeviceClaims("run", tmp_path)
    assert not ours.take(UUID)
    assert ours.take("GPU-2")
    assert DeviceClaims("another run", tmp_path).take(UUID)


def test_whoever_is_killed_leaves_its_devices_to_others(tmp_path, other):
    """Else a rank that is restarted never sees the device again."""
    ours = DeviceClaims("run", tmp_path)
    assert not ours.take(UUID)
    other.kill()
    other.wait()
    assert ours.take(UUID)


def test_what_is_not_held_any_more_is_for_others(tmp_path):
    ours = DeviceClaims("run", tmp_path)
    assert ours.take(UUID)
    ours.keep([])
    command = [sys.executable, "-c", HOLD.replace("time.sleep(60)", ""), str(tmp_path)]
    taken = subprocess.run(command, capture_output=True, text=True, check=True)
    assert taken.stdout == "True\n"


def test_a_forked_child_keeps_nobody_from_a_device(tmp_path):
    """Else a worker that outlives its parent keeps the device from the next rank."""
    ours = DeviceClaims("run", tmp_path)
    assert ours.take(UUID)
    sleeper = os.fork()
    if not sleeper:
        time.sleep(60)
        os._exit(0)
    try:
        ours.keep([])
        command = [sys.executable, "-c", HOLD.replace("time.sleep(60)", ""), str(tmp_path)]
        taken = subprocess.run(command, capture_output=True, text=True, check=True)
        assert taken.stdout == "True\n"
    finally:
        os.kill(sleeper, 9)
        os.waitpid(sleeper, 0)


@pytest.mark.parametrize("spoil", ["no folder", "a link", "no locks"])
def test_where_nothing_can_be_locked_everybody_reads(tmp_path, monkeypatch, spoil):
    """Else a machine with an odd directory measures nothing at all."""
    folder = tmp_path / "folder"
    if spoil != "no folder":
        folder.mkdir()
    if spoil == "a link":
        (folder / f"flopmeter-{os.getuid()}.lock").symlink_to(tmp_path / "target")
    if spoil == "no locks":
        monkeypatch.setattr(claims, "fcntl", None)
    assert DeviceClaims("run", folder).take(UUID)
    assert not (tmp_path / "target").exists()


def test_the_file_stays_empty_and_one(tmp_path):
    ours = DeviceClaims("run", tmp_path)
    for number in range(100):
        ours.take(f"GPU-{number}")
    (file,) = tmp_path.iterdir()
    assert file.stat().st_size == 0
