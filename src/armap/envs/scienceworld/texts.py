"""Whether two descriptions say the same."""

from __future__ import annotations

import re

_CONTENTS = re.compile(r"\((containing )?([^()]*)\)")
"""A list within parentheses that has no further ones in it."""
_SENTENCE = re.compile(r"(?<=[.:]) ")
"""The space behind a sentence or a colon."""


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
