"""Makes every call to an environment under test: remembers what was done, and checks the form of what comes back."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from armap.errors import ConfigError, EnvError, raised_at
from armap.protocols import (
    METRIC_NAME,
    ComparesObservations,
    Environment,
    HindsightWriter,
    Snapshots,
    StepResult,
)
from armap.types import Observation, Record, Task, Trajectory

T = TypeVar("T")

_SHOWN_CHARS = 120
"""How much of a text of the environment is shown."""
_SHOWN_CALLS = 6
"""How many of the last calls are told."""
_OURS = Path(__file__).parent


class Finding(Record):
    """Something an environment does that planners cannot live with."""

    done: str
    """What was done, up to the call in question."""
    expected: str
    """What should have come of it."""
    came: str
    """What came instead."""
    repair: str
    """What to change."""
    where: str | None = None
    """File and line of the environment's own code, where it raised something."""


class Wrong(Exception):
    """A question was answered wrongly; it ends there."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.came)
        self.finding = finding


class Log:
    """Remembers what was done, for who reads a finding.

    Args:
        tell: is told what was done and is about to be done, before each call.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._calls: list[str] = []

    def call(self, what: str, function: Callable[..., T], *arguments: object) -> T:
        """Call code of the environment's; `what` says in words what is done.

        Raises:
            Wrong: it raised something.
            ConfigError: it says that something is missing.
        """
        self._calls.append(what)
        self._tell(self._story())
        with _Raised(self._story()):
            return function(*arguments)

    def require(self, holds: bool, *, expected: str, came: str, repair: str) -> None:
        """Raise `Wrong` about what was done last, unless something holds."""
        if not holds:
            raise Wrong(Finding(done=self._story(), expected=expected, came=came, repair=repair))

    def _story(self) -> str:
        earlier = len(self._calls) - _SHOWN_CALLS
        beginning = [f"{earlier} calls more"] if earlier > 0 else []
        return ", then ".join([*beginning, *self._calls[-_SHOWN_CALLS:]])


class Bench:
    """Where environments are made and used under watch.

    Args:
        make: makes an environment.
        tell: is told what is about to be done, before each call.
    """

    def __init__(self, make: Callable[[], Environment], tell: Callable[[str], None]) -> None:
        self._make = make
        self._tell = tell
        self._open: list[Watched] = []

    def environment(self) -> Watched:
        """Make one more environment."""
        watched = Watched(self._make, self._tell)
        self._open.append(watched)
        return watched

    def close(self) -> None:
        """Close every environment that was made."""
        while self._open:
            self._open.pop().close()


class Watched(Log):
    """An environment under watch. Every method raises `Wrong` if the environment raises or returns something odd."""

    def __init__(self, make: Callable[[], Environment], tell: Callable[[str], None]) -> None:
        super().__init__(tell)
        self._environment = self.call("make an environment", make)
        for method in ("reset", "step", "close"):
            self.require(
                callable(getattr(self._environment, method, None)),
                expected=f"an environment has a method {method}()",
                came=f"{type(self._environment).__name__} has none",
                repair=f"write {method}(); armap.protocols.Environment says what it must do",
            )

    @property
    def saves(self) -> bool:
        """Whether it can save its state."""
        return isinstance(self._environment, Snapshots)

    @property
    def compares(self) -> bool:
        """Whether it has its own idea of equal observations."""
        return isinstance(self._environment, ComparesObservations)

    @property
    def writes_hindsight(self) -> bool:
        """Whether it can say what a trajectory achieved."""
        return isinstance(self._environment, HindsightWriter)

    def reset(self, task: Task) -> Observation:
        """Start a task."""
        before = task.model_dump_json()
        observation = self.call(f"reset({task.id!r})", self._environment.reset, task)
        self.require(
            task.model_dump_json() == before,
            expected="a task stays as it is",
            came="the environment changed the task's config",
            repair="copy what you take from task.config before you change it (copy.deepcopy)",
        )
        return self._observation(observation)

    def step(self, action: str) -> StepResult:
        """Do an action."""
        result = self.call(f"step({shown(action)})", self._environment.step, action)
        self.require(
            isinstance(result, StepResult),
            expected="step() returns an armap.protocols.StepResult",
            came=f"it returned {type(result).__name__}",
            repair="return StepResult(observation, env_reward, terminated, truncated)",
        )
        self._observation(result.observation)
        for name, flag in (("terminated", result.terminated), ("truncated", result.truncated)):
            self.require(
                isinstance(flag, bool),
                expected=f"{name} is True or False",
                came=f"{name} is {shown(flag)} of type {type(flag).__name__}",
                repair=f"write bool(...) around {name}",
            )
        self.require(
            not (result.terminated and result.truncated),
            expected="an episode ends once: terminated by the world, or truncated by a limit",
            came="terminated and truncated are both True",
            repair="return truncated=limit_reached and not terminated",
        )
        self._numbers(result)
        return result

    def refuses(self, action: str) -> bool:
        """Do an action that must raise EnvError, and say whether it did."""
        try:
            self.call(f"step({shown(action)})", self._environment.step, action)
        except Wrong as wrong:
            if isinstance(wrong.__cause__, EnvError):
                return True
            raise
        return False

    def close(self) -> None:
        """Close it."""
        self.call("close()", self._environment.close)

    def snapshot(self) -> object:
        """Save its state."""
        assert isinstance(self._environment, Snapshots)
        return self.call("snapshot()", self._environment.snapshot)

    def restore(self, snapshot: object) -> None:
        """Go to a saved state."""
        assert isinstance(self._environment, Snapshots)
        self.call("restore(snapshot)", self._environment.restore, snapshot)

    def same(self, a: Observation, b: Observation) -> bool:
        """Say whether two observations count as equal."""
        if not isinstance(self._environment, ComparesObservations):
            return a == b
        same = self.call("same_observation(a, b)", self._environment.same_observation, a, b)
        self._calls.pop()
        self.require(
            isinstance(same, bool),
            expected="same_observation() returns True or False",
            came=f"it returned {type(same).__name__}",
            repair="write bool(...) around what it returns",
        )
        return same

    def hindsight_task(self, trajectory: Trajectory) -> Task | None:
        """Return the task that a trajectory fulfils."""
        assert isinstance(self._environment, HindsightWriter)
        task = self.call("hindsight_task(trajectory)", self._environment.hindsight_task, trajectory)
        self.require(
            task is None or isinstance(task, Task),
            expected="hindsight_task() returns a Task, or None if nothing was achieved",
            came=f"it returned {type(task).__name__}",
            repair="return trajectory.task.model_copy(update={'id': ..., 'instruction': ..., 'config': ...})",
        )
        return task

    def _observation(self, observation: Observation) -> Observation:
        self.require(
            isinstance(observation, Observation),
            expected="an observation is an armap.types.Observation",
            came=f"it is {type(observation).__name__}",
            repair="return Observation(text=..., actions=...)",
        )
        self.require(
            all(map(_storable, (observation.text, *(observation.actions or ())))),
            expected="an observation can be stored as UTF-8",
            came=f"{shown(observation.text)} cannot",
            repair="do not repeat an action in an observation as it came; write ascii(action) or leave it out",
        )
        actions = observation.actions
        self.require(
            actions is None or (len(actions) == len(set(actions)) > 0 and all(map(str.strip, actions))),
            expected="listed actions are at least one, all different, none blank",
            came=f"the observation lists {shown(actions)}",
            repair="list each legal action once, or leave `actions` out where they cannot be listed",
        )
        return observation

    def _numbers(self, result: StepResult) -> None:
        self.require(
            isinstance(result.metrics, Mapping),
            expected="metrics is a mapping from names to numbers",
            came=f"it is {type(result.metrics).__name__}",
            repair="return metrics={'price': 3.0}, or leave it out",
        )
        for name in result.metrics:
            self.require(
                isinstance(name, str)
                and bool(re.fullmatch(METRIC_NAME, name))
                and (name == "steps" or name.lower() not in ("score", "steps")),
                expected="an objective can name every metric",
                came=f"one is called {shown(name)}",
                repair="call it by letters, digits and underscores, such as fuel_used; score is the reward model's, "
                "and steps is written in small letters",
            )
        for name, value in (("env_reward", result.env_reward), *result.metrics.items()):
            self.require(
                isinstance(value, int | float) and math.isfinite(value),
                expected=f"{name} is a finite number",
                came=f"it is {shown(value)} of type {type(value).__name__}",
                repair=f"return float(...) as {name}, never nan or infinity",
            )


class _Raised:
    """Turns whatever the environment's code raises inside a `with` block into `Wrong`, with its place."""

    def __init__(self, story: str) -> None:
        self._story = story

    def __enter__(self) -> None:
        """Watch from here on."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        # That something is not installed is for the user to know, and no finding.
        if not isinstance(error, Exception | SystemExit) or isinstance(error, ConfigError):
            return
        finding = Finding(
            done=self._story,
            expected="no exception",
            came=f"{type(error).__name__}: {shown_text(str(error))}",
            repair=_repair_of(error),
            where=_place(error),
        )
        raise Wrong(finding) from error


def _storable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        # Python lets half of a surrogate pair stand in a text; no file can hold it.
        return False
    return True


def _repair_of(error: BaseException) -> str:
    if isinstance(error, EnvError):
        return "raise EnvError only for what cannot be started or gone on with"
    if isinstance(error, SystemExit):
        return "do not end the process; raise armap.errors.EnvError where the environment cannot go on"
    return "handle this case; where the environment really cannot go on, raise armap.errors.EnvError"


def _place(error: BaseException) -> str | None:
    """Return file and line of the environment's own code where it raised something."""
    frame = raised_at(error, ours=_OURS)
    return f"{frame.filename}:{frame.lineno}" if frame else None


def shown(value: object) -> str:
    """Return a value as Python writes it, on one line, cut where it is long."""
    return shown_text(ascii(value))


def shown_text(text: str) -> str:
    """Return a text on one line, cut where it is long."""
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN_CHARS else f"{line[:_SHOWN_CHARS]}... ({len(line):,} characters)"
