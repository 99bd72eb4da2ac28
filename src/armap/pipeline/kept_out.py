"""Tells whether an attempt is at a task that is kept for evaluation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from armap.protocols import World
from armap.types import Observation, PreferencePair, Task, Trajectory


class KeptOut:
    """The tasks that nothing may be learned from, by what they ask for and where they begin.

    The same words may ask for other things where something else is seen at the start, so both must be the same, but
    for case, punctuation and the order of lines.

    Args:
        tasks: those that are kept out.
        world: where they can be begun.
    """

    def __init__(self, tasks: Iterable[Task], world: World) -> None:
        self._by_wording: dict[str, list[Task]] = {}
        for task in tasks:
            self._by_wording.setdefault(_words(task.instruction), []).append(task)
        self._world = world

    async def holds(self, attempt: Trajectory) -> bool:
        """Say whether an attempt is at one of them.

        Raises:
            EnvError: one of them cannot be begun.
        """
        wording, seen = _asked(attempt)
        for task in self._by_wording.get(wording, ()):
            if _seen((await self._world.start(task)).observation) == seen:
                return True
        return False


def at_other_tasks(pairs: Sequence[PreferencePair], trained: Iterable[PreferencePair]) -> list[PreferencePair]:
    """Return the pairs at tasks that none of those trained on is at, whatever source tasks led there."""
    known = {_asked(pair.chosen) for pair in trained}
    return [pair for pair in pairs if _asked(pair.chosen) not in known]


def _asked(attempt: Trajectory) -> tuple[str, tuple[str, ...]]:
    """Return what tells the task of an attempt from others: its words, and where it begins."""
    return _words(attempt.task.instruction), _seen(attempt.first_observation)


def _seen(observation: Observation) -> tuple[str, ...]:
    return tuple(sorted(map(_words, observation.text.splitlines())))


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))
