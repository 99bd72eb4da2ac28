"""Pairs of unfinished trajectories, so that a reward model can judge states that a search has come to."""

from __future__ import annotations

from armap.types import PreferencePair, Trajectory


def unfinished_pairs(pair: PreferencePair) -> list[PreferencePair]:
    """Return the pair after every number of steps at which both sides still go on and no longer show the same.

    What led to the chosen end is taken for more promising than what led to the other one. That is a guess, unlike the
    pair itself: the other beginning might have led there too.
    """
    found = []
    for steps in range(1, min(len(pair.chosen.steps), len(pair.rejected.steps))):
        chosen, rejected = _beginning(pair.chosen, steps), _beginning(pair.rejected, steps)
        if chosen.final_observation.text != rejected.final_observation.text:
            name = f"{pair.id}, first {steps} steps"
            found.append(pair.model_copy(update={"id": name, "chosen": chosen, "rejected": rejected}))
    return found


def _beginning(trajectory: Trajectory, steps: int) -> Trajectory:
    return trajectory.model_copy(
        update={
            "id": f"{trajectory.id}, first {steps} steps",
            "steps": trajectory.steps[:steps],
            "final_observation": trajectory.steps[steps].observation,
            "stop_reason": "truncated",
            "metrics": {},
        }
    )
