"""How sure a number is: bootstrap intervals over tasks, and exact ones where nothing differs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean

import numpy as np

from armap.pipeline.outcomes import ROUNDING
from armap.types import Interval

_RESAMPLES = 10_000
_RESAMPLES_AT_ONCE = 1_000
"""Keeps the drawn indices of some thousand tasks within some ten megabytes."""
_SEED = 20250218
"""Any fixed number will do: with it the same run folder always gives the same intervals."""


def bootstrap_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Interval | None:
    """Estimate a ratio of two sums over tasks, with its 95 % percentile bootstrap interval.

    Whole tasks are resampled, so whatever a task contributed to the sums stays together. Denominators of 1 give a
    mean. Resamples whose denominators add up to zero say nothing and are left out.

    Args:
        numerators: `[T]` what each task adds above the line.
        denominators: `[T]` what each task adds below it, in the same order.

    Returns:
        The interval, the same for the same arguments; None if the denominators add up to zero.

    Source: Efron & Tibshirani, An Introduction to the Bootstrap, chapter 13 (percentile intervals).
    """
    parts = np.array([numerators, denominators], dtype=np.float64)
    top, bottom = parts.sum(axis=1)
    if abs(bottom) < ROUNDING:
        return None
    rng = np.random.default_rng(_SEED)
    ratios = []
    for _ in range(_RESAMPLES // _RESAMPLES_AT_ONCE):
        drawn = rng.integers(parts.shape[1], size=(_RESAMPLES_AT_ONCE, parts.shape[1]))
        tops, bottoms = parts[0][drawn].sum(axis=1), parts[1][drawn].sum(axis=1)
        usable = np.abs(bottoms) >= ROUNDING
        ratios.append(tops[usable] / bottoms[usable])
    low, high = np.percentile(np.concatenate(ratios), [2.5, 97.5])
    return Interval(mean=float(top / bottom), low=float(low), high=float(high))


def share(sources: Sequence[str], counted: Sequence[float]) -> Interval | None:
    """Estimate the share of pairs that count, with its interval over source tasks; None if there are no pairs.

    Args:
        sources: `[P]` the source task of each pair.
        counted: `[P]` how much of the pair counts, from 0 to 1.
    """
    totals: defaultdict[str, int] = defaultdict(int)
    counts: defaultdict[str, float] = defaultdict(float)
    for source, counts_one in zip(sources, counted, strict=True):
        totals[source] += 1
        counts[source] += counts_one
    tasks = sorted(totals)
    found = bootstrap_ratio([counts[task] for task in tasks], [totals[task] for task in tasks])
    return found and _with_doubt(found, len(counted))


def _with_doubt(rate: Interval, count: int) -> Interval:
    """Widen the interval of a rate of 0 or 1, where all that was counted agrees: resampled, it would still.

    Source: Clopper & Pearson, The use of confidence or fiducial limits illustrated in the case of the binomial, 1934.
    """
    reach = 1 - 0.025 ** (1 / count)
    if rate.mean < ROUNDING:
        return rate.model_copy(update={"high": reach})
    if rate.mean > 1 - ROUNDING:
        return rate.model_copy(update={"low": 1 - reach})
    return rate


def average(values: Iterable[float]) -> float | None:
    """Return the mean of numbers, without an interval; None if there are none."""
    values = list(values)
    return fmean(values) if values else None


def mean_rate(rates: Iterable[float]) -> Interval:
    """Estimate a mean over one or more tasks of what should lie between 0 and 1, such as success."""
    rates = list(rates)
    found = mean(rates)
    # An environment may pay as it likes, and a mean of 0 then say nothing of the single ones.
    return _with_doubt(found, len(rates)) if min(rates) >= 0 and max(rates) <= 1 else found


def mean(values: Iterable[float]) -> Interval:
    """Estimate a mean over one or more tasks."""
    values = list(values)
    estimate = bootstrap_ratio(values, [1.0] * len(values))
    assert estimate is not None
    return estimate
