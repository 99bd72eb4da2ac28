"""The goods of a shop, and how WebShop's official files are read.

The official files are `items_shuffle*.json` (a JSON list of products, up to 5.5 GB), `items_ins_v2*.json` (attributes
and written instructions by product) and `items_human_ins*.json` (instructions of people by product). Cleaning follows
WebShop's own loader, so that the same files give the same shop.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from armap.errors import DataError
from armap.seeds import rng_for

NO_ATTRIBUTES = ("DUMMY_ATTR",)
"""Attributes of a product that the attributes file does not know. Source: WebShop, engine.py, `load_products`."""

_PRICE_IF_NONE_IS_LISTED = 100.0
_LONGEST_ID = 10
_CHUNK_CHARS = 1 << 22
_LONGEST_ELEMENT_CHARS = 1 << 26
_NOT_OF_A_PRICE = re.compile(r"[^\d.]")
_BLANKS = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True, slots=True)
class HumanInstruction:
    """An instruction that a person wrote with one product in mind."""

    instruction: str
    """What is asked for, in words, without a price."""
    attributes: tuple[str, ...]
    """Attributes the product must have; an instruction without any is no task."""
    options: tuple[str, ...]
    """Option values to choose."""


@dataclass(frozen=True, slots=True)
class Product:
    """One product of a shop."""

    id: str
    """Unique in its shop, at most 10 characters."""
    title: str
    """Name of the product as the shop shows it."""
    description: str
    """A paragraph about it; may be empty."""
    features: tuple[str, ...]
    """Bullet points."""
    department: str
    """Part of the shop, such as `garden`."""
    label: str
    """What shoppers call this kind of thing, such as `console tables`; lower-case."""
    category_path: str
    """Where it stands in the shop, from the general to the special, with `›` between."""
    attributes: tuple[str, ...]
    """What it is like, such as `easy clean`."""
    options: dict[str, tuple[str, ...]]
    """What can be chosen: values by name of the group; all lower-case."""
    prices: tuple[float, ...]
    """The price in dollars, or both ends of a range."""
    price: float
    """The price in dollars; where there is a range, one drawn from it."""
    images: tuple[str, ...]
    """Addresses of pictures, the main one first; may be empty."""
    option_images: dict[str, str]
    """Address of a picture by option value."""
    instruction: str | None
    """A written instruction this product fulfils, without options and price."""
    instruction_attributes: tuple[str, ...]
    """The attributes that `instruction` asks for."""
    human_instructions: tuple[HumanInstruction, ...]
    """Instructions that people wrote with this product in mind."""

    @property
    def price_tag(self) -> str:
        """The price as the shop shows it: `$12.0`, or `$5.0 to $9.0` for a range."""
        return " to ".join(f"${price}" for price in self.prices)

    def to_json(self) -> str:
        """Return the product as one line of JSON."""
        people = [(human.instruction, human.attributes, human.options) for human in self.human_instructions]
        fields = (
            self.id,
            self.title,
            self.description,
            self.features,
            self.department,
            self.label,
            self.category_path,
            self.attributes,
            self.options,
            self.prices,
            self.price,
            self.images,
            self.option_images,
            self.instruction,
            self.instruction_attributes,
            people,
        )
        return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))

    @staticmethod
    def from_json(text: str | bytes) -> Product:
        """Return the product that `to_json` wrote."""
        fields = json.loads(text)
        for at in (3, 7, 9, 11, 14):
            fields[at] = tuple(fields[at])
        fields[8] = {group: tuple(values) for group, values in fields[8].items()}
        fields[15] = tuple(HumanInstruction(words, tuple(a), tuple(o)) for words, a, o in fields[15])
        return Product(*fields)


def draw_price(product_id: str, prices: tuple[float, ...], *, seed: int) -> float:
    """Return the price of a product in dollars: the one listed, or a draw from the range between the first two.

    The draw depends on nothing but the seed and the product, so that a part of a shop has the prices of the whole.
    """
    if len(prices) == 1:
        return prices[0]
    return rng_for("webshop price", seed, product_id).uniform(prices[0], prices[1])


def read_products(items: Path, attributes: Path, human: Path | None = None, *, seed: int = 0) -> Iterator[Product]:
    """Read WebShop's official files, one product at a time, in their order.

    Products without a proper id and those with an id seen before are left out, as in the original. The attributes are
    held in memory as text (0.5 GB for the full catalogue), the products are not.

    Args:
        items: `items_shuffle*.json`.
        attributes: `items_ins_v2*.json`.
        human: `items_human_ins*.json`, where there is one.
        seed: decides the price of a product that has a range.

    Raises:
        DataError: a file is missing or malformed; the message names it and the place.
    """
    facts = {product_id: json.dumps(value) for product_id, value in _members(attributes)}
    people = dict(_members(human)) if human else {}
    seen: set[str] = set()
    for number, value in enumerate(_elements(items), 1):
        raw = _Fields(value, f"{items}, product {number}")
        product_id = raw.text("asin")
        if product_id == "nan" or len(product_id) > _LONGEST_ID or product_id in seen:
            continue
        seen.add(product_id)
        about = _Fields(json.loads(facts.get(product_id, "{}")), f"{attributes}, product {product_id}")
        yield _product(raw, about, _human_instructions(people.get(product_id, []), human, product_id), seed)


def _product(raw: _Fields, about: _Fields, people: tuple[HumanInstruction, ...], seed: int) -> Product:
    options, option_images = _options(raw)
    product_id = raw.text("asin")
    prices = _prices(raw)
    features = raw.texts("small_description") if raw.is_list("small_description") else (raw.text("small_description"),)
    return Product(
        id=product_id,
        title=raw.text("name"),
        description=raw.text("full_description"),
        features=features,
        department=raw.text("category"),
        label=raw.text("query").lower().strip(),
        category_path=raw.text("product_category"),
        attributes=about.texts("attributes") if "attributes" in about.values else NO_ATTRIBUTES,
        options=options,
        prices=prices,
        price=draw_price(product_id, prices, seed=seed),
        images=raw.texts("images"),
        option_images=option_images,
        instruction=about.text("instruction") if about.values.get("instruction") is not None else None,
        instruction_attributes=about.texts("instruction_attributes"),
        human_instructions=people,
    )


def _human_instructions(said: object, path: Path | None, product_id: str) -> tuple[HumanInstruction, ...]:
    place = f"{path}, product {product_id}"
    if not isinstance(said, list):
        raise DataError(f"{place}: the instructions must be a list")
    asked = [_Fields(one, place) for one in said]
    return tuple(
        HumanInstruction(one.text("instruction"), one.texts("instruction_attributes"), one.texts("instruction_options"))
        for one in asked
    )


def _prices(raw: _Fields) -> tuple[float, ...]:
    listed = raw.text("pricing") if raw.values.get("pricing") else ""
    if not listed:
        return (_PRICE_IF_NONE_IS_LISTED,)
    try:
        prices = tuple(float(_NOT_OF_A_PRICE.sub("", price)) for price in listed.split("$")[1:3])
    except ValueError:
        prices = ()
    if not prices:
        raise DataError(f"{raw.place}: pricing {listed!r} holds no price such as $9.99")
    return prices


def _options(raw: _Fields) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """Return the values of every option group, and the pictures by value."""
    options: dict[str, tuple[str, ...]] = {}
    images: dict[str, str | None] = {}
    groups = raw.values.get("customization_options") or {}
    if not isinstance(groups, dict):
        raise DataError(f"{raw.place}: customization_options must be an object of lists")
    for group, contents in groups.items():
        if contents is None:
            continue
        if not isinstance(contents, list):
            raise DataError(f"{raw.place}: customization_options of {group!r} must be a list")
        values = []
        for content in contents:
            fields = _Fields(content, f"{raw.place}, option {group!r}")
            values.append(fields.text("value").strip().replace("/", " | ").lower())
            # Among equal values the last one decides, also when it has no picture.
            images[values[-1]] = fields.text("image") if fields.values.get("image") else None
        options[group.lower()] = tuple(values)
    return options, {value: image for value, image in images.items() if image}


class _Fields:
    """The fields of one JSON object, checked as they are read."""

    def __init__(self, values: object, place: str) -> None:
        if not isinstance(values, dict):
            raise DataError(f"{place}: expected an object, found {type(values).__name__}")
        self.values: dict[str, object] = values
        self.place = place

    def is_list(self, name: str) -> bool:
        return isinstance(self.values.get(name), list)

    def text(self, name: str) -> str:
        if name not in self.values:
            raise DataError(f"{self.place}: {name} is missing")
        value = self.values[name]
        if not isinstance(value, str):
            raise DataError(f"{self.place}: {name} must be a text, found {json.dumps(value)[:40]}")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a list of texts, empty where the field is missing or null."""
        value = self.values.get(name)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise DataError(f"{self.place}: {name} must be a list of texts, found {json.dumps(value)[:40]}")
        return tuple(value)


def _elements(path: Path) -> Iterator[object]:
    """Yield the elements of a file that is one JSON list."""
    with _Reader(path) as reader:
        reader.expect("[")
        ended = reader.skip("]")
        while not ended:
            yield reader.value()
            ended = reader.skip("]")
            if not ended:
                reader.expect(",")
        reader.expect_end()


def _members(path: Path) -> Iterator[tuple[str, object]]:
    """Yield names and values of a file that is one JSON object."""
    with _Reader(path) as reader:
        reader.expect("{")
        ended = reader.skip("}")
        while not ended:
            name = reader.value()
            reader.expect(":")
            yield str(name), reader.value()
            ended = reader.skip("}")
            if not ended:
                reader.expect(",")
        reader.expect_end()


class _Reader:
    """Reads a JSON text of any size in pieces; no more is in memory than a chunk and one value."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = path.open(encoding="utf-8")
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from error
        self._path = path
        self._decode = json.JSONDecoder().raw_decode
        self._text = ""
        self._at = 0
        self._before = 0

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def skip(self, character: str) -> bool:
        """Step over `character` if it comes next, blanks before it included."""
        self._skip_blanks()
        found = self._text.startswith(character, self._at)
        self._at += found
        return found

    def expect(self, character: str) -> None:
        if not self.skip(character):
            raise self._malformed(f"expected {character!r}")

    def expect_end(self) -> None:
        self._skip_blanks()
        if self._at < len(self._text):
            raise self._malformed("more than one value")

    def value(self) -> object:
        self._skip_blanks()
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except json.JSONDecodeError as error:
                # It may only be cut off, but that can be so of a reasonable length only.
                read_well = error.pos - self._at
                if len(self._text) - self._at > _LONGEST_ELEMENT_CHARS or not self._read():
                    self._at += read_well
                    raise self._malformed(error.msg) from error
                continue
            except RecursionError as error:
                raise self._malformed("nested too deeply") from error
            self._at = end
            return cast(object, value)

    def _skip_blanks(self) -> None:
        while True:
            blanks = _BLANKS.match(self._text, self._at)
            self._at = blanks.end() if blanks else self._at
            if self._at < len(self._text) or not self._read():
                return

    def _read(self) -> bool:
        """Put another chunk behind what is left; False at the end of the file."""
        try:
            chunk = self._file.read(_CHUNK_CHARS)
        except UnicodeDecodeError as error:
            raise self._malformed(f"not UTF-8: {error.reason}") from error
        self._before += self._at
        self._text = self._text[self._at :] + chunk
        self._at = 0
        return bool(chunk)

    def _malformed(self, what: str) -> DataError:
        return DataError(f"{self._path}, character {self._before + self._at}: malformed JSON: {what}")
