"""Ceilings: what a device could have done at most per second.

Not here: what a device did. Peaks of NVIDIA devices come with the issue on hardware evidence; until then they are
unknown, which is None and never a guess.
"""

CPU_CYCLES_PER_S = 6_000_000_000
CPU_OPERATIONS_PER_CYCLE = 4096


def bound_cpu(cores: int) -> int:
    """Return a generous ceiling of what CPU cores can do.

    Units: operations per second.
    Counts: cores × 6 GHz × 4,096 operations per cycle, above the int8 rate of AMX
        (one tile product of 16 × 16 × 64 multiply-adds every 16 cycles: 2,048 operations per cycle).
    Basis: a stated bound, above any part sold; not a peak, and not measured.
    Source: convention fm-1, docs/spec/fm-1.md; Intel, Architecture Instruction Set Extensions (AMX).

    Example:
        >>> bound_cpu(2)
        49152000000000
    """
    return cores * CPU_CYCLES_PER_S * CPU_OPERATIONS_PER_CYCLE
