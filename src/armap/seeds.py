"""Seeds derived from what they are for, so that a run can be repeated in any order and on any machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

_ENCODER = json.JSONEncoder(sort_keys=True)


def stable_hash(*parts: object) -> int:
    """Return a 64-bit number that depends on nothing but `parts`.

    Python's own `hash` will not do: it salts texts anew in every process, so a resumed run would draw other numbers.

    Args:
        parts: anything JSON can say; equal parts of different types, such as 1 and 1.0, count as different.

    Raises:
        TypeError: a part cannot be written as JSON.
    """
    digest = hashlib.sha256(_ENCODER.encode(parts).encode()).digest()
    return int.from_bytes(digest[:8])


def rng_for(*parts: object) -> Random:
    """Return a random generator seeded with `stable_hash` of `parts`."""
    return Random(stable_hash(*parts))


class LateRandom(Random):
    """Draws what `rng_for` of the same parts draws, and asks for them when the first number is drawn.

    Hashing and seeding take longer than a step in a quick world, and who chooses among what is known draws nothing.

    Args:
        parts: returns the parts.
    """

    gauss_next: float | None = None

    def __init__(self, parts: Callable[[], Sequence[object]] = tuple) -> None:
        self._parts: Callable[[], Sequence[object]] | None = parts

    def start_over(self, parts: Callable[[], Sequence[object]]) -> None:
        """Draw for other parts from now on; making another generator takes longer."""
        self._parts = parts
        self.gauss_next = None

    def random(self) -> float:
        """Return the next number from 0 to 1, 1 excluded."""
        self._settle()
        return super().random()

    def getrandbits(self, k: int, /) -> int:
        """Return the next `k` bits."""
        self._settle()
        return super().getrandbits(k)

    def getstate(self) -> tuple[Any, ...]:
        """Return what `setstate` goes back to."""
        self._settle()
        return super().getstate()

    def seed(self, a: Any = None, version: int = 2) -> None:  # noqa: ANN401 - as Random has it
        """Start anew."""
        self._parts = None
        super().seed(a, version)

    def setstate(self, state: tuple[Any, ...]) -> None:
        """Go back to a state."""
        self._parts = None
        super().setstate(state)

    def _settle(self) -> None:
        if self._parts is not None:
            self.seed(stable_hash(*self._parts()))
