"""What the embedded shop may sell: the words of `assortment.toml`, and how they are put into sentences."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

PRICE_TIERS = ("cheap", "middling", "dear")
"""What brands can be."""

HAVING = ("have", "have_a")
"""Kinds of attribute that say what a product has rather than what it is."""

_SMALL_WORDS = frozenset({"in", "to"})
_ACRONYMS = frozenset({"4k", "bpa", "gmo", "led", "usb", "uv", "v"})


# Compared by identity: each is made once, and a shop compares them a hundred thousand times.
@dataclass(frozen=True, slots=True, eq=False)
class Attribute:
    """Something a product can be like."""

    name: str
    """As in `aloe vera`."""
    kind: str
    """How it stands in a sentence: the name of its table in `assortment.toml`."""
    reason: str
    """What a product says about it."""
    price_factor: float
    """How much more a product costs that has it."""

    @property
    def noun(self) -> str:
        """The name with its article, if it takes one: `a cord`."""
        return _with_a(self.name) if self.kind == "have_a" else self.name

    @property
    def predicate(self) -> str:
        """The words behind `this is`, of an attribute that says what a product is: `made of clay`."""
        return {"made": "made of ", "suit": "for "}.get(self.kind, "") + self.name

    @property
    def in_title(self) -> str:
        """The name in capitals."""
        return " ".join(map(_capital, self.name.split()))


@dataclass(frozen=True, slots=True)
class OptionGroup:
    """Something that is chosen on the page of a product."""

    name: str
    """As in `color`."""
    values: tuple[str, ...]
    """All that products of this type come in."""
    said: str
    """How a sentence says that `{value}` is chosen."""
    ordered: bool
    """Whether the values go from small to large, and a product offers neighbours."""


@dataclass(frozen=True, slots=True)
class ProductType:
    """What products of one type have in common."""

    department: str
    """The part of the shop."""
    brands: tuple[tuple[str, str], ...]
    """Name and price tier of the brands in it."""
    label: str
    """What shoppers call this kind of thing, in the plural."""
    nouns: tuple[str, ...]
    """What titles call one; the first is true of all."""
    also: tuple[str, ...]
    """What people call one who do not know these words."""
    article: str
    """What stands before a noun: `a`, `some`, `a pair of` or, for several, nothing."""
    path: str
    """From the department to the type, with `›` between."""
    price_range_usd: tuple[float, float]
    """What they cost, roughly."""
    attributes: tuple[Attribute, ...]
    """What they can be like."""
    groups: tuple[OptionGroup, ...]
    """What can be chosen."""
    about: tuple[str, ...]
    """Sentences that are true of all."""

    @property
    def plural(self) -> bool:
        """Whether one product is `they` rather than `it`."""
        return self.article in ("", "a pair of")

    def describe(self, noun: str, attributes: Sequence[Attribute]) -> str:
        """Say what a product is, as in `a vegan soap made of clay with aloe vera that is easy to hold`."""
        words = [", ".join(one.name for one in of_kind(attributes, "are")), noun]
        that_is = f"that {'are' if self.plural else 'is'}"
        for before, *kinds in (("made of", "made"), ("with", *HAVING), ("for", "suit"), (that_is, "can")):
            if found := of_kind(attributes, *kinds):
                words += [before, enumerate_words([one.noun for one in found])]
        return self.with_article(" ".join(filter(None, words)))

    def with_article(self, phrase: str) -> str:
        """Put the article before `phrase`."""
        return _with_a(phrase) if self.article == "a" else f"{self.article} {phrase}".lstrip()


def of_kind(attributes: Iterable[Attribute], *kinds: str) -> list[Attribute]:
    """Return the attributes of these kinds."""
    return [attribute for attribute in attributes if attribute.kind in kinds]


def enumerate_words(words: Sequence[str]) -> str:
    """Return `a, b and c`."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def _with_a(phrase: str) -> str:
    # Not before u, as in `usb`.
    return f"{'an' if phrase[0].lower() in 'aeio' else 'a'} {phrase}"


def _capital(word: str) -> str:
    if word in _SMALL_WORDS:
        return word
    return word.upper() if word in _ACRONYMS else word.capitalize()


@cache
def read_assortment() -> tuple[tuple[ProductType, ...], tuple[str, ...]]:
    """Return the types of product and the names of product lines."""
    text = resources.files("armap.envs.webshop").joinpath("assortment.toml").read_text("utf-8")
    raw = tomllib.loads(text)
    attributes = {
        name: Attribute(name, kind, reason, raw["dearer"].get(name, 1.0))
        for kind, reasons in raw["attributes"].items()
        for name, reason in reasons.items()
    }
    types = (
        _type(raw, attributes, department, one) for department in raw["departments"] for one in department["types"]
    )
    return tuple(types), tuple(raw["lines"])


def _type(
    raw: dict[str, Any], attributes: dict[str, Attribute], department: dict[str, Any], one: dict[str, Any]
) -> ProductType:
    low, high = one["price"]
    return ProductType(
        department=department["name"],
        brands=tuple((brand, tier) for tier in PRICE_TIERS for brand in department[tier]),
        label=one["label"],
        nouns=tuple(one["nouns"]),
        also=tuple(one["also"]),
        article=one.get("article", "a"),
        path=f"{department['path']} › {one['path']}",
        price_range_usd=(low, high),
        attributes=tuple(attributes[name] for name in one["attributes"]),
        groups=tuple(
            OptionGroup(group, tuple(raw["values"][values]), **raw["groups"][group])
            for group, values in one["options"].items()
        ),
        about=tuple(one["about"]),
    )
