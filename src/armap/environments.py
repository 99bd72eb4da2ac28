"""The environments by the name a user types, each with its tasks."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from armap.browser import find_browser
from armap.envs import game24, toy
from armap.envs.own import import_environment
from armap.errors import ConfigError, foreign_code, told_of
from armap.images import ImageFolder
from armap.protocols import Environment
from armap.types import Task, Trajectory

if TYPE_CHECKING:
    from armap.envs.webshop.index import Catalogue


class EnvironmentEntry(NamedTuple):
    """An environment, and which tasks it has."""

    make: Callable[[], Environment]
    """Makes one; it can be pickled, so that a worker process can make its own."""
    inline: bool
    """Whether its steps are quick and never hang, so that it needs no worker process."""
    build: str
    """What decides its behaviour, in a few words: equal builds answer equal actions equally."""
    rules: str
    """What an action is, for the policy's prompt."""
    examples: Sequence[Trajectory]
    """Solved tasks, for the policy's prompt."""
    training_tasks: Callable[[Sequence[Task]], list[Task]]
    """All training tasks but those given."""
    evaluation_tasks: Callable[[str], list[Task]]
    """The evaluation tasks a text selects."""
    default_evaluation: str
    """The text that selects the usual ones."""
    parse_task: Callable[[str], Task]
    """Reads a task a person typed."""
    notice: str = ""
    """What whoever collects should know about the training tasks."""


class Wanted(NamedTuple):
    """What a run wants of its environment."""

    choose: bool = True
    """Observations are to list the legal actions, even where that is dear."""
    data: Path | None = None
    """Folder of data of the user's own, where the environment takes one."""
    images: ImageFolder | None = None
    """Where pictures of the observations go, where the environment draws them; None for none."""


def _game24(wanted: Wanted) -> EnvironmentEntry:
    _refuse("game24", wanted)
    return EnvironmentEntry(
        make=game24.Game24,
        inline=game24.Game24.inline,
        build="game24",
        rules=game24.Game24.rules,
        examples=game24.Game24.examples,
        training_tasks=lambda exclude: game24.training_tasks(exclude=exclude),
        evaluation_tasks=_game24_evaluation,
        default_evaluation="901-1000",
        parse_task=game24.parse_task,
    )


def _game24_evaluation(ranks: str) -> list[Task]:
    first, _, last = ranks.partition("-")
    if not (first.isdecimal() and last.isdecimal()):
        raise ConfigError(f"{ranks!r} is no range of ranks; write for example 901-1000.")
    return game24.tasks(int(first), int(last), split="test")


def _toy(wanted: Wanted) -> EnvironmentEntry:
    _refuse("toy", wanted)
    return EnvironmentEntry(
        make=toy.Toy,
        inline=toy.Toy.inline,
        build="toy",
        rules=toy.Toy.rules,
        examples=toy.Toy.examples,
        training_tasks=partial(without, toy.tasks(378, seed=0, split="train")),
        evaluation_tasks=_toy_evaluation,
        default_evaluation="40",
        parse_task=toy.parse_task,
    )


def _toy_evaluation(count: str) -> list[Task]:
    if not count.isdecimal():
        raise ConfigError(f"{count!r} is no number of toy tasks; write for example 40.")
    return toy.tasks(int(count), seed=0, split="test")


WEBSHOP_DATA = """\
Without data of your own, webshop sells a catalogue that is generated when it is first opened.

The original's products are not ours to give away. Its authors keep them at https://github.com/princeton-nlp/WebShop:
`./setup.sh -d small` there fetches 1,000 products and `-d all` the 1.18 million. Put these files into one folder:

    items_shuffle_1000.json    or items_shuffle.json
    items_ins_v2_1000.json     or items_ins_v2.json
    items_human_ins.json

`armap data webshop FOLDER` checks and indexes them, and `--env webshop --data FOLDER` uses them."""
"""Where WebShop's own data are to be had."""


def open_catalogue(data: Path | None) -> Catalogue:
    """Open the shop's catalogue: of the official files in a folder, or the generated one if None.

    Raises:
        ConfigError: a file is missing.
        DataError: a file is malformed.
    """
    from armap.envs.webshop.index import open_embedded, open_or_build

    return open_embedded() if data is None else open_or_build(data)


def require_shop_extra() -> None:
    """Make sure that what draws and serves the shop is installed.

    Raises:
        ConfigError: it is not.
    """
    if any(importlib.util.find_spec(name) is None for name in ("PIL", "starlette", "uvicorn")):
        raise ConfigError("What draws and serves the shop is not installed; type: pip install 'armap[shop]'")


def _webshop(wanted: Wanted) -> EnvironmentEntry:
    from armap.envs import webshop

    catalogue = open_catalogue(wanted.data)
    shop = webshop.WebShop(catalogue, suggest=wanted.choose)
    make: Callable[[], Environment] = partial(webshop.WebShop, catalogue, suggest=wanted.choose)
    inline, pictures = True, "no pictures"
    if wanted.images is not None:
        require_shop_extra()
        inline, pictures = not _has_browser(), "screenshots" if _has_browser() else "paintings"
        make = partial(webshop.WebShop, catalogue, suggest=wanted.choose, images=wanted.images)
        if not inline:
            from armap.envs.webshop.screenshots import PhotographedWebShop

            make = partial(PhotographedWebShop, catalogue, suggest=wanted.choose, images=wanted.images)
    return EnvironmentEntry(
        make=make,
        inline=inline,
        build=f"{shop.build}, {pictures}",
        rules=shop.rules,
        examples=shop.examples,
        training_tasks=lambda exclude: webshop.training_tasks(catalogue, exclude=exclude),
        evaluation_tasks=partial(webshop.evaluation_tasks, catalogue),
        default_evaluation="test",
        parse_task=partial(webshop.parse_task, catalogue),
    )


def _has_browser() -> bool:
    try:
        find_browser()
    except ConfigError:
        return False
    return True


def _scienceworld(wanted: Wanted) -> EnvironmentEntry:
    from armap.envs import scienceworld

    _refuse("scienceworld", wanted)
    installed, _, remedy = scienceworld.check()
    if not installed:
        raise ConfigError(f"scienceworld cannot run here; type: {remedy}")
    return EnvironmentEntry(
        make=partial(scienceworld.ScienceWorld, list_actions=wanted.choose),
        inline=scienceworld.ScienceWorld.inline,
        build=f"scienceworld, actions {'' if wanted.choose else 'not '}listed",
        rules=scienceworld.ScienceWorld.rules,
        examples=scienceworld.ScienceWorld.examples,
        training_tasks=lambda exclude: scienceworld.training_tasks(exclude=exclude),
        evaluation_tasks=scienceworld.evaluation_tasks,
        default_evaluation="unseen",
        parse_task=scienceworld.parse_task,
        notice=f"{len(scienceworld.shared_ids())} of the authors' training tasks are among their evaluation tasks too; "
        "they are left out.",
    )


def _miniwob(wanted: Wanted) -> EnvironmentEntry:
    from armap.envs import miniwob

    if wanted.data is not None:
        raise ConfigError("miniwob takes no data of your own; leave --data out.")
    find_browser()
    return EnvironmentEntry(
        make=partial(miniwob.MiniWoB, wanted.images),
        inline=miniwob.MiniWoB.inline,
        build="miniwob",
        rules=miniwob.MiniWoB.rules,
        examples=miniwob.MiniWoB.examples,
        training_tasks=partial(without, miniwob.tasks("train")),
        evaluation_tasks=partial(_range_of, miniwob.tasks("test")),
        default_evaluation="all",
        parse_task=miniwob.parse_task,
    )


def _own(name: str, wanted: Wanted) -> EnvironmentEntry:
    _refuse(name, wanted)
    own = import_environment(name)

    def tasks(split: str) -> list[Task]:
        with foreign_code(partial(told_of, f"{name}.tasks({split!r})", ours=Path(__file__).parent)):
            found = list(own.tasks(split))
        for task in found:
            if not isinstance(task, Task):
                raise ConfigError(
                    f"{name}.tasks({split!r}) must return objects of armap.types.Task; one is of type "
                    f"{type(task).__name__}."
                )
        return found

    def parse_task(text: str) -> Task:
        for split in ("test", "train"):
            for task in tasks(split):
                if text in (task.id, task.instruction):
                    return task
        raise ConfigError(f"{name} has no task {text!r}; type the id or the instruction of one of its tasks.")

    return EnvironmentEntry(
        make=own.make,
        inline=own.inline,
        build=name,
        rules=own.rules,
        examples=own.examples,
        training_tasks=lambda exclude: without(tasks("train"), exclude),
        evaluation_tasks=partial(_range_of, tasks("test")),
        default_evaluation="all",
        parse_task=parse_task,
    )


def _range_of(tasks: Sequence[Task], text: str) -> list[Task]:
    """Return the tasks that `all` or a range of places such as `0-49` selects."""
    if text == "all":
        return [*tasks]
    first, _, last = text.partition("-")
    if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last) < len(tasks)):
        raise ConfigError(f"{text!r} selects no tasks; write all, or a range within 0-{len(tasks) - 1}.")
    return [*tasks[int(first) : int(last) + 1]]


def without(tasks: Iterable[Task], exclude: Sequence[Task]) -> list[Task]:
    """Return the tasks that are none of those to exclude, by name or by content."""
    ids, contents = {task.id for task in exclude}, {_content(task) for task in exclude}
    return [task for task in tasks if task.id not in ids and _content(task) not in contents]


def _content(task: Task) -> str:
    """Return what two tasks have in common that are one, whatever they are called."""
    return task.model_dump_json(exclude={"id", "split"})


def _refuse(name: str, wanted: Wanted) -> None:
    """Refuse what an environment without data and pictures cannot give."""
    if wanted.data is not None:
        raise ConfigError(f"{name} takes no data of your own; leave --data out.")
    if wanted.images is not None:
        raise ConfigError(f"{name} draws no pictures; leave --images out.")


_OPENERS: dict[str, Callable[[Wanted], EnvironmentEntry]] = {
    "game24": _game24,
    "webshop": _webshop,
    "scienceworld": _scienceworld,
    "miniwob": _miniwob,
    "toy": _toy,
}

ENVIRONMENTS = tuple(_OPENERS)
"""Names of the environments that come with the package."""


def environment_entry(name: str, wanted: Wanted = Wanted()) -> EnvironmentEntry:  # noqa: B008 - immutable
    """Return an environment, by its name or as `module:Class`.

    Raises:
        ConfigError: there is no environment of that name, it cannot give what is wanted, or something it needs is not
            installed.
    """
    if ":" in name:
        return _own(name, wanted)
    if name not in _OPENERS:
        raise ConfigError(
            f"There is no environment {name!r}; choose from: {', '.join(ENVIRONMENTS)}, or name a class of your own as "
            "module:Class."
        )
    return _OPENERS[name](wanted)
