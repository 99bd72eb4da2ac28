"""The shop that comes with the package: about 1,450 made-up products, put together from `assortment.toml`.

Nothing was taken from a real shop. Products of one type compete: they differ in brand, attributes, options and
price, and many are look-alikes of another that lack one of its attributes or cost more.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeVar

from armap.envs.webshop.assortment import (
    HAVING,
    Attribute,
    ProductType,
    enumerate_words,
    of_kind,
    read_assortment,
)
from armap.envs.webshop.products import HumanInstruction, Product, draw_price
from armap.seeds import rng_for, stable_hash

_FEWEST_OF_A_TYPE, _MOST_OF_A_TYPE = 14, 28
_FEWEST_ATTRIBUTES, _MOST_ATTRIBUTES = 3, 7
_FEWEST_TITLE_WORDS, _MOST_TITLE_WORDS = 6, 14
_FEWEST_BULLETS, _MOST_BULLETS = 3, 5
_MOST_COMBINATIONS = 18
_ID_LENGTH = 3
_ID_LETTERS = "0123456789BCDFGHJKLMNPQRSTVWXZ"
_HAS_A_UNIT = re.compile(r"\d.*[a-z]")
# Where in the price range of a type, which goes from 0 to 1, a brand may stand.
_PLACES = {"cheap": (0.0, 0.45), "middling": (0.25, 0.75), "dear": (0.55, 1.0)}
_CENTS = (0.0, 0.49, 0.95, 0.99)

_REQUESTS = (
    "I'm looking for {thing}",
    "Find me {thing}",
    "I need {thing}",
    "Please help me find {thing}",
    "I would like to buy {thing}",
    "Show me {thing}",
    "Can you get me {thing}",
    "I want to order {thing}",
)
_PEOPLES_REQUESTS = (
    "i'm after {thing}, {it} should {demand}",
    "could you find {thing}? {it} must {demand}",
    "hello, my {person} asked me for {thing}, ideally {wish}",
    "birthday present for my {person}: {thing}, {wish} if possible",
    "do you sell {thing}? {it} would have to {demand}",
    "i promised my {person} {thing}, {wish}",
)
_PEOPLE = ("sister", "dad", "flatmate", "neighbor", "daughter", "grandmother", "boss", "best friend")
_OPENERS = (
    "{brand} presents {thing}.",
    "Meet {line} by {brand}, {thing}.",
    "{line} is what {brand} calls {thing}.",
    "With {line}, {brand} offers you {thing}.",
)
# How the brands write their bullet points.
_BULLETS = ("{Name}: {reason}.", "{NAME} - {reason}.", "{Name}. {Reason}.", "{Reason} ({name}).")

_T = TypeVar("_T")


class _Dice:
    """Draws that are the same on every version of Python, which promises that of `Random.random` alone."""

    def __init__(self, *purpose: object) -> None:
        self.fraction = rng_for("webshop goods", *purpose).random

    def one(self, things: Sequence[_T]) -> _T:
        return things[int(self.fraction() * len(things))]

    def some(self, things: Iterable[_T], n: int) -> list[_T]:
        left = list(things)
        return [left.pop(int(self.fraction() * len(left))) for _ in range(min(n, len(left)))]

    def within(self, low: int, high: int) -> int:
        return low + int(self.fraction() * (high - low + 1))

    def chance(self, probability: float) -> bool:
        return self.fraction() < probability


@dataclass(frozen=True, slots=True)
class _Draft:
    """A product without words."""

    type: ProductType
    brand: str
    tier: str
    line: str
    noun: str
    attributes: tuple[Attribute, ...]
    options: dict[str, tuple[str, ...]]
    settled: tuple[str, ...]
    """Values of the groups that leave no choice; the title names them."""
    size: float
    """Its size among those of its type, from 0 to 1, which makes it cheaper or dearer."""


def generate(seed: int = 0) -> list[Product]:
    """Return the products of the embedded shop, types mixed; the same seed gives the same shop on every machine."""
    products: dict[str, Product] = {}
    types, lines = read_assortment()
    for kind in types:
        for number, draft in enumerate(_drafts(kind, lines, _Dice(seed, kind.label))):
            product_id = _new_id(products, seed, kind.label, number)
            products[product_id] = _product(draft, product_id, seed, _Dice(seed, kind.label, number))
    return [products[product_id] for product_id in sorted(products)]


def _new_id(taken: Container[str], *purpose: object) -> str:
    # Short, because a page lists ten of them and an agent pays for every character.
    for attempt in range(1000):
        digits = stable_hash("webshop id", attempt, *purpose)
        product_id = "G" + "".join(
            _ID_LETTERS[digits // len(_ID_LETTERS) ** place % len(_ID_LETTERS)] for place in range(_ID_LENGTH)
        )
        if product_id not in taken:
            return product_id
    raise AssertionError("27,000 ids cannot all be taken")


def _drafts(kind: ProductType, lines: Sequence[str], dice: _Dice) -> Iterator[_Draft]:
    """Yield competing products of one type, each with a line name of its own."""
    drafts: list[_Draft] = []
    for line in dice.some(lines, dice.within(_FEWEST_OF_A_TYPE, _MOST_OF_A_TYPE)):
        brand, tier = dice.one(kind.brands)
        if drafts and dice.chance(0.45):
            attributes = _alike(dice.one(drafts).attributes, kind, dice)
        else:
            attributes = _some_attributes(kind, dice)
        options, settled, size = _options(kind, dice)
        drafts.append(_Draft(kind, brand, tier, line, dice.one(kind.nouns), attributes, options, settled, size))
    yield from drafts


def _some_attributes(kind: ProductType, dice: _Dice) -> tuple[Attribute, ...]:
    attributes: list[Attribute] = []
    for attribute in dice.some(kind.attributes, len(kind.attributes)):
        if _goes_with(attributes, attribute):
            attributes.append(attribute)
    return tuple(attributes[: dice.within(_FEWEST_ATTRIBUTES, _MOST_ATTRIBUTES)])


def _goes_with(attributes: Iterable[Attribute], new: Attribute) -> bool:
    return new not in attributes and (new.kind != "made" or all(one.kind != "made" for one in attributes))


def _alike(attributes: tuple[Attribute, ...], kind: ProductType, dice: _Dice) -> tuple[Attribute, ...]:
    """Return the attributes of a look-alike in another order: one exchanged, or none, for the price to differ."""
    shuffled = dice.some(attributes, len(attributes))
    if dice.chance(0.3):
        return tuple(shuffled)
    dropped, *kept = shuffled
    others = [one for one in kind.attributes if one is not dropped and _goes_with(kept, one)]
    return (*kept, dice.one(others))


def _options(kind: ProductType, dice: _Dice) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...], float]:
    """Draw what can be chosen, what is settled, and the size from 0 to 1."""
    options: dict[str, tuple[str, ...]] = {}
    settled: list[str] = []
    size = 0.5
    for group in kind.groups:
        tells_in_a_title = not group.ordered or _HAS_A_UNIT.search(group.values[0])
        if tells_in_a_title and dice.chance(0.2):
            place = dice.within(0, len(group.values) - 1)
            settled.append(group.values[place])
            size = place / (len(group.values) - 1) if group.ordered else size
            continue
        n = dice.within(3, min(5, len(group.values)))
        if group.ordered:
            first = dice.within(0, len(group.values) - n)
            options[group.name] = group.values[first : first + n]
        else:
            options[group.name] = tuple(dice.some(group.values, n))
    while prod(map(len, options.values())) > _MOST_COMBINATIONS:
        longest = max(options, key=lambda name: len(options[name]))
        options[longest] = options[longest][:-1]
    return options, tuple(settled), size


def _product(draft: _Draft, product_id: str, seed: int, dice: _Dice) -> Product:
    kind = draft.type
    in_title = _title_attributes(draft, dice)
    others = [one for one in draft.attributes if one not in in_title]
    in_description = dice.some(others, max(dice.within(0, 1), len(others) - _MOST_BULLETS))
    prices = _prices(draft, dice)
    about = dice.some(kind.about, len(kind.about))
    asked = dice.some([in_title[0], *others], dice.within(2, 4)) if dice.chance(0.85) else []
    noun = dice.one((kind.nouns[0].lower(), *kind.also))
    return Product(
        id=product_id,
        title=_title(draft, in_title),
        description=" ".join([_opener(draft, in_description, dice), *about[: dice.within(1, 2)]]),
        features=tuple(_features(draft, [*in_title, *in_description], about[-1], dice)),
        department=kind.department,
        label=kind.label,
        category_path=kind.path,
        attributes=tuple(attribute.name for attribute in draft.attributes),
        options=draft.options,
        prices=prices,
        price=draw_price(product_id, prices, seed=seed),
        images=(),
        option_images={},
        instruction=dice.one(_REQUESTS).format(thing=kind.describe(noun, asked)) if asked else None,
        instruction_attributes=tuple(attribute.name for attribute in asked),
        human_instructions=(_peoples_instruction(draft, dice),) if dice.chance(0.35) else (),
    )


def _title_attributes(draft: _Draft, dice: _Dice) -> list[Attribute]:
    """Choose the one or two attributes that the title names, or more where it would be too short."""
    n = 1 if dice.chance(0.7) else 2
    words = len(_title(draft, draft.attributes[:n]).split())
    if words > _MOST_TITLE_WORDS:
        n = 1
    while words < _FEWEST_TITLE_WORDS:
        n += 1
        words = len(_title(draft, draft.attributes[:n]).split())
    return [*draft.attributes[:n]]


def _title(draft: _Draft, attributes: Sequence[Attribute]) -> str:
    words = [draft.brand, draft.line]
    words += [one.in_title for one in of_kind(attributes, "are", "made")]
    words.append(draft.noun)
    for before, *kinds in (("with", *HAVING), ("for", "suit")):
        if found := of_kind(attributes, *kinds):
            words += [before, enumerate_words([one.in_title for one in found])]
    extras = [one.in_title for one in of_kind(attributes, "can")]
    extras += [value if _HAS_A_UNIT.search(value) else value.title() for value in draft.settled]
    return ", ".join([" ".join(words), *extras])


def _opener(draft: _Draft, attributes: Sequence[Attribute], dice: _Dice) -> str:
    thing = draft.type.describe(draft.noun.lower(), attributes).removeprefix("some ")
    return dice.one(_OPENERS).format(brand=draft.brand, line=draft.line, thing=thing)


def _features(draft: _Draft, named: Sequence[Attribute], about: str, dice: _Dice) -> list[str]:
    """Write three to five bullet points: one for each attribute not `named` elsewhere, and some for the others.

    The first, which is the only one that the search knows, often says nothing but `about`.
    """
    told = [attribute for attribute in draft.attributes if attribute not in named]
    told += dice.some(named, _FEWEST_BULLETS - len(told))
    style = _BULLETS[stable_hash(draft.brand) % len(_BULLETS)]
    bullets = [
        style.format(
            name=one.name,
            Name=_sentence(one.name),
            NAME=one.name.upper(),
            reason=one.reason,
            Reason=_sentence(one.reason),
        )
        for one in dice.some(told, len(told))
    ]
    return bullets if len(bullets) == _MOST_BULLETS or dice.chance(0.2) else [about, *bullets]


def _sentence(words: str) -> str:
    return words[0].upper() + words[1:]


def _prices(draft: _Draft, dice: _Dice) -> tuple[float, ...]:
    """Draw a price in dollars, or sometimes a range; it grows with brand, size and what the product is made of."""
    (low, high), (start, end) = draft.type.price_range_usd, _PLACES[draft.tier]
    place = start + (end - start) * dice.fraction()
    factor = prod(attribute.price_factor for attribute in draft.attributes)
    # No powers: they differ between machines in the last digit.
    dollars = (low + (high - low) * place * place) * factor * (0.8 + 0.4 * draft.size)
    price = round(int(dollars) + dice.one(_CENTS), 2)
    if draft.options and dice.chance(0.1):
        return price, round(int(price * 1.35) + 1 + dice.one(_CENTS), 2)
    return (price,)


def _peoples_instruction(draft: _Draft, dice: _Dice) -> HumanInstruction:
    """Ask for the product as people do: in other words than its title, with the options in passing."""
    kind = draft.type
    asked = dice.some(draft.attributes, dice.within(1, 3))
    chosen = {
        group: dice.one(draft.options[group.name])
        for group in kind.groups
        if group.name in draft.options and dice.chance(0.7)
    }
    noun = dice.one((*kind.also, kind.nouns[0].lower()))
    said = [group.said.format(value=value) for group, value in chosen.items()]
    instruction = dice.one(_PEOPLES_REQUESTS).format(
        thing=" ".join([kind.with_article(noun), *said]),
        it="they" if kind.plural else "it",
        person=dice.one(_PEOPLE),
        demand=_demands(asked, "be ", "come with "),
        wish=_demands(asked, "", "with "),
    )
    return HumanInstruction(instruction, tuple(one.name for one in asked), tuple(chosen.values()))


def _demands(attributes: Sequence[Attribute], being: str, having: str) -> str:
    had = of_kind(attributes, *HAVING)
    been = [one.predicate for one in attributes if one not in had]
    phrases = [being + enumerate_words(been)] if been else []
    if had:
        phrases.append(having + enumerate_words([one.noun for one in had]))
    return enumerate_words(phrases)
