"""The environment: episodes, scores and saved states."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from typing import Annotated, ClassVar, NamedTuple

from pydantic import AfterValidator, Field, JsonValue, TypeAdapter

from armap.envs.scienceworld.hindsight import deeds, instruction
from armap.envs.scienceworld.offers import Memory, in_words
from armap.envs.scienceworld.simulator import Answer, Simulator
from armap.envs.scienceworld.splits import families, family_name
from armap.envs.scienceworld.texts import same_text
from armap.envs.task_config import read_config
from armap.errors import EnvError
from armap.prompts import load_prompt
from armap.protocols import StepResult
from armap.types import Observation, Record, Task, Trajectory

_PAID = tuple(round(points * 2**40 / 100) / 2**40 for points in range(101))
"""What is paid in all for a score of so many points. With 40 binary digits, differences and sums are exact, so that a
solved task is paid exactly 1 in whatever steps it is solved."""
_FIRST = "look around"
"""What is done for the agent when an episode starts."""
_SIMPLIFICATIONS = ("noElectricalAction", "openContainers", "openDoors", "selfWateringFlowerPots", "teleportAction")


def _known_family(text: str) -> str:
    name = family_name(text)
    if name is None:
        raise ValueError("there is no such family of tasks")
    return name


def _known_simplification(text: str) -> str:
    if text not in ("", "easy") and not set(text.split(",")) <= set(_SIMPLIFICATIONS):
        raise ValueError(f"choose `easy`, nothing, or some of {','.join(_SIMPLIFICATIONS)} with commas between them")
    return text


class _Start(Record):
    """What `Task.config` must hold."""

    task: Annotated[str, AfterValidator(_known_family)]
    """Name of the family, in the old form or the new, or its number."""
    variation: int = Field(strict=True, ge=0)
    """Which one of the family."""
    simplification: Annotated[str, AfterValidator(_known_simplification)] = "easy"
    """How the world is made simpler."""
    step_limit: int | None = Field(default=None, strict=True, ge=1)
    """Actions, those not understood included, after which the episode is cut off; by default that of the family."""
    deeds: tuple[str, ...] | None = None
    """What is paid in place of the simulator's score, once it is all that was done; see `hindsight.deeds`."""


class _Saved(NamedTuple):
    """A state, with nothing that belongs to one process."""

    world: bytes
    """The simulator's."""
    best: int
    """Highest score until now."""
    steps: int
    """Actions until now."""
    step_limit: int
    """Actions after which the episode is cut off."""
    memory: Memory
    """Of the agent."""
    wanted: tuple[str, ...] | None
    """What is paid in place of the score, if something is."""
    answers: tuple[str, ...]
    """What the simulator said to the actions, where that decides what is paid."""


class ScienceWorld:
    """Science experiments in a small house, in words. Each environment has a Java process of its own.

    `Task.config` holds `task` and `variation` and, where the defaults do not suit, `simplification` and `step_limit`;
    that of a task written in hindsight `deeds` too.

    The environment pays what an action adds to the highest score so far, so that an episode is paid that score, from 0
    to 1. An episode ends when the simulator says so, when its score falls below 0, which is what a wrong focus costs,
    or after `step_limit` actions. Equal actions give equal observations, in whatever process.

    Args:
        list_actions: let every observation list the actions worth choosing among: those of use to some task, with
            things that were read of in the instruction or in this room, without those that were done before when the
            same ones were possible. Finding them takes five times as long as a step, and changes nothing of what
            happens.
    """

    inline: ClassVar[bool] = False
    """Whether it is cheap enough to run in the process that plans."""
    rules: ClassVar[str] = load_prompt("act_scienceworld")
    """What an action is, for the policy's prompt."""
    examples: ClassVar[tuple[Trajectory, ...]]
    """Solved tasks, for the policy's prompt; all are training tasks."""

    def __init__(self, *, list_actions: bool = False) -> None:
        self._list_actions = list_actions
        self._simulator: Simulator | None = None
        self._playing = False
        self._best = 0
        self._steps = 0
        self._step_limit = 0
        self._memory = Memory()
        self._answers: tuple[str, ...] = ()
        self._wanted: tuple[str, ...] | None = None

    def reset(self, task: Task) -> Observation:
        """Furnish the house for a task and look around.

        Raises:
            EnvError: there is no such task, or the simulator broke.
            ConfigError: the simulator or Java is not installed.
        """
        start = _start(task)
        self._playing = False
        with self._running() as simulator:
            simulator.load(start.task, start.variation, start.simplification)
            answer = simulator.step(_FIRST)
            self._playing = True
            self._best = 0
            self._steps = 0
            self._step_limit = start.step_limit or families()[start.task].step_limit
            self._memory = Memory(lasting=in_words(task.instruction))
            self._answers, self._wanted = (), start.deeds
            return self._observe(simulator, answer)

    def step(self, action: str) -> StepResult:
        """Do one action; one that is not understood changes nothing but costs a step.

        Raises:
            EnvError: the episode is over or none was started, or the simulator broke.
        """
        if not self._playing:
            raise EnvError("scienceworld has no episode to go on with: call reset() before step()")
        with self._running() as simulator:
            answer = simulator.step(action)
            self._steps += 1
            if self._list_actions:
                self._memory = self._memory.after(action)
            if self._wanted is not None:
                self._answers += (answer.text,)
            terminated = answer.completed or answer.score < 0
            truncated = not terminated and self._steps == self._step_limit
            self._playing = not (terminated or truncated)
            return StepResult(
                self._observe(simulator, answer),
                self._pay(answer.score),
                terminated,
                truncated,
                {} if self._playing else {"steps": float(self._steps)},
            )

    def _pay(self, score: int) -> float:
        """Return what the last action is paid."""
        if self._wanted is not None:
            return float(not self._playing and deeds(self._answers) == self._wanted)
        paid_before, self._best = self._best, max(self._best, score)
        return _PAID[self._best] - _PAID[paid_before]

    def hindsight_task(self, trajectory: Trajectory) -> Task | None:
        """Return the task of doing what `trajectory` did: what it focused on and where it put things, in order.

        It is read off what was seen, never off what the simulator pays. It is None if nothing of that kind was done.
        """
        seen = [*(step.observation.text for step in trajectory.steps[1:]), trajectory.final_observation.text]
        done = deeds(seen) if trajectory.steps else ()
        if not done:
            return None
        start, asked = _start(trajectory.task), instruction(done)
        config: dict[str, JsonValue] = {**trajectory.task.config, "deeds": [*done]}
        name = f"{start.task} {start.variation} -> {asked}"
        return trajectory.task.model_copy(update={"id": name, "instruction": asked, "config": config})

    def close(self) -> None:
        """End the Java process."""
        if self._simulator is not None:
            self._simulator.close()
            self._simulator = None

    def snapshot(self) -> object:
        """Return the state of an episode that goes on; see `armap.protocols.Snapshots`.

        Raises:
            EnvError: the episode is over or none was started, or the simulator broke.
        """
        if not self._playing:
            raise EnvError("scienceworld has no episode to save: call reset() before snapshot()")
        with self._running() as simulator:
            return _Saved(
                simulator.save(),
                self._best,
                self._steps,
                self._step_limit,
                self._memory,
                self._wanted,
                self._answers,
            )

    def restore(self, snapshot: object) -> None:
        """Go to a saved state; see `armap.protocols.Snapshots`.

        Raises:
            EnvError: the simulator broke.
        """
        assert isinstance(snapshot, _Saved), "a state comes from `snapshot`"
        self._playing = False
        with self._running() as simulator:
            simulator.restore(snapshot.world)
        _, self._best, self._steps, self._step_limit, self._memory, self._wanted, self._answers = snapshot
        self._playing = True

    def same_observation(self, a: Observation, b: Observation) -> bool:
        """Say whether `a` and `b` describe the same state, whatever the order in which they list things.

        Here equal actions give equal texts; those recorded with the simulator as it comes have an order of their own.
        """
        return same_text(a.text, b.text) and set(a.actions or ()) == set(b.actions or ())

    @contextmanager
    def _running(self) -> Iterator[Simulator]:
        """Give the simulator, and close it when it breaks.

        There is a new one if there is none, or if it died while nothing was going on.
        """
        if not self._playing and self._simulator is not None and not self._simulator.alive:
            self.close()
        if self._simulator is None:
            self._simulator = Simulator()
        try:
            yield self._simulator
        except EnvError:
            self._playing = False
            self.close()
            raise

    def _observe(self, simulator: Simulator, answer: Answer) -> Observation:
        if not (self._list_actions and self._playing):
            return Observation(text=answer.text)
        possible = simulator.possible()
        self._memory = self._memory.reading(answer.text, possible)
        if self._steps == 0:
            self._memory = self._memory.after(_FIRST)
        return Observation(text=answer.text, actions=self._memory.offers(possible))


def _start(task: Task) -> _Start:
    start = read_config(task, _Start, env="scienceworld", advice='a config looks like {"task": "boil", "variation": 3}')
    count = families()[start.task].variations
    if start.variation >= count:
        raise EnvError(f"scienceworld cannot start task {task.id!r}: {start.task} has variations 0 to {count - 1}")
    return start


ScienceWorld.examples = TypeAdapter(tuple[Trajectory, ...]).validate_json(
    resources.files(__package__).joinpath("examples.json").read_text("utf-8")
)
