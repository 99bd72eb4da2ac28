"""Best-of-N: independent trajectories; the reward model chooses."""

from __future__ import annotations

from random import Random
from typing import Literal

from pydantic import Field

from armap.planners.rollouts import rollouts
from armap.protocols import Policy, RewardModel, World
from armap.types import Candidate, Record, SearchResult, Task


class BestOfN(Record):
    """Draws the trajectories `Sampling` draws and returns the one with the highest score, the first of equals.

    Source: ARMAP, Best-of-N; its released code for ties.
    """

    name: Literal["best_of_n"] = "best_of_n"
    """Name in records and reports."""
    n: int = Field(default=10, gt=0)
    """Trajectories drawn."""

    async def plan(
        self, task: Task, world: World, policy: Policy, reward_model: RewardModel, rng: Random
    ) -> SearchResult:
        """Try `task` `n` times and keep the best; see `armap.protocols.Planner`."""
        drawn = await rollouts(task, world, policy, n=self.n, rng=rng)
        whole = [i for i, trajectory in enumerate(drawn.trajectories) if trajectory.failure is None]
        scores = await reward_model.score([drawn.trajectories[i] for i in whole])
        scored = dict(zip(whole, scores, strict=True))
        candidates = tuple(
            Candidate(trajectory=trajectory, score=scored.get(i)) for i, trajectory in enumerate(drawn.trajectories)
        )
        return SearchResult(
            task=task,
            planner=self.name,
            candidates=candidates,
            answer=max(whole, key=lambda i: (scored[i], -i), default=None),
            merged_proposals=drawn.merged_proposals,
            failure=None if whole else drawn.trajectories[0].failure,
        )
