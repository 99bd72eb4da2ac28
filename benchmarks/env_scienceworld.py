"""Speed and memory of ScienceWorld, side by side with the package's own wrapper as its users call it.

    python benchmarks/env_scienceworld.py

Both do the same actions on the same tasks of the `unseen` split, task by task in turn: episodes of 25 valid actions
drawn at random, and the simulator's own solutions. Each is played once before it is timed, as Java becomes quick only
with use. CPU time is that of all processes of a side, which other programs disturb less. Then ours alone: start,
resident memory of the Java process after all 30 families of tasks, and two environments at once. Needs the extra
`scienceworld` and Java.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from random import Random
from statistics import mean, median
from typing import NamedTuple

import psutil
from scienceworld import ScienceWorldEnv

from armap.envs import scienceworld
from armap.envs.scienceworld import ScienceWorld
from armap.types import Task

TASKS = 12
RANDOM_STEPS = 25


class Episode(NamedTuple):
    """What is done, in both."""

    task: Task
    actions: Sequence[str]


class Times(NamedTuple):
    """What it took."""

    resets_s: list[float]
    steps_s: list[float]
    cpu_s: list[float]


def cpu_s() -> float:
    """Return the CPU time of this process and those it started."""
    own = psutil.Process()
    return sum(sum(one.cpu_times()[:2]) for one in (own, *own.children(recursive=True)))


def long_task(task: Task) -> Task:
    """Return `task` without its step limit, which some solutions exceed."""
    return task.model_copy(update={"config": {**task.config, "step_limit": 1000}})


def random_actions(task: Task, environment: ScienceWorld, rng: Random) -> Iterator[str]:
    """Play `task` with valid actions drawn at random, the verb first, and without a focus, which may end it."""
    observation = environment.reset(task)
    for _ in range(RANDOM_STEPS):
        actions = [action for action in observation.actions or () if not action.startswith("focus")]
        verb = rng.choice(sorted({action.split()[0] for action in actions}))
        action = rng.choice([action for action in actions if action.split()[0] == verb])
        observation = environment.step(action).observation
        yield action


def solution(task: Task, stock: ScienceWorldEnv) -> list[str]:
    stock.load(task.config["task"], task.config["variation"], "easy", generateGoldPath=True)
    return stock.get_gold_action_sequence()


def seconds(function: Callable[..., object], *arguments: object) -> float:
    begin = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - begin


def play_ours(environment: ScienceWorld, episode: Episode, times: Times) -> None:
    begin_cpu = cpu_s()
    times.resets_s.append(seconds(environment.reset, episode.task))
    for action in episode.actions:
        begin = time.perf_counter()
        result = environment.step(action)
        times.steps_s.append(time.perf_counter() - begin)
        if result.terminated or result.truncated:
            break
    times.cpu_s.append(cpu_s() - begin_cpu)


def play_stock(stock: ScienceWorldEnv, episode: Episode, times: Times) -> None:
    def reset() -> None:
        stock.load(episode.task.config["task"], episode.task.config["variation"], "easy")
        stock.reset()

    begin_cpu = cpu_s()
    times.resets_s.append(seconds(reset))
    for action in episode.actions:
        begin = time.perf_counter()
        _, _, completed, _ = stock.step(action)
        times.steps_s.append(time.perf_counter() - begin)
        if completed:
            break
    times.cpu_s.append(cpu_s() - begin_cpu)


def compare(name: str, episodes: Sequence[Episode], environment: ScienceWorld, stock: ScienceWorldEnv) -> None:
    for _ in ("warm up", "count"):
        ours, theirs = Times([], [], []), Times([], [], [])
        for episode in episodes:
            play_ours(environment, episode, ours)
            play_stock(stock, episode, theirs)
    print(f"{name}: {len(episodes)} episodes")
    for label, a, b in (("step", ours.steps_s, theirs.steps_s), ("reset", ours.resets_s, theirs.resets_s)):
        print(
            f"  {label:5}  ours {1 / mean(a):6.1f}/s, median {1e3 * median(a):5.1f} ms   "
            f"stock {1 / mean(b):6.1f}/s, median {1e3 * median(b):5.1f} ms   "
            f"ratio {mean(b) / mean(a):.1f}, of medians {median(b) / median(a):.1f}"
        )
    print(f"  ratio of the CPU time of whole episodes {sum(theirs.cpu_s) / sum(ours.cpu_s):.1f}")


def java_mb() -> float:
    """Return the resident memory of the Java processes that were started here."""
    below = psutil.Process().children(recursive=True)
    return sum(one.memory_info().rss for one in below if one.name() == "java") / 2**20


def tour() -> None:
    """Play 25 random actions of a task of every family."""
    rng = Random(0)
    with closing(ScienceWorld(list_actions=True)) as environment:
        first = scienceworld.parse_task("boil 0")
        print(f"start of Java and first reset: {seconds(environment.reset, first):.1f} s")
        for name in scienceworld.families():
            config = {"task": name, "variation": 0, "step_limit": 1000}
            list(random_actions(first.model_copy(update={"config": config}), environment, rng))
            environment.snapshot()
        print(f"resident memory after a tour of all families: {java_mb():.0f} MB")


def steps_per_s(episodes: Sequence[Episode]) -> float:
    times = Times([], [], [])
    with closing(ScienceWorld()) as environment:
        play_ours(environment, episodes[0], Times([], [], []))
        for episode in episodes:
            play_ours(environment, episode, times)
    return 1 / mean(times.steps_s)


def main() -> None:
    tasks = [long_task(task) for task in Random(0).sample(scienceworld.tasks("unseen"), TASKS)]
    with closing(ScienceWorld(list_actions=True)) as lister:
        rng = Random(0)
        drawn = [Episode(task, list(random_actions(task, lister, rng))) for task in tasks]
    with closing(ScienceWorld()) as environment:
        stock = ScienceWorldEnv("", envStepLimit=1000)
        solved = [Episode(task, solution(task, stock)) for task in tasks]
        compare("random valid actions", drawn, environment, stock)
        compare("solutions", solved, environment, stock)
        stock.close()
    tour()
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        alone = steps_per_s(drawn)
        both = list(pool.map(steps_per_s, (drawn, drawn)))
        print(f"steps/s of one environment: {alone:.0f}; of two at once: {both[0]:.0f} and {both[1]:.0f}")


if __name__ == "__main__":
    main()
