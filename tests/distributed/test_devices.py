"""Ranks of one run on one machine that hold the same devices: who reads them, and what they add up to."""

import os
import subprocess
import sys
import time

from flopmeter.account import Account
from flopmeter.testing.fake_clusters import eight_h100s
from flopmeter.testing.fake_nvml import FakeNvml

RANK = """
import pathlib, sys, time, torch
from flopmeter import Meter
with Meter(sys.argv[1], interval_s=0.5) as meter:
    print("begun", flush=True)
    while not pathlib.Path(sys.argv[2]).exists():
        torch.ones(8, 8) @ torch.ones(8, 8)
        meter.step()
        time.sleep(0.05)
"""
SECOND = 1_000_000_000


def begin(fake, run_dir, rank, folder):
    devices = ",".join(device.uuid for device in eight_h100s().devices[:2])
    environment = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "FLOPMETER_DEVICES": devices}
    return subprocess.Popen(
        [sys.executable, "-c", RANK, str(run_dir), str(run_dir.parent / "stop")],
        env=os.environ | fake.environment() | environment | {"XDG_RUNTIME_DIR": str(folder)},
        stdout=subprocess.PIPE,
        text=True,
    )


def ran(tmp_path, folders, *, kill=False):
    """Run two ranks, both of them for four seconds at least; return their account and how long they took."""
    begun = time.monotonic()
    with FakeNvml(eight_h100s(), speed=1) as fake:
        ranks = []
        for rank, folder in enumerate(folders):
            ranks.append(begin(fake, tmp_path / "run", rank, folder))
            assert ranks[rank].stdout.readline() == "begun\n"
        time.sleep(4)
        if kill:
            ranks[0].kill()
            time.sleep(4)
        (tmp_path / "stop").touch()
        ended = [rank.wait(60) for rank in ranks]
        assert ended[1] == 0
        for rank in ranks:
            rank.stdout.close()
    return Account.of(tmp_path / "run"), int((time.monotonic() - begun) * SECOND)


def told_ns(device):
    return device.held_ns + device.unseen_ns + device.edge_ns


def test_two_ranks_on_the_same_devices_are_not_twice_the_devices(tmp_path):
    """Else eight ranks that share a card are billed for eight cards."""
    (tmp_path / "same").mkdir()
    account, passed_ns = ran(tmp_path, [tmp_path / "same"] * 2)
    assert len(account.usage.devices) == 2
    for device in account.usage.devices:
        assert 3 * SECOND < told_ns(device) < passed_ns
        assert "several ranks" not in device.note


def test_where_ranks_see_no_lock_of_each_other_the_ledgers_show_it(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    account, passed_ns = ran(tmp_path, [tmp_path / "one", tmp_path / "two"])
    for device in account.usage.devices:
        assert 3 * SECOND < told_ns(device) < passed_ns
        assert "several ranks told of this device" in device.note


def test_when_the_rank_that_reads_is_killed_another_goes_on(tmp_path):
    (tmp_path / "same").mkdir()
    account, passed_ns = ran(tmp_path, [tmp_path / "same"] * 2, kill=True)
    for device in account.usage.devices:
        assert 6 * SECOND < told_ns(device) < passed_ns
        assert device.held_ns > 3 * SECOND
