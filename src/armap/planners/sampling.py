"""Sampling: independent trajectories; what it is worth is their mean."""

from __future__ import annotations

from random import Random
from typing import Literal

from pydantic import Field

from armap.planners.rollouts import rollouts
from armap.protocols import Policy, RewardModel, World
from armap.types import Candidate, Record, SearchResult, Task


class Sampling(Record):
    """Draws `n` trajectories and returns the first; asks no reward model.

    The trajectories are exchangeable, so the mean over all of them estimates the success of returning the first.
    """

    name: Literal["sampling"] = "sampling"
    """Name in records and reports."""
    n: int = Field(default=10, gt=0)
    """Trajectories drawn."""

    async def plan(
        self, task: Task, world: World, policy: Policy, reward_model: RewardModel, rng: Random
    ) -> SearchResult:
        """Try `task` `n` times; see `armap.protocols.Planner`."""
        drawn = await rollouts(task, world, policy, n=self.n, rng=rng)
        first = drawn.trajectories[0]
        return SearchResult(
            task=task,
            planner=self.name,
            candidates=tuple(Candidate(trajectory=trajectory) for trajectory in drawn.trajectories),
            answer=None if first.failure else 0,
            merged_proposals=drawn.merged_proposals,
            failure=first.failure,
        )
