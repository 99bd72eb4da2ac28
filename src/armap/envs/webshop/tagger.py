"""Finds the nouns in titles of products; the reward compares titles by them.

WebShop asks spaCy's small English model. That is used where it is installed; the words of our own tagger differ
little from it, because in a title, where every word begins with a capital letter, that model takes nearly every word
for a proper noun.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from functools import cache, lru_cache
from typing import Protocol

SPACY_MODELS = ("en_core_web_sm", "en_core_web_lg")
"""The model WebShop asks, and the one some evaluations with it ask instead."""

_REMEMBERED_TITLES = 10_000


class NounTagger(Protocol):
    """Finds nouns."""

    @property
    def name(self) -> str:
        """Who tags, for records: another tagger may mean another reward."""
        ...

    def __call__(self, text: str) -> list[str]:
        """Return the nouns and proper nouns of `text` in lower case and in their order, repeats included."""
        ...


def default_tagger() -> NounTagger:
    """Return spaCy's first installed model of `SPACY_MODELS`, or else our own tagger."""
    if importlib.util.find_spec("spacy") is not None:
        for model in SPACY_MODELS:
            if importlib.util.find_spec(model) is not None:
                return spacy_tagger(model)
    return RuleTagger()


@cache
def spacy_tagger(model: str) -> SpacyTagger:
    """Return the one tagger of this process that asks `model`, which takes a second to load."""
    return SpacyTagger(model)


class SpacyTagger:
    """Asks a model of spaCy's.

    Args:
        model: name of an installed model, such as `en_core_web_sm`, or the path of one.
    """

    def __init__(self, model: str) -> None:
        self._nlp = importlib.import_module("spacy").load(model, exclude=["ner", "lemmatizer"])
        self.name = "spacy {lang}_{name} {version}".format(**self._nlp.meta)
        self._remembered = lru_cache(_REMEMBERED_TITLES)(self._tag)

    def __call__(self, text: str) -> list[str]:
        """Return the nouns of `text`; see `NounTagger`."""
        return list(self._remembered(text))

    def _tag(self, text: str) -> tuple[str, ...]:
        return tuple(token.text.lower() for token in self._nlp(text) if token.pos_ in ("NOUN", "PROPN"))


class RuleTagger:
    """Takes for a noun what is no number, no function word and, unless capitalised, no common adjective or verb form.

    Needs nothing installed. Capitalised words count although some are adjectives, as spaCy's models see it that way
    too. Over the titles of WebShop's 1,000 products, 91 % of the nouns that either this or spaCy's small model finds
    are found by both, and for 98 % of pairs of these products the reward's type factor is the same.
    """

    name = "rules 1"

    def __call__(self, text: str) -> list[str]:
        """Return the nouns of `text`; see `NounTagger`."""
        return [word for word in map(_noun, _WORD.findall(text)) if word]


def _noun(word: str) -> str:
    """Return `word` in lower case if it is a noun, else nothing; of a measure, its unit."""
    lower = word.lower()
    if lower[0].isdigit():
        measure = _MEASURE.fullmatch(lower)
        return (measure[1] or "") if measure else lower
    if lower in _FUNCTION_WORDS or (len(word) == 1 and word.islower()):
        return ""
    if word[0].islower() and (lower in _ADJECTIVES or _DESCRIBING.search(lower)):
        return ""
    return lower


# Hyphens and slashes part words, and what follows an apostrophe is no word.
_WORD = re.compile(r"(?<!['’])[^\W_]+")
_MEASURE = re.compile(
    r"\d+(?:(km|cm|mm|m|ft|yd|in|kg|g|mg|lb|oz|mb|gb|tb|k)|(?:x\d*)+\w*|st|nd|rd|th|v|w|h|a|mp|mah|wh|hz|mhz|ghz|ct|pk)?"
)
_DESCRIBING = re.compile(r"(?:ing|ed|ly|ous|ful|less|able|ible|ish|est)$")

_FUNCTION = """
    a about after against all also am an and any anti are around as at be been before behind below between both but by
    can could do does down during each either etc every few for from get had has have he her his how i if in including
    into is it its just made make may me more most much my neither no nor not of off on once one only onto or other our
    out over own per plus s she so some such than that the their them then there these they this those three through to
    too toward two under until up upon very via was we were what when where which while who whose will with within
    without you your w x
"""
_ADJECTIVE = """
    big black blue brown clear cold compact cool cute dark deep digital dry easy electric extra fast fine flat free
    fresh full gold good gray great green grey hard heavy high hot large light long loose low mini modern natural new
    non nice old organic pink plain portable pure purple red rich round safe sensitive short simple slim small smart
    soft solid standard straight strong super sweet thick thin tiny top universal warm white whole wide wild yellow
    young
"""
_FUNCTION_WORDS = frozenset(_FUNCTION.split())
_ADJECTIVES = frozenset(_ADJECTIVE.split())
