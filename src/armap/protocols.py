"""The seams: what a language model, an environment, a policy, a reward model and a planner must do.

The fifth seam, `Planner`, is reached through `World`: a planner holds no environment, only histories, and asks the
world for the next one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from types import MappingProxyType
from typing import NamedTuple, Protocol, runtime_checkable

from armap.types import (
    Action,
    Completion,
    History,
    Message,
    Observation,
    SamplingParams,
    SearchResult,
    Task,
    Trajectory,
    Usage,
)


class LLM(Protocol):
    """Answers messages."""

    @property
    def name(self) -> str:
        """Identity of the model, recorded with everything it answers."""
        ...

    async def generate(
        self,
        messages: Sequence[Message],
        *,
        n: int,
        sampling: SamplingParams,
        choices: Sequence[str] | None = None,
    ) -> list[Completion]:
        """Draw exactly `n` answers.

        Args:
            messages: the conversation; the last message is not the assistant's.
            n: number of independent answers, at least 1.
            sampling: how to draw them.
            choices: if given, every answer is one of these texts, drawn as the model's own distribution
                over them has it. At least one, none empty, no two equal.

        Raises:
            LLMError: fewer than `n` answers could be had.
            BudgetError: the run may not spend more.
        """
        ...


MAX_STEPS = 1000
"""Actions after which an episode is cut off, so that an environment without an end does not cost without one."""
METRIC_NAME = r"[A-Za-z_][A-Za-z0-9_.]*"
"""What a metric is called, but for `score`, which is the reward model's; `steps` is the number of actions.

No metric is called either in capital letters: an objective that says `Score` is refused.
"""


class StepResult(NamedTuple):
    """What an environment answers to an action."""

    observation: Observation
    """What is seen now."""
    env_reward: float
    """What this action was paid; for evaluation only."""
    terminated: bool
    """The world reached an end."""
    truncated: bool
    """A limit was reached."""
    metrics: Mapping[str, float] = MappingProxyType({})
    """Named quantities to report, such as a price; an objective can name those whose name is `METRIC_NAME`."""


class Environment(Protocol):
    """Obeys actions. Plain blocking code, as in Gymnasium; `World` decides where it runs.

    A class whose steps are quick and never hang may say so with the class attribute `inline = True`; environments of
    any other class run in worker processes.
    """

    def reset(self, task: Task) -> Observation:
        """Start the task afresh.

        Raises:
            EnvError: the task cannot be started.
        """
        ...

    def step(self, action: str) -> StepResult:
        """Do one action. An invalid action is an observation that says so, not an exception.

        Raises:
            EnvError: the environment broke; it is replaced, and the rollout counts as failed.
        """
        ...

    def close(self) -> None:
        """Release whatever is held; called once."""
        ...


@runtime_checkable
class Snapshots(Protocol):
    """An environment that can save its state and go back to it.

    A world may save after every step, so it should cost about as little as one.
    """

    def snapshot(self) -> object:
        """Return the state as a picklable value that later steps do not change."""
        ...

    def restore(self, snapshot: object) -> None:
        """Go to a state that this environment, or another one made alike, saved."""
        ...


@runtime_checkable
class ComparesObservations(Protocol):
    """An environment in which one state may be described in more than one way."""

    def same_observation(self, a: Observation, b: Observation) -> bool:
        """Say whether `a` and `b` describe the same state; without this method, equal ones do."""
        ...


@runtime_checkable
class HindsightWriter(Protocol):
    """An environment that can say in words what a trajectory achieved."""

    def hindsight_task(self, trajectory: Trajectory) -> Task | None:
        """Return the task that `trajectory` fulfils, or None if it achieved nothing that can be asked for.

        Two trajectories from the same start achieved the same thing exactly when their hindsight tasks are equal.
        """
        ...


class Policy(Protocol):
    """Proposes actions."""

    @property
    def usage(self) -> Usage:
        """What its proposals and reflections cost until now."""
        ...

    async def propose(
        self, history: History, *, n: int, rng: Random, greedy: bool = False, reflections: Sequence[str] = ()
    ) -> list[Action]:
        """Return 1 to `n` actions for the current observation; repeats are allowed and mean preference.

        Args:
            history: where the agent is; `observation` is not the last one of an episode.
            n: number of independent draws.
            rng: decides the draws.
            greedy: take the most likely action instead of drawing.
            reflections: what it made of its earlier attempts at the task, oldest first.

        Raises:
            PolicyError: no reply could be read as an action.
            LLMError: the language model gave none.
        """
        ...

    async def reflect(self, trajectory: Trajectory, *, rng: Random, reflections: Sequence[str] = ()) -> str:
        """Return, in a few sentences, what to do otherwise after an attempt that was not good enough.

        Args:
            trajectory: the attempt.
            rng: decides the draw.
            reflections: what was said of earlier attempts, oldest first.

        Raises:
            LLMError: the language model gave no answer.
        """
        ...


class RewardModel(Protocol):
    """Scores finished trajectories."""

    async def score(self, trajectories: Sequence[Trajectory]) -> list[float]:
        """Return one finite score per trajectory, in the same order; higher is better.

        Scores have no unit and are comparable only within one task.

        Raises:
            RewardModelError: a score is missing or not finite.
        """
        ...


@runtime_checkable
class CalibratedRewardModel(RewardModel, Protocol):
    """A reward model that knows what its scores mean."""

    def probability(self, score: float) -> float:
        """Return how likely a trajectory with this score does what its task asks for, from 0 to 1; rises with it."""
        ...


class World(Protocol):
    """What a planner sees of an environment: histories, which are values, and how they go on."""

    async def start(self, task: Task) -> History:
        """Return the empty history of `task`.

        Raises:
            EnvError: the task cannot be started.
        """
        ...

    async def advance(self, history: History, action: Action) -> History:
        """Return `history` after one more action; the same history and action give the same answer.

        Raises:
            EnvError: the environment broke or did not replay.
        """
        ...


class Planner(Protocol):
    """Decides which trajectory to return, without ever reading an environment's reward or naming an environment."""

    @property
    def name(self) -> str:
        """Name in records and reports."""
        ...

    async def plan(
        self, task: Task, world: World, policy: Policy, reward_model: RewardModel, rng: Random
    ) -> SearchResult:
        """Try `task` and return every trajectory considered, and which one is the answer.

        Raises:
            RunError: nothing can be returned.
            BudgetError: the run may not spend more.
        """
        ...
