"""What the agent reads: the actions it is offered, and whether two descriptions say the same."""

from __future__ import annotations

import re
from collections.abc import Sequence

_WITHOUT_THINGS = {"inventory", "look around", "wait", "wait1"}
_WITH_A_THING = ("activate", "deactivate", "flush", "focus on", "look at", "pick up", "put down", "read")
_SCENERY = {"agent", "air", "inventory", "sewer"}
"""What may be in any room, and is of no use in any."""

_CONTENTS = re.compile(r"\((containing )?([^()]*)\)")
"""A list within parentheses that has no further ones in it."""
_SENTENCE = re.compile(r"(?<=[.:]) ")
"""The space behind a sentence or a colon."""


def offered_actions(valid: Sequence[str]) -> tuple[str, ...]:
    """Return the valid actions worth choosing among, in their order: 50 to 300 out of up to 1,600.

    What is left out is of no use to any task, or is what two of the others do together. A thing is picked up before it
    is moved, poured out or used; nothing is put or mixed anywhere but in a container; whoever can teleport does
    nothing with rooms, and opens and closes doors only; a connection has a wire at one end, and is offered from one end
    only. Nothing is eaten or dunked, and the task is neither read again nor begun again.
    """
    if valid[0].isdecimal():
        return tuple(valid)  # the numbers that answer which of several things is meant
    rooms = _things("teleport to ", valid)
    things = _things("look at ", valid) - _SCENERY - rooms
    useful = {thing for thing in things if not (rooms and "door" in thing.split())}
    containers = _things("look in ", valid) & useful
    held = _things("put down ", valid)
    wires = {thing for thing in useful if "wire" in thing.split()}
    offered = _WITHOUT_THINGS | {f"teleport to {room}" for room in rooms}
    offered |= {f"{verb} {thing}" for verb in _WITH_A_THING for thing in useful}
    offered |= {f"{verb} {thing}" for verb in ("close", "open") for thing in things}
    offered |= {f"{verb} {thing}" for verb in ("look in", "mix") for thing in containers}
    for thing in held:
        offered |= {f"move {thing} to {container}" for container in containers}
        offered |= {f"pour {thing} into {container}" for container in containers}
        offered |= {f"use {thing} on {other}" for other in useful}
    for wire in wires:
        offered |= {f"connect {wire} to {end}" for end in useful if end not in wires or wire < end}
    offered |= {f"disconnect {wire}" for wire in wires}
    if not rooms:
        offered |= {action for action in valid if action.startswith("go to ")}
    return tuple(action for action in valid if action in offered)


def _things(verb: str, actions: Sequence[str]) -> set[str]:
    """Return what the actions with this verb are done to."""
    return {action.removeprefix(verb) for action in actions if action.startswith(verb)}


def same_text(a: str, b: str) -> bool:
    """Say whether two texts say the same, whatever the order in which they list things.

    Lines may change places, and so may items within one list. What is in a container stays in that container, and the
    meanings of an ambiguous action keep their numbers.
    """
    return a == b or _unordered(a) == _unordered(b)


def _unordered(text: str) -> list[list[list[str]]]:
    """Return the lines of `text` with each line as its sentences and each sentence as its items.

    All but the sentences are put in alphabetical order, lists within parentheses from the inside out.
    """
    while (simpler := _CONTENTS.sub(lambda found: f"[{'; '.join(_items(found[2]))}]", text)) != text:
        text = simpler
    return sorted([_items(sentence) for sentence in _SENTENCE.split(line.strip())] for line in text.split("\n"))


def _items(sentence: str) -> list[str]:
    return sorted(sentence.removesuffix(".").split(", "))
