"""Best-of-N: independent trajectories; the reward model chooses."""

from __future__ import annotations

from random import Random
from typing import Literal

from pydantic import Field

from armap.planners.search import Search
from armap.protocols import Policy, RewardModel, World
from armap.types import Record, SearchBudget, SearchResult, Task


class BestOfN(Record):
    """Draws the trajectories `Sampling` draws and returns the one with the highest score, the first of equals.

    Source: ARMAP, Best-of-N; its released code for ties.
    """

    name: Literal["best_of_n"] = "best_of_n"
    """Name in records and reports."""
    n: int = Field(default=10, gt=0)
    """Trajectories drawn."""
    budget: SearchBudget = SearchBudget()
    """What one search may spend."""

    async def plan(
        self, task: Task, world: World, policy: Policy, reward_model: RewardModel, rng: Random
    ) -> SearchResult:
        """Try `task` `n` times and keep the best; see `armap.protocols.Planner`."""
        search = Search(self.name, task, world, policy, reward_model, rng, self.budget)
        drawn = await search.try_out(search.room(self.n), purpose=())
        for trajectory, score in zip(drawn, await search.score(drawn), strict=True):
            search.keep(trajectory, score)
        return await search.best()
