"""Objectives: the reward model's score plus weighted terms on what the environment reports, chosen at inference.

    score - 0.5*steps - 0.02*price

asks for trajectories that do the task in fewer actions (half a point each) and at a lower price (a point per 50 units).
A reward model's score has no unit, so weights are found by trying: `armap sweep` shows what each buys.

Source: ARMAP, controllable generation, where the weights are 1 and units are not stated.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence

import numpy as np
from pydantic import Field

from armap.errors import ConfigError, RewardModelError
from armap.protocols import METRIC_NAME, RewardModel
from armap.types import Record, Trajectory

STEPS = "steps"
"""Name of the one metric every trajectory has: how many actions it took."""

_TERM = re.compile(
    rf"\s*(?P<sign>[+-])?\s*(?:(?P<weight>\d+(?:\.\d*)?|\.\d+)\s*\*\s*)?(?P<name>{METRIC_NAME})"
    r"(?:\s*/\s*(?P<unit>\d+(?:\.\d*)?|\.\d+))?\s*"
)
_EXAMPLE = "write for example: score - 0.5*steps - price/50"


class Term(Record):
    """One weighted quantity."""

    metric: str
    """`steps`, or the name of a metric the environment reports."""
    weight: float = Field(allow_inf_nan=False)
    """What one unit of the metric is worth, in points of the score."""


class Objective(Record):
    """What a search is after."""

    score_weight: float = Field(default=1.0, allow_inf_nan=False)
    """Weight of the reward model's score."""
    terms: tuple[Term, ...] = ()
    """What is added to it."""

    @classmethod
    def parse(cls, text: str) -> Objective:
        """Read an objective such as `score - 0.5*steps - price/50`.

        Raises:
            ConfigError: it cannot be read, names something twice, or has `score` or `steps` in capital letters.
        """
        weights: dict[str, float] = {}
        place = 0
        while place < len(text) or not weights:
            match = _TERM.match(text, place)
            if match is None or (weights and not match["sign"]):
                raise ConfigError(f"The objective {text!r} cannot be read at {text[place:][:20]!r}; {_EXAMPLE}.")
            if match["name"] in weights:
                raise ConfigError(f"The objective {text!r} names {match['name']} twice; {_EXAMPLE}.")
            spelt = match["name"].lower()
            # It would be a metric, which nobody reports, and the score would count for nothing.
            if spelt in ("score", STEPS) and spelt != match["name"]:
                raise ConfigError(f"The objective {text!r} names {match['name']}, which is spelt {spelt}; {_EXAMPLE}.")
            unit = float(match["unit"] or 1)
            if not unit:
                raise ConfigError(f"The objective {text!r} divides by zero; {_EXAMPLE}.")
            weight = float(match["weight"] or 1) / unit
            # A number with enough digits is infinite, and one that is divided by such a number is gone.
            if math.isinf(unit) or math.isinf(weight):
                raise ConfigError(f"The objective has a number at {match['name']} that is too large; {_EXAMPLE}.")
            weights[match["name"]] = weight * (-1 if match["sign"] == "-" else 1)
            place = match.end()
        score = weights.pop("score", 0.0)
        return cls(
            score_weight=score, terms=tuple(Term(metric=name, weight=weight) for name, weight in weights.items())
        )

    def __str__(self) -> str:
        parts = [("score", self.score_weight), *((term.metric, term.weight) for term in self.terms)]
        text = " ".join(
            f"{'-' if weight < 0 else '+'} {'' if abs(weight) == 1 else f'{_decimal(abs(weight))}*'}{name}"
            for name, weight in parts
            if weight
        )
        return text.removeprefix("+ ") or "0*score"

    def unknown(self, reported: Collection[str]) -> list[str]:
        """Return the metrics it names that are not among those reported."""
        return [term.metric for term in self.terms if term.metric not in (STEPS, *reported)]

    def value(self, score: float, trajectory: Trajectory) -> float:
        """Return what a trajectory is worth.

        Args:
            score: what the reward model says of it.
            trajectory: the trajectory. A metric it does not report counts as 0, such as the price where nothing was
                bought: whether that is what was asked for is the reward model's to say.
        """
        metrics = {**trajectory.metrics, STEPS: float(len(trajectory.steps))}
        return self.score_weight * score + sum(term.weight * metrics.get(term.metric, 0.0) for term in self.terms)


def _decimal(number: float) -> str:
    """Return a positive number as the shortest text without an exponent that means it."""
    return np.format_float_positional(number, trim="-")


class ObjectiveRewardModel:
    """A reward model whose scores are the values of an objective.

    Args:
        reward_model: gives the score.
        objective: what is added to it.
    """

    def __init__(self, reward_model: RewardModel, objective: Objective) -> None:
        self._reward_model = reward_model
        self._objective = objective

    async def score(self, trajectories: Sequence[Trajectory]) -> list[float]:
        """Return one value per trajectory; see `armap.protocols.RewardModel.score`."""
        scores = await self._reward_model.score(trajectories)
        values = [self._objective.value(*pair) for pair in zip(scores, trajectories, strict=True)]
        for trajectory, value in zip(trajectories, values, strict=True):
            if not math.isfinite(value):
                raise RewardModelError(f"{self._objective} gives trajectory {trajectory.id!r} the value {value}")
        return values
