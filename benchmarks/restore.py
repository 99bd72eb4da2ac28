"""Cost of going back to an earlier state, as a tree search does, side by side with reset and replay.

    python benchmarks/restore.py

The pattern of visits. A trunk of 20 actions is laid first. Then, 40 times: a state is chosen among the known ones at
depths 16 to 24 by the rule of UCT, value + sqrt(2 ln(visits of all) / (1 + visits of the state)), with values drawn
from 0 to 1 when a state becomes known; and one new action is executed there, which makes one more state known. The
state that became known last is not chosen, so every visit has to go back, and good states are gone back to again and
again. Actions are valid ones, drawn at random. All draws come from one seed and are made before anything is timed, so
that both sides do the same.

Ours is one `LiveWorld.advance` per visit, with the environment in a worker process: getting to the state, the new
action, and saving where it led. The other side is the package's own wrapper, which can only reset, replay the actions
on the way and do the new one; every fourth visit of each task is timed there. Java becomes quick only with use, so each
side has one process for all tasks, and 160 visits to another task come first and do not count. CPU time is that of all
processes of a side, which other programs disturb less than the clock.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import chain
from random import Random
from statistics import mean, median
from typing import NamedTuple

import psutil
from scienceworld import ScienceWorldEnv

from armap.envs import scienceworld
from armap.envs.scienceworld import ScienceWorld
from armap.types import Action, History, Task
from armap.world import LiveWorld

DEPTH = 20
SPREAD = 4
VISITS = 40
TIMED_EVERY = 4
WARM_UP_VISITS = 160
WARM_UP_TASK = "melt 21"
TASKS = ("boil 21", "find-animal 225", "grow-plant 93", "test-conductivity 679")


class Cost(NamedTuple):
    """What a visit took."""

    wall_s: float
    cpu_s: float


class Visit(NamedTuple):
    """One new action at a known state."""

    way: tuple[str, ...]
    """The actions that lead to the state."""
    action: str
    """The new one."""


class Lister(ScienceWorld):
    """Lists the valid actions, to draw from."""

    def __init__(self) -> None:
        super().__init__(list_actions=True)


def draw_action(history: History, known: set[tuple[str, ...]], rng: Random) -> str | None:
    """Draw an action that leads to no known state, its verb first; no focus, which may end the episode.

    None if there is no other.
    """
    listed = [action for action in history.observation.actions or () if (*history.actions, action) not in known]
    listed = [action for action in listed if not action.startswith("focus")]
    if not listed:
        return None
    verb = rng.choice(sorted({action.split()[0] for action in listed}))
    return rng.choice([action for action in listed if action.split()[0] == verb])


async def draw_visits(task: Task, count: int) -> tuple[tuple[str, ...], list[Visit]]:
    """Grow a tree, and return its trunk and the `count` visits that grew it."""
    rng = Random(0)
    with closing(LiveWorld(Lister, workers=True, environments=1)) as world:
        history = await world.start(task)
        for _ in range(DEPTH - SPREAD):
            history = await world.advance(history, Action(text=draw_action(history, set(), rng) or "wait1"))
        known, values, counts = [history], [rng.random()], [0]
        for _ in range(SPREAD):
            history = await world.advance(history, Action(text=draw_action(history, set(), rng) or "wait1"))
            known, values, counts = [*known, history], [*values, rng.random()], [*counts, 0]
        trunk, visits = history.actions, []
        for done in range(count):
            seen = {history.actions for history in known}
            bonus = [math.sqrt(2 * math.log(1 + done) / (1 + count)) for count in counts]
            # All but the last.
            promising = sorted(range(len(known) - 1), key=lambda i: values[i] + bonus[i], reverse=True)
            at, action = next((i, new) for i in promising if (new := draw_action(known[i], seen, rng)))
            counts[at] += 1
            visits.append(Visit(known[at].actions, action))
            new = await world.advance(known[at], Action(text=action))
            if new.stop_reason is None and len(new.steps) <= DEPTH + SPREAD:
                known, values, counts = [*known, new], [*values, rng.random()], [*counts, 0]
    return trunk, visits


class Watch:
    """Measures visits, all processes that this one started included."""

    def __init__(self) -> None:
        self.costs: list[Cost] = []

    @contextmanager
    def visit(self) -> Iterator[None]:
        """Measure what is done within."""
        begin, begin_cpu = time.perf_counter(), self._cpu_s()
        yield
        wall = time.perf_counter() - begin
        self.costs.append(Cost(wall, self._cpu_s() - begin_cpu))

    def _cpu_s(self) -> float:
        own = psutil.Process()
        return sum(sum(one.cpu_times()[:2]) for one in (own, *own.children(recursive=True)))


async def visit_with_world(world: LiveWorld, task: Task, trunk: tuple[str, ...], visits: list[Visit]) -> list[Cost]:
    """Return what each visit takes in a world that has just come down the trunk."""
    watch = Watch()

    async def follow(way: tuple[str, ...]) -> History:
        history = await world.start(task)
        for action in way:
            history = await world.advance(history, Action(text=action))
        return history

    await follow(trunk)
    for visit in visits:
        # All of these are known: nothing is executed.
        at = await follow(visit.way)
        with watch.visit():
            await world.advance(at, Action(text=visit.action))
    return watch.costs


def visit_with_stock(stock: ScienceWorldEnv, task: Task, visits: list[Visit]) -> list[Cost]:
    """Return what visits take by reset and replay."""
    watch = Watch()
    stock.load(task.config["task"], task.config["variation"], "easy")
    stock.reset()
    for visit in visits[::TIMED_EVERY]:
        with watch.visit():
            stock.reset()
            for action in (*visit.way, visit.action):
                stock.step(action)
    return watch.costs


async def compare(tasks: list[tuple[Task, int]]) -> tuple[list[Cost], list[Cost]]:
    """Do so many visits to tasks, and return what those to all but the first one take, ours first."""
    drawn = [await draw_visits(task, count) for task, count in tasks]
    ours: list[list[Cost]] = []
    theirs: list[list[Cost]] = []
    stock = ScienceWorldEnv("", envStepLimit=1000)
    with closing(stock), closing(LiveWorld(ScienceWorld, workers=True, environments=1)) as world:
        for (task, _), (trunk, visits) in zip(tasks, drawn, strict=True):
            depths = [len(visit.way) for visit in visits]
            states = len({visit.way for visit in visits})
            print(f"{task.id}: {len(visits)} visits to {states} states at depths {min(depths)} to {max(depths)}")
            ours.append(await visit_with_world(world, task, trunk, visits))
            theirs.append(visit_with_stock(stock, task, visits))
        print(world.statistics)
    return list(chain(*ours[1:])), list(chain(*theirs[1:]))


def long_task(text: str) -> Task:
    """Return a task without its step limit, which some ways exceed."""
    task = scienceworld.parse_task(text)
    return task.model_copy(update={"config": {**task.config, "step_limit": 1000}})


def main() -> None:
    tasks = [(long_task(WARM_UP_TASK), WARM_UP_VISITS), *((long_task(text), VISITS) for text in TASKS)]
    ours, theirs = asyncio.run(compare(tasks))
    for name, costs in (("LiveWorld", ours), ("reset and replay", theirs)):
        wall, cpu = [cost.wall_s for cost in costs], [cost.cpu_s for cost in costs]
        print(
            f"{name:17} {1e3 * median(wall):7.1f} ms per visit (median), {1e3 * mean(wall):7.1f} ms (mean), "
            f"{1e3 * mean(cpu):7.1f} ms of CPU time (mean)"
        )
    print(
        f"ratio of medians {median(cost.wall_s for cost in theirs) / median(cost.wall_s for cost in ours):.1f}, "
        f"of means {mean(cost.wall_s for cost in theirs) / mean(cost.wall_s for cost in ours):.1f}, "
        f"of CPU time {mean(cost.cpu_s for cost in theirs) / mean(cost.cpu_s for cost in ours):.1f}"
    )


if __name__ == "__main__":
    main()
