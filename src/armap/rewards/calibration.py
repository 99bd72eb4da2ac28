"""Calibration: what the scores of a reward model mean as probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from armap.protocols import RewardModel
from armap.types import Calibration, HeldoutScore, Trajectory

_NEWTON_STEPS = 100
_CLOSE_ENOUGH = 1e-9
_LONGEST_STEP = 2.0
"""In standard deviations of the scores: whole Newton steps may lead away where most scores are far from each other."""
_RIDGE = 1e-6
"""Keeps the fit possible where all scores are the same."""


def fit_calibration(scored: Sequence[HeldoutScore]) -> Calibration:
    """Fit a logistic curve to the scores of one or more held-out pairs: chosen ones are good, rejected ones are not.

    The targets are drawn in from 1 and 0 by as much as the number of pairs leaves open, so that scores which separate
    all pairs give no infinite slope. Scores that are higher for rejected trajectories say nothing, which is slope 0.

    Source: Platt, Probabilistic outputs for support vector machines, 1999.
    """
    pairs = len(scored)
    scores = np.array([pair.chosen for pair in scored] + [pair.rejected for pair in scored])
    targets = np.repeat([(pairs + 1) / (pairs + 2), 1 / (pairs + 2)], pairs)
    middle, spread = scores.mean(), scores.std() or 1.0
    inputs = np.stack([(scores - middle) / spread, np.ones(2 * pairs)], axis=1)
    weights = np.zeros(2)
    for _ in range(_NEWTON_STEPS):
        likely = 0.5 + 0.5 * np.tanh(inputs @ weights / 2)
        gradient = inputs.T @ (likely - targets) + _RIDGE * weights
        curvature = (inputs.T * (likely * (1 - likely))) @ inputs + _RIDGE * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        length = float(np.linalg.norm(step))
        weights -= step * min(1.0, _LONGEST_STEP / max(length, _CLOSE_ENOUGH))
        if length < _CLOSE_ENOUGH:
            break
    slope = float(weights[0] / spread)
    if slope <= 0:
        return Calibration(slope=0.0, intercept=0.0, pairs=pairs)
    return Calibration(slope=slope, intercept=float(weights[1] - slope * middle), pairs=pairs)


def fit_sharpness(margins: Sequence[float]) -> float:
    """Return B with which 1 / (1 + exp(-B * margin)) is the probability that the side with the margin is the better.

    A margin is the score of the better trajectory of a pair minus that of the other one. As in `fit_calibration`, the
    target is drawn in from 1 by as much as the number of pairs leaves open. 0 where scores say nothing; 1 / B is known
    as the temperature.

    Source: Guo et al., On calibration of modern neural networks, 2017, for one parameter and its fit by likelihood.
    """
    values = np.array(margins)
    scale = float(np.abs(values).mean())
    if scale == 0:
        return 0.0
    values, target = values / scale, (len(values) + 1) / (len(values) + 2)
    sharpness = 0.0
    for _ in range(_NEWTON_STEPS):
        likely = 0.5 + 0.5 * np.tanh(sharpness * values / 2)
        gradient = float((values * (likely - target)).sum()) + _RIDGE * sharpness
        curvature = float((values**2 * likely * (1 - likely)).sum()) + _RIDGE
        step = max(-_LONGEST_STEP, min(_LONGEST_STEP, gradient / curvature))
        sharpness -= step
        if abs(step) < _CLOSE_ENOUGH:
            break
    return max(0.0, sharpness / scale)


class Calibrated:
    """A reward model that knows what its scores mean; see `armap.protocols.CalibratedRewardModel`.

    Args:
        reward_model: gives the scores.
        calibration: what they mean.
    """

    def __init__(self, reward_model: RewardModel, calibration: Calibration) -> None:
        self._reward_model = reward_model
        self._calibration = calibration

    async def score(self, trajectories: Sequence[Trajectory]) -> list[float]:
        """Return one score per trajectory; see `armap.protocols.RewardModel.score`."""
        return await self._reward_model.score(trajectories)

    def probability(self, score: float) -> float:
        """Return how likely a trajectory with this score does what its task asks for."""
        return 0.5 + 0.5 * math.tanh((self._calibration.slope * score + self._calibration.intercept) / 2)
