"""Plan: every planner tries every task."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from pydantic import ValidationError

from armap.engines.local import each
from armap.errors import ConfigError, RunError
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
from armap.types import Failure, SearchBudget, SearchResult, Task
from armap.world import LiveWorld

AnyPlanner = Greedy | Sampling | BestOfN | Reflexion | Beam | MCTS
"""The planners there are; each is a record whose fields are its settings."""

PLANNERS: Mapping[str, Callable[[int], AnyPlanner]] = {
    "greedy": lambda n: Greedy(),
    "sampling": lambda n: Sampling(n=n),
    "best_of_n": lambda n: BestOfN(n=n),
    "reflexion": lambda n: Reflexion(trials=n),
    "beam": lambda n: Beam(width=n),
    "mcts": lambda n: MCTS(num_simulations=n),
    "reflexion_paper": Reflexion.paper,
    "mcts_paper": MCTS.paper,
}
"""By name, what makes a planner that tries some number of trajectories."""

_SIZES = {"sampling": "n", "best_of_n": "n", "reflexion": "trials", "beam": "width", "mcts": "num_simulations"}
"""Which setting is that number."""


def make_planner(name: str, n: int, settings: Mapping[str, str], budget: SearchBudget) -> AnyPlanner:
    """Return the planner of a name.

    Args:
        name: one of `PLANNERS`.
        n: trajectories to try.
        settings: values of further settings as texts, `none` for no value.
        budget: what it may spend on a task.

    Raises:
        ConfigError: there is no such planner, setting or value.
    """
    if name not in PLANNERS:
        raise ConfigError(f"There is no planner {name!r}; choose from: {', '.join(PLANNERS)}.")
    usual = PLANNERS[name](n)
    known = [field for field in type(usual).model_fields if field not in ("name", "budget")]
    for setting in settings:
        if setting not in known:
            raise ConfigError(f"{name} has no setting {setting!r}; it has: {', '.join(known) or 'none'}.")
    changed = {setting: None if value == "none" else value for setting, value in settings.items()}
    try:
        return type(usual).model_validate({**usual.model_dump(), **changed, "budget": budget})
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:
            # Of settings that do not go together, the sentence is that of the planner.
            raise ConfigError(f"{name}: {first['msg'].removeprefix('Value error, ')}.") from error
        raise ConfigError(f"{name}.{first['loc'][0]}: {first['msg']}, not {first['input']!r}.") from error


def label(planner: AnyPlanner) -> str:
    """Return what a planner is called in records and reports: its name, and the settings that differ from the usual.

    However many trajectories it tries, a planner of usual settings has its plain name.
    """
    size = _SIZES.get(planner.name)
    n = getattr(planner, size) if size else 1
    settings = _settings(planner)
    changed = {
        name: {key: value for key, value in settings.items() if value != _settings(make(n))[key]}
        for name, make in PLANNERS.items()
        if isinstance(planner, type(make(n)))
    }
    name = min(changed, key=lambda name: len(changed[name]))
    told = [f"{key}={str(value).lower()}" for key, value in changed[name].items()]
    if not told:
        return name
    return f"{name}({', '.join([*told, f'n={n}'] if size else told)})"


def _settings(planner: AnyPlanner) -> dict[str, object]:
    """Return the settings of a planner by name, with those of its budget among them."""
    return {**planner.model_dump(exclude={"budget"}), **planner.budget.model_dump()}


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
    """Append one result per task and label of a planner to `searches.jsonl`, those that are there already left out.

    Planners share the world and the seed of a task, so `Sampling` and `BestOfN` with the same n draw the same
    trajectories.

    Raises:
        BudgetError: the run may not spend more; what is finished is stored.
    """
    there = {(result.task.id, result.planner) for result in run.read("searches", SearchResult)}
    labelled = {label(planner): planner for planner in planners}

    async def work(task: Task) -> None:
        for name, planner in labelled.items():
            if (task.id, name) not in there:
                run.append("searches", await plan_one(task, planner, world, make_policy(), reward_model, seed))

    todo = [task for task in tasks if any((task.id, name) not in there for name in labelled)]
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
            "planner": label(planner),
            "usage": policy.usage,
            "env_steps": world.executed_steps(task) - steps_before,
            "seconds": time.monotonic() - started,
        }
    )
