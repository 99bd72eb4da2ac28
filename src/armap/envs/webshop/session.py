"""The shop as a state machine: where a shopper is, and where an action leads.

Source: WebShop, web_agent_text_env.py, `WebAgentTextEnv.step` and `SimServer.receive`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from armap.envs.webshop.index import Catalogue
from armap.envs.webshop.pages import PRODUCTS_PER_PAGE, Page, PageKind
from armap.envs.webshop.products import Product
from armap.seeds import rng_for

_MAX_RESULTS = 50
_MAX_ACTION_CHARS = 1000
_REMEMBERED_SEARCHES = 64
_LARGEST_LISTED_CATALOGUE = 20_000
"""Products up to which `<a>`, `<c>` and `<q>` list some; looking at each of a million would take a minute."""

_ABOUT: Mapping[str, PageKind] = {"description": "description", "features": "features", "reviews": "reviews"}


@dataclass(frozen=True, slots=True)
class Session:
    """Where a shopper is. A small value that never changes."""

    instruction: str
    """What the shopper was asked to buy."""
    seed: int = 0
    """Decides what a search for `<r>` finds."""
    kind: PageKind = "search"
    """The page that is shown."""
    words: tuple[str, ...] = ()
    """The words of the last search."""
    number: int = 1
    """Number of the page of results that is shown, or that the product was found on."""
    product_id: str | None = None
    """The product that is shown or was bought; None on the page with the search bar and on results."""
    chosen: tuple[tuple[str, str], ...] = ()
    """Chosen options, each a group and a value, in the order of choice."""
    visited: frozenset[str] = frozenset()
    """Ids of the products looked at since the search bar was last seen."""


class Shop:
    """A catalogue with its pages.

    Args:
        catalogue: what is sold.
        faithful: a search whose first word is `<r>` finds products at random, and one that begins with `<a>`, `<c>` or
            `<q>` those with the attribute, of the department or with the label that follows. Otherwise these are words
            like any other, as they are, but for `<r>`, in a catalogue of more than 20,000 products.
    """

    def __init__(self, catalogue: Catalogue, *, faithful: bool = True) -> None:
        self._catalogue = catalogue
        self._faithful = faithful
        self._found: OrderedDict[tuple[int, tuple[str, ...]], Sequence[str]] = OrderedDict()

    def page(self, session: Session) -> Page:
        """Return what the shopper sees."""
        found: Sequence[str] = ()
        shown: Sequence[str] = ()
        if session.product_id is not None:
            shown = (session.product_id,)
        elif session.kind == "results":
            found = self._results(session)
            shown = found[(session.number - 1) * PRODUCTS_PER_PAGE : session.number * PRODUCTS_PER_PAGE]
        return Page(
            kind=session.kind,
            instruction=session.instruction,
            words=session.words,
            number=session.number,
            total=len(found),
            products=tuple(map(self._catalogue.product, shown)),
            chosen=dict(session.chosen),
            visited=session.visited,
        )

    def after(self, session: Session, action: str) -> Session | None:
        """Return where `action` leads, or None if it cannot be done.

        An action is `search[words]`, on every page but the last, or `click[target]` with a target that can be clicked.
        Letter case does not matter, and what stands behind the last bracket is ignored.
        """
        verb, target = read_action(action)
        if not target or session.kind == "done":
            return None
        if verb == "search":
            words = tuple(target.split(" "))
            return replace(session, kind="results", words=words, number=1, product_id=None, chosen=())
        if verb != "click" or session.kind == "search":
            return None
        if target == "back to search":
            return Session(session.instruction, session.seed)
        if session.kind == "results":
            return self._from_results(session, target)
        if session.kind == "item":
            return self._from_item(session, target)
        return replace(session, kind="item") if target == "< prev" else None

    def _from_results(self, session: Session, target: str) -> Session | None:
        if target == "next >":
            return replace(session, number=session.number + 1)
        if target == "< prev":
            return replace(session, number=session.number - 1) if session.number > 1 else None
        first = (session.number - 1) * PRODUCTS_PER_PAGE
        for product_id in self._results(session)[first : first + PRODUCTS_PER_PAGE]:
            if product_id.lower() == target:
                visited = session.visited | {product_id}
                return replace(session, kind="item", product_id=product_id, visited=visited)
        return None

    def _from_item(self, session: Session, target: str) -> Session | None:
        if target == "buy now":
            return replace(session, kind="done")
        if target == "< prev":
            return replace(session, kind="results", product_id=None, chosen=())
        if target in _ABOUT:
            return replace(session, kind=_ABOUT[target])
        group = _group_of(self.product(session), target)
        if group is None:
            return None
        # A group keeps its place among the chosen when another of its values is chosen.
        return replace(session, chosen=tuple({**dict(session.chosen), group: target}.items()))

    def product(self, session: Session) -> Product:
        """Return the product that is shown or was bought; there must be one."""
        return self._catalogue.product(cast(str, session.product_id))

    def _results(self, session: Session) -> Sequence[str]:
        key = session.seed, session.words
        if key not in self._found:
            self._found[key] = self._search(session)
            if len(self._found) > _REMEMBERED_SEARCHES:
                self._found.popitem(last=False)
        return self._found[key]

    def _search(self, session: Session) -> Sequence[str]:
        catalogue = self._catalogue
        first, *rest = session.words
        if self._faithful and first == "<r>":
            numbers = rng_for("webshop <r>", session.seed).sample(
                range(len(catalogue)), min(_MAX_RESULTS, len(catalogue))
            )
            return [catalogue.ids[number] for number in numbers]
        if self._faithful and first in ("<a>", "<c>", "<q>") and len(catalogue) <= _LARGEST_LISTED_CATALOGUE:
            text = " ".join(rest).strip()
            return [name for name in catalogue.ids if text in _listed_by(first, catalogue.product(name))]
        return catalogue.search(" ".join(session.words), k=_MAX_RESULTS)


def read_action(action: str) -> tuple[str, str]:
    """Return the verb and the target, in lower case, of `verb[target]`; two empty texts if it is none.

    As in the original, the last bracket that opens counts, so nothing with such a bracket in it can be clicked.
    """
    if len(action) > _MAX_ACTION_CHARS:
        return "", ""
    line = action.partition("\n")[0]
    end = line.rfind("]")
    start = line.rfind("[", 1, max(end - 1, 1))
    return (line[:start], line[start + 1 : end].lower()) if start > 0 else ("", "")


def _listed_by(first_word: str, product: Product) -> tuple[str, ...]:
    if first_word == "<a>":
        return product.attributes
    return (product.department if first_word == "<c>" else product.label,)


def _group_of(product: Product, value: str) -> str | None:
    """Return the group that `value` stands for; of several that have it, the last."""
    return next((group for group, values in reversed(product.options.items()) if value in values), None)
