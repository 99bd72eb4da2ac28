"""How a text becomes the terms that a search compares, term for term as Lucene's English analysis makes them.

Words are found by the rules of Unicode Standard Annex 29 in Lucene's reading of them: an ideograph is a word, an emoji
is a word, a run of a South East Asian script is a word. They lose a possessive ending, become lower-case, are dropped
if they are among 33 stop words, and are stemmed by Porter's algorithm in its author's later form (`bli` and `logi`).

Source: Lucene 9.5, `StandardTokenizer`, `EnglishPossessiveFilter`, `LowerCaseFilter`, `StopFilter` and
`PorterStemFilter`, which is what Pyserini's default analyzer chains.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from functools import cache
from importlib import resources

_LONGEST_WORD_UNITS = 255
"""Longer words are cut into pieces of this many UTF-16 units. Source: Lucene, `StandardTokenizer`."""

STOP_WORDS = frozenset(
    re.findall(
        "[a-z]+",
        "a an and are as at be but by for if in into is it no not of on or such that the their then there these they "
        "this to was will with",
    )
)
"""Words that no search compares. Source: Lucene, `EnglishAnalyzer.ENGLISH_STOP_WORDS_SET`."""

_ASCII_WORD = re.compile(
    r"_*+[A-Za-z0-9]\w*+(?:(?:(?<=[A-Za-z])[.:'](?=[A-Za-z])|(?<=[0-9])[,;.'](?=[0-9]))\w++)*+", re.ASCII
)

# In the patterns below, a character of the text is replaced by the letter of its class:
#   L letter      H Hebrew letter  N digit         K katakana        X connector such as the underscore
#   M joins letters (:)            m joins digits (,)                B joins either (.)   Q the same ('), but for Hebrew
#   D double quote, for Hebrew     I ideograph or hiragana           S South East Asian letter
#   P pictograph  R half a flag    h one of # and *
# and of what belongs to the character before it:
#   e mark or format character     s South East Asian vowel          o skin tone          z zero-width joiner
#   k keycap      v emoji style    w text style
_REST = "[esozkvw]*+"
_EMOJI_REST = "[esozk]*"
_CONNECTORS = f"(?:X{_REST})*+"
_LETTER = rf"(?:L{_REST}|H{_REST}(?:D{_REST}(?=H)|Q{_REST})?)"
_DIGITS = rf"N{_REST}(?:{_CONNECTORS}N{_REST}|[mBQ]{_REST}N{_REST})*+"
_LETTERS = rf"{_LETTER}(?:{_CONNECTORS}{_LETTER}|[MBQ]{_REST}{_LETTER})*+"
_KATAKANA = rf"K{_REST}(?:{_CONNECTORS}K{_REST})*+"
_PIECE = f"(?:{_KATAKANA}|(?:{_DIGITS}|{_LETTERS})++)"
_PATTERNS = (
    rf"{_CONNECTORS}{_PIECE}(?:(?:X{_REST})++{_PIECE})*+{_CONNECTORS}",
    rf"(?:z*P|o{_EMOJI_REST}zP)(?:{_EMOJI_REST}(?:zP|vz+P|vzo))*{_EMOJI_REST}v?",
    rf"o{_EMOJI_REST}",
    rf"h{_EMOJI_REST}v?k{_EMOJI_REST}",
    rf"R{_REST}R{_REST}",
    rf"(?:[Ss]{_REST})++",
    f"I{_REST}",
)
_CLASSED_WORD = re.compile("|".join(_PATTERNS))


class _Classes(dict[int, str]):
    """The class of every character, by code point; a blank for those that separate words."""

    def __init__(self) -> None:
        super().__init__()
        ranges = []
        for line in resources.files("armap.envs.webshop").joinpath("word_breaks.txt").read_text("utf-8").splitlines():
            if line.startswith("#"):
                continue
            name, *spans = line.split()
            for span in spans:
                first, _, last = span.partition("-")
                ranges.append((int(first, 16), int(last or first, 16), name))
        ranges.sort()
        self._firsts = [first for first, _, _ in ranges]
        self._ranges = ranges

    def __missing__(self, code: int) -> str:
        first, last, name = self._ranges[max(bisect_right(self._firsts, code) - 1, 0)]
        self[code] = name if first <= code <= last else " "
        return self[code]


_classes = cache(_Classes)


def words(text: str) -> list[str]:
    """Return the words of a text as they stand in it, stop words included."""
    if text.isascii():
        found = _ASCII_WORD.findall(text)
        if max(map(len, found), default=0) <= _LONGEST_WORD_UNITS:
            return found
        pattern, classed = _ASCII_WORD, text
    else:
        pattern, classed = _CLASSED_WORD, text.translate(_classes())
    found = []
    at = 0
    while match := pattern.search(classed, at):
        start, at = match.span()
        if at - start > _LONGEST_WORD_UNITS // 2:
            match = pattern.match(classed, start, _limit(text, start))
            at = match.end() if match else start + 1
        if match:
            found.append(text[start:at])
    return found


def _limit(text: str, start: int) -> int:
    """Return where a word that begins at `start` ends at the latest."""
    units = 0
    for at in range(start, min(start + _LONGEST_WORD_UNITS, len(text))):
        units += 1 if text[at] < "\U00010000" else 2
        if units > _LONGEST_WORD_UNITS:
            return at
    return min(start + _LONGEST_WORD_UNITS, len(text))


def term(word: str) -> str | None:
    """Return the term that a word is searched by; None for a stop word."""
    if word[-1] in "sS" and word[-2:-1] in ("'", "’", "＇"):
        word = word[:-2]
    # One character at a time, as Java does: Python's own lower-casing also looks at what stands around a sigma.
    word = word.lower() if word.isascii() else "".join(map(_lower, word))
    return None if word in STOP_WORDS else stem(word)


def _lower(character: str) -> str:
    return character.lower()[:1]


def terms(text: str) -> list[str]:
    """Return the terms of a text, in order, with repeats."""
    return [found for word in words(text) if (found := term(word)) is not None]


class _Shapes(dict[int, str]):
    """`v` for a vowel and `c` for anything else; `y` stays."""

    def __missing__(self, code: int) -> str:
        return "c"


_SHAPES = _Shapes({**dict.fromkeys(map(ord, "aeiou"), "v"), ord("y"): "y"})
_STEP_2 = dict(
    re.findall(
        "([a-z]+):([a-z]+)",
        "ational:ate tional:tion enci:ence anci:ance izer:ize bli:ble alli:al entli:ent eli:e ousli:ous ization:ize "
        "ation:ate ator:ate alism:al iveness:ive fulness:ful ousness:ous aliti:al iviti:ive biliti:ble logi:log",
    )
)
_STEP_3 = {"icate": "ic", "ative": "", "alize": "al", "iciti": "ic", "ical": "ic", "ful": "", "ness": ""}
_STEP_4 = "al|ance|ence|er|ic|able|ible|ant|ement|ment|ent|(?<=[st])ion|ou|ism|ate|iti|ous|ive|ize"
_ENDS_2 = re.compile(rf"(?:{'|'.join(_STEP_2)})\Z")
_ENDS_3 = re.compile(rf"(?:{'|'.join(_STEP_3)})\Z")
_ENDS_4 = re.compile(rf"(?:{_STEP_4})\Z")
_LAST_LETTERS_OF_ENDINGS = "cdegilmnrstuy"


def stem(word: str) -> str:
    """Return the stem of a lower-case word. Source: Porter (1980), with the author's later changes to step 2."""
    if len(word) < 3 or word[-1] not in _LAST_LETTERS_OF_ENDINGS:
        return word
    word = _without_plural(word)
    word = _without_tense(word)
    if word.endswith("y") and "v" in _shape(word[:-1]):
        word = word[:-1] + "i"
    for ends, instead in ((_ENDS_2, _STEP_2), (_ENDS_3, _STEP_3)):
        found = ends.search(word)
        if found and _measure(word[: found.start()]) > 0:
            word = word[: found.start()] + instead[found[0]]
    found = _ENDS_4.search(word)
    if found and _measure(word[: found.start()]) > 1:
        word = word[: found.start()]
    return _without_last(word)


def _without_plural(word: str) -> str:
    if word.endswith(("sses", "ies")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def _without_tense(word: str) -> str:
    if word.endswith("eed"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    rest = word[:-2] if word.endswith("ed") else word.removesuffix("ing")
    if rest == word or "v" not in _shape(rest):
        return word
    if rest.endswith(("at", "bl", "iz")):
        return rest + "e"
    if _ends_in_double_consonant(rest):
        return rest if rest[-1] in "lsz" else rest[:-1]
    return rest + "e" if _measure(rest) == 1 and _ends_in_short_syllable(rest) else rest


def _without_last(word: str) -> str:
    if word.endswith("e"):
        measure = _measure(word)
        if measure > 1 or (measure == 1 and not _ends_in_short_syllable(word[:-1])):
            word = word[:-1]
    return word[:-1] if word.endswith("ll") and _measure(word) > 1 else word


def _shape(word: str) -> str:
    shape = word.translate(_SHAPES)
    while (at := shape.find("y")) >= 0:
        shape = f"{shape[:at]}{'v' if shape[at - 1 : at] == 'c' else 'c'}{shape[at + 1 :]}"
    return shape


def _measure(word: str) -> int:
    """Return how often a consonant follows a vowel."""
    return _shape(word).count("vc")


def _ends_in_double_consonant(word: str) -> bool:
    return word[-1:] == word[-2:-1] and _shape(word)[-1:] == "c"


def _ends_in_short_syllable(word: str) -> bool:
    return _shape(word)[-3:] == "cvc" and word[-1] not in "wxy"
