"""Pages as a shopper sees them, drawn without a browser: the same size and much the same look as a screenshot."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from io import BytesIO
from math import ceil
from typing import TYPE_CHECKING, NamedTuple, cast

from armap.envs.webshop.html import (
    ABOUT,
    CARD_PICTURE_PX,
    ITEM_PICTURE_PX,
    SCREEN_HEIGHT_PX,
    SCREEN_WIDTH_PX,
    chosen_look,
)
from armap.envs.webshop.pages import Page
from armap.envs.webshop.pictures import draw
from armap.envs.webshop.products import Product
from armap.errors import ConfigError

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont

_INK, _SOFT, _LINE, _PAPER, _GROUND = "#1c2430", "#5a6576", "#d8dee6", "#ffffff", "#f3f5f8"
_BRAND, _STRONG, _PRICE, _TASK, _TASK_LINE = "#14506b", "#b3470b", "#0b6b3a", "#fff6dc", "#e5c566"

_MARGIN_PX = 16
_RIGHT_PX = SCREEN_WIDTH_PX - _MARGIN_PX
_WIDE_PX = _RIGHT_PX - _MARGIN_PX
_HEADER_PX = 50
_LONGEST_TEXT_CHARS = 6000
# Pillow's font has few letters beyond ASCII.
_STAND_INS = str.maketrans(
    {"–": "-", "—": "-", "‐": "-", "−": "-", "⁄": "/", "×": "x", "ß": "ss", "【": "[", "】": "]"}
)


class _Style(NamedTuple):
    """How a button is drawn."""

    ink: str = _BRAND
    """Colour of its text."""
    fill: str = _PAPER
    """Colour of its ground."""
    edge: str = _LINE
    """Colour of its outline."""
    pad_px: int = 12
    """Room on both sides of its text."""


_QUIET = _Style()
_MAIN = _Style(ink=_PAPER, fill=_STRONG, edge=_STRONG, pad_px=26)
_CHOSEN = _Style(ink=_PAPER, fill=_BRAND, edge=_BRAND)


def paint(page: Page) -> bytes:
    """Return the page as a PNG file, as wide and as high as a screenshot; what is further down is cut off.

    Equal pages give equal pictures. Letters that the font lacks are drawn as boxes.

    Raises:
        ConfigError: Pillow is not installed.
    """
    sheet = _Sheet()
    top = _top_of(sheet, page)
    parts = {"search": _search, "results": _results, "item": _item, "done": _done}
    parts.get(page.kind, _about)(sheet, page, top)
    return sheet.png()


def drawn(product: Product, size_px: int, look: str | None) -> bytes:
    """Return what `draw` returns; what was drawn not long ago is remembered."""
    return _drawn(product.to_json(), size_px, look)


@lru_cache(maxsize=2_000)
def _drawn(product: str, size_px: int, look: str | None) -> bytes:
    return draw(Product.from_json(product), size_px, look)


def _top_of(sheet: _Sheet, page: Page) -> int:
    """Draw the header and the instruction, and return where the rest begins."""
    sheet.box((0, 0, SCREEN_WIDTH_PX, _HEADER_PX), _BRAND, radius_px=0)
    sheet.box((_MARGIN_PX, 19, _MARGIN_PX + 12, 31), "#ffb454", radius_px=6)
    sheet.line((37, 13), "WebShop", 21, _PAPER)
    top = _HEADER_PX + 10
    if page.kind not in ("search", "done"):
        sheet.button((_RIGHT_PX - 140, 9), "Back to Search", width_px=140)
    if page.kind == "done" or not page.instruction:
        return top
    lines = _wrapped(f"Instruction: {page.instruction}", 15, _WIDE_PX - 24)
    bottom = top + 16 + 21 * len(lines)
    sheet.box((_MARGIN_PX, top, _RIGHT_PX, bottom), _TASK, edge=_TASK_LINE)
    sheet.lines((_MARGIN_PX + 12, top + 8), lines, 15, _INK, 21)
    return bottom + 10


def _search(sheet: _Sheet, page: Page, top: int) -> None:
    top += 50
    sheet.box((_MARGIN_PX, top, _RIGHT_PX, top + 178), _PAPER, edge=_LINE, radius_px=10)
    sheet.line((52, top + 40), "What are you looking for?", 24, _INK)
    sheet.box((52, top + 86, 596, top + 128), _PAPER, edge="#8a95a5")
    sheet.button((608, top + 87), "Search", _MAIN, width_px=104, height_px=40)


def _results(sheet: _Sheet, page: Page, top: int) -> None:
    left = _MARGIN_PX
    if page.number > 1:
        left = sheet.button((left, top), "< Prev") + 12
    found = f"Page {page.number} (Total results: {page.total})"
    sheet.line((left, top + 6), found, 15, _SOFT)
    sheet.button((left + _width(found, 15) + 12, top), "Next >")
    top += 43
    if not page.products:
        sheet.line((left, top + 6), "There is nothing on this page.", 15, _SOFT)
    card_px = (_WIDE_PX - 10) // 2
    for place, product in enumerate(page.products):
        _card(sheet, page, product, (_MARGIN_PX + place % 2 * (card_px + 10), top + place // 2 * 152), card_px)


def _card(sheet: _Sheet, page: Page, product: Product, at: tuple[int, int], width_px: int) -> None:
    left, top = at
    sheet.box((left, top, left + width_px, top + 142), _PAPER, edge=_LINE)
    sheet.picture((left + 11, top + 15), product, CARD_PICTURE_PX, None)
    left += 11 + CARD_PICTURE_PX + 12
    width = width_px - CARD_PICTURE_PX - 35
    sheet.line((left, top + 10), product.id, 15, _BRAND)
    right = left + _width(product.id, 15)
    sheet.box((left, top + 27, right, top + 28), _BRAND, radius_px=0)
    if product.id in page.visited:
        sheet.line((right + 10, top + 11), "seen", 13, _SOFT)
    bottom = sheet.lines((left, top + 34), _wrapped(product.title, 14, width, 4), 14, _INK, 19)
    sheet.line((left, bottom + 4), product.price_tag, 15, _PRICE)


def _item(sheet: _Sheet, page: Page, top: int) -> None:
    (product,) = page.products
    sheet.button((_MARGIN_PX, top), "< Prev")
    top += 43
    titles = _wrapped(product.title, 20, _WIDE_PX - ITEM_PICTURE_PX - 54, 7)
    bottom = top + max(ITEM_PICTURE_PX + 32, 25 * len(titles) + 182)
    left = _with_picture(sheet, page, top, bottom)
    top = sheet.lines((left, top + 17), titles, 20, _INK, 25)
    sheet.line((left, top + 8), f"Price: {product.price_tag}", 19, _PRICE)
    sheet.line((left, top + 38), "Rating: N.A.", 15, _SOFT)
    sheet.button((left, top + 68), "Buy Now", _MAIN, height_px=38)
    for name in ABOUT:
        left = sheet.button((left, top + 120), name) + 6
    _options(sheet, page, bottom + 10)


def _with_picture(sheet: _Sheet, page: Page, top: int, bottom: int) -> int:
    """Draw the ground and the picture of a product, and return where what is said of it begins from the left."""
    sheet.box((_MARGIN_PX, top, _RIGHT_PX, bottom), _PAPER, edge=_LINE, radius_px=10)
    sheet.picture((_MARGIN_PX + 17, top + 16), page.products[0], ITEM_PICTURE_PX, chosen_look(page))
    return _MARGIN_PX + 17 + ITEM_PICTURE_PX + 22


def _options(sheet: _Sheet, page: Page, top: int) -> None:
    left = _MARGIN_PX + 13
    for group, values in page.products[0].options.items():
        if top > SCREEN_HEIGHT_PX:
            return
        rows = _rows(values)
        bottom = top + 40 + 34 * len(rows)
        sheet.box((_MARGIN_PX, top, _RIGHT_PX, bottom), _PAPER, edge=_LINE)
        sheet.line((left, top + 9), group, 15, _SOFT)
        for number, row in enumerate(rows):
            for at_px, value in row:
                style = _CHOSEN if page.chosen.get(group) == value else _QUIET
                sheet.button((left + at_px, top + 34 + 34 * number), value, style, size_px=14, height_px=28)
        top = bottom + 10


def _rows(values: tuple[str, ...]) -> list[list[tuple[int, str]]]:
    """Return the rows that hold buttons for `values`, each button with its distance from the left in pixels."""
    rows: list[list[tuple[int, str]]] = [[]]
    at_px = 0
    for value in dict.fromkeys(values):
        width = _button_width(value, 14, _QUIET)
        if rows[-1] and at_px + width > _WIDE_PX - 26:
            rows.append([])
            at_px = 0
        rows[-1].append((at_px, value))
        at_px += width + 6
    return rows


def _about(sheet: _Sheet, page: Page, top: int) -> None:
    (product,) = page.products
    told = {"description": (product.description,), "features": [f"-  {feature}" for feature in product.features]}
    sheet.button((_MARGIN_PX, top), "< Prev")
    top += 43
    paragraphs = [_wrapped(text, 15, _WIDE_PX - 60) for text in told.get(page.kind, ()) if text]
    bottom = top + 60 + sum(21 * len(lines) + 5 for lines in paragraphs) + (0 if paragraphs else 21)
    sheet.box((_MARGIN_PX, top, _RIGHT_PX, bottom), _PAPER, edge=_LINE, radius_px=10)
    left = _MARGIN_PX + 17
    sheet.line((left, top + 16), page.kind.capitalize(), 20, _INK)
    if not paragraphs:
        sheet.line(
            (left, top + 50), f"There {'is' if page.kind == 'description' else 'are'} no {page.kind}.", 15, _SOFT
        )
    top += 50
    for lines in paragraphs:
        top = sheet.lines((left, top), lines, 15, _INK, 21) + 5


def _done(sheet: _Sheet, page: Page, top: int) -> None:
    (product,) = page.products
    lines = _wrapped(f"You bought: {product.title}", 15, _WIDE_PX - ITEM_PICTURE_PX - 54, 8)
    chosen = [f"-  {group}: {value}" for group, value in sorted(page.chosen.items())]
    bottom = top + max(ITEM_PICTURE_PX + 32, 21 * (len(lines) + len(chosen)) + 110)
    left = _with_picture(sheet, page, top, bottom)
    sheet.line((left, top + 17), "Thank you for shopping with us!", 20, _PRICE)
    top = sheet.lines((left, top + 54), lines, 15, _INK, 21)
    top = sheet.lines((left, top + 8), chosen, 15, _INK, 21)
    sheet.line((left, top + 8), f"Price: ${product.price:.2f}", 19, _PRICE)


class _Sheet:
    """A page that is being drawn; places are pixels from the left and from the top."""

    def __init__(self) -> None:
        try:
            from PIL import Image, ImageDraw
        except ImportError as error:
            raise ConfigError(
                "Pillow, which paints pages, is not installed; type: pip install 'armap[shop]'"
            ) from error
        self._image = Image.new("RGB", (SCREEN_WIDTH_PX, SCREEN_HEIGHT_PX), _GROUND)
        self._draw = ImageDraw.Draw(self._image)

    def box(
        self, corners: tuple[int, int, int, int], fill: str, *, edge: str | None = None, radius_px: int = 8
    ) -> None:
        if corners[1] < SCREEN_HEIGHT_PX:
            self._draw.rounded_rectangle(corners, radius_px, fill=fill, outline=edge)

    def line(self, at: tuple[int, int], text: str, size_px: int, ink: str) -> None:
        if at[1] < SCREEN_HEIGHT_PX:
            self._draw.bitmap(at, _inked(text, size_px), fill=ink)

    def lines(self, at: tuple[int, int], lines: Sequence[str], size_px: int, ink: str, height_px: int) -> int:
        """Draw lines below one another, and return where the next would be."""
        left, top = at
        for number, text in enumerate(lines):
            self.line((left, top + number * height_px), text, size_px, ink)
        return top + len(lines) * height_px

    def button(
        self,
        at: tuple[int, int],
        text: str,
        style: _Style = _QUIET,
        *,
        size_px: int = 15,
        height_px: int = 33,
        width_px: int | None = None,
    ) -> int:
        """Draw a button, and return where it ends from the left."""
        left, top = at
        right = left + (width_px or _button_width(text, size_px, style))
        self.box((left, top, right, top + height_px), style.fill, edge=style.edge, radius_px=6)
        shown = _wrapped(text, size_px, right - left - 2 * style.pad_px + 1, 1)[0] if text else ""
        middle = left + (right - left - _width(shown, size_px)) // 2
        self.line((middle, top + (height_px - size_px) // 2 - 1), shown, size_px, style.ink)
        return right

    def picture(self, at: tuple[int, int], product: Product, size_px: int, look: str | None) -> None:
        from PIL import Image

        with Image.open(BytesIO(drawn(product, size_px, look))) as picture:
            self._image.paste(picture.convert("RGB"), at)

    def png(self) -> bytes:
        file = BytesIO()
        self._image.save(file, "PNG", compress_level=1)
        return file.getvalue()


@cache
def _font(size_px: int) -> FreeTypeFont:
    from PIL import ImageFont

    # Pillow has a font of its own in every size; it is no FreeType font only where Pillow was built without FreeType.
    return cast("FreeTypeFont", ImageFont.load_default(size_px))


def _drawable(text: str) -> str:
    """Return `text` with plain letters for accented ones, and blanks for what cannot be drawn or was never a letter."""
    if not text.isascii():
        plain = unicodedata.normalize("NFKD", text).translate(_STAND_INS)
        text = "".join(letter for letter in plain if unicodedata.category(letter) != "Mn")
    return text if text.isprintable() else "".join(letter if letter.isprintable() else " " for letter in text)


@lru_cache(maxsize=2_000)
def _inked(text: str, size_px: int) -> Image:
    """Return where the ink of a line goes; most lines of a page stood on the page before."""
    from PIL import Image, ImageDraw

    mask = Image.new("L", (max(1, _width(text, size_px)), size_px * 3 // 2))
    ImageDraw.Draw(mask).text((0, 0), _drawable(text), fill=255, font=_font(size_px))
    return mask


@lru_cache(maxsize=20_000)
def _width(text: str, size_px: int) -> int:
    return ceil(_font(size_px).getlength(_drawable(text)))


def _button_width(text: str, size_px: int, style: _Style) -> int:
    return min(_width(text, size_px) + 2 * style.pad_px, _WIDE_PX - 26)


@lru_cache(maxsize=2_000)
def _wrapped(text: str, size_px: int, width_px: int, max_lines: int | None = None) -> tuple[str, ...]:
    """Return `text` in lines of at most `width_px`; one that goes on after `max_lines` ends in dots."""
    blank_px = _width(" ", size_px)
    lines: list[list[str]] = [[]]
    room_px = width_px
    for word in _pieces(text[:_LONGEST_TEXT_CHARS], size_px, width_px):
        word_px = _width(word, size_px)
        if lines[-1] and word_px > room_px:
            if len(lines) == max_lines:
                # The dots take the place of the last word where there is no room for both.
                lines[-1] = [*lines[-1][: -1 if room_px < size_px else None], "..."]
                break
            lines.append([])
            room_px = width_px
        lines[-1].append(word)
        room_px -= word_px + blank_px
    return tuple(map(" ".join, lines))


def _pieces(text: str, size_px: int, width_px: int) -> Iterator[str]:
    """Yield the words of `text`, those that are wider than `width_px` in pieces that are not."""
    for word in text.split():
        if _width(word, size_px) <= width_px:
            yield word
            continue
        # No letter is wider than it is high.
        at_once = max(1, width_px // size_px)
        yield from (word[at : at + at_once] for at in range(0, len(word), at_once))
