"""Finds an environment that a user wrote, by the name `module:Class`."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import FunctionType
from typing import NamedTuple, Protocol, cast

from armap.errors import ConfigError
from armap.prompts import load_prompt
from armap.protocols import Environment
from armap.types import Task, Trajectory


class EnvironmentClass(Protocol):
    """What `module:Class` must name: a class of environments that are made without arguments and know their tasks.

    The class may also have `rules` (what an action is, in words for a language model), `examples` (solved tasks to
    show it) and `inline` (True where a step is quick and never hangs, so that no worker process is needed).
    """

    def __call__(self) -> Environment:
        """Make one more environment; all that are made behave alike."""
        ...

    def tasks(self, split: str) -> Sequence[Task]:
        """Return the tasks of split `train` or `test`, always the same ones; a static method or a class method."""
        ...


class OwnEnvironment(NamedTuple):
    """An environment class of a user, with what it left out filled in."""

    make: Callable[[], Environment]
    """Makes one; it can be pickled, as it is a class of a module."""
    tasks: Callable[[str], Sequence[Task]]
    """The tasks of a split."""
    rules: str
    """What an action is, for the policy's prompt."""
    examples: tuple[Trajectory, ...]
    """Solved tasks, for the policy's prompt."""
    inline: bool
    """Whether its steps are quick and never hang."""


def import_environment(name: str) -> OwnEnvironment:
    """Import the class that `module:Class` names, from the current folder or from what is installed.

    Raises:
        ConfigError: the name has another form, there is no such module or class, or the class cannot be used.
    """
    module_name, colon, class_name = name.partition(":")
    if not (colon and class_name.isidentifier() and all(part.isidentifier() for part in module_name.split("."))):
        raise ConfigError(f"{name!r} names no environment; write module:Class, such as own_environment:Jugs.")
    here = str(Path.cwd())
    # A worker process gets the same search path, and with it the same module.
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # One that the user's module needs in turn is another matter.
        if not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise ConfigError(
            f"There is no module {module_name!r} in {here}, nor is one installed; go to the folder it is in."
        ) from error
    except SyntaxError as error:
        raise ConfigError(f"{error.filename}, line {error.lineno}, is no Python: {error.msg}; correct it.") from error
    found = getattr(module, class_name, None)
    if not isinstance(found, type):
        raise ConfigError(f"Module {module_name!r} has no class {class_name!r}; look for a slip in the name.")
    if not callable(getattr(found, "tasks", None)):
        raise ConfigError(
            f"{name} has no tasks; give the class a static method tasks(split) that returns a list of armap.types.Task "
            'for the splits "train" and "test".'
        )
    if isinstance(inspect.getattr_static(found, "tasks"), FunctionType):
        raise ConfigError(f"{name}: tasks(split) is asked of the class, so write @staticmethod above it.")
    if wanted := [parameter.name for parameter in _required(found)]:
        raise ConfigError(f"{name} is made without arguments; give {', '.join(wanted)} of its __init__ a default.")
    made = cast(EnvironmentClass, found)
    return OwnEnvironment(
        make=made,
        tasks=made.tasks,
        rules=_rules(name, found),
        examples=_examples(name, found),
        inline=bool(getattr(found, "inline", False)),
    )


def _rules(name: str, made: type) -> str:
    rules = getattr(made, "rules", load_prompt("act_own"))
    if not isinstance(rules, str):
        raise ConfigError(f"{name}.rules must be a text, and is of type {type(rules).__name__}; or leave it out.")
    return rules


def _examples(name: str, made: type) -> tuple[Trajectory, ...]:
    examples = getattr(made, "examples", ())
    listed = tuple(examples) if isinstance(examples, Iterable) else (examples,)
    if not all(isinstance(example, Trajectory) for example in listed):
        raise ConfigError(f"{name}.examples must be a list of what armap.envs.play.play returns; or leave it out.")
    return listed


def _required(made: type) -> list[inspect.Parameter]:
    """Return the arguments without which no object of a class is made."""
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(made).parameters.values()
    return [one for one in parameters if one.default is inspect.Parameter.empty and one.kind not in optional]
