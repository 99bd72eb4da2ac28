"""Collect: the policy acts on training tasks and leaves diverse trajectories."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from armap.engines.local import each
from armap.errors import RunError
from armap.planners.rollouts import rollouts
from armap.protocols import Policy, World
from armap.seeds import rng_for
from armap.store import RunFolder
from armap.types import Failure, Task, TaskFailure, Trajectory


async def collect(
    run: RunFolder,
    tasks: Sequence[Task],
    *,
    world: World,
    make_policy: Callable[[], Policy],
    samples: int,
    seed: int,
    concurrency: int,
    on_progress: Callable[[int, int], None],
) -> None:
    """Append `samples` trajectories per task to `trajectories.jsonl`, those that are there already left out.

    A task that cannot be started is appended to `failures.jsonl`. Nothing here reads what the environment pays.

    Raises:
        BudgetError: the run may not spend more; what is finished is stored.
    """
    there = {trajectory.id for trajectory in run.read("trajectories", Trajectory)}
    failed = {failure.task_id for failure in run.read("failures", TaskFailure) if failure.stage == "collect"}
    known = {task.id for task in run.read("tasks", Task)}
    for task in tasks:
        if task.id not in known:
            run.append("tasks", task)

    async def work(task: Task) -> None:
        try:
            drawn = await rollouts(task, world, make_policy(), n=samples, rng=rng_for(seed, "collect", task.id))
        except RunError as error:
            failure = Failure(kind=type(error).__name__, message=str(error))
            run.append("failures", TaskFailure(stage="collect", task_id=task.id, failure=failure))
            return
        for trajectory in drawn.trajectories:
            if trajectory.id not in there:
                run.append("trajectories", trajectory)

    todo = [
        task for task in tasks if task.id not in failed and not all(f"{task.id}#{i}" in there for i in range(samples))
    ]
    await each(todo, work, concurrency=concurrency, on_progress=on_progress)
