"""Ranks of one run on one machine that hold the same devices: who reads them, and what they add up to."""

import os
import subprocess
import sys
import time

from flopmeter.account import Account
from flopmeter.testing.fake_clusters import eight_h100s
from flopmeter.testing.fake_nvml import FakeNvml

RANK = """
import sys, time, torch
from flopmeter import Meter
with Meter(sys.argv[1], interval_s=0.5) as meter:
    print("begun", flush=True)
    began = time.monotonic()
    while time.monotonic() - began < float(sys.argv[2]):
        torch.ones(8, 8) @ torch.ones(8, 8)
        meter.step()
        time.sleep(0.05)
"""
SECOND = 1_000_000_000


def begin(fake, run_dir, rank, seconds, folder):
    devices = ",".join(device.uuid for device in eight_h100s().devices[:2])
    environment = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "FLOPMETER_DEVICES": devices}
    return subprocess.Popen(
        [sys.executable, "-c", RANK, str(run_dir), str(seconds)],
        env=os.environ | fake.environment() | environment | {"XDG_RUNTIME_DIR": str(folder)},
        stdout=subprocess.PIPE,
        text=True,
    )


def ran(tmp_path, folders, *, kill=False):
    """Run two ranks; return their account and how long both of them ran."""
    with FakeNvml(eight_h100s(), speed=1) as fake:
        first = begin(fake, tmp_path / "run", 0, 8, folders[0])
        assert first.stdout.readline() == "begun\n"
        begun = time.monotonic()
        second = begin(fake, tmp_path / "run", 1, 8, folders[1])
        assert second.stdout.readline() == "begun\n"
        if kill:
            time.sleep(2)
            first.kill()
        assert second.wait(60) == 0
        first.wait(60)
        passed_ns = int((time.monotonic() - begun) * SECOND)
        for one in (first, second):
            one.stdout.close()
    return Account.of(tmp_path / "run"), passed_ns


def told_ns(device):
    return device.held_ns + device.unseen_ns + device.edge_ns


def test_two_ranks_on_the_same_devices_are_not_twice_the_devices(tmp_path):
    """Else eight ranks that share a card are billed for eight cards."""
    (tmp_path / "same").mkdir()
    account, passed_ns = ran(tmp_path, [tmp_path / "same"] * 2)
    assert len(account.usage.devices) == 2
    for device in account.usage.devices:
        assert 4 * SECOND < told_ns(device) < passed_ns + SECOND


def test_where_ranks_see_no_lock_of_each_other_the_ledgers_show_it(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    account, passed_ns = ran(tmp_path, [tmp_path / "one", tmp_path / "two"])
    for device in account.usage.devices:
        assert 4 * SECOND < device.held_ns < passed_ns + SECOND
        assert "several ranks told of this device" in device.note


def test_when_the_rank_that_reads_is_killed_another_goes_on(tmp_path):
    (tmp_path / "same").mkdir()
    account, passed_ns = ran(tmp_path, [tmp_path / "same"] * 2, kill=True)
    for device in account.usage.devices:
        assert 6 * SECOND < told_ns(device) < passed_ns + SECOND
