"""Pages of every kind with texts of every kind."""

from dataclasses import replace
from typing import get_args

from hypothesis import strategies as st

from armap.envs.webshop.pages import Page, PageKind

from .small_shop import LAMP, SOFA, TABLE

KINDS = get_args(PageKind)
HOSTILE = (
    "<script>alert(1)</script>",
    "</title><img src=x onerror=alert(1)>",
    "\" onclick='alert(1)' data-click=\"buy now",
    "--><!--",
    "&lt;b&gt; &amp; &quot;",
    "shoe 👟 café",
    "\u202eright to left\u202c שלום",
    "javascript:alert(1)",
    "a" * 300,
    "size [xl] (new)",
    "{{ 7 * 7 }} ${7} %s",
    "half a pair \ud83d",
)

# Tabs, line ends and the like are left to the browser, which reads them as blanks.
texts = st.one_of(st.sampled_from(HOSTILE), st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1))
options = st.dictionaries(
    texts,
    st.lists(st.one_of(texts, st.sampled_from(["red", "buy now", "< prev"])).map(str.lower), max_size=3),
    max_size=3,
)


@st.composite
def products(draw):
    return replace(
        draw(st.sampled_from([SOFA, TABLE, LAMP])),
        id=draw(texts),
        title=draw(texts),
        description=draw(st.one_of(st.just(""), texts)),
        features=tuple(draw(st.lists(texts, max_size=3))),
        options={group: tuple(values) for group, values in draw(options).items()},
    )


@st.composite
def pages(draw):
    kind = draw(st.sampled_from(KINDS))
    shown = 0 if kind == "search" else draw(st.integers(0, 10)) if kind == "results" else 1
    goods = draw(st.lists(products(), min_size=shown, max_size=shown, unique_by=lambda product: product.id.lower()))
    chosen = {}
    if kind not in ("search", "results"):
        chosen = {group: draw(st.sampled_from(values)) for group, values in goods[0].options.items() if values}
    number, total = draw(st.integers(1, 6)), draw(st.integers(0, 50))
    visited = frozenset(product.id for product in goods[:2])
    return Page(kind, draw(texts), tuple(draw(texts).split(" ")), number, total, tuple(goods), chosen, visited)
