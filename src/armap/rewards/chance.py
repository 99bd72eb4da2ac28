"""A reward model that knows nothing: what planners are worth without one."""

from __future__ import annotations

from collections.abc import Sequence

from armap.seeds import rng_for
from armap.types import Trajectory


class ChanceRewardModel:
    """Scores every trajectory at random from 0 to 1, the same one always alike.

    Args:
        seed: decides the scores.
    """

    name = "chance"
    """Identity for records."""

    def __init__(self, *, seed: int = 0) -> None:
        self._seed = seed

    async def score(self, trajectories: Sequence[Trajectory]) -> list[float]:
        """Return one score per trajectory; see `armap.protocols.RewardModel.score`."""
        return [rng_for(self._seed, "chance", one.task.id, *one.actions).random() for one in trajectories]

    def probability(self, score: float) -> float:
        """Return the score, as it lies between 0 and 1; see `armap.protocols.CalibratedRewardModel`."""
        return score
