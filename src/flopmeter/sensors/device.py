"""One NVIDIA device as NVML tells of it: its handle, and readings of its counters.

Written from NVIDIA's documentation and tried with a scripted library (`testing/fake_nvml.py`), not yet on a GPU; what
only a GPU can settle is in `tests/gpu`. Not here: when devices are read (`nvml.py`), what lies between two readings
(`reading.py`), pipe activity (`gpm.py`), reported faults (`faults.py`), who it is (`identity.py`).
"""

from collections.abc import Callable, Mapping
from ctypes import ArgumentError
from typing import Any

from flopmeter.sensors.faults import FaultWatch
from flopmeter.sensors.gpm import PipeReader
from flopmeter.sensors.guard import words_of
from flopmeter.sensors.identity import identify
from flopmeter.sensors.processes import read_sharing
from flopmeter.sensors.reading import Activity, Reading

RENUMBERED = (580, 82)
"""From this driver on the counters of thermal and power-brake slowdown have the numbers 269 to 271; 251 to 253 before.

Source: nvidia-ml-py 13.580.65 and 13.580.82. The number is all that the driver is asked by: a wrong one answers, too.
"""
BINDING_FAILURES = (OSError, ValueError, AttributeError, TypeError, ArgumentError)
"""What else a call may raise: a symbol or a structure that this driver and this binding see differently."""
NOT_TOLD = 2**32 - 1, 2**64 - 1
"""All ones: what drivers give for what they cannot tell."""
OF_CARD = "NVML tells energy, power and utilisation of the whole card, not of this slice of it"
NOT_THERE = "the driver lists no device with this UUID here"
WHICH_SLICE = "CUDA names the card, which is cut into slices, and not the slice that is used"
SHARED = "other processes used this device, too"
UNCORRECTED = "uncorrected ECC"
SELDOM = 30
"""In so many readings it is asked once for what hardly ever changes: rows of memory that were replaced, which takes a
reset, and the power limit, which somebody has to set."""
_member = object.__getattribute__
"""Reads a structure's member: the bindings put a slow function of their own before it, for the sake of old texts."""
_ENERGY, _POWER, _RECOVERY, _UNCORRECTED = 83, 185, 230, 4
_ROWS_PENDING, _ROWS_FAILED = 144, 145
_ACTIONS = {
    1: "reset of this device",
    2: "reboot of the machine",
    3: "drain of peer-to-peer traffic",
    4: "drain and reset of this device",
    5: "recovery of the IMEX domain",
    6: "reset of the bus",
    7: "reboot of the system",
}


class Device:
    """Reads one device by its UUID through `library`, which is pynvml or stands for it.

    `note_call` hears which call goes to the driver, so that one which does not come back has a name.
    """

    def __init__(self, library: Any, uuid: str, *, driver: str, note_call: Callable[[str], None]) -> None:
        """Prepare; nothing is asked yet."""
        self.uuid = uuid
        self._library = library
        self._note_call = note_call
        self._slowdowns = _slowdown_fields(driver)
        self._fields = [_ENERGY, _POWER, _RECOVERY, _UNCORRECTED, *self._slowdowns]
        self._value_names = _names_of_values(library)
        self._handle: Any = None
        self._parent: Any = None
        self._is_slice = self._is_unknown_slice = self._is_followed = False
        self._notes: set[str] = set()
        self._has_answered, self._is_unlisted, self._why = False, False, ""
        self.is_identified = False  # under the handle that it has now
        self._gpm: PipeReader | None = None
        self._faults = FaultWatch(library, self._ask)
        self._limit_mw: int | None = None
        self._uncorrected: int | None = None
        self._readings = 0

    def identify(self) -> dict[str, str]:
        """Return what the device says it is; what it does not say is not there."""
        handle = self._find()
        if handle is None or (self._is_slice and self._parent is None):
            return {}
        found = identify(self._library, handle, self._card(), self._ask, is_unknown_slice=self._is_unknown_slice)
        self.is_identified = "name" in found
        return found

    def read(self, clock_ns: Callable[[], int]) -> Reading:
        """Ask for all that changes; what fails is noted, and the rest is asked nevertheless."""
        library = self._library
        self._notes, self._has_answered, self._why = set(), False, ""
        reported, words = self._faults.take()  # of the handle of before, whatever became of it
        faults = dict(reported)
        self._notes |= words
        handle, at_ns = self._find(), clock_ns()
        if handle is None:
            return self._silent(at_ns, faults, words)
        parent = self._card()
        fields = self._read_fields(parent)
        is_slice = self._is_slice
        energy, power = (None, None) if is_slice else (fields.get(_ENERGY), fields.get(_POWER))
        if is_slice:
            self._notes.add(OF_CARD)
            if self._is_unknown_slice:
                self._notes.add(WHICH_SLICE)
        elif energy is None:
            energy = self._ask("energy", lambda: library.nvmlDeviceGetTotalEnergyConsumption(parent))
        at_ns = clock_ns()  # when the counters were read
        if power is None and not is_slice:
            power = self._ask("power", lambda: library.nvmlDeviceGetPowerUsage(parent))
        if self._limit_mw is None or self._readings % SELDOM == 2:
            self._limit_mw = self._ask(
                "power limit", lambda: library.nvmlDeviceGetEnforcedPowerLimit(parent), is_noted=False
            )
        busy = None
        if not is_slice:  # of one NVML does not tell it
            busy = self._ask("utilisation", lambda: library.nvmlDeviceGetUtilizationRates(handle).gpu)
        clock = self._ask("SM clock", lambda: library.nvmlDeviceGetClockInfo(parent, library.NVML_CLOCK_SM))
        slowed = {name: fields[number] for number, name in self._slowdowns.items() if number in fields}
        reasons = None if slowed else self._ask("throttle reasons", lambda: _reasons(library, parent))
        activity = None if self._is_unknown_slice else self._read_pipes(handle, clock, at_ns)
        self._look_at_health(fields, faults)
        if not self._has_answered:
            self._handle = None  # it may come back under another handle
            return self._silent(at_ns, faults, words)
        return Reading(
            at_ns,
            energy_mj=energy,
            power_mw=power,
            busy_percent=busy if busy is None or 0 <= busy <= 100 else None,
            sm_mhz=clock,
            limit_mw=self._limit_mw,
            slowed_ns=slowed,
            reasons=reasons,
            activity=activity,
            faults=faults,
            notes=frozenset(self._notes),
        )

    def _silent(self, at_ns: int, faults: Mapping[str, int], words: set[str]) -> Reading:
        why = NOT_THERE if self._is_unlisted else f"the device did not answer: {self._why}"
        return Reading(at_ns, has_answered=False, faults=faults, notes=frozenset({why, *words}))

    def release(self) -> None:
        """Give back what is kept in the driver."""
        if self._gpm is not None:
            self._gpm.release()
        self._faults.release()
        self._gpm = self._handle = self._parent = None

    def _find(self) -> Any:
        library = self._library
        if self._handle is None:
            handle = self._ask("the device", lambda: _find_handle(library, self.uuid))
            if handle is None:
                return None
            if self._gpm is not None:
                self._gpm.release()
            self._handle, self._parent, self._gpm = handle, None, None
            self.is_identified = self._is_followed = False
            said = self._ask("MIG", lambda: library.nvmlDeviceIsMigDeviceHandle(handle), is_noted=False)
            self._is_slice = self.uuid.startswith("MIG-") if said is None else bool(said)
            self._is_unknown_slice = False
            if not self._is_slice:
                self._take_card(handle)
        if self._is_slice and not self._is_unknown_slice and self._parent is None:
            handle = self._handle
            self._parent = self._ask("its card", lambda: library.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle))
        if not self._is_followed and not (self._is_slice and self._parent is None):
            self._is_followed = True
            self._faults.follow(self._card(), instance=self._find_instance())
        return self._handle

    def _take_card(self, card: Any) -> None:
        """Take the slice of a card that is cut into slices: some versions of CUDA give the card's UUID for it."""
        slices = self._ask("slices", lambda: _find_slices(self._library, card), is_noted=False)
        if slices is None:
            return
        self._is_slice, self._is_unknown_slice, self._parent = True, len(slices) != 1, card
        if not self._is_unknown_slice:
            self._handle = slices[0]

    def has_company(self) -> bool:
        """Say whether the driver lists more than one process on the device. It is the most expensive call there is."""
        if self._handle is None:
            return False
        said = self._ask("processes", lambda: read_sharing(self._library, self._handle).least > 0, is_noted=False)
        return bool(said)

    def _card(self) -> Any:
        """Return the handle of the card, which is the device itself unless that is a slice."""
        return self._handle if self._parent is None else self._parent

    def _find_instance(self) -> int | None:
        if not self._is_slice or self._is_unknown_slice:
            return None
        said = self._ask("GPU instance", lambda: self._library.nvmlDeviceGetGpuInstanceId(self._handle), is_noted=False)
        return None if said is None else int(said)

    def _read_fields(self, handle: Any) -> dict[int, int]:
        """Read the counters in one call; each has a state of its own."""
        library, asked = self._library, self._fields
        self._readings += 1
        if self._readings % SELDOM == 2:  # what a first reading notes has no stretch to stand in
            asked = [*asked, _ROWS_PENDING, _ROWS_FAILED]
        values = self._ask(
            "fields",
            lambda: library.nvmlDeviceGetFieldValues(handle, asked),
            is_noted=False,
            is_answer=False,
        )
        found = {}
        for number, value in zip(asked, values or (), strict=False):
            if _member(value, "nvmlReturn") == 0:
                self._has_answered = True
                name = self._value_names.get(_member(value, "valueType"))
                if name is not None and _is_told(told := getattr(_member(value, "value"), name)):
                    found[number] = told
        return found

    def _read_pipes(self, handle: Any, clock_mhz: int | None, at_ns: int) -> Activity | None:
        if self._gpm is None:
            self._gpm = PipeReader(self._library, handle, self._ask)
        activity = self._gpm.read(clock_mhz, at_ns)
        self._notes |= self._gpm.notes
        if self._gpm.refusal:
            self._notes.add(self._gpm.refusal)
        return activity

    def _look_at_health(self, fields: Mapping[int, int], faults: dict[str, int]) -> None:
        if action := fields.get(_RECOVERY):
            self._notes.add(f"the driver asks for a {_ACTIONS.get(action, f'recovery (number {action})')}")
        if fields.get(_ROWS_PENDING):
            self._notes.add("rows of its memory are to be replaced at the next reset")
        if fields.get(_ROWS_FAILED):
            self._notes.add("rows of its memory could not be replaced")
        count = fields.get(_UNCORRECTED)
        if count is not None:
            if self._uncorrected is not None and count > self._uncorrected:
                self._notes.add("memory errors that could not be corrected occurred")
                faults[UNCORRECTED] = count - self._uncorrected
            self._uncorrected = count

    def _ask(self, what: str, read: Callable[[], Any], *, is_noted: bool = True, is_answer: bool = True) -> Any:
        """Return what a call says, and None where it fails; note why."""
        self._note_call(what)
        try:
            said = read()
        except (self._library.NVMLError, *BINDING_FAILURES) as error:
            if not self._why:
                self._why = words_of(error)
                self._is_unlisted = getattr(error, "value", None) == self._library.NVML_ERROR_NOT_FOUND
            if is_noted:
                self._notes.add(f"{what} could not be read: {words_of(error)}")
            return None
        finally:
            self._note_call("")
        self._has_answered |= is_answer
        if isinstance(said, int) and not _is_told(said):
            self._notes.add(f"{what} was told as a number that it cannot be")
            return None
        return said


def _find_handle(library: Any, uuid: str) -> Any:
    """Find a device; what CUDA gives as the UUID of a MIG slice comes without saying that it is one."""
    try:
        return library.nvmlDeviceGetHandleByUUID(uuid)
    except library.NVMLError as error:
        if getattr(error, "value", None) != library.NVML_ERROR_NOT_FOUND or not uuid.startswith("GPU-"):
            raise
    return library.nvmlDeviceGetHandleByUUID(f"MIG-{uuid.removeprefix('GPU-')}")


def _find_slices(library: Any, card: Any) -> list[Any] | None:
    """Return the slices that a card is cut into; None where it is whole."""
    if library.nvmlDeviceGetMigMode(card)[0] != library.NVML_DEVICE_MIG_ENABLE:
        return None
    found = []
    for slot in range(library.nvmlDeviceGetMaxMigDeviceCount(card)):
        try:
            found.append(library.nvmlDeviceGetMigDeviceHandleByIndex(card, slot))
        except library.NVMLError as error:
            if getattr(error, "value", None) != library.NVML_ERROR_NOT_FOUND:  # gaps between slices are usual
                raise
    return found


def _is_told(said: int) -> bool:
    """Say whether a number is one that a device can mean; no counter of theirs gets to 2⁶² in centuries."""
    return 0 <= said < 2**62 and said not in NOT_TOLD


def _slowdown_fields(driver: str) -> dict[int, str]:
    parts = [int(part) for part in driver.split(".")[:2] if part.isdigit()]
    known = {74: "power cap", 76: "sync boost"}
    if len(parts) < 2:
        return known  # which numbers it has is not known
    first = 269 if tuple(parts) >= RENUMBERED else 251
    return known | {first: "thermal", first + 1: "hardware thermal", first + 2: "power brake"}


def _names_of_values(library: Any) -> dict[int, str]:
    """Return which member of its union a field's value is in, by type; floats are no counters."""
    return {
        library.NVML_VALUE_TYPE_UNSIGNED_INT: "uiVal",
        library.NVML_VALUE_TYPE_UNSIGNED_LONG: "ulVal",
        library.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG: "ullVal",
        library.NVML_VALUE_TYPE_SIGNED_LONG_LONG: "sllVal",
        library.NVML_VALUE_TYPE_SIGNED_INT: "siVal",
    }


def _reasons(library: Any, handle: Any) -> int:
    newer = getattr(library, "nvmlDeviceGetCurrentClocksEventReasons", None)
    if newer is not None:
        try:
            return int(newer(handle))
        except library.NVMLError as error:
            if getattr(error, "value", None) != library.NVML_ERROR_FUNCTION_NOT_FOUND:
                raise
    return int(library.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
