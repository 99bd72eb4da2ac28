"""Greedy: one trajectory of most likely actions."""

from __future__ import annotations

from random import Random
from typing import Literal

from armap.planners.search import Search
from armap.protocols import Policy, RewardModel, World
from armap.types import Record, SearchBudget, SearchResult, Task


class Greedy(Record):
    """Takes the most likely action at every step; asks no reward model."""

    name: Literal["greedy"] = "greedy"
    """Name in records and reports."""
    budget: SearchBudget = SearchBudget()
    """What one search may spend."""

    async def plan(
        self, task: Task, world: World, policy: Policy, reward_model: RewardModel, rng: Random
    ) -> SearchResult:
        """Try `task` once; see `armap.protocols.Planner`."""
        search = Search(self.name, task, world, policy, reward_model, rng, self.budget)
        for trajectory in await search.try_out(search.room(1), purpose=(), greedy=True):
            search.keep(trajectory, None)
        return search.first()
