"""Environment steps per simulation of a tree search: ours, and by reset and replay.

    python benchmarks/search_env_steps.py

The peer is how ARMAP's released code reaches a state: for every step it tries, it resets the environment, replays the
history and does the action, and then resets and replays the history once more to restore the state. It is written out
below as a world, so that both sides are the same search, with the same policy and judge. In its favour, actions that
are known already cost it nothing, which is not so in the original, and resets are not counted.

Three worlds: a maze of five ways at each of twelve steps, which cannot save its state; the same maze where it can; and
the WebShop that comes with the package, in which an agent that clicks at random goes on for fifteen steps.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from contextlib import closing
from random import Random
from statistics import median

from armap.envs.webshop.environment import WebShop
from armap.envs.webshop.splits import tasks
from armap.planners.mcts import MCTS
from armap.protocols import Environment, StepResult, World
from armap.seeds import stable_hash
from armap.types import Action, History, Observation, Task, Trajectory, Usage
from armap.world import LiveWorld

SIMULATIONS = 100
PROPOSALS = 5
SEEDS = 3
DEPTH = 12


class Maze:
    """Five ways at every corner, and an end after twelve."""

    inline = True

    def __init__(self) -> None:
        self._way: tuple[str, ...] = ()

    def reset(self, task: Task) -> Observation:
        self._way = ()
        return self._seen()

    def step(self, action: str) -> StepResult:
        self._way = (*self._way, action)
        return StepResult(self._seen(), 0.0, len(self._way) == DEPTH, False)

    def close(self) -> None:
        pass

    def _seen(self) -> Observation:
        return Observation(text=f"corner {' '.join(self._way)}", actions=("north", "south", "east", "west", "down"))


class SavedMaze(Maze):
    """A maze that can save where one is."""

    def snapshot(self) -> object:
        return self._way

    def restore(self, snapshot: object) -> None:
        assert isinstance(snapshot, tuple)
        self._way = snapshot


class ResetAndReplay:
    """Reaches every state from the start, and goes back to it from the start."""

    def __init__(self, make_environment: Callable[[], Environment]) -> None:
        self._environment = make_environment()
        self.steps = 0

    async def start(self, task: Task) -> History:
        return History(task=task, observation=self._environment.reset(task))

    async def advance(self, history: History, action: Action) -> History:
        self._replay(history)
        result = self._step(action.text)
        self._replay(history)
        stop_reason = "terminated" if result.terminated else "truncated" if result.truncated else None
        return history.after(action, result.observation, stop_reason=stop_reason)

    def _replay(self, history: History) -> None:
        self._environment.reset(history.task)
        for action in history.actions:
            self._step(action)

    def _step(self, action: str) -> StepResult:
        self.steps += 1
        return self._environment.step(action)


class Wanderer:
    """Does anything that can be done, and searches where it has to say for what."""

    usage = Usage()

    async def propose(
        self, history: History, *, n: int, rng: Random, greedy: bool = False, reflections: Sequence[str] = ()
    ) -> list[Action]:
        words = history.task.instruction.split()
        # Who buys at once is soon at the end.
        listed = [action for action in history.observation.actions or () if action != "click[buy now]"]
        drawn = rng.choices(listed, k=n) if listed else [f"search[{rng.choice(words)}]" for _ in range(n)]
        return [Action(text=text) for text in drawn]

    async def reflect(self, trajectory: Trajectory, *, rng: Random, reflections: Sequence[str] = ()) -> str:
        return ""


class Whim:
    """Judges for no reason."""

    async def score(self, trajectories: Sequence[Trajectory]) -> list[float]:
        return [stable_hash(*trajectory.actions) / 2**64 for trajectory in trajectories]


def search(world: World, task: Task, seed: int) -> float:
    """Return the mean length of the trajectories of a search."""
    planner = MCTS(num_simulations=SIMULATIONS, proposals=PROPOSALS)
    lengths: list[int] = []

    async def plan() -> None:
        result = await planner.plan(task, world, Wanderer(), Whim(), Random(seed))
        assert result.tree is not None
        # Those that found their way closed tried nothing and do not count.
        assert result.tree.visits[0] >= SIMULATIONS
        lengths.extend(len(candidate.trajectory.steps) for candidate in result.candidates)

    asyncio.run(plan())
    return sum(lengths) / len(lengths)


def main() -> None:
    maze = [Task(id=f"maze {seed}", env="maze", instruction="Get out.") for seed in range(SEEDS)]
    shop = WebShop()
    shopping = Random(0).sample(tasks(shop.catalogue, "test"), SEEDS)
    worlds: dict[str, tuple[Callable[[], Environment], list[Task]]] = {
        "maze": (Maze, maze),
        "maze, saved": (SavedMaze, maze),
        "WebShop": (lambda: WebShop(shop.catalogue), shopping),
    }
    print(f"steps per simulation; median of {SEEDS} searches of {SIMULATIONS} simulations")
    print(f"{'world':<14}{'depth':>7}{'armap':>8}{'replay':>9}{'ratio':>8}")
    ratios = {}
    for name, (make, problems) in worlds.items():
        ours, peers, depths = [], [], []
        for seed, task in enumerate(problems):
            with closing(LiveWorld(make)) as live:
                depths.append(search(live, task, seed))
                ours.append(live.executed_steps(task) / SIMULATIONS)
            replaying = ResetAndReplay(make)
            search(replaying, task, seed)
            peers.append(replaying.steps / SIMULATIONS)
        ratios[name] = median(peers) / median(ours)
        print(f"{name:<14}{median(depths):>7.1f}{median(ours):>8.1f}{median(peers):>9.1f}{ratios[name]:>8.1f}")
    rounded = {name: round(ratio, 1) for name, ratio in ratios.items()}
    print(json.dumps({"name": "search_env_steps", "ratio": min(rounded.values()), "ratios": rounded}))


if __name__ == "__main__":
    main()
