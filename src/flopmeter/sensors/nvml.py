"""Device time, energy, activity and identity from NVML, through nvidia-ml-py; what cannot be read is missing, not zero.

One daemon thread reads at 1 Hz, so that a slow or hanging driver cannot delay a step; a call that does not come back
is named, and what it held up is a gap. Written from NVIDIA's documentation and tried with a scripted library only: not
yet run on a GPU (`tests/gpu` holds the check).
Not here: one device (`device.py`), what lies between two readings (`reading.py`), peaks (`devices`).
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from flopmeter.sensors.claims import DeviceClaims
from flopmeter.sensors.dcgm import DcgmDevice, find_exporter
from flopmeter.sensors.device import BINDING_FAILURES, SHARED, Device
from flopmeter.sensors.driver import SCRIPTED, explain_refusal, is_scripted, read_quietly
from flopmeter.sensors.gpm import LEAST_NS
from flopmeter.sensors.guard import guarded, words_of
from flopmeter.sensors.host import HostSampler
from flopmeter.sensors.identity import find_changes
from flopmeter.sensors.reading import Spending
from flopmeter.sensors.visible import (
    VISIBLE,
    Inventory,
    find_held_uuids,
    find_namer,
    find_visible,
    has_queued_work,
    read_inventory,
)
from flopmeter.units import NS_PER_S
from flopmeter.usage import DeviceUsage, Usage

PERIOD_S = 1.0
JOIN_S = 2.0
WATCHDOG_S = 10.0
"""A call to the driver that takes longer is said to hang."""
RETRY_NS = 10 * NS_PER_S
"""How long a driver that failed as a whole is left alone."""
COMPANY_NS = 60 * NS_PER_S
"""How rarely it is looked who else is on a device: the list of processes is the most expensive call of all."""
FOR_EVER_NS = 2**63
IDLE_SAMPLES = 30
"""After so many samples without a device the driver is let go."""
FORKED = "a forked child does not sample devices"
QUEUED = "a device still had work to do when the meter was closed: what it did later is not in here"
NO_DEVICE = "no CUDA device was found held by this process, so none was sampled"


class NvmlSampler:
    """Samples the devices that this process holds.

    `find_uuids` returns the UUIDs (`GPU-…`, `MIG-…`) of devices that the process has memory on, empty while there are
    none; `VISIBLE` in their place stands for all that CUDA shows to it. A device that several processes of one `run`
    hold is read by one of them.
    """

    def __init__(
        self,
        find_uuids: Callable[[], Sequence[str]] = find_held_uuids,
        *,
        run: str = "",
        library: Any = None,
        period_s: float = PERIOD_S,
        watchdog_s: float = WATCHDOG_S,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Prepare; nothing is loaded before `start`."""
        self._find_uuids = find_uuids
        self._claims = DeviceClaims(run) if run else None
        self._period_s = period_s
        self._watchdog_ns = int(watchdog_s * NS_PER_S)
        self._clock_ns = clock_ns
        self._lock = threading.RLock()  # a signal's handler may close the meter while it is read
        self._halt = threading.Event()
        self._library = library or find_exporter(self._halt.is_set)  # which stands for it, where a site has one
        self._thread: threading.Thread | None = None
        self._status = "NVML has not answered yet"
        self._has_failed = self._has_ended = self._has_sampled = self._has_finished = self._is_abandoned = False
        self._pending: list[DeviceUsage] = []
        self._told: set[str] = set()
        self._spendings: dict[str, Spending] = {}
        self._devices: dict[str, Device | DcgmDevice] = {}
        self._company_ns: dict[str, int] = {}  # when it is next looked who else is on a device
        self._visible: tuple[list[str], int | None] = ([], None)  # what CUDA shows, and when to look again
        self._left_ns: dict[str, int] = {}  # devices that another process of the run reads, and when last
        self._identity: dict[str, dict[str, str]] = {}
        self._named_by = find_namer()
        self._open: Any = None  # the library, while it is initialised
        self._is_scripted = self._has_queued = False
        self._failed_ns: int | None = None
        self._silent_since_ns: int | None = None
        self._sampled_ns: int | None = None  # when sampling began, then when it last looked which devices are held
        self._has_looked, self._idle = False, 0
        self._called = "", 0
        self._host, self._has_host = HostSampler(clock_ns=clock_ns), False
        self._pid = 0

    def start(self) -> None:
        """Start the thread; the driver is looked for there, because looking can take long."""
        self._pid, self._sampled_ns = os.getpid(), self._clock_ns()
        thread = threading.Thread(target=self._sample_until_halt, name="flopmeter-nvml", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # no room for another
            self._say(f"devices are not sampled: {words_of(error)}")
            return
        self._thread = thread

    def read(self) -> Usage:
        """Return what was spent since the last read.

        Units: those of `DeviceUsage`.
        Basis: `measured`; `partial` or `missing` where the driver did not tell.
        Is not: energy of the host, or the share of other processes on a shared device.
        """
        if self._is_forked():  # first: the fork may have copied a lock that is taken
            return Usage((), (FORKED,))
        if self._is_hanging():
            self._miss(list(self._spendings), f"NVML does not come back from reading {self._called[0]}")
        with self._lock:
            pending, self._pending = self._pending, []
            is_told = self._has_ended or not self._has_sampled
            notes = [self._status] if is_told and (self._has_failed or self._halt.is_set()) else []
            if self._has_queued:
                notes.append(QUEUED)
            if self._is_scripted and pending:
                notes.append(SCRIPTED)
            if self._is_hanging():
                notes.append(f"NVML does not come back from reading {self._called[0]}")
            new = [note for note in notes if note not in self._told]  # a ledger needs to hear each of them once
            self._told.update(new)
            return Usage.of(pending, new, host=self._host.read() if self._has_host else None)

    def identities(self) -> dict[str, dict[str, str]]:
        """Return what each device says it is, by UUID: name, serial, PCI id, driver, where NVML tells."""
        if self._is_forked():
            return {}
        with self._lock:
            return {uuid: dict(fields) for uuid, fields in self._identity.items()}

    def stop(self) -> None:
        """Take a last sample and join; twice is fine.

        A thread that hangs in the driver is left behind, as a daemon; what it did not read is a gap.
        """
        if self._pid in {0, os.getpid()}:
            with contextlib.suppress(RuntimeError, *BINDING_FAILURES):  # a broken device, or a torch of its own kind
                self._has_queued = not self._halt.is_set() and has_queued_work()
            self._halt.set()  # from now on it is said if there never was a device
        if self._thread is not None and self._pid == os.getpid():
            self._thread.join(JOIN_S)
            if self._thread.is_alive():
                self._give_up()
                self._let_others()
        self._thread = None

    def _let_others(self) -> None:
        """Let another process of the run read what is still held."""
        if self._claims is not None and not self._is_forked():
            self._claims.keep(())

    def sign(self, last: tuple[Path, str] | None) -> None:
        """Where confidential computing is on, have the devices of this run sign the end of a ledger file.

        `last` is the file and the digest of its last line, None where there is no file. Nothing is raised.
        """
        from flopmeter.sensors.confidential import sign_head  # few machines have any use for it

        if last is not None:
            sign_head(*last, self.identities(), library=self._library)

    def _is_forked(self) -> bool:
        return self._pid not in {0, os.getpid()}

    def on_failure(self, error: Exception) -> None:
        """Say why no more is measured; what was measured before stands."""
        self._say(f"sampling ended: {type(error).__name__}: {words_of(error)}")
        self._has_ended = True

    def sample(self) -> None:
        """Read every device once."""
        uuids, is_found = self._find()
        found_ns = self._clock_ns()
        for uuid in uuids:
            if uuid not in self._spendings:
                self._spendings[uuid] = Spending(uuid, free_ns=self._sampled_ns, found_ns=found_ns)
        self._idle = 0 if uuids else self._idle + 1
        if is_found and (uuids or not self._has_looked) and self._initialise():
            answers = [self._read_device(uuid) for uuid in uuids]
            self._watch_driver(is_silent=bool(answers) and not any(answers))
        else:
            self._miss(uuids, self._status)
        now = self._clock_ns()
        self._sampled_ns = now if is_found else self._sampled_ns
        for uuid in [uuid for uuid in self._spendings if uuid not in uuids]:
            # Its memory was given back; what comes later is another stretch.
            self._add(self._spendings.pop(uuid).leave, now)
            if uuid in self._devices:
                self._devices.pop(uuid).release()
        if self._idle == IDLE_SAMPLES:
            self._release()

    def _find(self) -> tuple[list[str], bool]:
        """Return which devices are read here; where nobody can say, those of before, of which nothing is known then."""
        self._note_call("which devices are held")
        try:
            found = [uuid.encode(errors="replace").decode() for uuid in self._find_uuids()]
        except (RuntimeError, *BINDING_FAILURES) as error:  # torch, a broken device, somebody's allocator
            self._say(f"which devices are held could not be told: {words_of(error)}")
            return list(self._spendings), False
        finally:
            self._note_call("")
        found = self._list_visible() if found == [VISIBLE] else found
        if self._claims is None:
            return found, True
        self._claims.keep(found)
        ours = [uuid for uuid in found if self._claims.take(uuid)]
        self._leave_to_others([uuid for uuid in found if uuid not in ours])
        return ours, True

    def _leave_to_others(self, uuids: Sequence[str]) -> None:
        """Note for how long devices were held here that another process of the run reads."""
        now, since = self._clock_ns(), self._left_ns
        self._left_ns = dict.fromkeys(uuids, now)
        with self._lock:
            for uuid in uuids:
                self._has_sampled = True
                left_ns = now - since.get(uuid, now)
                self._pending.append(DeviceUsage(uuid=uuid, name="unknown", held_ns=0, left_ns=left_ns))

    def _list_visible(self) -> list[str]:
        """Return what CUDA shows to this process, as far as the environment tells; looked for until all is known."""
        now, (visible, until_ns) = self._clock_ns(), self._visible
        if (until_ns is not None and now < until_ns) or not self._initialise():
            return visible
        self._note_call("the list of devices")
        try:
            inventory = read_inventory(self._open)
        except BINDING_FAILURES as error:
            inventory = Inventory(is_complete=False, note=words_of(error))
        finally:
            self._note_call("")
        seen = find_visible(inventory)
        if seen.uuids is None:
            self._say(f"which devices are visible is not known: {seen.note}")
        is_final = seen.uuids is not None and inventory.is_complete
        self._visible = list(seen.uuids or ()), FOR_EVER_NS if is_final else now + RETRY_NS
        return self._visible[0]

    def _watch_driver(self, *, is_silent: bool) -> None:
        """Let go of a driver of which no device has answered for a while, so that it is initialised anew."""
        now = self._clock_ns()
        if not is_silent:
            self._silent_since_ns = None
        elif self._silent_since_ns is None:
            self._silent_since_ns = now
        elif now - self._silent_since_ns >= RETRY_NS:
            self._silent_since_ns = None
            self._release()

    @guarded
    def _sample_until_halt(self) -> None:
        try:
            self._host.start()
            self._has_host = True
            self.sample()
            while not self._halt.wait(self._period_s):
                self._host.sample()
                self.sample()
            self._host.sample()
            time.sleep(LEAST_NS / NS_PER_S if self._spendings else 0)  # the last samples of pipes must lie apart
            self.sample()
            self._has_finished = True
        finally:
            self._release()
            self._let_others()

    def _initialise(self) -> bool:
        """Initialise the library, unless it is or failed a moment ago."""
        now, self._has_looked = self._clock_ns(), True
        if self._open is not None or (self._failed_ns is not None and now - self._failed_ns < RETRY_NS):
            return self._open is not None
        self._failed_ns = now
        try:
            library = self._library if self._library is not None else import_module("pynvml")
        except ImportError as error:
            self._say(f"nvidia-ml-py is not installed: {error}")
            return False
        self._note_call("the driver")
        try:
            library.nvmlInit()
        except (library.NVMLError, *BINDING_FAILURES) as error:
            self._say(explain_refusal(error))
            return False
        finally:
            self._note_call("")
        self._say(NO_DEVICE, is_failure=False)
        self._open, self._failed_ns = library, None
        self._is_scripted |= is_scripted(library)
        return True

    def _release(self) -> None:
        """Let the driver go."""
        for device in self._devices.values():
            device.release()
        self._devices.clear()
        library, self._open = self._open, None
        if library is not None:
            self._quietly("the driver's end", library.nvmlShutdown, library)

    def _quietly(self, what: str, read: Callable[[], Any], library: Any = None) -> Any:
        """Return what a call says, or None where NVML cannot tell."""
        self._note_call(what)
        try:
            return read_quietly(library or self._open, read)
        finally:
            self._note_call("")

    def _read_device(self, uuid: str) -> bool:
        device = self._devices.get(uuid)
        if device is None:
            driver = str(self._quietly("the driver's version", self._open.nvmlSystemGetDriverVersion) or "")
            make = getattr(self._open, "make_device", Device)  # DCGM's exporter has devices of its own
            device = self._devices[uuid] = make(self._open, uuid, driver=driver, note_call=self._note_call)
        spending = self._spendings[uuid]
        reading = device.read(self._clock_ns)
        if reading.has_answered and not device.is_identified:
            reading = replace(reading, notes=reading.notes.union(self._identify(device, uuid)))
        spending.name = self._identity.get(uuid, {}).get("name", "unknown")
        if reading.has_answered and reading.at_ns >= self._company_ns.get(uuid, 0):
            self._company_ns[uuid] = reading.at_ns + COMPANY_NS
            if device.has_company():
                reading = replace(reading, notes=reading.notes | {SHARED})
        self._add(spending.take, reading)
        with self._lock:
            self._has_sampled = True
        return reading.has_answered

    def _add(self, take: Callable[..., DeviceUsage | None], *told: Any) -> None:
        """Take a stretch; whoever waits for a call that hangs does so, too, from another thread."""
        with self._lock:
            usage = take(*told)
            if usage is not None and not self._is_abandoned:
                self._pending.append(usage)

    def _miss(self, uuids: Iterable[str], note: str) -> None:
        """Note that devices are held until now and nothing is known of them."""
        now = self._clock_ns()
        for uuid in uuids:
            spending = self._spendings.get(uuid)  # another thread may have let it go
            if spending is not None:
                self._add(spending.miss, now, note)

    def _give_up(self) -> None:
        """Take it that the thread will not come back."""
        call = self._called[0] or "a device"
        if self._has_finished:  # all is read; letting the driver go is what takes so long
            return
        self._miss(list(self._spendings), f"NVML did not come back from reading {call}")
        with self._lock:
            self._is_abandoned = True
        self._say(f"sampling ended: NVML did not come back from reading {call}")
        self._has_ended = True

    def _identify(self, device: Device | DcgmDevice, uuid: str) -> Iterable[str]:
        """Ask a device who it is; return what is not as it was."""
        before, fields = self._identity.get(uuid, {}), device.identify()
        with self._lock:
            self._identity[uuid] = before | fields | {"named_by": self._named_by}
        return find_changes(before, fields)

    def _note_call(self, what: str) -> None:
        self._called = what, time.monotonic_ns()

    def _is_hanging(self) -> bool:
        call, since_ns = self._called
        return bool(call) and time.monotonic_ns() - since_ns > self._watchdog_ns

    def _say(self, status: str, *, is_failure: bool = True) -> None:
        with self._lock:
            self._status, self._has_failed = status, is_failure
