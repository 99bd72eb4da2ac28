"""Pages as HTML: what a shopper's browser gets, and the `html` observation.

All of it works without JavaScript, and every address is relative to that of the page: a link or a form leads to the
same address with `?click=target` or `?search=words`, and only a purchase is a POST. So one and the same text is served
by the shop, photographed and observed. Whatever can be clicked is exactly one control, and names its target in
`data-click`; nothing else has that attribute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape
from urllib.parse import urlencode

from armap.envs.webshop.pages import Page, clickables
from armap.envs.webshop.products import Product

PictureAddress = Callable[[Product, int, str | None], str]
"""Gives the address of a picture of a product, so many pixels wide and high, and looking like the option chosen."""

CARD_PICTURE_PX = 112
"""Pictures on a page of results, in pixels."""

ITEM_PICTURE_PX = 300
"""Picture on the page of a product, in pixels."""

ABOUT = ("Description", "Features", "Reviews")
"""Names of the pages about a product."""

SCREEN_WIDTH_PX = 768
"""Width of a picture of a page: two columns of results, in letters that a vision model can still read."""

SCREEN_HEIGHT_PX = 1024
"""Height of a picture of a page: all ten results. What is further down on a long page is cut off."""

_GROUPS_THAT_SHOW = ("color", "flavor", "flavor name", "scent")


def as_html(
    page: Page,
    *,
    picture_address: PictureAddress | None = None,
    stylesheet_address: str | None = None,
    links: Sequence[tuple[str, str]] = (),
) -> str:
    """Return the page as an HTML document.

    Args:
        page: the page.
        picture_address: where pictures of products are; without it there are none.
        stylesheet_address: where `shop.css` is; without it the page is plain.
        links: texts and addresses of the links at the foot of the page, which lead out of it.
    """
    bodies = {"search": _search, "results": _results, "item": _item, "done": _done}
    body = bodies.get(page.kind, _about)(page, picture_address)
    back = "" if page.kind in ("search", "done") else _link(page, "Back to Search", "quiet")
    task = "" if page.kind == "done" or not page.instruction else _task(page)
    return document(
        _title(page), f"{task}<main>\n{body}\n</main>", back, stylesheet_address=stylesheet_address, links=links
    )


def document(
    title: str,
    body: str,
    header: str = "",
    *,
    stylesheet_address: str | None = None,
    links: Sequence[tuple[str, str]] = (),
) -> str:
    """Return an HTML document with the shop's header.

    Args:
        title: its title, as plain text.
        body: HTML of what it shows.
        header: HTML of what stands at the right of its header.
        stylesheet_address: where `shop.css` is; without it the document is plain.
        links: texts and addresses of the links at its foot.
    """
    style = f'<link rel="stylesheet" href="{safe(stylesheet_address)}">\n' if stylesheet_address else ""
    foot = " ".join(f'<a href="{safe(address)}">{safe(text)}</a>' for text, address in links)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{safe(title)}</title>
{style}<link rel="icon" href="data:,">
</head>
<body>
<header><span class="brand">WebShop</span>{header}</header>
{body}
{f"<footer>{foot}</footer>" if foot else ""}
</body>
</html>
"""


def safe(text: str) -> str:
    """Return `text` so that it is nothing but text, between tags and in quoted attributes alike."""
    # Half of a surrogate pair cannot be sent.
    return escape(text.encode("utf-8", "replace").decode("utf-8"))


def chosen_look(page: Page) -> str | None:
    """Return the chosen option that changes how the product of the page looks, if one is chosen."""
    return next((page.chosen[group] for group in _GROUPS_THAT_SHOW if group in page.chosen), None)


def _title(page: Page) -> str:
    if page.kind == "search":
        return "WebShop"
    if page.kind == "results":
        return f"{' '.join(page.words)} – WebShop"
    return f"{page.products[0].title} – WebShop"


def _task(page: Page) -> str:
    return f'<section class="task"><h2>Instruction:</h2> <p>{safe(page.instruction)}</p></section>\n'


def _search(page: Page, picture_address: PictureAddress | None) -> str:
    return """<form class="search" role="search">
<label for="words">What are you looking for?</label>
<input id="words" name="search" type="search" required maxlength="500" autocomplete="off">
<button class="main" data-click="search">Search</button>
</form>"""


def _results(page: Page, picture_address: PictureAddress | None) -> str:
    before = _link(page, "< Prev", "quiet") if page.number > 1 else ""
    found = f"Page {page.number} (Total results: {page.total})"
    cards = "\n".join(_card(page, product, picture_address) for product in page.products)
    shown = f'<ol class="results">\n{cards}\n</ol>' if cards else '<p class="none">There is nothing on this page.</p>'
    turn = f"{before}<span>{found}</span>{_link(page, 'Next >', 'quiet')}"
    return f'<nav class="turn" aria-label="Pages of results">{turn}</nav>\n{shown}'


def _card(page: Page, product: Product, picture_address: PictureAddress | None) -> str:
    seen = '<span class="seen">seen</span>' if product.id in page.visited else ""
    return f"""<li><a {_click(product.id.lower())}>{_picture(product, CARD_PICTURE_PX, None, picture_address)}
<span class="facts"><span class="id">{safe(product.id)}</span>{seen}
<span class="title">{safe(product.title)}</span>
<span class="price">{safe(product.price_tag)}</span></span></a></li>"""


def _item(page: Page, picture_address: PictureAddress | None) -> str:
    (product,) = page.products
    about = "".join(_link(page, name, "tab") for name in ABOUT)
    groups = "\n".join(_option_group(page, group) for group in product.options)
    return f"""{_link(page, "< Prev", "quiet")}
<article>
<div class="picture">{_picture(product, ITEM_PICTURE_PX, chosen_look(page), picture_address)}</div>
<div class="facts">
<h1>{safe(product.title)}</h1>
<p class="price">Price: {safe(product.price_tag)}</p>
<p class="rating">Rating: N.A.</p>
<form method="post" action="?click=buy+now"><button class="main" data-click="buy now">Buy Now</button></form>
<nav class="tabs" aria-label="About this product">{about}</nav>
</div>
</article>
{f'<form class="options">{groups}</form>' if groups else ""}"""


def _option_group(page: Page, group: str) -> str:
    values = dict.fromkeys(page.products[0].options[group])
    return f"""<fieldset><legend>{safe(group)}</legend>
{" ".join(_option(page, group, value) for value in values)}</fieldset>"""


def _option(page: Page, group: str, value: str) -> str:
    pressed = "true" if page.chosen.get(group) == value else "false"
    if not _is_clicked_here(page, group, value):
        return f'<button type="button" disabled aria-pressed="{pressed}">{safe(value)}</button>'
    text = safe(value)
    return f'<button name="click" value="{text}" data-click="{text}" aria-pressed="{pressed}">{text}</button>'


def _is_clicked_here(page: Page, group: str, value: str) -> bool:
    """Say whether a click on `value` chooses it in `group`: of equal texts a button counts, then the last group."""
    if value in {text.lower() for text in ("Back to Search", "< Prev", *ABOUT, "Buy Now")}:
        return False
    return [name for name, values in page.products[0].options.items() if value in values][-1] == group


def _about(page: Page, picture_address: PictureAddress | None) -> str:
    (product,) = page.products
    return f"""{_link(page, "< Prev", "quiet")}
<article class="about">
<h1>{page.kind.capitalize()}</h1>
{_told(page, product)}
</article>"""


def _told(page: Page, product: Product) -> str:
    if page.kind == "description" and product.description:
        return f"<p>{safe(product.description)}</p>"
    if page.kind == "features" and product.features:
        return _list(product.features)
    return f'<p class="none">There {"is" if page.kind == "description" else "are"} no {page.kind}.</p>'


def _done(page: Page, picture_address: PictureAddress | None) -> str:
    (product,) = page.products
    chosen = _list(f"{group}: {value}" for group, value in sorted(page.chosen.items())) if page.chosen else ""
    return f"""<article>
<div class="picture">{_picture(product, ITEM_PICTURE_PX, chosen_look(page), picture_address)}</div>
<div class="facts">
<h1 class="thanks">Thank you for shopping with us!</h1>
<p class="title">You bought: {safe(product.title)}</p>
{chosen}
<p class="price">Price: ${product.price:.2f}</p>
</div>
</article>"""


def _list(texts: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{safe(text)}</li>' for text in texts)}</ul>"


def _picture(product: Product, size_px: int, look: str | None, picture_address: PictureAddress | None) -> str:
    if picture_address is None:
        return ""
    address = safe(picture_address(product, size_px, look))
    return f'<img src="{address}" width="{size_px}" height="{size_px}" alt="">'


def _link(page: Page, text: str, look: str) -> str:
    assert text.lower() in clickables(page)
    return f'<a class="{look}" {_click(text.lower())}>{safe(text)}</a>'


def _click(target: str) -> str:
    address = urlencode({"click": target}, errors="replace")
    return f'href="?{safe(address)}" data-click="{safe(target)}"'
