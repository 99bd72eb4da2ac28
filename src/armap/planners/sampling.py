"""Sampling: independent trajectories; what it is worth is their mean."""

from __future__ import annotations

from random import Random
from typing import Literal

from pydantic import Field

from armap.planners.search import Search
from armap.protocols import Policy, RewardModel, World
from armap.types import Record, SearchBudget, SearchResult, Task


class Sampling(Record):
    """Draws `n` trajectories and returns the first; asks no reward model.

    The trajectories are exchangeable, so the mean over all of them estimates the success of returning the first.
    """

    name: Literal["sampling"] = "sampling"
    """Name in records and reports."""
    n: int = Field(default=10, gt=0)
    """Trajectories drawn."""
    budget: SearchBudget = SearchBudget()
    """What one search may spend."""

    async def plan(
        self, task: Task, world: World, policy: Policy, reward_model: RewardModel, rng: Random
    ) -> SearchResult:
        """Try `task` `n` times; see `armap.protocols.Planner`."""
        search = Search(self.name, task, world, policy, reward_model, rng, self.budget)
        for trajectory in await search.try_out(search.room(self.n), purpose=()):
            search.keep(trajectory, None)
        return search.first()
