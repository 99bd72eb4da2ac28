"""Environments for tests of worker processes, which import this file and so must not find pytest in it."""

import copy
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from armap.errors import ConfigError, EnvError
from armap.protocols import StepResult
from armap.types import Observation, Task


def break_down() -> None:
    raise EnvError("stuck in the swamp")


def err() -> None:
    raise ValueError("first line\nsecond line")


def spin() -> None:
    while True:
        pass


def fork() -> None:
    if os.fork() == 0:
        time.sleep(1000)


def shout() -> None:
    print("loud words")
    print("loud errors", file=sys.stderr)
    os.write(1, b"raw words\n")


DEEDS: dict[str, Callable[[], object]] = {
    "be killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "break down": break_down,
    "die": lambda: os._exit(3),
    "err": err,
    "exit": lambda: sys.exit(4),
    "fork": fork,
    "hang": lambda: time.sleep(1000),
    "have a child": lambda: subprocess.Popen(["sleep", "1000"]).pid,
    "listen": lambda: sys.stdin.read(),
    "leave the interpreter": lambda: exit(),
    "nap": lambda: time.sleep(0.3),
    "say pid": os.getpid,
    "shout": shout,
    "spin": spin,
}
"""What it can be told to do besides walking."""

LIMIT_STEPS = 10


class Unruly:
    """Says where it went, and does whatever it is told."""

    def __init__(self, traces: Path | None = None) -> None:
        self.way: tuple[str, ...] = ()
        self.traces = traces

    def reset(self, task: Task) -> Observation:
        self.way = (task.id,)
        return self.seen(str(task.config.get("do")))

    def step(self, action: str) -> StepResult:
        self.way += (action,)
        steps = len(self.way) - 1
        return StepResult(self.seen(action), steps / 8, action == "leave", steps == LIMIT_STEPS, {"steps": steps})

    def seen(self, deed: str) -> Observation:
        answer = DEEDS[deed]() if deed in DEEDS else None
        return Observation(text=" > ".join(self.way) + ("" if answer is None else f": {answer}"), actions=("north",))

    def close(self) -> None:
        if self.traces is not None:
            (self.traces / "closed").touch()


class Saving(Unruly):
    """Can save where it is."""

    def snapshot(self) -> object:
        return self.way

    def restore(self, snapshot: object) -> None:
        self.way = snapshot


class Lost(Unruly):
    """Saves its state, and finds it neither again nor the same."""

    def snapshot(self) -> object:
        return {}

    def restore(self, snapshot: object) -> None:
        self.way = snapshot["way"]  # type: ignore[index]

    def same_observation(self, a: Observation, b: Observation) -> bool:
        raise KeyError("seen")


class Impossible:
    """Needs something that is not here."""

    def __init__(self) -> None:
        raise ConfigError("Java is missing; install a Java runtime.")


class Faulty:
    """Cannot be made, for a reason its author did not think of."""

    def __init__(self) -> None:
        raise KeyError("settings")


class Unwilling:
    """Cannot be made, for a reason of its author's own."""

    class NoKitchen(Exception):
        pass

    def __init__(self) -> None:
        raise Unwilling.NoKitchen("burnt down")


class Calling:
    """Cannot be made, as a program that it calls fails."""

    def __init__(self) -> None:
        subprocess.run(["false"], check=True)


class Gone:
    """Ends the process that makes it."""

    def __init__(self) -> None:
        sys.exit("not me")


class Slamming(Unruly):
    """Ends the process that closes it."""

    def close(self) -> None:
        sys.exit(5)


class Wordy(Unruly):
    """Takes a text for an observation."""

    def reset(self, task: Task) -> str:
        return task.id


class Shuffling(Unruly):
    """Describes one state in several ways."""

    described = 0

    def seen(self, deed: str) -> Observation:
        Shuffling.described += 1
        things = ["a cup", "a pot"][:: 1 if Shuffling.described % 2 else -1]
        return Observation(text=f"{super().seen(deed).text}: {' and '.join(things)}")

    def same_observation(self, a: Observation, b: Observation) -> bool:
        return sorted(a.text) == sorted(b.text)


def task(name: str = "home", **config: str) -> Task:
    return Task(id=name, env="unruly", instruction="Go for a walk.", config=config)


class Fickle(Unruly):
    """Never says the same twice."""

    def seen(self, deed: str) -> Observation:
        return Observation(text=f"{super().seen(deed).text} at {time.monotonic_ns()}")


class FickleSaving(Fickle, Saving):
    """Never says the same twice, and can save where it is."""


class Forgetful(Saving):
    """Goes back to a state with one action less."""

    def restore(self, snapshot: object) -> None:
        super().restore(snapshot[:1] + snapshot[2:])


class Basket:
    """Holds what was put into it, and saves it as a set."""

    def __init__(self) -> None:
        self.held: frozenset[tuple[str, ...]] = frozenset()

    def reset(self, task: Task) -> Observation:
        self.held = frozenset()
        return Observation(text="empty")

    def step(self, action: str) -> StepResult:
        self.held |= {(action, *action.split())}
        return StepResult(Observation(text=f"{len(self.held)} things"), 0.0, False, False)

    def snapshot(self) -> object:
        return {"held": self.held, "last": sorted(self.held)[-1:]}

    def restore(self, snapshot: object) -> None:
        assert isinstance(snapshot, dict)
        self.held = snapshot["held"]

    def close(self) -> None:
        pass


class Doors:
    """Has two names for one door, and saves both."""

    def __init__(self) -> None:
        self.state: dict[str, list[bool]] = {}

    def reset(self, task: Task) -> Observation:
        door = [False]
        self.state = {"the red door": door, "what is ahead": door}
        return self.seen()

    def step(self, action: str) -> StepResult:
        self.state["what is ahead"][0] = True
        return StepResult(self.seen(), 0.0, False, False)

    def seen(self) -> Observation:
        return Observation(text=f"The red door is {'open' if self.state['the red door'][0] else 'closed'}.")

    def snapshot(self) -> object:
        return copy.deepcopy(self.state)

    def restore(self, snapshot: object) -> None:
        assert isinstance(snapshot, dict)
        self.state = snapshot

    def close(self) -> None:
        pass
