"""What a tree search itself costs: ours and llm-reasoners', in microseconds of processor time per simulation.

    python benchmarks/search_overhead.py

The world is free: five actions everywhere, ten steps deep, one observation for all states; the policy proposes all five
actions at once, and the reward of a leaf is a hash of the way to it. So what is left is the search. Both run the same
number of simulations, in turns, in this process; llm-reasoners as it comes (UCT, no trace of every iteration, which is
its quick way). The first line of ours is the like of it: one simulation after the other, in a world that is a class of
three lines. The others show what our usual four simulations at a time cost where there is nothing to wait for, and our
own world, which remembers transitions and keeps environments, around a free environment.

A garbage collection costs by how much a process holds, and llm-reasoners imports torch, so what was imported is left
out of it, for both.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections.abc import Callable, Sequence
from random import Random
from statistics import median

from armap.planners.mcts import MCTS
from armap.protocols import StepResult, World
from armap.types import Action, History, Observation, Task, Trajectory, Usage
from armap.world import LiveWorld

try:
    from reasoners import SearchConfig, WorldModel
    from reasoners.algorithm import MCTS as PeerMCTS
except ImportError:
    sys.exit(
        "this benchmark compares with llm-reasoners, which is not installed: pip install --no-deps llm-reasoners==1.0.2"
    )

BRANCHING = 5
DEPTH = 10
SIMULATIONS = 1000
ROUNDS = 7

TASK = Task(id="free", env="free", instruction="Go.")
ACTIONS = [Action(text=str(number)) for number in range(BRANCHING)]
SEEN = Observation(text="Go on.")


def worth(leaf: int) -> float:
    return leaf * 2654435761 % 2**32 / 2**32


class FreeWorld:
    """Goes anywhere at once."""

    async def start(self, task: Task) -> History:
        return History(task=task, observation=SEEN)

    async def advance(self, history: History, action: Action) -> History:
        over = len(history.steps) + 1 == DEPTH
        return history.after(action, SEEN, stop_reason="terminated" if over else None)


class FreeEnvironment:
    """The same as an environment."""

    inline = True

    def __init__(self) -> None:
        self._depth = 0

    def reset(self, task: Task) -> Observation:
        self._depth = 0
        return SEEN

    def step(self, action: str) -> StepResult:
        self._depth += 1
        return StepResult(SEEN, 0.0, self._depth == DEPTH, False)

    def close(self) -> None:
        pass


class FreePolicy:
    """Proposes everything."""

    usage = Usage()

    async def propose(
        self, history: History, *, n: int, rng: Random, greedy: bool = False, reflections: Sequence[str] = ()
    ) -> list[Action]:
        return ACTIONS

    async def reflect(self, trajectory: Trajectory, *, rng: Random, reflections: Sequence[str] = ()) -> str:
        return ""


class FreeReward:
    """Knows what a leaf is worth."""

    async def score(self, trajectories: Sequence[Trajectory]) -> list[float]:
        return [worth(int("".join(trajectory.actions), BRANCHING)) for trajectory in trajectories]


class PeerWorld(WorldModel):  # type: ignore[misc]
    """The same world; a state is its depth and its place among those of its depth."""

    def init_state(self) -> tuple[int, int]:
        return 0, 0

    def step(self, state: tuple[int, int], action: int) -> tuple[tuple[int, int], dict[str, object]]:
        depth, place = state
        return (depth + 1, place * BRANCHING + action), {}

    def is_terminal(self, state: tuple[int, int]) -> bool:
        return state[0] == DEPTH


class PeerConfig(SearchConfig):  # type: ignore[misc]
    """The same policy and reward."""

    def get_actions(self, state: tuple[int, int]) -> list[int]:
        return list(range(BRANCHING))

    def fast_reward(self, state: tuple[int, int], action: int) -> tuple[float, dict[str, object]]:
        return 0.0, {}

    def reward(self, state: tuple[int, int], action: int, **details: object) -> tuple[float, dict[str, object]]:
        depth, place = state
        return worth(place * BRANCHING + action) if depth + 1 == DEPTH else 0.0, {}


def ours(world: World, wave: int) -> tuple[float, float]:
    """Search, and return the microseconds per simulation and the best worth found."""
    planner = MCTS(num_simulations=SIMULATIONS, proposals=BRANCHING, wave=wave)
    figures = []

    async def search() -> None:
        started = time.process_time()
        result = await planner.plan(TASK, world, FreePolicy(), FreeReward(), Random(0))
        taken_s = time.process_time() - started
        assert len(result.candidates) == SIMULATIONS
        figures.append((1e6 * taken_s / SIMULATIONS, max(candidate.score or 0.0 for candidate in result.candidates)))

    asyncio.run(search())
    return figures[0]


def peers() -> tuple[float, float]:
    started = time.process_time()
    result = PeerMCTS(n_iters=SIMULATIONS, depth_limit=DEPTH)(PeerWorld(), PeerConfig())
    return 1e6 * (time.process_time() - started) / SIMULATIONS, float(result.cum_reward)


def main() -> None:
    sides: dict[str, Callable[[], tuple[float, float]]] = {
        "armap": lambda: ours(FreeWorld(), 1),
        "llm-reasoners": peers,
        "armap, 4 at a time": lambda: ours(FreeWorld(), 4),
        "armap, LiveWorld": lambda: ours(LiveWorld(FreeEnvironment), 1),
    }
    gc.collect()
    gc.freeze()
    taken: dict[str, list[float]] = {side: [] for side in sides}
    best = {}
    for _ in range(1 + ROUNDS):
        for side, search in sides.items():
            microseconds, best[side] = search()
            taken[side].append(microseconds)
    middle = {side: median(figures[1:]) for side, figures in taken.items()}
    print(f"{SIMULATIONS} simulations; median of {ROUNDS} rounds, after one that is not counted")
    print(f"{'search':<22}{'us/simulation':>14}{'fastest':>9}{'best found':>12}")
    for side, figure in middle.items():
        print(f"{side:<22}{figure:>14.0f}{min(taken[side]):>9.0f}{best[side]:>12.6f}")
    figures = {"ours": round(middle["armap"]), "peer": round(middle["llm-reasoners"])}
    ratio = round(middle["llm-reasoners"] / middle["armap"], 2)
    print(json.dumps({"name": "search_overhead", **figures, "ratio": ratio, "unit": "us/simulation"}))


if __name__ == "__main__":
    main()
