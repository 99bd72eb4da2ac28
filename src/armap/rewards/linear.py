"""A linear reward model on hashed words: fitted in a blink, for tests, first steps and as a baseline."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from armap.errors import ConfigError
from armap.seeds import rng_for
from armap.types import PreferencePair, Trajectory

_FILE = "linear.npy"
_BUCKETS = 2**14
"""Hashed features; a world of a few hundred words needs fewer, and 128 kB are soon read."""
_LAST_ACTIONS = 2
"""How many actions from the end are looked at: an outcome is mostly decided by the last ones."""
_LEARNING_RATE = 1.0
"""Of the first epoch; it falls linearly."""
_CROSSED = 0.045
"""Value of two words that are crossed, beside shares of at most 1. It is small, as there are hundreds of them, and the
same however many there are, so that few do not drown the shares. Chosen on training goals of WebShop: what chooses
among ten trajectories gains by it."""
_L2 = 1e-4
"""Weight of the pull of all weights towards zero."""
_WORD = re.compile(r"\w+")


class _Features(NamedTuple):
    """A sparse vector."""

    buckets: NDArray[np.intp]
    """`[F]` positions, each at most once."""
    values: NDArray[np.float64]
    """`[F]` what stands there."""


class LinearRewardModel:
    """Scores a trajectory by its task's words together with the words of its end.

    Every word of the instruction is crossed with every word of the final observation and of the last actions, and
    beside these stand shares of the instruction that the end repeats, or all that was seen on the way, which hold for
    words never seen in training.

    Args:
        weights: `[2**14]` weight of each hashed feature.
    """

    name = "linear"
    """Identity for records."""

    def __init__(self, weights: NDArray[np.float64]) -> None:
        self._weights = weights

    @classmethod
    def fit(cls, pairs: Sequence[PreferencePair], *, seed: int, epochs: int = 20) -> Self:
        """Fit the weights by stochastic gradient descent on the Bradley-Terry loss, one pair at a time.

        Args:
            pairs: what it learns from.
            seed: decides the order of the pairs.
            epochs: passes over the pairs.

        Source: ARMAP for the loss.
        """
        differences = [_difference(_features(pair.chosen), _features(pair.rejected)) for pair in pairs]
        weights = np.zeros(_BUCKETS)
        for epoch in range(epochs):
            rate = _LEARNING_RATE * (1 - epoch / epochs)
            rng_for(seed, "epoch", epoch).shuffle(differences)
            for buckets, values in differences:
                margin = weights[buckets] @ values
                weights *= 1 - rate * _L2
                weights[buckets] += rate / (1 + np.exp(margin)) * values
        return cls(weights)

    @staticmethod
    def is_in(folder: Path) -> bool:
        """Return whether `folder` holds a reward model of this kind."""
        return (folder / _FILE).is_file()

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load a fitted reward model.

        Raises:
            ConfigError: there is none, or its file is damaged.
        """
        file = folder / _FILE
        if not cls.is_in(folder):
            raise ConfigError(f"There is no linear reward model in {folder}; train one with `armap train`.")
        try:
            weights = np.load(file, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ConfigError(f"The reward model in {file} cannot be read; delete {folder} and train again.") from error
        if weights.shape != (_BUCKETS,) or weights.dtype != np.float64 or not np.isfinite(weights).all():
            raise ConfigError(f"{file} does not hold {_BUCKETS} finite weights; delete {folder} and train again.")
        return cls(weights)

    def save(self, folder: Path) -> None:
        """Write the weights."""
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / _FILE, self._weights, allow_pickle=False)

    async def score(self, trajectories: Sequence[Trajectory]) -> list[float]:
        """Return one score per trajectory; see `armap.protocols.RewardModel.score`."""
        found = [_features(trajectory) for trajectory in trajectories]
        return [float(self._weights[buckets] @ values) for buckets, values in found]


def _features(trajectory: Trajectory) -> _Features:
    """Return what is looked at, which is nothing that a rendered trajectory does not show."""
    asked = _words(trajectory.task.instruction)
    seen = _words(trajectory.final_observation.text)
    met = [word for step in trajectory.steps[1:] for word in _words(step.observation.text)] + seen
    done = [word for action in trajectory.actions[-_LAST_ACTIONS:] for word in _words(action)]
    # The last actions are told apart from the observation: to take a thing is not yet to have it.
    crossed = [
        f"{word}|{kind}|{end}"
        for kind, words in (("seen", seen), ("done", done))
        for end in sorted(set(words))
        for word in sorted(set(asked))
    ]
    shares = {}
    for kind, words in (("seen", seen), ("met", met), ("done", done)):
        shares[kind] = _share(asked, words)
        shares[f"{kind} twice"] = _share(_neighbours(asked), _neighbours(words))
    shares["asked"] = _share(seen, asked)
    names = [*crossed, *shares]
    values = [*[_CROSSED] * len(crossed), *shares.values()]
    return _merge([zlib.crc32(name.encode()) % _BUCKETS for name in names], values)


def _difference(chosen: _Features, rejected: _Features) -> _Features:
    """Return `chosen - rejected`, without what both share."""
    buckets, values = _merge(
        np.concatenate([chosen.buckets, rejected.buckets]), np.concatenate([chosen.values, -rejected.values])
    )
    differ = values != 0
    return _Features(buckets[differ], values[differ])


def _merge(buckets: Sequence[int] | NDArray[np.intp], values: Sequence[float] | NDArray[np.float64]) -> _Features:
    """Add up the values that fall into one bucket."""
    unique, places = np.unique(np.asarray(buckets, dtype=np.intp), return_inverse=True)
    sums = np.zeros(len(unique))
    np.add.at(sums, places, values)
    return _Features(unique, sums)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _neighbours(words: Sequence[str]) -> list[tuple[str, str]]:
    return list(pairwise(words))


def _share(of: Sequence[object], found_in: Sequence[object]) -> float:
    """Return how much of one list occurs in another, from 0 to 1."""
    return len(set(of) & set(found_in)) / max(1, len(set(of)))
