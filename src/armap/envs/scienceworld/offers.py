"""What the agent is offered to choose among: some of what the simulator would accept, in words that were read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from hashlib import blake2b
from itertools import chain, product, takewhile
from typing import NamedTuple

from armap.envs.scienceworld.simulator import Possible

_WITHOUT_THINGS = ("inventory", "look around", "wait", "wait1")
_TO_ANYTHING = ("activate {}", "close {}", "deactivate {}", "flush {}", "open {}", "read {}")
_TO_USEFUL_THINGS = ("focus on {}", "pick up {}", "put down {}")
_ANYWHERE = {"inventory": 1, "wait": 1, "wait1": 3}
"""What is the same in every room, and how often it is offered while the same is possible; all else is once. A `wait` is
ten of `wait1`; together they are longer than any solution of the simulator's own solver waits for something."""
_SCENERY = {"agent", "air", "inventory", "sewer"}
"""What may be in any room, and is of no use in any."""
_FURNITURE = {"bed", "chair", "closet", "counter", "couch", "cupboard", "desk", "drawer", "mattress", "shelf", "table"}
"""What can be opened or closed at most, by a word of its name. The simulator lets it be carried around."""
_PARTS = {"anode", "cathode", "terminal"}
"""What wires are connected to, by a word of its name."""
_KINDS = {"component", "generator", "light", "living thing", "object", "organism", "plant", "sittable", "substance"}
"""What the simulator takes for names, and no person would."""

_ENTERED = re.compile(r"(?:You teleport|You move) to the (.*)\.|This .* is called the (.*)\.")
"""How an observation begins that says where the agent is."""
_NO_WORD = re.compile(r"[^a-z0-9]+|\bthe\b")
_PLACE = re.compile(r" (?:in|on) (.*)")
"""What tells a thing from others of its name."""
_DETAIL = re.compile(r" (?:containing|in|on) ")
"""What begins the longer part of a name."""
_OF_A_PART = re.compile(rf" (?:{'|'.join(sorted(_PARTS))})\b.*")


def in_words(text: str) -> str:
    """Return a text as words with spaces around them, in which names can be found."""
    return f" {' '.join(_NO_WORD.sub(' ', text.lower()).split())} "


def offered_actions(possible: Possible, read: str | None = None) -> tuple[str, ...]:
    """Return the actions worth choosing among, in their order: 10 to 100 out of up to 1,600.

    What is left out is of no use to any task, or is what two of the others do together. A thing is picked up before it
    is moved, poured out or used; nothing is put or mixed anywhere but in a container that is no furniture; whoever can
    teleport does nothing with rooms, and opens and closes doors only; a connection has a wire at one end, and is
    offered from one end only. Nothing is eaten or dunked, things are looked at by looking around, and the task is
    neither read again nor begun again.

    Args:
        possible: what can be done, and more, as the simulator also names what is shut away.
        read: what the agent has read and has before its eyes, from `in_words`. Nothing else is offered, and by the name
            that was read. If None, everything is, by the simulator's names, which it draws from all it understands.
    """
    actions = possible.actions
    if actions[0].isdecimal():
        return actions  # the numbers that answer which of several things is meant
    rooms = _things("teleport to ", actions)
    names = {thing: thing for thing in _things("look at ", actions) - _SCENERY - rooms}
    if read is not None:
        names = _as_read(names.keys(), possible, read)
    said = {action: action for action in _WITHOUT_THINGS}
    said |= {action: action for action in actions if action.startswith("teleport to " if rooms else "go to ")}
    for template, things in _combinations(actions, names, bool(rooms)):
        said[template.format(*things)] = template.format(*(names[thing] for thing in things))
    return tuple(dict.fromkeys(said[action] for action in actions if action in said))


def _combinations(
    actions: Collection[str], names: Mapping[str, str], teleports: bool
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield what may be of use, as a text with gaps and the things that fill them."""
    useful = {
        thing
        for thing, name in names.items()
        if not _has(_PLACE.sub("", name), _FURNITURE) and not (teleports and _has(name, {"door"}))
    }
    parts = {thing for thing in useful if _has(names[thing], _PARTS)}
    whole = useful - parts
    held = _things("put down ", actions) & whole
    containers = _things("look in ", actions) & whole
    carried = (held | _things("pick up ", actions)) & containers
    wires = {thing for thing in useful if _has(names[thing], {"wire"})}
    yield from product(_TO_ANYTHING, product(names))
    yield from product(_TO_USEFUL_THINGS, product(whole))
    yield from product(("mix {}",), product(carried))
    yield from product(("move {} to {}", "pour {} into {}"), product(held, containers))
    yield from product(("use {} on {}",), product(held, whole))
    yield from product(("disconnect {}",), product(wires))
    for wire, end in product(wires & parts, parts | whole - containers - wires):
        if end not in wires or (wire < end and _base(names[wire]) != _base(names[end])):
            yield "connect {} to {}", (wire, end)


def _as_read(things: Collection[str], possible: Possible, read: str) -> dict[str, str]:
    """Return the names by which things were read of, those that were not left out.

    Args:
        things: the simulator's names.
        possible: what can be done, and all names.
        read: what was read.
    """
    shut = _things("open ", possible.actions)
    places = {thing: _PLACE.search(thing) for thing in things}
    known = {
        thing: _names_in(read, thing, possible.names.get(thing, ()))
        for thing, place in places.items()
        if place is None or place[1] not in shut
    }
    common = Counter(chain.from_iterable(known.values()))
    names: dict[str, str] = {}
    for thing, fitting in known.items():
        own = [name for name in fitting if common[name] == 1]
        if fitting:
            place = places[thing]
            # Where that is not known either, the simulator will ask which of them is meant.
            told_apart = place is not None and in_words(place[1]) in read
            names[thing] = own[0] if own else fitting[0] + (place[0] if place and told_apart else "")
    bases = {_base(name) for name in names.values()}
    return {thing: name for thing, name in names.items() if not _is_read_within(_base(name), bases, read)}


def _names_in(read: str, thing: str, others: Collection[str]) -> list[str]:
    """Return the names by which a thing was read of, the best first."""
    if _has(thing, _PARTS):
        full = max((name for name in others if not _PLACE.search(name)), key=len, default=thing)
        return [full] if in_words(_base(full)) in read else []
    # Doors and drains have no other names.
    names = [name for name in others or [thing] if in_words(name) in read and name not in _KINDS]
    return sorted(names, key=lambda name: (bool(_DETAIL.search(name)), -len(name)))


def _is_read_within(name: str, others: Collection[str], read: str) -> bool:
    """Say whether a name was read in longer ones only, such as `cup` in `tin cup`: then its thing was not."""
    for other in others:
        if len(other) > len(name) and in_words(name) in in_words(other):
            read = re.sub(rf"\b{re.escape(other)}\b", "/", read)
    return in_words(name) not in read


def _base(name: str) -> str:
    """Return what has to be read for a name to be known: that of what it is a part of, without its details."""
    return _OF_A_PART.sub("", _DETAIL.split(name)[0])


def _has(name: str, words: Collection[str]) -> bool:
    return not set(name.split()).isdisjoint(words)


def _things(verb: str, actions: Collection[str]) -> set[str]:
    """Return what the actions with this verb are done to."""
    return {action.removeprefix(verb) for action in actions if action.startswith(verb)}


class _Done(NamedTuple):
    """An action, and where it was done."""

    room: str
    possible: bytes
    """Digest of what could be done instead."""
    action: str


class Memory(NamedTuple):
    """What the agent has read and done; with what is possible, it decides what is offered."""

    lasting: str = ""
    """The instruction, and what was said of things that are carried, in words."""
    room: str = ""
    """Where the agent is."""
    read: tuple[tuple[str, str], ...] = ()
    """What was read in each room, in words."""
    possible: bytes = b""
    """Digest of what can be done."""
    done: tuple[_Done, ...] = ()
    """Actions until now."""

    def after(self, action: str) -> Memory:
        """Return it after one more action."""
        return self._replace(done=(*self.done, _Done(self.room, self.possible, action)))

    def reading(self, text: str, possible: Possible) -> Memory:
        """Return it after the answer to the last action."""
        words, read = in_words(text), dict(self.read)
        entered = _ENTERED.match(text)
        room = next(filter(None, entered.groups())) if entered else self.room
        read[room] = _with(read.get(room, ""), words)
        return self._replace(
            lasting=_with(self.lasting, words) if " inventory " in words else self.lasting,
            room=room,
            read=tuple(read.items()),
            possible=blake2b("\n".join(offered_actions(possible)).encode(), digest_size=8).digest(),
        )

    def offers(self, possible: Possible) -> tuple[str, ...]:
        """Return what is offered: nothing that was done here when the same was possible, unless all of it was."""
        offered = offered_actions(possible, self.lasting + dict(self.read)[self.room])
        often = Counter(one.action for one in self.done if one.possible == self.possible)
        # What is the same in every room is not done again elsewhere, before something else is done.
        idle = takewhile(lambda one: _is_idle(one.action), reversed(self.done))
        often += Counter(one.action for one in idle if one.action in _ANYWHERE and one.room != self.room)
        stay = f"teleport to {self.room}"
        left = (action for action in offered if often[action] < _ANYWHERE.get(action, 1) and action != stay)
        return tuple(left) or offered


def _is_idle(action: str) -> bool:
    return action in _WITHOUT_THINGS or action.startswith(("teleport to ", "go to "))


def _with(known: str, words: str) -> str:
    return known if words in known else known + words
