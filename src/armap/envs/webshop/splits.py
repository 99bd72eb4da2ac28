"""The tasks of a shop: its goals by number, by split, and as a person types them."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from armap.envs.task_config import read_config
from armap.envs.webshop.goals import Goal, GoalKind
from armap.envs.webshop.index import Catalogue
from armap.errors import ConfigError, EnvError
from armap.types import Record, Task

STEP_LIMIT = 15
"""Actions after which an episode is cut off where a task does not say otherwise. Source: ReAct, RAGEN, verl-agent."""

SPLITS: dict[str, tuple[GoalKind, int, int | None]] = {
    "test": ("synthetic", 0, 500),
    "train": ("synthetic", 500, None),
    "human-test": ("human", 0, 200),
    "human-test-500": ("human", 0, 500),
    "human-train": ("human", 500, None),
}
"""Kind and numbers of the goals of each split, the last number left out; None for all from there on.

Source: `test` and `train` are those of RAGEN and verl-agent on the 1,000 products, `human-test` that of AgentBench and
ARMAP, `human-test-500` and `human-train` those of WebShop, which keeps goals 500 to 1,499 of the latter for validation.
"""


class Order(Record):
    """What `Task.config` must hold."""

    catalogue: str
    """Fingerprint of the catalogue the task was made for."""
    product_id: str
    """The product that was thought of."""
    attributes: tuple[str, ...]
    """What the product should be like."""
    options: dict[str, str] | tuple[str, ...]
    """Options to choose: values by group, or values alone."""
    price_limit_usd: float = Field(gt=0, allow_inf_nan=False)
    """The most it may cost."""
    step_limit: int = Field(default=STEP_LIMIT, strict=True, ge=1)
    """Actions, illegal ones included, after which the episode is cut off."""


def order_of(task: Task, catalogue: Catalogue) -> Order:
    """Return what `task.config` holds.

    Raises:
        EnvError: it is not that of a purchase, or was made for another catalogue.
    """
    order = read_config(task, Order, env="webshop", advice="take tasks from envs.webshop.tasks()")
    if order.catalogue != catalogue.fingerprint or order.product_id not in catalogue:
        raise EnvError(
            f"webshop cannot start task {task.id!r}: it was made for catalogue {order.catalogue[:8]}, and this one is "
            f"{catalogue.fingerprint[:8]}; open the catalogue it was made for"
        )
    return order


def tasks(catalogue: Catalogue, split: str, *, step_limit: int = STEP_LIMIT) -> list[Task]:
    """Return the tasks of a split in `SPLITS`, in the official order; fewer where the catalogue has fewer goals.

    Raises:
        ConfigError: there is no such split, or no goal in it.
    """
    if split not in SPLITS:
        raise ConfigError(f"WebShop has no split {split!r}; choose from: {', '.join(SPLITS)}.")
    kind, first, end = SPLITS[split]
    found = _goal_tasks(catalogue, kind, first, end, split=split, step_limit=step_limit)
    if not found:
        count = len(catalogue.goals(kind))
        raise ConfigError(f"This catalogue has {count} {kind} goals, and split {split!r} begins at number {first}.")
    return found


def training_tasks(catalogue: Catalogue, *, exclude: Sequence[Task]) -> list[Task]:
    """Return the tasks of split `train`, or `human-train` if a task to exclude is a person's, but those to exclude."""
    kind: GoalKind = "human" if any(task.id.startswith("human ") for task in exclude) else "synthetic"
    split = "human-train" if kind == "human" else "train"
    excluded = {task.id for task in exclude}
    return [task for task in tasks(catalogue, split) if task.id not in excluded]


def evaluation_tasks(catalogue: Catalogue, text: str) -> list[Task]:
    """Return the tasks of a split by its name, or of a range of goal numbers such as `0-99` or `human 0-99`.

    Raises:
        ConfigError: the text says neither, or the catalogue has no such goals.
    """
    if text in SPLITS:
        return tasks(catalogue, text)
    kind, numbers = _kind_and_rest(text)
    first, dash, last = numbers.partition("-")
    if not (dash and first.isdecimal() and last.isdecimal()):
        raise ConfigError(f"{text!r} selects no WebShop tasks; write {', '.join(SPLITS)}, 0-99 or human 0-99.")
    _check_number(catalogue, kind, int(last))
    if int(first) > int(last):
        raise ConfigError(f"{text!r} is an empty range; write the smaller number first.")
    return _goal_tasks(catalogue, kind, int(first), int(last) + 1, split="test", step_limit=STEP_LIMIT)


def parse_task(catalogue: Catalogue, text: str) -> Task:
    """Read `12` or `human 12`, the official number of a goal, as a task.

    Raises:
        ConfigError: it is no number, or the catalogue has no such goal.
    """
    kind, number = _kind_and_rest(text)
    if not number.isdecimal():
        raise ConfigError(f"{text!r} is no WebShop task; write the number of a goal, such as 12 or human 12.")
    _check_number(catalogue, kind, int(number))
    (task,) = _goal_tasks(catalogue, kind, int(number), int(number) + 1, split="test", step_limit=STEP_LIMIT)
    return task


def _kind_and_rest(text: str) -> tuple[GoalKind, str]:
    first, _, rest = text.strip().partition(" ")
    if first == "human":
        return "human", rest.strip()
    return "synthetic", rest.strip() if first == "synthetic" else text.strip()


def _check_number(catalogue: Catalogue, kind: GoalKind, number: int) -> None:
    count = len(catalogue.goals(kind))
    if number >= count:
        raise ConfigError(f"This catalogue has {count} {kind} goals, numbered from 0; there is no number {number}.")


def _goal_tasks(
    catalogue: Catalogue, kind: GoalKind, first: int, end: int | None, *, split: str, step_limit: int
) -> list[Task]:
    goals = catalogue.goals(kind)
    numbers = range(first, len(goals) if end is None else min(end, len(goals)))
    return [task_of(f"{kind} {number}", goals[number], catalogue, split, step_limit) for number in numbers]


def task_of(name: str, goal: Goal, catalogue: Catalogue, split: str, step_limit: int) -> Task:
    """Return the task `name`, that of fulfilling `goal`."""
    order = Order(
        catalogue=catalogue.fingerprint,
        product_id=goal.product_id,
        attributes=goal.attributes,
        options=goal.options,
        price_limit_usd=goal.price_limit_usd,
        step_limit=step_limit,
    )
    config = order.model_dump(mode="json")
    return Task(id=name, env="webshop", instruction=goal.instruction, split=split, config=config)
