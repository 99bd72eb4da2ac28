"""What counts as success when a run is evaluated and reported."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean

from armap.rewards.objective import STEPS
from armap.types import Candidate, SearchResult

ROUNDING = 1e-9
"""Rewards that differ by less are equal: sums of floating-point rewards are not exact."""


def paid(candidate: Candidate) -> float:
    """Return what the environment paid for a candidate; 0 for one that failed."""
    return 0.0 if candidate.trajectory.failure else candidate.trajectory.env_reward


def is_solved(candidate: Candidate) -> bool:
    """Return whether the environment paid in full, which is 1."""
    return paid(candidate) > 1 - ROUNDING


def answer_reward(result: SearchResult) -> float:
    """Return what the environment paid for the answer; 0 where there is none."""
    return 0.0 if result.answer is None else paid(result.candidates[result.answer])


def mean_reward(candidates: Sequence[Candidate]) -> float:
    """Return what the environment paid on average; 0 where there is no candidate."""
    return fmean(map(paid, candidates)) if candidates else 0.0


def mean_metrics(chosen: Iterable[Sequence[Candidate]]) -> dict[str, float]:
    """Return the mean of `steps` and of whatever the environment reports.

    Args:
        chosen: candidates of each task; tasks count alike. Failed candidates have no metrics.
    """
    by_metric: dict[str, list[float]] = {}
    for candidates in chosen:
        of_task: dict[str, list[float]] = {}
        for trajectory in (candidate.trajectory for candidate in candidates if not candidate.trajectory.failure):
            for name, value in {**trajectory.metrics, STEPS: float(len(trajectory.steps))}.items():
                of_task.setdefault(name, []).append(value)
        for name, values in of_task.items():
            by_metric.setdefault(name, []).append(fmean(values))
    return {name: fmean(values) for name, values in sorted(by_metric.items())}


def kind(label: str) -> str:
    """Return the name of a planner without its settings."""
    return label.partition("(")[0]


def judged_rightly(margin: float) -> float:
    """Return 1 for a pair whose chosen side scores higher by a positive margin, 1/2 for a draw, and 0 otherwise."""
    return (margin > 0) + (margin == 0) / 2


def first_of_kind(labels: Iterable[str], name: str) -> str | None:
    """Return the label of the planner of a name; if there are several, the one whose settings are the usual ones."""
    return min((label for label in labels if kind(label) == name), default=None)
