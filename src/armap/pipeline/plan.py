"""Plan: every planner tries every task."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from armap.engines.local import each
from armap.errors import RunError
from armap.planners.beam import Beam
from armap.planners.best_of_n import BestOfN
from armap.planners.greedy import Greedy
from armap.planners.mcts import MCTS
from armap.planners.reflexion import Reflexion
from armap.planners.sampling import Sampling
from armap.policy import PromptedPolicy
from armap.protocols import RewardModel
from armap.seeds import rng_for
from armap.store import RunFolder
from armap.types import Failure, SearchResult, Task
from armap.world import LiveWorld

AnyPlanner = Greedy | Sampling | BestOfN | Reflexion | Beam | MCTS
"""The planners there are; each is a record whose fields are its settings."""


async def plan(
    run: RunFolder,
    tasks: Sequence[Task],
    planners: Sequence[AnyPlanner],
    *,
    world: LiveWorld,
    make_policy: Callable[[], PromptedPolicy],
    reward_model: RewardModel,
    seed: int,
    concurrency: int,
    on_progress: Callable[[int, int], None],
) -> None:
    """Append one result per task and planner to `searches.jsonl`, those that are there already left out.

    Planners share the world and the seed of a task, so `Sampling` and `BestOfN` with the same n draw the same
    trajectories.

    Raises:
        BudgetError: the run may not spend more; what is finished is stored.
    """
    there = {(result.task.id, result.planner) for result in run.read("searches", SearchResult)}

    async def work(task: Task) -> None:
        for planner in planners:
            if (task.id, planner.name) not in there:
                run.append("searches", await plan_one(task, planner, world, make_policy(), reward_model, seed))

    todo = [task for task in tasks if any((task.id, planner.name) not in there for planner in planners)]
    await each(todo, work, concurrency=concurrency, on_progress=on_progress)


async def plan_one(
    task: Task, planner: AnyPlanner, world: LiveWorld, policy: PromptedPolicy, reward_model: RewardModel, seed: int
) -> SearchResult:
    """Return what `planner` does with `task`, with what it spent; an error of the task is part of the result.

    Raises:
        BudgetError: the run may not spend more.
    """
    started, steps_before = time.monotonic(), world.executed_steps(task)
    try:
        result = await planner.plan(task, world, policy, reward_model, rng_for(seed, "plan", task.id))
    except RunError as error:
        failure = Failure(kind=type(error).__name__, message=str(error))
        result = SearchResult(task=task, planner=planner.name, failure=failure)
    return result.model_copy(
        update={
            "usage": policy.usage,
            "env_steps": world.executed_steps(task) - steps_before,
            "seconds": time.monotonic() - started,
        }
    )
