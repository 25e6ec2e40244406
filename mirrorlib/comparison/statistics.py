"""What seeds say of an arm and of its difference from another: means, intervals, tests.

The seed is the unit: the scenes of one run share a policy, so intervals from pooled counts would be
too narrow, and none is made here. All in float64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

MINIMUM_SEEDS = 5
"""With fewer there is no interval: the points are shown."""
LEVEL = 0.95
FLIPPED_AT_MOST = 40
"""Pairs of an exact sign-flip test: two halves of 2^20 sums are held at once."""


@dataclass(frozen=True)
class Summary:
    """One metric of one arm, or its paired differences from the baseline.

    values: seed -> finite value. mean: NaN where there is none. low, high: 95 % t-interval, None
    below MINIMUM_SEEDS.
    """

    values: Mapping[int, float]
    mean: float
    low: float | None = None
    high: float | None = None

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def constant(self) -> bool:
        """Whether there is an interval, and it has no width: every seed gave the same."""
        return self.low is not None and self.low == self.high

    @property
    def excludes_zero(self) -> bool:
        """Whether there is an interval and zero is outside. An interval without width excludes
        nothing: a spread of zero over seeds is a ceiling or a defect, and no estimate of noise."""
        if self.low is None or self.high is None or self.constant:
            return False
        return self.low > 0 or self.high < 0


def summarise(values: Mapping[int, float]) -> Summary:
    """values: seed -> value; what is NaN or infinite is left out."""
    finite = {seed: float(value) for seed, value in values.items() if math.isfinite(value)}
    points = np.array(list(finite.values()), dtype=np.float64)
    if len(points) == 0:
        return Summary(finite, math.nan)
    if len(points) < MINIMUM_SEEDS:
        return Summary(finite, float(points.mean()))
    if np.ptp(points) <= 1e-9 * np.abs(points).max():  # differences of equal size round unequally
        return Summary(finite, *[float(points[0])] * 3)
    mean, low, high = t_interval(points)
    return Summary(finite, float(mean), float(low), float(high))


def paired(arm: Mapping[int, float], baseline: Mapping[int, float]) -> Summary:
    """Arm minus baseline, seed by seed, over the seeds that both have finite values of."""
    both = sorted(arm.keys() & baseline.keys())
    return summarise({seed: arm[seed] - baseline[seed] for seed in both})


def t_interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and ends of Student's 95 % interval. values: (..., N), N >= 2. Returns three (...)."""
    values = np.asarray(values, dtype=np.float64)
    n = values.shape[-1]
    mean = values.mean(-1)
    half = stats.t.ppf((1 + LEVEL) / 2, n - 1) * values.std(-1, ddof=1) / math.sqrt(n)
    return mean, mean - half, mean + half


def t_test(differences: Sequence[float]) -> float:
    """Two-sided p of the paired t-test. NaN where the differences do not vary."""
    values = np.asarray(differences, dtype=np.float64)
    if len(values) < 2 or np.ptp(values) <= 1e-9 * np.abs(values).max():
        return math.nan
    return float(stats.ttest_1samp(values, 0.0).pvalue)


def sign_flip_test(differences: Sequence[float]) -> float:
    """Two-sided exact p: the share of all 2^N ways to flip the signs of the differences whose sum
    is at least as far from zero (Fisher 1935). It is never below 2^(1 - N).

    differences: (N,). Exact up to rounding (ties count). Raises ValueError for none, or more than
    FLIPPED_AT_MOST.
    """
    values = np.abs(np.asarray(differences, dtype=np.float64))
    if not 0 < len(values) <= FLIPPED_AT_MOST:
        raise ValueError(f"{len(values)} differences: 1 to {FLIPPED_AT_MOST} can be flipped")
    reached = abs(float(np.sum(differences))) - 1e-9 * float(values.sum())
    if reached <= 0:
        return 1.0
    left, right = (np.sort(_signed_sums(half)) for half in np.array_split(values, 2))
    beyond = len(right) - np.searchsorted(right, reached - left, side="left")
    return 2 * int(beyond.sum()) / 2 ** len(values)


def _signed_sums(values: np.ndarray) -> np.ndarray:
    """The sums of values (N,) under every choice of signs: (2^N,)."""
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums - value, sums + value])
    return sums


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted for their number, step-down (Holm 1979); NaN stays NaN and counts as a test."""
    adjusted = [math.nan] * len(p_values)
    largest = 0.0
    ranked = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    for rank, (p, i) in enumerate(ranked):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p))
        adjusted[i] = largest
    return adjusted
