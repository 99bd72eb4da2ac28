"""Reflexion: try, judge, say what went wrong, try again with that in mind."""

from __future__ import annotations

import math
from random import Random
from typing import Literal

from pydantic import Field

from armap.errors import RunError
from armap.planners.search import Search
from armap.protocols import CalibratedRewardModel, Policy, RewardModel, World
from armap.seeds import rng_for
from armap.types import Failure, Record, SearchBudget, SearchResult, Task, Trajectory


class Reflexion(Record):
    """Makes one attempt after another, each with the policy's own words on those before, until one is good enough.

    Source: Reflexion (Shinn et al., 2023); ARMAP, where the reward model says what is good enough.
    """

    name: Literal["reflexion"] = "reflexion"
    """Name in records and reports."""
    trials: int = Field(default=10, gt=0)
    """Attempts at most. Source: ARMAP."""
    threshold: float = Field(default=0.5, gt=0, le=1)
    """An attempt that is good with a higher probability than this is the answer, and the last; 1 never stops. The
    probability is the reward model's own where it is calibrated, see `armap.protocols.CalibratedRewardModel`, and else
    the logistic function of the score, so that 0.5 is a score of 0."""
    answer: Literal["best", "last", "first"] = "best"
    """Which attempt is the answer if none is good enough. Source: ARMAP's released code, which takes the last in some
    environments and the first in others."""
    memory: int | None = Field(default=3, gt=0)
    """Latest reflections that the policy is shown, or None for all. Source: Reflexion."""
    greedy: bool = False
    """Whether attempts take the most likely actions instead of drawing them."""
    budget: SearchBudget = SearchBudget()
    """What one search may spend."""

    @classmethod
    def paper(cls, trials: int = 10) -> Reflexion:
        """Return the planner with the rules of ARMAP's released code; thresholds it has for each task and model."""
        return cls(trials=trials, answer="last", memory=None, greedy=True)

    async def plan(
        self, task: Task, world: World, policy: Policy, reward_model: RewardModel, rng: Random
    ) -> SearchResult:
        """Try `task` again and again; see `armap.protocols.Planner`."""
        search = Search(self.name, task, world, policy, reward_model, rng, self.budget)
        reflections: list[str] = []
        for trial in range(self.trials):
            drawn = await search.try_out(
                search.room(1), purpose=("trial", trial), greedy=self.greedy, reflections=self._remembered(reflections)
            )
            if not drawn:
                break
            (score,) = await search.score(drawn)
            place = search.keep(drawn[0], score)
            if score is not None and _probability(reward_model, score) > self.threshold:
                return await search.best(answer=place)
            # After the last attempt nobody would read it, and what broke says nothing about what was done.
            if trial < self.trials - 1 and score is not None and search.room(1) and search.may_ask():
                reflections += await self._reflect(search, drawn[0], trial, reflections)
        whole = [i for i, candidate in enumerate(search.candidates) if candidate.score is not None]
        if self.answer == "best" or not whole:
            return await search.best()
        return await search.best(answer=whole[-1 if self.answer == "last" else 0])

    def _remembered(self, reflections: list[str]) -> list[str]:
        return reflections if self.memory is None else reflections[-self.memory :]

    async def _reflect(self, search: Search, trajectory: Trajectory, trial: int, reflections: list[str]) -> list[str]:
        """Return what the policy says of an attempt; nothing if it has no answer, which is recorded."""
        try:
            said = await search.policy.reflect(
                trajectory,
                rng=rng_for(search.seed, "reflect", trial),
                reflections=self._remembered(reflections),
            )
        except RunError as error:
            search.setbacks.append(Failure(kind=type(error).__name__, message=str(error)))
            return []
        return [said] if said else []


def _probability(reward_model: RewardModel, score: float) -> float:
    """Return how likely a trajectory with this score is a good one."""
    if isinstance(reward_model, CalibratedRewardModel):
        return reward_model.probability(score)
    return 0.5 + 0.5 * math.tanh(score / 2)
