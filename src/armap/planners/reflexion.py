"""Reflexion: try, judge, say what went wrong, try again with that in mind."""

from __future__ import annotations

from random import Random
from typing import Literal

from pydantic import Field

from armap.errors import RunError
from armap.planners.rollouts import failed
from armap.planners.search import Search
from armap.protocols import Policy, RewardModel, World
from armap.seeds import rng_for
from armap.types import History, Record, SearchBudget, SearchResult, Task, Trajectory


class Reflexion(Record):
    """Makes one attempt after another, each with the policy's own words on those before, until one is good enough.

    Source: Reflexion (Shinn et al., 2023); ARMAP, where the reward model says what is good enough.
    """

    name: Literal["reflexion"] = "reflexion"
    """Name in records and reports."""
    trials: int = Field(default=10, gt=0)
    """Attempts at most. Source: ARMAP."""
    threshold: float = 0.0
    """An attempt with a higher score is the answer, and the last. Scores of a trained reward model lie around zero."""
    answer: Literal["best", "last", "first"] = "best"
    """Which attempt is the answer if none is good enough. Source: the released code takes the last on WebShop and the
    Game of 24, and the first on ScienceWorld."""
    memory: int = Field(default=3, gt=0)
    """Latest reflections that the policy is shown. Source: Reflexion."""
    greedy: bool = False
    """Whether attempts take the most likely actions instead of drawing them."""
    budget: SearchBudget = SearchBudget()
    """What one search may spend."""

    async def plan(
        self, task: Task, world: World, policy: Policy, reward_model: RewardModel, rng: Random
    ) -> SearchResult:
        """Try `task` again and again; see `armap.protocols.Planner`."""
        search = Search(self.name, task, world, policy, reward_model, rng, self.budget)
        reflections: list[str] = []
        for trial in range(self.trials):
            drawn = await search.try_out(
                search.room(1), purpose=("trial", trial), greedy=self.greedy, reflections=reflections[-self.memory :]
            )
            scores = await search.score(drawn)
            for trajectory, score in zip(drawn, scores, strict=True):
                place = search.keep(trajectory, score)
                if score is not None and score > self.threshold:
                    return await search.best(answer=place)
            # Without an attempt there is nothing to reflect on; after the last one nobody would read it.
            if not drawn or trial == self.trials - 1 or not search.may_ask():
                break
            reflections += await self._reflect(search, drawn[0], trial, reflections)
        whole = [i for i, candidate in enumerate(search.candidates) if candidate.trajectory.failure is None]
        if self.answer == "best" or not whole:
            return await search.best()
        return await search.best(answer=whole[-1 if self.answer == "last" else 0])

    async def _reflect(self, search: Search, trajectory: Trajectory, trial: int, reflections: list[str]) -> list[str]:
        """Return what the policy says of an attempt; nothing if it has no answer, which is recorded."""
        try:
            said = await search.policy.reflect(
                trajectory,
                rng=rng_for(search.seed, "reflect", trial),
                reflections=reflections[-self.memory :],
            )
        except RunError as error:
            history = History(task=trajectory.task, steps=trajectory.steps, observation=trajectory.final_observation)
            search.keep(search.trajectory(failed(history, error)), None)
            return []
        return [said] if said else []
