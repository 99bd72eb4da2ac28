"""Searches worth a try for an instruction, for agents that choose among actions instead of writing them."""

from __future__ import annotations

import re

_PRICE = re.compile(r",? and price lower than .*$|,? under \$?\d.*$", re.DOTALL)
_OPTIONS = re.compile(r" with [\w ]+: ", re.IGNORECASE)
_GROUP = re.compile(r"(?:, and |^)[\w ]+: ")
_WORD = re.compile(r"[^\W_]+(?:['&.-][^\W_]+)*")
_SMALL_WORDS = """
a able all also am an and any anything are as at be but buy by can could do each find for from get give go
good have help i i'd i'm id if im in into is it its just like look looking made me more my need not of on
one or order our please show so some something than that the their them there these they thing this those
to try trying us use want we what which who will with would you your
"""
_SAYS_NOTHING = frozenset(_SMALL_WORDS.split())
_WINDOW_WORDS = 3
_MOST = 10


def suggested_searches(instruction: str) -> tuple[str, ...]:
    """Return up to ten different searches made of the words of an instruction, longest first; none without words.

    The first has every word that says what is wanted, the second the options too; the others are each three of them
    in a row, which is mostly an attribute and a part of the product's name.
    """
    said = _PRICE.sub("", instruction)
    what, *options = _OPTIONS.split(said, maxsplit=1)
    words = _telling(what)
    values = _telling(" ".join(_GROUP.sub(" ", option) for option in options))
    windows = [words[i : i + _WINDOW_WORDS] for i in range(max(1, len(words) - _WINDOW_WORDS + 1))]
    searches = (" ".join(found) for found in (words, [*words, *values], *windows) if found)
    return tuple(dict.fromkeys(searches))[:_MOST]


def _telling(text: str) -> list[str]:
    words = (word.lower() for word in _WORD.findall(text))
    return [word for word in dict.fromkeys(words) if word not in _SAYS_NOTHING]
