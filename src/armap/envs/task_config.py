"""Reads what a task tells its environment."""

from __future__ import annotations

from typing import TypeVar

from pydantic import ValidationError

from armap.errors import EnvError
from armap.types import Record, Task

Form = TypeVar("Form", bound=Record)


def read_config(task: Task, form: type[Form], *, env: str, advice: str) -> Form:
    """Return what `task.config` holds.

    Args:
        task: the task to be started.
        form: what its config must hold.
        env: name of the environment, for the message.
        advice: what to do about a config that does not, for the message.

    Raises:
        EnvError: it does not hold that.
    """
    try:
        return form.model_validate(task.config)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, ("config", *first["loc"])))
        raise EnvError(f"{env} cannot start task {task.id!r}: {where}: {first['msg']}; {advice}") from error
