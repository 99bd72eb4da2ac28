"""The tasks: families, variations of each, and which of them the authors train and evaluate on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib import resources

from pydantic import Field, JsonValue

from armap.envs.scienceworld.simulator import Simulator
from armap.errors import ConfigError
from armap.types import Record, Task

SPLITS = ("train", "seen", "unseen")
"""The authors' splits. `seen` is drawn from the families' development variations and `unseen` from their test ones."""

_OLD_NAME = re.compile(r"task-[0-9ab]+-|[()]")
"""What older versions have in a name besides the name of today."""


class Family(Record):
    """Tasks that ask for the same kind of thing, in rooms furnished differently."""

    number: str
    """The number that the simulator's authors give it, such as `1-1`."""
    variations: int
    """How many there are; they are numbered from 0."""
    step_limit: int
    """Actions after which an episode is cut off."""
    train: tuple[int, ...]
    """Variations in the split of that name."""
    seen: tuple[int, ...]
    """Likewise."""
    unseen: tuple[int, ...]
    """Likewise."""
    instructions: dict[str, tuple[int, ...]]
    """What is asked for, in words, and in which variations; known for those in a split."""


class _Index(Record):
    """What `tasks.json` holds."""

    source: tuple[str, ...]
    """Where it comes from."""
    families: dict[str, Family] = Field(min_length=1)
    """All there are, by name."""


@cache
def families() -> dict[str, Family]:
    """Return the 30 families by name."""
    text = resources.files(__package__).joinpath("tasks.json").read_text("utf-8")
    return _Index.model_validate_json(text).families


@cache
def _by_number() -> dict[str, str]:
    return {family.number: name for name, family in families().items()}


def family_name(text: str) -> str | None:
    """Return the name of a family, given as `boil`, `task-1-boil` or `1-1`; None if there is none."""
    name = _by_number().get(text) or _OLD_NAME.sub("", text)
    return name if name in families() else None


def tasks(split: str) -> list[Task]:
    """Return the tasks of a split: 1,483 of `train`, 194 of `seen` or 211 of `unseen`, family by family.

    Raises:
        ConfigError: there is no such split.
    """
    if split not in SPLITS:
        raise ConfigError(f"There is no ScienceWorld split {split!r}; choose from: {', '.join(SPLITS)}.")
    found = []
    for name, family in families().items():
        wording = {variation: text for text, those in family.instructions.items() for variation in those}
        found += [_task(name, variation, wording[variation], split) for variation in getattr(family, split)]
    return found


@cache
def shared_ids() -> frozenset[str]:
    """Return the ids of the 54 tasks that the authors both train on and evaluate on, all in `seen`."""
    evaluated = {task.id for split in ("seen", "unseen") for task in tasks(split)}
    return frozenset(evaluated.intersection(task.id for task in tasks("train")))


def training_tasks(*, exclude: Sequence[Task]) -> list[Task]:
    """Return the tasks of the authors' training split that are neither in another one nor in `exclude`."""
    kept_out = shared_ids().union(task.id for task in exclude)
    return [task for task in tasks("train") if task.id not in kept_out]


def evaluation_tasks(selection: str) -> list[Task]:
    """Return the tasks that a text selects: `unseen`, `seen`, or some of them by position, such as `unseen:0-49`.

    Raises:
        ConfigError: it selects nothing.
    """
    split, colon, positions = selection.partition(":")
    found = tasks(split)
    if not colon:
        return found
    first, _, last = positions.partition("-")
    if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last) < len(found)):
        raise ConfigError(
            f"{selection!r} selects no ScienceWorld tasks; write positions from 0 to {len(found) - 1}, "
            f"such as: {split}:0-{min(49, len(found) - 1)}"
        )
    return found[int(first) : int(last) + 1]


def parse_task(text: str, *, split: str = "test") -> Task:
    """Read `boil 3`, a family and the number of a variation, as a task.

    The simulator is asked for the wording of a task that is in none of the splits.

    Raises:
        ConfigError: there is no such task, or the simulator is needed and not installed.
        EnvError: the simulator broke.
    """
    given, _, number = text.strip().rpartition(" ")
    name = family_name(given.strip())
    if name is None:
        raise ConfigError(
            f"{text!r} is no ScienceWorld task; write a variation of one of these, as in `boil 3`: "
            f"{', '.join(families())}"
        )
    count = families()[name].variations
    if not number.isdecimal() or int(number) >= count:
        raise ConfigError(f"There is no variation {number} of {name}; choose from 0 to {count - 1}.")
    return _task(name, int(number), _instruction(name, int(number)), split)


def _instruction(name: str, variation: int) -> str:
    for text, variations in families()[name].instructions.items():
        if variation in variations:
            return text
    simulator = Simulator()
    try:
        simulator.load(name, variation, "easy")
        return simulator.instruction()
    finally:
        simulator.close()


def _task(name: str, variation: int, instruction: str, split: str) -> Task:
    config: dict[str, JsonValue] = {
        "task": name,
        "variation": variation,
        "simplification": "easy",
        "step_limit": families()[name].step_limit,
    }
    return Task(id=f"{name} {variation}", env="scienceworld", instruction=instruction, split=split, config=config)
