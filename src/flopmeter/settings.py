"""Settings: what a meter was told to do, checked before anything runs, and as the ledger's header writes it down.

Not here: what follows from them (`meter.py`, `sensors`), what the other lines of a ledger say (`recording.py`).
"""

import math
import os
import platform
from dataclasses import dataclass
from importlib.metadata import version
from operator import index
from typing import TYPE_CHECKING

from flopmeter import wire
from flopmeter.devices.peaks import bound_cpu
from flopmeter.formulas.book import CONVENTION
from flopmeter.tally import PURPOSES
from flopmeter.units import NS_PER_S

if TYPE_CHECKING:
    from flopmeter.formulas.book import FormulaBook

MAX_COUNT = 10**24


@dataclass(frozen=True, slots=True)
class Settings:
    """What stays the same for as long as a meter runs.

    Units: `overhead_budget` a share of wall time, `interval_ns` nanoseconds.
    """

    exact: bool
    overhead_budget: float
    strict: bool
    interval_ns: int
    census: bool

    @classmethod
    def of(
        cls, *, exact: bool, overhead_budget: float, strict: bool, interval_s: float, census: bool = False
    ) -> "Settings":
        """Check what a user said.

        Raises:
            ValueError: a budget that is no share of time.
        """
        if not 0 <= overhead_budget < math.inf:
            msg = f"an overhead budget is a share of wall time, such as 0.01; not {overhead_budget!r}"
            raise ValueError(msg)
        return cls(exact, overhead_budget, strict, int(interval_s * NS_PER_S), census)

    def header(
        self, book: "FormulaBook", *, purpose: str, world: int, torch_version: str, has_cuda: bool
    ) -> dict[str, wire.Wire]:
        """Return what a segment of a ledger says first; `world` is the number of ranks."""
        cores = os.cpu_count() or 1
        return {
            "book": book.digest,
            "foreign_formulas": dict(book.foreign),
            "convention": CONVENTION,
            "world": wire.print_count(world),
            "purpose": purpose,
            "exact": self.exact,
            **({"census": True} if self.census else {}),
            "overhead_budget": f"{self.overhead_budget:g}",
            "versions": {
                "flopmeter": version("flopmeter"),
                "torch": torch_version,
                "python": platform.python_version(),
            },
            "ceiling_flop_per_s": None if has_cuda else wire.print_count(bound_cpu(cores)),
            "host": {"system": platform.system(), "machine": platform.machine(), "cores": str(cores)},
        }


def check_count(value: int) -> int:
    """Return a number of tokens or samples as it is.

    Raises:
        TypeError, ValueError: it is not whole, or negative, or beyond what a step can hold.
    """
    whole = value if type(value) is int else index(value)
    if not 0 <= whole < MAX_COUNT:
        raise ValueError("tokens and samples of a step are counted from 0 to 10^24")
    return whole


def check_purpose(name: str) -> str:
    """Return the name of a purpose as it is.

    Raises:
        ValueError: it is none of the list.
    """
    if name not in PURPOSES:
        raise ValueError(f"{name!r} is no purpose; there are {', '.join(PURPOSES)}")
    return name
