"""What times that were taken in turns say: ratios step by step, tails, sums, each with its interval.

An interval is from 2.5 to 97.5 of a hundred resamplings by blocks of neighbouring steps: what disturbs one step on a
shared machine disturbs the next one too. Not here: how the times were taken (`turns.py`).
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

RESAMPLINGS = 500
BLOCK = 100

Figure = dict[str, Any]
Statistic = Callable[[np.ndarray], float]


def estimate(statistic: Statistic, *times: Sequence[float], seed: int = 0) -> Figure:
    """Return a statistic of some rows of times and its interval; steps are resampled, all rows alike.

    The statistic takes an array of rows by steps.
    """
    rows = np.array(times, dtype=float)
    steps = rows.shape[1]
    block = max(1, min(BLOCK, steps // 4))
    blocks = steps // block
    draws = np.random.default_rng(seed)
    again = []
    for _ in range(RESAMPLINGS):
        begins = draws.integers(blocks, size=blocks) * block
        again.append(statistic(rows[:, (begins[:, None] + np.arange(block)).ravel()]))
    low, high = np.quantile(again, [0.025, 0.975])
    return {"figure": round(statistic(rows), 4), "interval": [round(float(low), 4), round(float(high), 4)]}


def median_ratio(rows: np.ndarray) -> float:
    """Median over steps of row 1 to row 0."""
    return float(np.median(rows[1] / rows[0]))


def median_over_control(rows: np.ndarray) -> float:
    """Median ratio of row 2 to row 0, over that of row 1, the control, to row 0."""
    return float(np.median(rows[2] / rows[0]) / np.median(rows[1] / rows[0]))


def tail_ratio(rows: np.ndarray) -> float:
    """99th percentile of row 1 over that of row 0."""
    slow, base = np.quantile(rows[1], 0.99), np.quantile(rows[0], 0.99)
    return float(slow / base)


def sum_ratio(rows: np.ndarray) -> float:
    """Sum of row 1 over the sum of row 0."""
    return float(rows[1].sum() / rows[0].sum())


def milliseconds(times: Sequence[int], share: float) -> float:
    """A quantile of times.

    Units: milliseconds, of nanoseconds.
    """
    return round(float(np.quantile(np.array(times, dtype=float), share)) / 1e6, 3)
