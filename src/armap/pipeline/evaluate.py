"""Evaluates a run: reads its folder, computes every number with its interval, writes `metrics.json`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from armap.pipeline.funnel import data_metrics
from armap.pipeline.intervals import average, bootstrap_ratio, mean, mean_rate, share
from armap.pipeline.outcomes import (
    first_of_kind,
    is_solved,
    judged_rightly,
    kind,
    mean_metrics,
    mean_reward,
    paid,
)
from armap.pipeline.success_by_n import success_by_n
from armap.store import Ledger, LedgerEntry, RunFolder
from armap.types import (
    Candidate,
    DiscardedPair,
    Failure,
    FailureCount,
    HeldoutScore,
    Interval,
    Metrics,
    PlannerMetrics,
    PolicyMetrics,
    PreferencePair,
    RewardModelMetrics,
    SearchResult,
    TaskFailure,
    Trajectory,
)

_Searches = Mapping[str, SearchResult]
"""One planner's searches by task id."""


def evaluate(run: RunFolder) -> Metrics:
    """Compute the metrics of a run from its folder alone and write them to `metrics.json`.

    What is missing from the folder is missing from the metrics. Failures count as success 0.

    Raises:
        DataError: a stored record is malformed.
    """
    planners = _by_planner(run.read("searches", SearchResult))
    collected = run.read("trajectories", Trajectory)
    best = first_of_kind(planners, "best_of_n")
    best_of_n = planners[best] if best else {}
    rows = _rows(planners)
    measured = {name: _planner_metrics(name, rows) for name in rows}
    metrics = Metrics(
        failures=_failures(run.read("failures", TaskFailure), collected, planners),
        planners=measured,
        gap_closed=measured[best].gap_closed if best else None,
        success_by_n=success_by_n(best_of_n.values()),
        reward_model=_reward_model_metrics(run.read("heldout", HeldoutScore), best_of_n),
        policy=_policy_metrics(run.read("completions", LedgerEntry), collected, planners),
        data=data_metrics(collected, run.read("pairs", PreferencePair), run.read("discarded", DiscardedPair)),
        chosen_by=_chosen_by(run),
        spent=Ledger(run).spent,
    )
    run.write_json("metrics", metrics)
    return metrics


def _chosen_by(run: RunFolder) -> str | None:
    begun = run.manifest.stages.get("evaluate")
    if begun is None:
        return None
    place, objective = begun.settings.get("reward_model"), begun.settings.get("objective")
    if place is None and objective is None:
        return None
    untrained = {"chance": "chance", "prompted": "the language model, asked for a score"}
    by = "the run's own reward model" if place is None else untrained.get(str(place), f"the reward model {place}")
    return by if objective is None else f"{objective}, with the score of {by}"


def _by_planner(results: Iterable[SearchResult]) -> Mapping[str, _Searches]:
    """Group searches by planner, each group ordered by task so that intervals do not depend on who finished first."""
    planners: dict[str, dict[str, SearchResult]] = {}
    for result in sorted(results, key=lambda result: (result.planner, result.task.id)):
        planners.setdefault(result.planner, {})[result.task.id] = result
    return planners


class _Row(NamedTuple):
    """The candidates that a way of planning chose for each task, and the searches they are read off."""

    planner: str
    searches: _Searches
    chosen: Mapping[str, Sequence[Candidate]]

    @property
    def success(self) -> dict[str, float]:
        """What the environment paid, by task; several candidates of a task count as one at random."""
        return {task: mean_reward(candidates) for task, candidates in self.chosen.items()}


def _rows(planners: Mapping[str, _Searches]) -> dict[str, _Row]:
    """Return what to report, in the order in which to show it."""
    rows = {
        name: _Row(name, searches, {task: _chosen(name, result) for task, result in searches.items()})
        for name, searches in planners.items()
        if name != "sampling"
    }
    source = first_of_kind(planners, "best_of_n") or first_of_kind(planners, "sampling")
    if source is None:
        return rows
    searches = planners[source]
    drawn = {task: result.candidates for task, result in searches.items()}
    best = {task: [max(candidates, key=paid)] if candidates else [] for task, candidates in drawn.items()}
    greedy = {name: rows.pop(name) for name in [*rows] if kind(name) == "greedy"}
    return {**greedy, "sampling": _Row(source, searches, drawn), **rows, "oracle": _Row(source, searches, best)}


def _chosen(name: str, result: SearchResult) -> Sequence[Candidate]:
    if kind(name) == "sampling":
        return result.candidates
    return [] if result.answer is None else [result.candidates[result.answer]]


def _planner_metrics(name: str, rows: Mapping[str, _Row]) -> PlannerMetrics:
    row, success = rows[name], rows[name].success
    results = list(row.searches.values())
    return PlannerMetrics(
        searches=row.planner,
        tasks=len(results),
        failed=sum(result.failure is not None for result in results),
        failed_candidates=sum(
            candidate.trajectory.failure is not None for result in results for candidate in result.candidates
        ),
        success=mean_rate(success.values()),
        difference_to_sampling=_difference(name, rows, "sampling"),
        difference_to_greedy=_difference(name, rows, "greedy"),
        difference_to_best_of_n=_difference(name, rows, "best_of_n"),
        gap_closed=_gap_closed(name, rows),
        answer_metrics=mean_metrics(row.chosen.values()),
        trajectories=fmean(len(result.candidates) for result in results),
        calls=fmean(result.usage.calls for result in results),
        prompt_tokens=fmean(result.usage.prompt_tokens for result in results),
        completion_tokens=fmean(result.usage.completion_tokens for result in results),
        cost_usd=fmean(result.usage.cost_usd for result in results),
        env_steps=fmean(result.env_steps for result in results),
        seconds=fmean(result.seconds for result in results),
        merged_proposals=fmean(result.merged_proposals for result in results),
    )


def _difference(name: str, rows: Mapping[str, _Row], other: str) -> Interval | None:
    """Return by how much a planner does better than another one, over the tasks both tried."""
    against = first_of_kind(rows, other)
    if against is None or against == name:
        return None
    success, others = rows[name].success, rows[against].success
    differences = [success[task] - others[task] for task in success if task in others]
    return mean(differences) if differences else None


def _gap_closed(name: str, rows: Mapping[str, _Row]) -> Interval | None:
    """Return what share of the way from sampling to oracle a planner goes, over the tasks all three tried."""
    if "oracle" not in rows or kind(name) in ("greedy", "sampling", "oracle"):
        return None
    success, sampling, oracle = (rows[of].success for of in (name, "sampling", "oracle"))
    shared = [task for task in success if task in sampling]
    return bootstrap_ratio(
        [success[task] - sampling[task] for task in shared], [oracle[task] - sampling[task] for task in shared]
    )


def _reward_model_metrics(heldout: Sequence[HeldoutScore], best_of_n: _Searches) -> RewardModelMetrics:
    aucs = [auc for result in best_of_n.values() if (auc := _auc(result.candidates)) is not None]
    return RewardModelMetrics(
        pairs=len(heldout),
        source_tasks=len({pair.source_task_id for pair in heldout}),
        pairwise_accuracy=_pairwise_accuracy(heldout),
        pairwise_accuracy_by_origin={
            origin: accuracy
            for origin in sorted({pair.origin for pair in heldout})
            if (accuracy := _pairwise_accuracy([pair for pair in heldout if pair.origin == origin]))
        },
        candidate_auc=mean_rate(aucs) if aucs else None,
        candidate_auc_tasks=len(aucs),
    )


def _pairwise_accuracy(heldout: Sequence[HeldoutScore]) -> Interval | None:
    rightly = [judged_rightly(pair.chosen - pair.rejected) for pair in heldout]
    return share([pair.source_task_id for pair in heldout], rightly)


def _auc(candidates: Iterable[Candidate]) -> float | None:
    """Return how often a solved candidate outscores an unsolved one, ties counting half; None without both kinds."""
    scores: dict[bool, list[float]] = {True: [], False: []}
    for candidate in candidates:
        if candidate.score is not None:
            scores[is_solved(candidate)].append(candidate.score)
    if not (scores[True] and scores[False]):
        return None
    return fmean((good > bad) + (good == bad) / 2 for good in scores[True] for bad in scores[False])


def _policy_metrics(
    ledger: Iterable[LedgerEntry], collected: Iterable[Trajectory], planners: Mapping[str, _Searches]
) -> PolicyMetrics:
    entropies: list[float] = []
    masses: list[float] = []
    for completion in (completion for entry in ledger for completion in entry.completions):
        if completion.choice_entropy_nats is not None:
            entropies.append(completion.choice_entropy_nats)
        if completion.choice_mass is not None:
            masses.append(completion.choice_mass)
    listed = [
        step.action.text in step.observation.actions
        for trajectory in (*collected, *_candidates(planners))
        for step in trajectory.steps
        if step.observation.actions is not None
    ]
    return PolicyMetrics(
        choices=len(entropies),
        choice_entropy_nats=average(entropies),
        choice_mass=average(masses),
        listed_steps=len(listed),
        legal_share=average(listed),
    )


def _candidates(planners: Mapping[str, _Searches]) -> Iterable[Trajectory]:
    return (
        candidate.trajectory
        for searches in planners.values()
        for result in searches.values()
        for candidate in result.candidates
    )


def _failures(
    not_begun: Iterable[TaskFailure], collected: Iterable[Trajectory], planners: Mapping[str, _Searches]
) -> tuple[FailureCount, ...]:
    failures: list[tuple[str, Failure | None]] = [(failure.stage, failure.failure) for failure in not_begun]
    failures += [("collect", trajectory.failure) for trajectory in collected]
    for name, searches in planners.items():
        for result in searches.values():
            # A search whose every candidate failed repeats the failure of one of them.
            found = [candidate.trajectory.failure for candidate in result.candidates] or [result.failure]
            failures += [(name, failure) for failure in (*found, *result.setbacks)]
    groups: dict[tuple[str, str], list[Failure]] = {}
    for where, failure in failures:
        if failure is not None:
            groups.setdefault((where, failure.kind), []).append(failure)
    return tuple(
        FailureCount(where=where, kind=kind, count=len(group), example=group[0].message)
        for (where, kind), group in groups.items()
    )
