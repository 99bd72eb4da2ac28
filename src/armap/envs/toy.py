"""A tiny deterministic world for tests and first steps: take objects from a shelf, leave with the right one."""

from __future__ import annotations

from itertools import combinations, product
from random import Random
from typing import ClassVar

from pydantic import Field, JsonValue

from armap.envs.play import play
from armap.envs.task_config import read_config
from armap.errors import ConfigError, EnvError
from armap.prompts import load_prompt
from armap.protocols import StepResult
from armap.types import Observation, Record, Task, Trajectory

_OBJECTS = tuple(f"{colour} {shape}" for colour, shape in product(("red", "green", "blue"), ("cube", "ball", "cone")))
_SHELVES = tuple(combinations(_OBJECTS, 6))
# Every fourth shelf is kept from training, so that no training task can be an evaluation task.
_TEST_SHELVES = frozenset(range(0, len(_SHELVES), 4))


class _Room(Record):
    """What `Task.config` must hold."""

    shelf: int = Field(strict=True, ge=0, lt=len(_SHELVES))
    """Number of the shelf, which decides the six objects on it."""
    wanted: str
    """The object to leave with, one of those on the shelf."""
    step_limit: int = Field(default=4, strict=True, ge=1)
    """Actions, illegal ones included, after which the episode is cut off."""


class Toy:
    """A room with six objects on a shelf, to be left with one of them in hand.

    `Task.config` holds `shelf` (a number, which decides the objects), `wanted` and, where the default of 4 does not
    suit, `step_limit`.

    `take red cube` puts back what was held. `leave` ends the episode, and the last observation names what was held
    without saying whether it was asked for. Random play succeeds in 6 % of all episodes.
    """

    inline: ClassVar[bool] = True
    """A step is quick and never hangs."""
    rules: ClassVar[str] = load_prompt("act_toy")
    """What an action is, for the policy's prompt."""
    examples: ClassVar[tuple[Trajectory, ...]]
    """A solved task, for the policy's prompt."""

    def __init__(self) -> None:
        self._shelf: tuple[str, ...] = ()
        self._wanted = ""
        self._held: str | None = None
        self._gone = False
        self._steps_left = 0

    def reset(self, task: Task) -> Observation:
        """Fill the shelf and empty the hand.

        Raises:
            EnvError: the config is not that of a room.
        """
        room = _room(task)
        self._shelf = _SHELVES[room.shelf]
        self._wanted = room.wanted
        self._held = None
        self._gone = False
        self._steps_left = room.step_limit
        return self._observe()

    def step(self, action: str) -> StepResult:
        """Take an object or leave; an illegal action changes nothing but costs a step.

        Raises:
            EnvError: the episode is over, or none was started.
        """
        if self._over():
            raise EnvError("toy has no episode to go on with: call reset() before step()")
        self._steps_left -= 1
        said = ""
        if action == "leave":
            self._gone = True
        elif action in self._legal_actions():
            self._held = action.removeprefix("take ")
        else:
            said = "Illegal action: write `leave`, or `take` and an object on the shelf. "
        env_reward = 1.0 if self._gone and self._held == self._wanted else 0.0
        return StepResult(self._observe(said), env_reward, self._gone, truncated=self._over() and not self._gone)

    def snapshot(self) -> tuple[tuple[str, ...], str, str | None, bool, int]:
        """Return the shelf, what is wanted, what is held, whether the agent has left, and the actions left."""
        return self._shelf, self._wanted, self._held, self._gone, self._steps_left

    def restore(self, snapshot: object) -> None:
        """Put back what `snapshot` returned."""
        assert isinstance(snapshot, tuple)
        self._shelf, self._wanted, self._held, self._gone, self._steps_left = snapshot

    def close(self) -> None:
        """Nothing is held."""

    def hindsight_task(self, trajectory: Trajectory) -> Task | None:
        """Return the task of leaving with what `trajectory` left with.

        It is None if the episode did not end with an object in hand. A solved ordinary task is its own hindsight task.
        """
        held = trajectory.final_observation.text.removeprefix("You left with the ").removesuffix(".")
        if held not in _OBJECTS:
            return None
        name, instruction = _wording(_room(trajectory.task).shelf, held)
        config = {**trajectory.task.config, "wanted": held}
        return trajectory.task.model_copy(update={"id": name, "instruction": instruction, "config": config})

    def _over(self) -> bool:
        return self._gone or self._steps_left == 0

    def _legal_actions(self) -> tuple[str, ...]:
        return (*(f"take {thing}" for thing in self._shelf if thing != self._held), "leave")

    def _observe(self, said: str = "") -> Observation:
        hand = f"the {self._held}" if self._held else "nothing"
        if self._gone:
            return Observation(text=f"You left with {hand}.")
        shelf = ", ".join(thing for thing in self._shelf if thing != self._held)
        actions = None if self._over() else self._legal_actions()
        return Observation(text=f"{said}On the shelf: {shelf}. You hold {hand}.", actions=actions)


def _room(task: Task) -> _Room:
    room = read_config(task, _Room, env="toy", advice='a config looks like {"shelf": 1, "wanted": "red cube"}')
    if room.wanted not in _SHELVES[room.shelf]:
        raise EnvError(f"toy cannot start task {task.id!r}: {room.wanted!r} is not on shelf {room.shelf}")
    return room


def tasks(n: int, seed: int, split: str) -> list[Task]:
    """Draw `n` different tasks. `train` draws from 378 tasks and every other split from 126 others.

    Raises:
        ConfigError: there are fewer than `n`.
    """
    shelves = [index for index in range(len(_SHELVES)) if (index in _TEST_SHELVES) != (split == "train")]
    rooms = [(index, wanted) for index in shelves for wanted in _SHELVES[index]]
    if not 0 <= n <= len(rooms):
        raise ConfigError(f"the toy world has no {n} tasks for split {split!r}; ask for at most {len(rooms)}")
    return [_task(index, wanted, split) for index, wanted in Random(seed).sample(rooms, n)]


def parse_task(text: str, *, split: str = "test") -> Task:
    """Read `3 -> red cube`, a shelf and an object on it, as a task.

    Raises:
        ConfigError: there is no such shelf, or no such object on it.
    """
    shelf, _, wanted = (part.strip() for part in text.removeprefix("shelf").partition("->"))
    if not shelf.isdecimal() or int(shelf) >= len(_SHELVES) or wanted not in _SHELVES[int(shelf)]:
        raise ConfigError(
            f"{text!r} is no toy task; write a shelf below {len(_SHELVES)} and an object on it, "
            f"such as: 1 -> {_SHELVES[1][0]}"
        )
    return _task(int(shelf), wanted, split)


def _task(shelf: int, wanted: str, split: str) -> Task:
    name, instruction = _wording(shelf, wanted)
    config: dict[str, JsonValue] = {"shelf": shelf, "wanted": wanted}
    return Task(id=name, env="toy", instruction=instruction, split=split, config=config)


def _wording(shelf: int, wanted: str) -> tuple[str, str]:
    return f"shelf {shelf} -> {wanted}", f"Leave with the {wanted}."


Toy.examples = (play(Toy(), _task(1, "green ball", "train"), ("take green ball", "leave")),)
