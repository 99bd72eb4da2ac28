"""What Best-of-N would have achieved with fewer candidates, and whether more of them start to hurt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import comb
from statistics import NormalDist, fmean

from armap.pipeline.intervals import mean
from armap.pipeline.outcomes import ROUNDING, mean_reward, paid
from armap.types import Candidate, SearchResult, SuccessAtN


def success_by_n(results: Iterable[SearchResult]) -> tuple[SuccessAtN, ...]:
    """Return what Best-of-N with fewer candidates would have achieved: the exact mean over all subsets.

    Of N candidates ordered from best to worst, the one of rank k is the best of a random subset of n exactly if it
    is drawn and the other n - 1 come from the N - k behind it, which has probability C(N-k, n-1) / C(N, n). Success
    is the mean of the rewards with these weights. Best-of-N orders by score, the first drawn of equals before the
    others, and never answers with one without a score, which counts as 0; oracle orders by what the environment pays.

    Args:
        results: searches of `best_of_n`. One without candidates counts as 0 at every n.

    Returns:
        One point for each of n = 1, 2, 3, 5, 10, 20, 30, ..., N, where N is the most candidates that a search has;
        none if no search has any. A search that came to its end with fewer offers all it has.
    """
    drawn = [result.candidates for result in results]
    most = max(map(len, drawn), default=0)
    sampling = [mean_reward(candidates) for candidates in drawn]
    by_score = [[*map(_paid_if_scored, sorted(candidates, key=_planner_order))] for candidates in drawn]
    by_pay = [sorted(map(paid, candidates), reverse=True) for candidates in drawn]
    with_all = _expected_first(by_score, most)
    points = []
    for n in sorted({n for n in (1, 2, 3, 5, *range(10, most, 10), most) if 1 <= n <= most}):
        chosen = _expected_first(by_score, n)
        points.append(
            SuccessAtN(
                n=n,
                sampling=fmean(sampling),
                best_of_n=fmean(chosen),
                oracle=fmean(_expected_first(by_pay, n)),
                more_gain=mean(more - fewer for more, fewer in zip(with_all, chosen, strict=True)),
            )
        )
    return tuple(points)


def search_verdict(points: Sequence[SuccessAtN]) -> str:
    """Say in words whether more candidates start to hurt."""
    if len(points) == 1:
        return "one candidate per task, which says nothing of more"
    best = max(points, key=lambda point: (point.best_of_n, -point.n))
    if best.best_of_n - points[-1].best_of_n > ROUNDING:
        loss = best.more_gain
        # The best of several numbers was picked, so that it must stand out further than one alone (Bonferroni).
        wider = NormalDist().inv_cdf(1 - 0.025 / len(points)) / NormalDist().inv_cdf(1 - 0.025)
        sure = loss.mean + wider * (loss.high - loss.mean) < 0
        lost = f"{-100 * loss.mean:.1f} points [{-100 * loss.high:.1f}, {-100 * loss.low:.1f}]"
        hurt = ", and more candidates hurt" if sure else "; whether more candidates hurt is not sure"
        return f"success is highest at N = {best.n}{hurt}: they lose {lost}"
    if any(fewer.best_of_n - more.best_of_n > ROUNDING for fewer, more in pairwise(points)):
        return "success is highest with all candidates, though not each further one helps"
    return "more candidates never hurt"


def _expected_first(by_task: Sequence[Sequence[float]], n: int) -> list[float]:
    """Return, by task, the expected reward of the best-ranked of `n` candidates drawn at random; see `success_by_n`.

    Args:
        by_task: what the candidates of each task are paid, from the best-ranked one to the worst.
        n: how many are drawn.
    """
    return [_first_of(ranked, min(n, len(ranked))) for ranked in by_task]


def _first_of(ranked: Sequence[float], n: int) -> float:
    return sum(pay * (comb(len(ranked) - rank, n - 1) / comb(len(ranked), n)) for rank, pay in enumerate(ranked, 1))


def _paid_if_scored(candidate: Candidate) -> float:
    return 0.0 if candidate.score is None else paid(candidate)


def _planner_order(candidate: Candidate) -> tuple[bool, float]:
    # `sorted` is stable, so equals stay in the order in which they were drawn, as the planner has it.
    return candidate.score is None, -(candidate.score or 0.0)
