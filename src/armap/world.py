"""Runs environments for planners, which know only histories."""

from __future__ import annotations

import hashlib
import math
import pickle
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from armap.errors import EnvError, ReplayError
from armap.protocols import Environment, Snapshots, StepResult
from armap.types import Action, History, Observation, Step, Task

_KEPT_HISTORIES = 100_000
"""Results of actions that are kept; one of three steps with short observations takes some 2 kB."""
_PARKED_ENVIRONMENTS = 32
"""Environments kept alive at the histories where they last were."""


class _State(NamedTuple):
    """What identifies a state: the same task and actions always lead to the same observations."""

    task: str
    actions: tuple[str, ...]


class LiveWorld:
    """A world over environments that live in this process.

    Every action at every history is executed once; asked again, its result is looked up. An environment that is
    needed at an earlier history is one that was parked there or, failing that, is reset and replayed, with every
    observation compared to the recorded one.

    Args:
        make_environment: makes one more environment.
    """

    def __init__(self, make_environment: Callable[[], Environment]) -> None:
        self._make_environment = make_environment
        self._histories: OrderedDict[_State, History] = OrderedDict()
        self._parked: OrderedDict[_State, Environment] = OrderedDict()
        self._executed: Counter[str] = Counter()
        self._names: dict[_State, str] = {}

    async def start(self, task: Task) -> History:
        """Return the empty history of `task`; see `armap.protocols.World`."""
        state = _State(task.model_dump_json(), ())
        if state not in self._histories:
            with _closed_when_broken(self._spare()) as environment:
                history = History(task=task, observation=environment.reset(task))
            self._keep(state, history, environment)
        return self._histories[state]

    async def advance(self, history: History, action: Action) -> History:
        """Return `history` after one more action; see `armap.protocols.World`."""
        if history.stop_reason is not None:
            raise EnvError(f"task {history.task.id!r} has ended ({history.stop_reason}) and cannot go on")
        before = _State(history.task.model_dump_json(), history.actions)
        after = _State(before.task, (*before.actions, action.text))
        known = self._histories.get(after)
        if known is None:
            parked = self._parked.pop(before, None)
            with _closed_when_broken(self._replay(history) if parked is None else parked) as environment:
                result = self._execute(environment, history.task, action)
            reason = "terminated" if result.terminated else "truncated" if result.truncated else None
            known = History(
                task=history.task,
                steps=(
                    *history.steps,
                    Step(observation=history.observation, action=action, env_reward=result.env_reward),
                ),
                observation=result.observation,
                stop_reason=reason,
                metrics=dict(result.metrics),
            )
            self._keep(after, known, environment)
            if isinstance(environment, Snapshots):
                self._names[after] = hashlib.sha256(pickle.dumps(environment.snapshot())).hexdigest()
        if known.steps[-1].action != action or known.steps[:-1] != history.steps:
            # The same actions with other thoughts: what the world said holds, what the agent thought is its own.
            step = Step(observation=history.observation, action=action, env_reward=known.steps[-1].env_reward)
            known = known.model_copy(update={"steps": (*history.steps, step)})
        return known

    def state_of(self, history: History) -> str | None:
        """Return a name of the state; see `armap.protocols.World`."""
        return self._names.get(_State(history.task.model_dump_json(), history.actions))

    def executed_steps(self, task: Task) -> int:
        """Return how many steps were really executed for `task` until now, replays included."""
        return self._executed[task.id]

    def close(self) -> None:
        """Close every environment."""
        while self._parked:
            self._parked.popitem()[1].close()

    def _replay(self, history: History) -> Environment:
        """Return an environment brought to `history`."""
        first, *later = [*(step.observation for step in history.steps), history.observation]
        with _closed_when_broken(self._spare()) as environment:
            _compare(history, 0, environment.reset(history.task), first)
            for i, (step, expected) in enumerate(zip(history.steps, later, strict=True), start=1):
                result = self._execute(environment, history.task, step.action)
                _compare(history, i, result.observation, expected)
        return environment

    def _execute(self, environment: Environment, task: Task, action: Action) -> StepResult:
        self._executed[task.id] += 1
        result = environment.step(action.text)
        # No record can hold such a number, and the run must not end for the sake of one task.
        for name, value in (("env_reward", result.env_reward), *result.metrics.items()):
            if not math.isfinite(value):
                raise EnvError(
                    f"task {task.id!r}: the environment gives {name} as {value} after {action.text[:80]!r}; "
                    "it must be a finite number"
                )
        return result

    def _spare(self) -> Environment:
        """Return the environment that was used longest ago, or a new one while there are few."""
        if len(self._parked) < _PARKED_ENVIRONMENTS:
            return self._make_environment()
        return self._parked.popitem(last=False)[1]

    def _keep(self, state: _State, history: History, environment: Environment) -> None:
        self._parked[state] = environment
        self._histories[state] = history
        if len(self._histories) > _KEPT_HISTORIES:
            self._histories.popitem(last=False)


@contextmanager
def _closed_when_broken(environment: Environment) -> Iterator[Environment]:
    """Close an environment that raises EnvError, as nobody may use it again."""
    try:
        yield environment
    except EnvError:
        environment.close()
        raise


def _compare(history: History, step: int, found: Observation, expected: Observation) -> None:
    if found != expected:
        raise ReplayError(
            f"task {history.task.id!r} did not replay: after {step} actions the environment now says "
            f"{found.text[:80]!r}, and it said {expected.text[:80]!r} before"
        )
