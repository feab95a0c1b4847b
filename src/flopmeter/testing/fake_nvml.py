"""A fake `libnvidia-ml.so.1`, compiled when first used and loaded by the real nvidia-ml-py.

A fake proves our handling, not the hardware. Where no driver is, or beside one::

    machine = FakeMachine((FakeDevice(uuid="GPU-…", power=Series.steps({0: 700_000, 1800: 90_000})),))
    with FakeNvml(machine) as fake:
        pynvml.nvmlInit()          # in this process: pynvml's functions now answer from the script
        fake.advance(3600)         # an hour passes at once; `fake.clock_ns` is the same clock
        subprocess.run(command, env=os.environ | fake.environment())   # and in children, such as torchrun's ranks

Whoever meters such devices is told so: the library has a mark, and a run's usage notes that its devices are a script.

With `speed=60` the script's clock runs by itself, a minute each second. Not here: what a script may say
(`fake_devices`), what is true of it (`fake_truth`).
"""

import ctypes
import hashlib
import mmap
import os
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from flopmeter.errors import SensorError
from flopmeter.testing.fake_devices import FakeMachine, Number, nanoseconds

SOURCES = Path(__file__).parent / "nvml"
SONAME = "libnvidia-ml.so.1"
SCRIPT_VARIABLE = "FLOPMETER_FAKE_NVML"
FLAGS = ("-std=gnu11", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", f"-Wl,-soname,{SONAME}")
COMPILE_S = 120

# The control file, as `nvml/state.c` has it: eight words, then slots of two words and a name.
WORDS = {"running": 0, "now_ns": 1, "started_ns": 2, "scale_permille": 3, "epoch_us": 4, "releases": 5}
SLOT = struct.Struct("=QQ64s")
SLOTS = 256
HEAD = 64
CONTROL_SIZE = HEAD + SLOTS * SLOT.size


def compile_library(missing: Sequence[str] = (), *, cache: Path | None = None) -> Path:
    """Return the library, compiled unless this source was already; it lacks the functions named in `missing`.

    Raises:
        SensorError: there is no C compiler, or it failed.
        ValueError: a missing function is not one of the library's anyway.
    """
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC", ""), "cc", "gcc", "clang"))), None)
    if compiler is None:
        raise SensorError(
            "no C compiler was found for the fake NVML library", hint="install gcc or clang, or name one in CC"
        )
    sources = sorted(SOURCES.glob("*.[ch]"))
    written = "".join(source.read_text(encoding="utf-8") for source in sources)
    known = [name for name in missing if f"({name}" in written or f" {name}(" in written]
    # Its mark as a script is not among what can be left out.
    if unknown := [name for name in missing if name not in known or not name.startswith("nvml")]:
        raise ValueError(f"the fake NVML library never had {', '.join(unknown)}")
    digest = hashlib.sha256(repr((compiler, FLAGS, sorted(missing))).encode())
    digest.update(written.encode())
    folder = (cache or _cache()) / digest.hexdigest()[:16]
    library = folder / SONAME
    if library.exists():
        return library
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SensorError(
            f"the fake NVML library cannot be kept: {error.strerror}", where=str(folder), hint="set XDG_CACHE_HOME"
        ) from error
    # Renaming is atomic: of two that compile at once, one wins and both have a whole file.
    with tempfile.TemporaryDirectory(dir=folder) as work:
        made = Path(work) / SONAME
        renamed = [f"-D{name}=missing_{name}" for name in missing]
        units = [str(source) for source in sources if source.suffix == ".c"]
        done = subprocess.run(  # noqa: S603  # our own sources, with the user's compiler
            [compiler, *FLAGS, *renamed, "-o", str(made), *units, "-lm", "-lpthread"],
            capture_output=True,
            text=True,
            check=False,
            timeout=COMPILE_S,
        )
        if done.returncode:
            said = (done.stderr.strip() or "nothing").splitlines()[0]
            raise SensorError(f"the fake NVML library did not compile: {said}", where=compiler)
        made.replace(library)
    return library


def _cache() -> Path:
    named = os.environ.get("XDG_CACHE_HOME")
    return (Path(named) if named else Path.home() / ".cache") / "flopmeter" / "fake-nvml"


class FakeNvml:
    """A scripted machine that nvidia-ml-py sees, in this process while it is entered and in children by environment.

    The clock stands still until `advance`, or runs `speed` times as fast as the wall's. `folder` keeps script and
    control file; without one a temporary folder does.
    """

    def __init__(self, machine: FakeMachine, *, speed: Number | None = None, folder: Path | None = None) -> None:
        """Prepare; nothing is compiled or written before it is entered."""
        self.machine = machine
        self._speed = speed
        self._folder = folder
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._saved: dict[str, Any] = {}
        self._script_before: str | None = None

    def __enter__(self) -> Self:
        """Compile, write the script, start its clock and hand the library to pynvml."""
        self.library = compile_library(self.machine.driver.missing)
        self._loaded = ctypes.CDLL(str(self.library))
        self._check_faults()
        if self._folder is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="fake-nvml-")
        self.folder = Path(self._temporary.name) if self._temporary else Path(str(self._folder))
        self.script = self.machine.write_script(self.folder / "script")
        self._control = self._map_control()
        self._loaded.fake_reset()
        self._script_before = os.environ.get(SCRIPT_VARIABLE)
        os.environ[SCRIPT_VARIABLE] = str(self.script)
        pynvml = import_module("pynvml")  # by name: this room does not import it
        mine = {"nvmlLib": self._loaded, "_nvmlGetFunctionPointer_cache": {}, "_nvmlLib_refcount": 0}
        self._saved = {name: getattr(pynvml, name) for name in mine}
        for name, value in mine.items():
            setattr(pynvml, name, value)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let hanging calls go, and give pynvml back what it had."""
        self._loaded.fake_reset()
        pynvml = import_module("pynvml")
        for name, value in self._saved.items():
            setattr(pynvml, name, value)
        if self._script_before is None:
            os.environ.pop(SCRIPT_VARIABLE, None)
        else:
            os.environ[SCRIPT_VARIABLE] = self._script_before
        # The control stays mapped: somebody's thread may still ask for the time.
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None

    def environment(self) -> dict[str, str]:
        """Return the variables with which a child process sees the same machine, on the same clock."""
        searched = os.environ.get("LD_LIBRARY_PATH")
        path = f"{self.library.parent}:{searched}" if searched else str(self.library.parent)
        return {SCRIPT_VARIABLE: str(self.script), "LD_LIBRARY_PATH": path}

    def clock_ns(self) -> int:
        """Return the time of the script, as a clock for whoever measures intervals.

        Units: nanoseconds since time 0.
        """
        if self._speed is None:
            return self._word("now_ns")
        return (time.monotonic_ns() - self._word("started_ns")) * self._word("scale_permille") // 1000

    def advance(self, seconds: Number) -> None:
        """Let time pass where the clock stands still."""
        self._set_word("now_ns", self._word("now_ns") + nanoseconds(seconds))

    def move_to(self, seconds: Number) -> None:
        """Set the clock that stands still."""
        self._set_word("now_ns", nanoseconds(seconds))

    def rewrite(self, machine: FakeMachine) -> None:
        """Replace the script: seen by whoever initialises the library from now on."""
        self.machine = machine
        self._check_faults()
        waiting = machine.write_script(self.folder / "script.new")
        waiting.replace(self.script)

    def release(self) -> None:
        """Let the calls go that hang now."""
        self._set_word("releases", self._word("releases") + 1)

    def calls(self) -> dict[str, int]:
        """Return how often each function was called, by all processes together; failed calls count."""
        counted: dict[str, int] = {}
        for index in range(SLOTS):
            calls, claimed, name = SLOT.unpack_from(self._control, HEAD + index * SLOT.size)
            if claimed:
                key = name.rstrip(b"\0").decode()
                counted[key] = counted.get(key, 0) + calls
        return counted

    def _check_faults(self) -> None:
        # A fault at a name that is never called would make a test pass for nothing.
        for target in (fault.target for fault in self.machine.faults):
            if target.startswith("nvml") and not target.endswith("*") and not hasattr(self._loaded, target):
                raise ValueError(f"the fake NVML library has no function {target}")

    def _map_control(self) -> mmap.mmap:
        path = Path(f"{self.script}.control")
        path.unlink(missing_ok=True)  # never cut short what another process has mapped
        path.write_bytes(b"\0" * CONTROL_SIZE)
        with path.open("r+b") as file:
            self._control = mmap.mmap(file.fileno(), CONTROL_SIZE)
        self._set_word("epoch_us", time.time_ns() // 1000)
        self._set_word("started_ns", time.monotonic_ns())
        if self._speed is not None:
            self._set_word("scale_permille", nanoseconds(self._speed) // 1_000_000)
            self._set_word("running", 1)
        return self._control

    def _word(self, name: str) -> int:
        return int(struct.unpack_from("Q", self._control, 8 * WORDS[name])[0])

    def _set_word(self, name: str, value: int) -> None:
        struct.pack_into("Q", self._control, 8 * WORDS[name], value)
