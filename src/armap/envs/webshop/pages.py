"""The pages of the shop as values, what can be clicked on them, and how they read as text.

Both texts are, character for character, what WebShop's own `text` and `text_rich` observations show; only the page
after a purchase is ours, as WebShop's shows the score.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from armap.envs.webshop.products import Product

PageKind = Literal["search", "results", "item", "description", "features", "reviews", "done"]
"""The page with the search bar, one of results, a product, one of the three pages about it, or the last page."""

PRODUCTS_PER_PAGE = 10
"""Results on one page. Source: WebShop, engine.py, `PRODUCT_WINDOW`."""

SEPARATOR = " [SEP] "
"""Stands between the parts of a page in plain text."""

_ABOUT = ("Description", "Features", "Reviews")
_BLANKS = " \n\t\f\r"

_Role = Literal["text", "button", "product", "option"]


@dataclass(frozen=True, slots=True)
class Page:
    """What a shopper sees."""

    kind: PageKind
    """Which page it is."""
    instruction: str
    """What the shopper was asked to buy, as it stands at the top of every page but the last."""
    words: tuple[str, ...] = ()
    """The words of the last search; empty on the page with the search bar."""
    number: int = 1
    """Number of the page of results, or of the one the product was found on; the first is 1."""
    total: int = 0
    """How many results there are on all pages; known on a page of results only."""
    products: tuple[Product, ...] = ()
    """Those on a page of results, at most 10; or the one product the page is about."""
    chosen: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Chosen option values by name of the group, in the order of choice."""
    visited: frozenset[str] = frozenset()
    """Ids of the products looked at since the search bar was last seen."""


def clickables(page: Page) -> tuple[str, ...]:
    """Return what can be clicked, in lower case, each once: first buttons, then products or option values."""
    if page.kind == "done":
        return ()
    if page.kind == "search":
        return ("search",)
    found = [text.lower() for role, text in _parts(page) if role == "button"]
    if page.kind == "results":
        found += [product.id.lower() for product in page.products]
    if page.kind == "item":
        found += [value for values in page.products[0].options.values() for value in values]
    return tuple(dict.fromkeys(found))


def as_text(page: Page) -> str:
    """Return all that is written on the page, its parts joined by `SEPARATOR`; chosen options cannot be told."""
    return SEPARATOR.join([text.strip() for _, text in _parts(page)])


def as_rich_text(page: Page) -> str:
    """Return what is written on the page, a part on every line, with buttons and what was clicked marked as such."""
    # WebShop looks for the quoted value in the page's address, so a value in a script other than ASCII never looks
    # chosen, and one that the shopper searched for in quotes always does.
    address = f"{'+'.join(page.words)}/{page.number}/{json.dumps(dict(page.chosen))}"
    before, lines = "", ""
    for role, text in _parts(page):
        clicked = text in page.visited if role == "product" else role == "option" and f'"{text}"' in address
        if clicked and role == "option":
            before = f"You have clicked {text}.\n{before}"
        lines += f"{_marked(role, text, 'clicked ' if clicked else '')}\n"
    return before + lines


def _marked(role: _Role, text: str, clicked: str) -> str:
    if role == "text":
        return text
    margin = {"button": "", "product": "\n", "option": "  "}[role]
    return f"{margin}[{clicked}button] {text} [{clicked}button_]"


def _parts(page: Page) -> Iterator[tuple[_Role, str]]:
    """Yield the texts of the page in reading order, those left out of which a browser's page keeps nothing."""
    for role, text in _written(page):
        if text.strip(_BLANKS):
            yield role, text
        elif text and "\n" not in text:
            yield role, " "


def _written(page: Page) -> Iterator[tuple[_Role, str]]:
    if page.kind == "done":
        yield from _receipt(page)
        return
    if page.kind == "search":
        yield from (("text", "WebShop"), ("text", "Instruction: "), ("text", page.instruction), ("button", "Search"))
        return
    yield from (("text", "Instruction:"), ("text", page.instruction), ("button", "Back to Search"))
    if page.kind == "results":
        yield from _results(page)
        return
    yield "button", "< Prev"
    if page.kind == "item":
        yield from _item(page)
    elif page.kind == "description":
        yield "text", page.products[0].description
    elif page.kind == "features":
        yield from (("text", f" {feature}") for feature in page.products[0].features)


def _results(page: Page) -> Iterator[tuple[_Role, str]]:
    yield "text", f"Page {page.number} (Total results: {page.total})"
    if page.number > 1:
        yield "button", "< Prev"
    yield "button", "Next >"
    for product in page.products:
        yield from (("product", product.id), ("text", product.title), ("text", product.price_tag))


def _item(page: Page) -> Iterator[tuple[_Role, str]]:
    (product,) = page.products
    for group, values in product.options.items():
        yield "text", group
        yield from (("option", value) for value in values)
    yield from (("text", product.title), ("text", f"Price: {product.price_tag}"), ("text", "Rating: N.A."))
    yield from (("button", about) for about in _ABOUT)
    yield "button", "Buy Now"


def _receipt(page: Page) -> Iterator[tuple[_Role, str]]:
    (product,) = page.products
    yield from (("text", "Thank you for shopping with us!"), ("text", f"You bought: {product.title}"))
    yield from (("text", f"{group}: {value}") for group, value in sorted(page.chosen.items()))
    yield "text", f"Price: ${product.price:.2f}"
