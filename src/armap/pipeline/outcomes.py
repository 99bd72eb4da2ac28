"""What counts as success when a run is evaluated and reported."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import comb
from statistics import fmean

from armap.rewards.objective import STEPS
from armap.types import Candidate, SearchResult, SuccessAtN

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


def success_by_n(results: Iterable[SearchResult]) -> tuple[SuccessAtN, ...]:
    """Return what Best-of-N with fewer candidates would have achieved: the exact mean over all subsets.

    Of N candidates ordered from best to worst, the one of rank k is the best of a random subset of n exactly if it
    is drawn and the other n - 1 come from the N - k behind it, which has probability C(N-k, n-1) / C(N, n). Success
    is the mean of the rewards with these weights. Best-of-N orders by score, the first drawn of equals before the
    others and failed ones last; oracle orders by what the environment pays.

    Args:
        results: searches of `best_of_n`. One without candidates counts as 0 at every n.

    Returns:
        One point for each of n = 1, 2, 3, 5, 10, 20, 30, ..., N, where N is the number of candidates every search
        that has any can offer; none if there is no such search.
    """
    results = list(results)
    sizes = [len(result.candidates) for result in results if result.candidates]
    most = min(sizes, default=0)
    drawn = [result.candidates for result in results]
    return tuple(
        SuccessAtN(
            n=n,
            sampling=fmean(mean_reward(candidates) for candidates in drawn),
            best_of_n=fmean(_expected_first(sorted(candidates, key=_planner_order), n) for candidates in drawn),
            oracle=fmean(_expected_first(sorted(candidates, key=_oracle_order), n) for candidates in drawn),
        )
        for n in sorted({n for n in (1, 2, 3, 5, *range(10, most, 10), most) if 1 <= n <= most})
    )


def search_verdict(points: Sequence[SuccessAtN]) -> str:
    """Say in words whether more candidates start to hurt."""
    best = max(points, key=lambda point: (point.best_of_n, -point.n))
    if best.best_of_n - points[-1].best_of_n > ROUNDING:
        return f"success is highest at N = {best.n}, and more candidates hurt"
    if any(fewer.best_of_n - more.best_of_n > ROUNDING for fewer, more in pairwise(points)):
        return "success is highest with all candidates, though not each further one helps"
    return "more candidates never hurt"


def _expected_first(ranked: Sequence[Candidate], n: int) -> float:
    """Return the expected reward of the best-ranked of `n` candidates drawn at random; see `success_by_n`."""
    total = len(ranked)
    return sum(
        paid(candidate) * (comb(total - rank, n - 1) / comb(total, n)) for rank, candidate in enumerate(ranked, 1)
    )


def _planner_order(candidate: Candidate) -> tuple[bool, float]:
    # `sorted` is stable, so equals stay in the order in which they were drawn, as the planner has it.
    return candidate.score is None, -(candidate.score or 0.0)


def _oracle_order(candidate: Candidate) -> float:
    return -paid(candidate)
