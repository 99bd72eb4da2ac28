"""Looks at all preference pairs together: none twice, and lengths that do not tell the sides apart."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from statistics import fmean

from rapidfuzz import fuzz
from rapidfuzz.utils import default_process

from armap.seeds import rng_for
from armap.types import Check, PreferencePair, Trajectory

MOST_TOLD_BY_LENGTH = 0.55
"""Highest share of pairs whose chosen side length alone may tell."""
_ALIKE = 95.0
"""Least similarity, in percent, of two instructions that ask for the same thing in other words."""
_LEAST_WORDS = 2
"""Words of an action that give it away; one word may well be what is asked for."""

Lengths = Mapping[str, Callable[[Trajectory], int]]

LENGTHS: Lengths = {
    "steps": lambda one: len(one.steps),
    "characters": lambda one: sum(
        map(len, (*(step.observation.text for step in one.steps), *one.actions, one.final_observation.text))
    ),
}
"""How long a trajectory is, by unit."""


def gives_away(instruction: str, original: str, actions: Collection[str]) -> bool:
    """Say whether an instruction says which action to take, where the original instruction does not.

    Args:
        instruction: what was written.
        original: what the agent was asked to do.
        actions: texts of the actions that were taken.
    """
    written, asked = _words(instruction), _words(original)
    said = [words for action in actions if len((words := _words(action)).split()) >= _LEAST_WORDS]
    return any(f" {words} " in f" {written} " and f" {words} " not in f" {asked} " for words in said)


def select(drafts: Iterable[PreferencePair], *, seed: int) -> tuple[list[PreferencePair], dict[str, tuple[Check, str]]]:
    """Return the pairs that can be used together, and by id why the others cannot.

    Args:
        drafts: pairs, each of which is sound for itself.
        seed: decides which of too many equally telling pairs are left out.
    """
    known: dict[tuple[str, ...], list[str]] = {}
    distinct: list[PreferencePair] = []
    refused: dict[str, tuple[Check, str]] = {}
    for pair in sorted(drafts, key=lambda pair: pair.id):
        there = known.setdefault(_content(pair), [])
        if pair.task.instruction in there:
            refused[pair.id] = ("duplicate", "the same pair again")
        elif any(fuzz.ratio(pair.task.instruction, other, processor=default_process) >= _ALIKE for other in there):
            refused[pair.id] = ("duplicate", "a pair very much like it is there")
        else:
            there.append(pair.task.instruction)
            distinct.append(pair)
    telling = _too_telling(distinct, seed)
    refused.update(dict.fromkeys(telling, ("length", "its lengths would tell the sides apart")))
    return [pair for pair in distinct if pair.id not in telling], refused


def length_tells(pairs: Sequence[PreferencePair]) -> dict[str, float]:
    """Return by unit how often the better of two rules is right: the longer side is the chosen one, or the shorter."""
    if not pairs:
        return {}
    return {unit: max(share, 1 - share) for unit in LENGTHS for share in [fmean(_longer(pairs, unit))]}


def _longer(pairs: Iterable[PreferencePair], unit: str) -> list[float]:
    """Return 1 for each pair whose chosen side is the longer one, 0 where the other one is, and 0.5 for equals."""
    lengths = [(LENGTHS[unit](pair.chosen), LENGTHS[unit](pair.rejected)) for pair in pairs]
    return [(chosen > rejected) + (chosen == rejected) / 2 for chosen, rejected in lengths]


def _too_telling(pairs: Sequence[PreferencePair], seed: int) -> set[str]:
    """Return the ids of pairs to leave out so that no length tells too much.

    Where chosen sides are longer too often, one of those pairs goes, best one that is among the too many in every unit.
    """
    # For each unit 1 where the chosen side is the longer one, -1 where it is the shorter. Pairs of equal signs are
    # equally telling, and wait in one line, the last one first.
    alike: dict[tuple[float, ...], list[tuple[int, str]]] = {}
    left = [(pair.id, tuple(2 * _longer([pair], unit)[0] - 1 for unit in LENGTHS)) for pair in pairs]
    rng_for(seed, "balance").shuffle(left)
    for place, (name, signs) in reversed([*enumerate(left)]):
        alike.setdefault(signs, []).append((place, name))
    totals = [sum(column) for column in zip(*(signs for _, signs in left), strict=True)]
    gone: set[str] = set()
    while len(gone) < len(left):
        worst = max(range(len(totals)), key=lambda unit: abs(totals[unit]))
        if abs(totals[worst]) <= (2 * MOST_TOLD_BY_LENGTH - 1) * (len(left) - len(gone)):
            break
        ways = [1 if total > 0 else -1 for total in totals]
        too_many = [signs for signs, waiting in alike.items() if waiting and signs[worst] == ways[worst]]
        signs = max(
            too_many,
            key=lambda signs: (sum(sign * way for sign, way in zip(signs, ways, strict=True)), -alike[signs][-1][0]),
        )
        gone.add(alike[signs].pop()[1])
        totals = [total - sign for total, sign in zip(totals, signs, strict=True)]
    return gone


def _content(pair: PreferencePair) -> tuple[str, ...]:
    """Return what two pairs have in common if they show the same, whatever the instruction, case and spacing."""
    # What is asked for may be shown as a part of what is seen.
    seen = pair.chosen.first_observation.text.replace(pair.task.instruction, "")
    did = (" | ".join(side.actions) for side in (pair.chosen, pair.rejected))
    return (pair.task.env, seen, *(" ".join(actions.lower().split()) for actions in did))


def _words(text: str) -> str:
    """Return the words and numbers of a text in lower case, with one space between."""
    return " ".join(re.findall(r"\w+", text.lower()))
