"""Greedy: one trajectory of most likely actions."""

from __future__ import annotations

from random import Random
from typing import Literal

from armap.planners.rollouts import rollouts
from armap.protocols import Policy, RewardModel, World
from armap.types import Candidate, Record, SearchResult, Task


class Greedy(Record):
    """Takes the most likely action at every step; asks no reward model."""

    name: Literal["greedy"] = "greedy"
    """Name in records and reports."""

    async def plan(
        self, task: Task, world: World, policy: Policy, reward_model: RewardModel, rng: Random
    ) -> SearchResult:
        """Try `task` once; see `armap.protocols.Planner`."""
        drawn = await rollouts(task, world, policy, n=1, rng=rng, greedy=True)
        (trajectory,) = drawn.trajectories
        return SearchResult(
            task=task,
            planner=self.name,
            candidates=(Candidate(trajectory=trajectory),),
            answer=None if trajectory.failure else 0,
            failure=trajectory.failure,
        )
