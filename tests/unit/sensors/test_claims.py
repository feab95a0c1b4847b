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


def test_a_program_that_closes_all_its_files_loses_no_lock_for_long(tmp_path):
    """Else our lock lands on a file of the user's, which gets the descriptor's number next."""
    ours = DeviceClaims("run", tmp_path)
    assert ours.take(UUID)
    (descriptor, _) = claims._files[os.getpid(), tmp_path / f"flopmeter-{os.getuid()}.lock"]
    os.close(descriptor)
    with (tmp_path / "users.txt").open("w", encoding="utf-8") as users:
        assert users.fileno() == descriptor
        assert ours.take(UUID)
        assert ours.take("GPU-2")
    command = [sys.executable, "-c", HOLD.replace("time.sleep(60)", ""), str(tmp_path)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"


def test_a_lock_file_that_was_removed_is_made_again(tmp_path):
    ours = DeviceClaims("run", tmp_path)
    assert ours.take(UUID)
    (tmp_path / f"flopmeter-{os.getuid()}.lock").unlink()
    assert ours.take(UUID)
    command = [sys.executable, "-c", HOLD.replace("time.sleep(60)", ""), str(tmp_path)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"


def test_somebody_elses_file_is_not_used(tmp_path, monkeypatch):
    """Else whoever locks a file of that name in a common directory keeps everybody from every device."""
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert DeviceClaims("run", tmp_path).take(UUID)
    assert not any(path == tmp_path / "flopmeter-12345.lock" for _, path in claims._files)


def test_the_file_stays_empty_and_one(tmp_path):
    ours = DeviceClaims("run", tmp_path)
    for number in range(100):
        ours.take(f"GPU-{number}")
    (file,) = tmp_path.iterdir()
    assert file.stat().st_size == 0
