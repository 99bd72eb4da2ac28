"""What counts as success when a run is evaluated and reported."""

from __future__ import annotations

from armap.types import Candidate

ROUNDING = 1e-9
"""Rewards that differ by less are equal: sums of floating-point rewards are not exact."""


def paid(candidate: Candidate) -> float:
    """Return what the environment paid for a candidate; 0 for one that failed."""
    return 0.0 if candidate.trajectory.failure else candidate.trajectory.env_reward


def is_solved(candidate: Candidate) -> bool:
    """Return whether the environment paid in full, which is 1."""
    return paid(candidate) > 1 - ROUNDING
