"""Sweeps the weight of an objective over the candidates of a run: what does it buy, and what does it cost?"""

from __future__ import annotations

import re
from collections.abc import Sequence

from armap.errors import ConfigError
from armap.pipeline.intervals import mean, mean_rate
from armap.pipeline.outcomes import answer_reward, first_of_kind, kind, mean_metrics, paid
from armap.rewards.objective import Objective
from armap.store import RunFolder
from armap.types import SearchResult, Sweep, SweepPoint, Sweeps

_WEIGHT = re.compile(r"\bW\b")
_LED_BY_NO_SCORE = ("greedy", "sampling", "best_of_n")


def sweep(run: RunFolder, objective: str, weights: Sequence[float]) -> Sweep:
    """Let each weight choose among the candidates of Best-of-N anew, and add what comes of it to `sweeps.json`.

    Best-of-N draws the same candidates under every objective, so nothing is asked. What other planners draw depends
    on the objective.

    Args:
        run: the run folder.
        objective: as for `Objective.parse`, with `W` where the weight stands.
        weights: one or more, each at least 0.

    Raises:
        ConfigError: the objective cannot be read or has no `W`, a weight is negative, or Best-of-N was not evaluated
            or under an objective.
        DataError: a stored record is malformed.
    """
    objectives = {weight: _objective(objective, weight) for weight in sorted(set(weights))}
    by_planner: dict[str, list[SearchResult]] = {}
    for result in run.read("searches", SearchResult):
        by_planner.setdefault(result.planner, []).append(result)
    source = first_of_kind(by_planner, "best_of_n")
    if source is None:
        raise ConfigError(
            f"{run.path} has no candidates that are the same under every objective; type: "
            f"armap evaluate --run {run.path} --planner best_of_n"
        )
    begun = run.manifest.stages.get("evaluate")
    if begun is not None and (searched := begun.settings.get("objective")):
        raise ConfigError(
            f"{run.path} was evaluated under the objective {searched}, so its candidates have no plain scores; sweep "
            "a run that was evaluated without --objective."
        )
    results = sorted(by_planner[source], key=lambda result: result.task.id)
    swept = Sweep(
        objective=objective,
        searches=source,
        left_out=tuple(sorted(name for name in by_planner if kind(name) not in _LED_BY_NO_SCORE)),
        tasks=len(results),
        points=tuple(_point(results, weight, objectives[weight]) for weight in objectives),
    )
    before = run.read_json("sweeps", Sweeps) or Sweeps(by_objective={})
    run.write_json("sweeps", Sweeps(by_objective={**before.by_objective, objective: swept}))
    return swept


def _objective(text: str, weight: float) -> Objective:
    if not _WEIGHT.search(text):
        raise ConfigError(f"The objective {text!r} has no W for the weight; write for example: score - W*steps.")
    if weight < 0:
        raise ConfigError(f"The weight {weight:g} is negative; turn the sign in the objective instead.")
    return Objective.parse(_WEIGHT.sub(f"{weight:.12f}".rstrip("0").rstrip("."), text))


def _point(results: Sequence[SearchResult], weight: float, objective: Objective) -> SweepPoint:
    answers = [_answer(result, objective) for result in results]
    chosen = [
        [] if answer is None else [result.candidates[answer]] for result, answer in zip(results, answers, strict=True)
    ]
    rewards = [sum(map(paid, candidates)) for candidates in chosen]
    return SweepPoint(
        weight=weight,
        objective=str(objective),
        env_reward=mean_rate(rewards),
        difference=mean(reward - answer_reward(result) for reward, result in zip(rewards, results, strict=True)),
        answer_metrics=mean_metrics(chosen),
        changed_share=sum(answer != result.answer for answer, result in zip(answers, results, strict=True))
        / len(results),
    )


def _answer(result: SearchResult, objective: Objective) -> int | None:
    """Return the candidate of the highest value, the first of equals, as Best-of-N has it."""
    values = {
        place: objective.value(candidate.score, candidate.trajectory)
        for place, candidate in enumerate(result.candidates)
        if candidate.score is not None
    }
    return max(values, key=lambda place: (values[place], -place), default=None)
