"""What an attempt came to, in the words of a task, whatever the simulator makes of it."""

from __future__ import annotations

import re
from collections.abc import Iterable

_FOCUSED = re.compile(r"You focus on the (.+)\.")
_MOVED = re.compile(r"You move the (.+) to the (.+)\.")
_POURED = re.compile(r"You pour the contents of the (.+) into the (.+)\.")
_HELD = "inventory"
_AND = ", and then "


def deeds(answers: Iterable[str]) -> tuple[str, ...]:
    """Return what was done that a task could ask for, in order: focused on, poured, or put somewhere.

    What is done again counts when it is done last, and a thing is where it was put last, if it is not held.

    Args:
        answers: what the simulator said to each action.
    """
    done: dict[str, str] = {}
    for answer in answers:
        text = answer.strip()
        if focused := _FOCUSED.fullmatch(text):
            done.pop(key := f"focus {focused[1]}", None)
            done[key] = f"focus on the {focused[1]}"
        elif moved := _MOVED.fullmatch(text):
            done.pop(key := f"place {moved[1]}", None)
            if moved[2] != _HELD:
                done[key] = f"move the {moved[1]} to the {moved[2]}"
        elif poured := _POURED.fullmatch(text):
            done.pop(key := f"pour {poured[1]} {poured[2]}", None)
            done[key] = f"pour the contents of the {poured[1]} into the {poured[2]}"
    return tuple(done.values())


def instruction(done: Iterable[str]) -> str:
    """Return the task of doing just that, in that order."""
    return f"Your task is to {_AND.join(done)}."
