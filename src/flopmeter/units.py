"""FLOP, durations and energy as exact integers: print them for people, parse what people write.

Not here: how they travel (`wire`), and what they mean (`tally`, `usage`).
"""

from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation

NS_PER_S = 1_000_000_000
MJ_PER_J = 1_000
J_PER_KWH = 3_600_000


def print_flop(value: int | None, *, digits: int = 3) -> str:
    """Return a FLOP count for people, such as `3.21e+12 FLOP`; `unknown` for None.

    Units: FLOP, rounded half to even to `digits` significant digits; exact below 10,000.
    """
    if value is None:
        return "unknown"
    if abs(value) < 10_000:
        return f"{value} FLOP"
    return f"{_scientific(value, digits)} FLOP"


def print_ratio(value: float | None) -> str:
    """Return a ratio as a percentage for people; `unknown` for None."""
    return "unknown" if value is None else f"{100 * value:.3g} %"


def print_duration(value_ns: int | None) -> str:
    """Return a duration for people; `unknown` for None.

    Units: takes nanoseconds, prints s, min or h.
    """
    if value_ns is None:
        return "unknown"
    seconds = value_ns / NS_PER_S
    if seconds < 120:
        return f"{seconds:.3g} s"
    if seconds < 7200:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


def print_held(value_ns: int) -> str:
    """Return the time of devices together for people.

    Units: takes nanoseconds, prints device-seconds, device-minutes or GPU-hours.
    """
    number, unit = print_duration(value_ns).split()
    words = {"h": "GPU-hour", "min": "device-minute", "s": "device-second"}[unit]
    return f"{number} {words if number == '1' else words + 's'}"


def print_energy(value_mj: int | None) -> str:
    """Return an energy for people; `unknown` for None.

    Units: takes millijoules, prints J, kJ or kWh.
    """
    if value_mj is None:
        return "unknown"
    joules = value_mj / MJ_PER_J
    if joules >= J_PER_KWH / 10:
        return f"{joules / J_PER_KWH:.3g} kWh"
    return f"{joules / 1000:.3g} kJ" if joules >= 1000 else f"{joules:.4g} J"


def parse_flop(text: str) -> int:
    """Return the exact integer that a person wrote, such as `1e25`, `3.5e22` or `1_000`.

    A float could not hold these: `int(1e25)` is 10000000000000000905969664.

    Raises:
        ValueError: not a number, negative, or not a whole number of operations.

    Example:
        >>> parse_flop("1e25")
        10000000000000000000000000
    """
    cleaned = text.strip().removesuffix("FLOP").strip().replace("_", "")
    try:
        value = Decimal(cleaned)
    except InvalidOperation:
        msg = f"{text!r} is not a number of FLOP; write 1e25, or all its digits"
        raise ValueError(msg) from None
    if not value.is_finite() or value < 0 or value.adjusted() >= 60 or value != value.to_integral_value():
        msg = f"{text!r} is not a whole, non-negative number of FLOP below 1e60"
        raise ValueError(msg)
    return int(value)


def _scientific(value: int, digits: int) -> str:
    number = Decimal(value)
    exponent = number.adjusted()
    step = Decimal(1).scaleb(exponent - digits + 1)
    rounded = (number / step).to_integral_value(rounding=ROUND_HALF_EVEN) * step
    exponent = rounded.adjusted()
    return f"{rounded.scaleb(-exponent):.{digits - 1}f}e+{exponent:02d}"
