"""Devices through a scripted dcgm-exporter on this machine. What a real one shows is for a site that runs one."""

import contextlib
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from flopmeter.sensors import cycles, dcgm
from flopmeter.sensors.driver import probe_driver
from flopmeter.sensors.nvml import NvmlSampler
from flopmeter.usage import Usage

SECOND = 1_000_000_000
UUID = "GPU-5b4e07f6-3a86-4340-039d-25f2a83cdc43"
OTHER = "GPU-1f027ee8-6e1e-2b8c-0108-3d370e5f0418"
LABELS = (
    'gpu="0",UUID="{uuid}",pci_bus_id="00000000:1B:00.0",device="nvidia0",modelName="NVIDIA H100 80GB HBM3",'
    'Hostname="node-0",DCGM_FI_DRIVER_VERSION="595.58.03"{more}'
)


def exposition(figures, *, uuid=UUID, more=""):
    """Return metrics as the exporter writes them; its labels may hold anything that a pod is called."""
    text = ""
    for name, value in figures.items():
        text += f"# HELP DCGM_FI_{name} What it is (in %), as somebody wrote it.\n# TYPE DCGM_FI_{name} gauge\n"
        text += f"DCGM_FI_{name}{{{LABELS.format(uuid=uuid, more=more)}}} {value}\n"
    return text


def figures_at(second, **more):
    return {
        "DEV_SM_CLOCK": 1500,
        "DEV_POWER_USAGE": "500.250000",
        "DEV_TOTAL_ENERGY_CONSUMPTION": 5551899580 + 500_250 * second,
        "DEV_GPU_UTIL": 90,
        "DEV_XID_ERRORS": 0,
        "PROF_PIPE_TENSOR_ACTIVE": "0.400000",
        "PROF_PIPE_FP32_ACTIVE": "0.062500",
        **more,
    }


class Site:
    """A clock of seconds that stands still, and an exporter that answers by it."""

    def __init__(self):
        self.now_s, self.requests, self.answer = 0, 0, lambda second: exposition(figures_at(second))
        self.status, self.hangs = 200, threading.Event()
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                site.requests += 1
                body = site.answer(site.now_s)
                self.send_response(site.status)
                self.end_headers()
                for piece in [body] if isinstance(body, str) else body:
                    self.wfile.write(piece.encode())

            def log_message(self, *_):
                pass

            def handle(self):
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # whoever asked has given up
                    super().handle()

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}/metrics"

    def clock_ns(self):
        return self.now_s * SECOND


@pytest.fixture
def site():
    site = Site()
    yield site
    site.server.shutdown()
    site.server.server_close()


def sampled(site, *, seconds=12, uuids=(UUID,), interval_s=1, held=None, last=True, timeout_s=dcgm.TIMEOUT_S):
    """Sample once a second; the exporter has collected every so many seconds, half a second before."""
    answer = site.answer
    site.answer = lambda second: answer(second // interval_s * interval_s)
    exporter = dcgm.DcgmExporter(site.address, is_last=lambda: last and site.now_s == seconds, timeout_s=timeout_s)
    sampler = NvmlSampler(held or (lambda: list(uuids)), library=exporter, clock_ns=site.clock_ns)
    total = Usage()
    for second in range(seconds + 1):
        site.now_s = second
        sampler.sample()
        total += sampler.read()
    identities = sampler.identities()
    sampler.stop()
    return total, identities


def test_an_exporter_that_collects_each_second_tells_what_nvml_does(site):
    usage, identities = sampled(site)
    (device,) = usage.devices
    assert (device.held_ns, device.unseen_ns) == (12 * SECOND, 0)
    assert device.energy_mj == 11 * 500_250, "how old the first figures are nobody knows"
    assert device.missing["energy_mj"] == SECOND
    assert device.power_mj == 12 * 500_250
    assert device.busy_ns == 12 * SECOND * 90 // 100
    assert device.sm_cycles == 11 * 1_500_000_000
    assert device.pipes == {"tensor": 11 * 600_000_000, "fp32": 11 * 93_750_000}
    assert device.missing["pipes"] == SECOND
    assert dcgm.SOURCE in device.note
    assert identities[UUID] == {
        "name": "NVIDIA H100 80GB HBM3",
        "driver": "595.58.03",
        "source": "DCGM's exporter (127.0.0.1/metrics)",
        "named_by": "torch",
    }


def test_figures_of_thirty_seconds_are_not_made_into_thirty_of_one(site):
    """Else one power reading, and one clock, stand for half a minute of which nobody knows more."""
    usage, _ = sampled(site, seconds=100, interval_s=30)
    (device,) = usage.devices
    assert (device.held_ns, device.unseen_ns) == (100 * SECOND, 0)
    assert device.energy_mj == 60 * 500_250, "from the change at 30 s to that at 90 s"
    assert device.missing["energy_mj"] == 40 * SECOND
    assert (device.busy_ns, device.power_mj, device.pipes) == (None, None, None)
    assert {dcgm.SOURCE, dcgm.RARE, dcgm.BEHIND} <= set(device.note.split("; "))


def test_counts_of_cycles_are_totals_at_any_interval(site):
    def answer(second):
        elapsed = 1_500_000_000 * (86_400 + second)
        counts = {"PROF_SM_CYCLES_ELAPSED_TOTAL": elapsed, "PROF_MMA_CYCLES_ACTIVE_TOTAL": elapsed // 4}
        return exposition(figures_at(second, **counts, PROF_PIPE_TENSOR_ACTIVE="0.251000"))

    site.answer = answer
    (device,) = sampled(site, seconds=100, interval_s=30)[0].devices
    assert cycles.COUNTED[True] in device.note
    assert device.missing["pipes"] == 40 * SECOND
    assert device.pipes["tensor"] == 60 * 1_500_000_000 // 4, "the counter's, not the ratio's"
    assert device.sm_cycles == 60 * 1_500_000_000
    assert device.missing["sm_cycles"] == 40 * SECOND


def test_means_of_the_last_interval_are_not_held_against_counts_of_several(site):
    """Else an exporter that was silent for a moment makes that moment into the one after it."""

    def answer(second):
        elapsed = 1_500_000_000 * (86_400 + second)
        active = elapsed // 4 if second <= 20 else elapsed // 4 + 1_500_000_000 * min(second - 20, 10) // 2
        counts = {"PROF_SM_CYCLES_ELAPSED_TOTAL": elapsed, "PROF_MMA_CYCLES_ACTIVE_TOTAL": active}
        share = "0.750000" if 20 < second <= 30 else "0.250000"
        return "" if 20 < second <= 35 else exposition(figures_at(second, **counts, PROF_PIPE_TENSOR_ACTIVE=share))

    site.answer = answer
    (device,) = sampled(site, seconds=60)[0].devices
    known = 60 - 1
    assert device.pipes["tensor"] == known * 1_500_000_000 // 4 + 10 * 1_500_000_000 // 2
    assert cycles.DISAGREE not in device.note


def test_one_request_a_sample_serves_all_devices(site):
    site.answer = lambda second: exposition(figures_at(second)) + exposition(figures_at(2 * second), uuid=OTHER)
    usage, _ = sampled(site, uuids=(UUID, OTHER), seconds=5)
    assert site.requests == 6
    assert [device.energy_mj for device in usage.devices] == [4 * 2 * 500_250, 4 * 500_250]


def silent(usage):
    (device,) = usage.devices
    assert (device.held_ns, device.energy_mj, device.busy_ns) == (0, None, None)
    assert device.unseen_ns == 3 * SECOND
    return device.note


BAD = {
    "html": ("<!DOCTYPE html><html><body>Log in</body></html>", "answered without metrics of a device"),
    "nothing": ("", "answered without metrics of a device"),
    "another exporter": ('node_cpu_seconds_total{cpu="0"} 3\n', "answered without metrics of a device"),
    "another device": (exposition(figures_at(0), uuid=OTHER), "does not list this device"),
    "cut short": (exposition({"DEV_TOTAL_ENERGY_CONSUMPTION": 12345})[:-3], "answered without metrics of a device"),
    "huge": (["DCGM_FI_DEV_SM_CLOCK{" + "x" * 2**20] * 12, "did not answer: more than 8 MiB"),
}


@pytest.mark.parametrize("kind", BAD)
def test_an_answer_that_is_none_is_a_gap_with_words(site, kind):
    """Never a zero, and nothing that ends a run."""
    body, words = BAD[kind]
    site.answer = lambda _: body
    assert words in silent(sampled(site, seconds=3)[0])


@pytest.mark.parametrize("status", [404, 500, 503])
def test_a_refusal_is_a_gap_with_words(site, status):
    site.status = status
    assert f"HTTP Error {status}" in silent(sampled(site, seconds=3)[0])


def test_an_exporter_that_hangs_or_drips_is_given_up_after_a_moment(site):
    def drip():
        for _ in range(100):
            time.sleep(0.05)
            yield "x"

    site.answer = lambda _: drip()
    begun = time.monotonic()
    assert "timed out" in silent(sampled(site, seconds=3, timeout_s=0.1)[0])
    assert time.monotonic() - begun < 3
    site.answer = lambda _: time.sleep(5) or ""
    begun = time.monotonic()
    assert "timed out" in silent(sampled(site, seconds=3, timeout_s=0.1)[0])
    assert time.monotonic() - begun < 3


@pytest.mark.parametrize("said", [b"", b"\x00\xff\n" * 50, b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\nDCGM_FI_DEV"])
def test_what_speaks_no_http_or_breaks_off_is_a_gap_with_words(site, said):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            with contextlib.suppress(OSError):
                while True:
                    with server.accept()[0] as caller:
                        caller.recv(4096)
                        caller.sendall(said)

        threading.Thread(target=answer, daemon=True).start()
        site.address = f"http://127.0.0.1:{server.getsockname()[1]}/metrics"
        assert "DCGM's exporter (127.0.0.1/metrics) did not answer: " in silent(sampled(site, seconds=3)[0])
        server.shutdown(socket.SHUT_RDWR)


def test_where_nothing_listens_that_is_said(site):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        site.address = f"http://127.0.0.1:{free.getsockname()[1]}/metrics"
    assert "Connection refused" in silent(sampled(site, seconds=3)[0])


@pytest.mark.parametrize(
    "address",
    [
        *("file:///etc/passwd", "localhost:9400/metrics", "http://", "ftp://x/", "http://[::1", "http://x:99999999/"),
        *("http://127.0.0.1:1/a b", "http://127.0.0.1:1/\n", "http://ü ü/", "http://\ud800/", "http://a.invalid/"),
    ],
)
def test_an_address_that_is_none_is_said(site, address):
    site.address = address
    assert "DCGM's exporter" in silent(sampled(site, seconds=3)[0])


def test_no_line_costs_more_than_its_length(site):
    """Else one line holds the interpreter for minutes, and the training with it."""
    line = "DCGM_FI_DEV_GPU_TEMP{" + "a" * (dcgm.MOST_LINE - 40) + '="} 1\n'
    site.answer = lambda second: line * 20 + exposition(figures_at(second))
    begun = time.process_time()
    usage, _ = sampled(site, seconds=3)
    assert usage.devices[0].held_ns == 3 * SECOND
    assert time.process_time() - begun < 3


def test_nobody_is_followed_elsewhere(site):
    """Else whoever answers at that address may have us ask any other."""
    asked = []
    elsewhere = Site()
    elsewhere.answer = lambda second: asked.append(second) or ""
    try:
        address = f"http://127.0.0.1:{site.server.server_address[1]}/metrics"
        site.server.RequestHandlerClass.end_headers = lambda self: (
            self._headers_buffer.append(f"Location: {elsewhere.address}\r\n".encode()),
            BaseHTTPRequestHandler.end_headers(self),
        )
        site.status, site.address = 302, address
        assert "HTTP Error 302" in silent(sampled(site, seconds=3)[0])
    finally:
        elsewhere.server.shutdown()
        elsewhere.server.server_close()
    assert asked == []


def test_what_labels_say_is_bounded(site):
    """Else a name of 100 kB, or one that moves the cursor, stands in every report."""
    wild = exposition(figures_at(0)).replace("NVIDIA H100 80GB HBM3", "\x1b[2J" + "x" * 1000)
    site.answer = lambda _: wild
    _, identities = sampled(site, seconds=3)
    (said,) = identities.values()
    assert len(said["name"]) <= 120
    assert said["name"].isprintable()


@pytest.mark.parametrize(
    "address", ["http://user:secret@127.0.0.1:1/metrics?token=secret", "http://user:secret@127.0.0.1/metrics"]
)
def test_secrets_of_an_address_stay_out_of_the_ledger(site, address):
    site.address = address
    usage, identities = sampled(site, seconds=3)
    assert "secret" not in f"{usage}{identities}"


def test_figures_that_do_not_change_for_minutes_are_a_gap(site):
    """Else an exporter that is stuck is an idle device."""
    answer = site.answer
    site.answer = lambda second: answer(min(second, 30))
    (device,) = sampled(site, seconds=400)[0].devices
    assert (device.held_ns, device.unseen_ns) == (30 * SECOND, 370 * SECOND)
    assert device.energy_mj == 29 * 500_250
    assert dcgm.STALE in device.note


def test_a_moment_without_an_answer_loses_nothing_that_is_counted(site):
    answer = site.answer
    site.answer = lambda second: "" if 20 <= second < 40 else answer(second)
    (device,) = sampled(site, seconds=60)[0].devices
    assert (device.held_ns, device.unseen_ns) == (60 * SECOND, 0)
    assert device.energy_mj == 59 * 500_250
    assert device.missing["busy_ns"] == 21 * SECOND


def test_a_device_that_is_gone_is_a_gap_until_it_is_back(site):
    answer = site.answer
    site.answer = lambda second: exposition(figures_at(0), uuid=OTHER) if 20 <= second < 220 else answer(second)
    (device,) = sampled(site, seconds=240)[0].devices
    assert device.held_ns + device.unseen_ns == 240 * SECOND
    assert device.unseen_ns == (220 - 19) * SECOND
    assert dcgm.UNLISTED in device.note
    assert device.energy_mj == (18 + 19) * 500_250


def test_a_device_that_was_given_back_begins_anew(site):
    """Else the energy of whoever had it in between is ours."""
    held = lambda: [] if 10 <= site.now_s < 20 else [UUID]  # noqa: E731
    (device,) = sampled(site, seconds=29, held=held)[0].devices
    assert device.held_ns == (9 + 9) * SECOND
    assert device.energy_mj == (8 + 8) * 500_250


def slice_of(second, number, share):
    more = f',GPU_I_PROFILE="3g.40gb",GPU_I_ID="{number}"'
    return exposition(figures_at(second, PROF_PIPE_TENSOR_ACTIVE=share), more=more)


def test_slices_are_told_apart_by_their_instance_and_have_no_energy_of_their_own(site):
    """Else each of seven slices draws what the whole card does."""
    site.answer = lambda second: slice_of(second, 1, 0.25) + slice_of(second, 2, 0.5)
    name = f"MIG-{UUID}/2/0"
    usage, identities = sampled(site, uuids=(name,))
    (device,) = usage.devices
    assert (device.energy_mj, device.power_mj, device.busy_ns) == (None, None, None)
    assert device.pipes["tensor"] == pytest.approx(11 * 0.5 * 1.5e9, abs=11)
    assert dcgm.OF_CARD in device.note
    assert identities[name]["profile"] == "3g.40gb"


def test_a_slice_that_is_named_by_its_own_uuid_cannot_be_found_and_that_is_said(site):
    site.answer = lambda second: slice_of(second, 1, 0.25)
    usage, _ = sampled(site, uuids=("MIG-3f5c1c1e-0f0a-5a7b-9c52-2f6f1c7a0001",), seconds=3)
    assert dcgm.SLICE in silent(usage)
    usage, _ = sampled(site, seconds=3)
    assert dcgm.UNLISTED in silent(usage), "a card that is cut has no figures of its own"


def test_what_an_exporter_writes_for_what_it_does_not_know_is_missing(site):
    blank = {
        "DEV_SM_CLOCK": "9223372036854775794",
        "DEV_POWER_USAGE": "140737488355328.000000",
        "DEV_GPU_UTIL": "2147483632",
        "DEV_TOTAL_ENERGY_CONSUMPTION": "ERROR - FAILED TO CONVERT TO STRING",
        "PROF_PIPE_TENSOR_ACTIVE": "NaN",
        "PROF_PIPE_FP32_ACTIVE": "40.0",
    }
    site.answer = lambda second: exposition(figures_at(second, **blank, DEV_GPU_TEMP=40 + second % 2))
    (device,) = sampled(site)[0].devices
    assert device.held_ns == 12 * SECOND
    figures = (device.energy_mj, device.power_mj, device.busy_ns, device.sm_cycles, device.pipes, device.throttled)
    assert figures == (None,) * 6


def test_labels_may_hold_anything_and_a_figure_told_in_two_ways_is_not_told(site):
    odd = r',pod="a\"b,c=}{\\",namespace="x y"'
    site.answer = lambda second: (
        exposition(figures_at(second), more=odd + ',container="1"')
        + exposition({"DEV_GPU_UTIL": 10, "DEV_SM_CLOCK": 1500}, more=odd + ',container="2"')
    )
    (device,) = sampled(site)[0].devices
    assert device.busy_ns is None, "90 and 10"
    assert device.sm_cycles == 11 * 1_500_000_000, "the same from both"


def test_a_device_without_a_name_is_asked_once_and_its_unknown_figures_are_no_zeros(site):
    """Else each second in which the exporter has nothing new is one at no load."""
    site.answer = lambda second: exposition(figures_at(second)).replace("modelName", "other")
    usage, identities = sampled(site, seconds=100, interval_s=30)
    (device,) = usage.devices
    assert (device.name, device.busy_ns, device.power_mj) == ("unknown", None, None)
    assert "name" not in identities[UUID]


def test_newer_names_of_the_same_fields_are_understood(site):
    renamed = {
        "DEV_BOARD_POWER_WATTS": "500.250000",
        "DEV_GPU_UTIL_RATIO": "0.9",
        "PROF_TENSOR_UTIL_RATIO": "0.400000",
        "DEV_CLOCKS_EVENT_REASON_SW_POWER_CAP_NS": 0,
        "DEV_POWER_VIOLATION": 7,
    }
    site.answer = lambda second: exposition(
        renamed | {"DEV_SM_CLOCK": 1500, "DEV_CLOCKS_EVENT_REASON_SW_POWER_CAP_NS": 10**8 * second}
    )
    (device,) = sampled(site)[0].devices
    assert device.power_mj == 12 * 500_250
    assert device.pipes == {"tensor": 11 * 600_000_000}
    assert device.throttled == {"power cap": 11 * 10**8}
    assert device.busy_ns is None, "which of two units it has cannot be told"


def test_an_xid_is_noted_when_the_gauge_that_is_never_cleared_changes(site):
    site.answer = lambda second: exposition(figures_at(second, DEV_XID_ERRORS=31 if second < 5 else 79))
    (device,) = sampled(site)[0].devices
    assert "the driver reported Xid 79" in device.note
    assert "Xid 31" not in device.note, "that may have been last year"


def test_a_counter_that_jumps_is_not_believed_where_the_limit_is_told(site):
    site.answer = lambda second: exposition(
        figures_at(second + (10**6 if second >= 60 else 0), DEV_ENFORCED_POWER_LIMIT="700.0")
    )
    (device,) = sampled(site, seconds=120, interval_s=30)[0].devices
    assert device.energy_mj == 60 * 500_250
    assert "more than the power limit" in device.note


def test_the_environment_names_the_exporter_and_nvml_is_not_loaded(site, monkeypatch):
    monkeypatch.setenv(dcgm.VARIABLE, site.address)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    sampler = NvmlSampler(lambda: [UUID], period_s=0.05)
    site.answer = lambda _: exposition(figures_at(site.requests))
    sampler.start()
    time.sleep(0.5)
    sampler.stop()
    (device,) = sampler.read().devices
    assert device.energy_mj > 0
    assert dcgm.SOURCE in device.note
    monkeypatch.delenv(dcgm.VARIABLE)
    assert dcgm.find_exporter(lambda: False) is None


def test_which_devices_cuda_shows_an_exporter_cannot_say():
    exporter = dcgm.DcgmExporter("http://localhost:9400/metrics")
    with pytest.raises(exporter.NVMLError, match="does not tell"):
        exporter.nvmlDeviceGetCount()


def test_visible_devices_cannot_be_had_of_an_exporter_and_what_to_do_is_said(site):
    usage, _ = sampled(site, seconds=1, held=lambda: ["visible"])
    assert usage.devices == ()
    assert "with DCGM's exporter, name devices by UUID in FLOPMETER_DEVICES" in "".join(usage.notes)


def test_whoever_looks_asks_the_exporter_that_a_run_would_read(site, monkeypatch):
    """Else a doctor says that there is no driver, and the run has figures; or the other way round."""
    monkeypatch.setenv(dcgm.VARIABLE, site.address)
    site.answer = lambda second: (
        exposition(figures_at(second)) + exposition({"DEV_SM_CLOCK": 1500}, uuid=OTHER, more=',GPU_I_ID="3"')
    )
    found = probe_driver(lambda: [UUID, "visible", "GPU-nowhere"])
    whole, part, stranger = found["devices"]
    assert (whole["name"], whole["uuid"]) == ("NVIDIA H100 80GB HBM3", UUID)
    assert whole["tells"] == {"energy": True, "power": True, "pipe activity": True}
    assert (part["uuid"], any(part["tells"].values())) == (f"MIG-{OTHER}/3/0", False)
    assert (stranger["tells"], stranger["notes"]) == ({}, [dcgm.UNLISTED])
    assert found["driver"] == "595.58.03"
    assert found["note"].startswith(f"{dcgm.SOURCE} (127.0.0.1/metrics)")
    assert "name devices by UUID" in found["visible_note"]


def test_whoever_looks_is_told_that_the_exporter_does_not_answer(site, monkeypatch):
    monkeypatch.setenv(dcgm.VARIABLE, site.address)
    site.status = 503
    found = probe_driver(lambda: [UUID])
    assert found["devices"][0]["tells"] == {}
    assert "did not answer" in found["note"]
