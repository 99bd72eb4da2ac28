"""Draws a picture of a product, for shops whose products have none or whose pictures are out of reach.

The words of a product decide: label, category and title its silhouette, the colour chosen or offered its colour, and
the first word of the title, which is the brand, the pattern and the sign on it. Needs Pillow, which comes with
`armap[shop]`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from io import BytesIO
from typing import TYPE_CHECKING, NamedTuple

from armap.envs.webshop.products import Product
from armap.errors import ConfigError
from armap.seeds import rng_for, stable_hash

if TYPE_CHECKING:
    from PIL.Image import Image as Raster
    from PIL.ImageDraw import ImageDraw

UNKNOWN = "parcel"
"""The silhouette of a product whose words say nothing."""

_SUPERSAMPLING = 3
_PIECES = 8
_GROUND = 90
_ENDINGS = "(?:s|es|y|ies|ing)?"

_GROUNDS = ("#f7f8fa", "#faf7f3", "#f3f8f6", "#f8f5fa")
_BRAND_COLORS = ("#d1495b", "#2f6690", "#3a7d44", "#e0a030", "#6a4c93", "#00798c", "#bc5f2b", "#8f2d56")
_NEUTRALS = ("#e6dfd2", "#d5dade", "#cbd3c6", "#d9cbc0", "#c6ccd6", "#e2d7bd")
_SAME_FOR_ALL = {
    "ink": "#2c2f36",
    "metal": "#b7bec6",
    "glass": "#bfdbe8",
    "wood": "#a8794b",
    "leaf": "#5b9a57",
    "white": "#f8f8f5",
    "glow": "#f4cf62",
}
_PATTERNS = ("plain", "bands", "stripes", "dots", "diagonals", "checks")
# A sign without corners is a ring.
_SIGN_CORNERS = (0, 3, 4, 5, 6, 8)
_PAPER, _SHADOW, _BLACK, _WHITE = (250, 249, 245), (70, 74, 84), (0, 0, 0), (255, 255, 255)
# Red, green and blue together may differ by this much before colours are told apart.
_TOO_NEAR = 110

_Color = tuple[int, int, int]
_Fill = tuple[int, ...] | int
_Points = list[tuple[float, float]]
_Box = tuple[float, float, float, float]


class _Part(NamedTuple):
    """One form in a silhouette."""

    role: str
    """What decides its colour."""
    form: str
    """How its numbers are read."""
    numbers: tuple[float, ...]
    """Hundredths of the width of the picture."""


@dataclass(frozen=True, slots=True)
class _Drawings:
    """What `silhouettes.toml` holds."""

    parts: Mapping[str, tuple[_Part, ...]]
    """Parts by name of the silhouette, the hindmost first."""
    names: Mapping[str, str]
    """Silhouette by word."""
    colors: Mapping[str, _Color]
    """Colour by its name."""
    materials: Mapping[str, _Color]
    """Colour by something that has it."""


def draw(product: Product, size_px: int, color: str | None = None) -> bytes:
    """Return a square picture of a product, generated or real, as a PNG file; equal arguments give an equal picture.

    Args:
        product: what to draw.
        size_px: width and height.
        color: the colour, flavor or scent chosen; None for the first one offered.

    Raises:
        ConfigError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ConfigError("Pillow, which draws pictures, is not installed; type: pip install 'armap[shop]'") from error
    sheet = _Sheet(product, size_px * _SUPERSAMPLING, _color_of(product, color))
    for part in _read_drawings().parts[silhouette(product)]:
        sheet.add(part)
    thing = sheet.image.reduce(_SUPERSAMPLING)
    picture = Image.new("RGB", thing.size, _GROUNDS[_look(product, "ground", len(_GROUNDS))])
    picture.paste(_SHADOW, mask=_shadow(thing))
    picture.paste(_lit(thing), mask=thing.getchannel("A"))
    file = BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def silhouette(product: Product) -> str:
    """Return the name of the silhouette in `silhouettes.toml` that fits the words of a product best."""
    places = product.category_path.split("›")
    for words in (product.label, *reversed(places[-2:]), product.title):
        if name := _find(words, "names"):
            return _read_drawings().names[name]
    return UNKNOWN


def _color_of(product: Product, color: str | None) -> _Color:
    """Return the colour of a product: as chosen, as offered, as its title says, as what it is made of, or neutral."""
    told = [color] if color else []
    told += product.options.get("color", ())[:1]
    hints = [values[0] for group, values in product.options.items() if group != "size" and values]
    hints += [product.title, *product.attributes]
    found = (
        *(_color_in(words, table) for words in told for table in ("colors", "materials")),
        _color_in(product.title, "colors"),
        *(_color_in(words, table) for words in hints for table in ("colors", "materials")),
    )
    return next(filter(None, found), _rgb(_NEUTRALS[_look(product, "neutral", len(_NEUTRALS))]))


def _color_in(words: str, table: str) -> _Color | None:
    drawings = _read_drawings()
    name = _find(words, table)
    if name is None:
        return None
    return _toned(drawings.colors[name], words) if table == "colors" else drawings.materials[name]


def _toned(color: _Color, words: str) -> _Color:
    if re.search(r"\blight\b", words.lower()):
        return _mixed(color, _WHITE, 0.4)
    return _mixed(color, _BLACK, 0.35) if re.search(r"\bdark\b", words.lower()) else color


def _look(product: Product, what: str, n: int) -> int:
    """Choose one of `n` looks for the brand of a product."""
    return stable_hash(what, product.title.partition(" ")[0]) % n


def _rgb(code: str) -> _Color:
    red, green, blue = bytes.fromhex(code.removeprefix("#"))
    return red, green, blue


def _mixed(color: _Color, other: _Color, part: float) -> _Color:
    red, green, blue = (round(a + (b - a) * part) for a, b in zip(color, other, strict=True))
    return red, green, blue


@cache
def _read_drawings() -> _Drawings:
    raw = tomllib.loads(resources.files("armap.envs.webshop").joinpath("silhouettes.toml").read_text("utf-8"))
    return _Drawings(
        parts={name: tuple(map(_part, one["parts"])) for name, one in raw["silhouettes"].items()},
        names={word: name for name, one in raw["silhouettes"].items() for word in one["words"]},
        colors={name: _rgb(code) for name, code in raw["colors"].items()},
        materials={name: _rgb(code) for name, code in raw["materials"].items()},
    )


def _part(text: str) -> _Part:
    role, form, *numbers = text.split()
    return _Part(role, form, tuple(map(float, numbers)))


@cache
def _pattern(table: str) -> re.Pattern[str]:
    words: Iterable[str] = getattr(_read_drawings(), table)
    longest_first = sorted(words, key=lambda word: (-len(word), word))
    return re.compile(rf"(?<!\w)({'|'.join(map(re.escape, longest_first))}){_ENDINGS}(?!\w)")


def _find(text: str, table: str) -> str | None:
    """Return the longest word of a table that `text` contains, the last one of several."""
    found = [match[1] for match in _pattern(table).finditer(text.lower())]
    return max(reversed(found), key=len, default=None)


class _Sheet:
    """A transparent picture on which the parts of one product are drawn."""

    def __init__(self, product: Product, size_px: int, color: _Color) -> None:
        from PIL import Image

        self.image: Raster = Image.new("RGBA", (size_px, size_px))
        self._product = product
        self._unit = size_px / 100
        chance = rng_for("webshop picture", product.id)
        size, slimness = 0.9 + 0.12 * chance.random(), 0.97 + 0.06 * chance.random()
        self._across = size * slimness * (1 if chance.random() < 0.5 else -1)
        self._down = size / slimness
        self._colors = _colors_by_role(product, color)

    def add(self, part: _Part) -> None:
        """Draw a part over what is there."""
        from PIL import Image

        if part.role not in ("label", "print"):
            self._draw(part, self.image, (*self._colors[part.role], 255))
            return
        mask = Image.new("L", self.image.size)
        self._draw(part, mask, 255)
        self.image.paste(self._pattern(self._colors[part.role], self._colors[f"{part.role} mark"]), mask=mask)
        if part.role == "label" and (box := mask.getbbox()):
            self._sign(box)

    def _at(self, x: float, y: float) -> tuple[float, float]:
        return (50 + (x - 50) * self._across) * self._unit, (_GROUND + (y - _GROUND) * self._down) * self._unit

    def _points(self, numbers: Sequence[float]) -> _Points:
        return [self._at(x, y) for x, y in zip(numbers[::2], numbers[1::2], strict=True)]

    def _box(self, numbers: Sequence[float]) -> _Box:
        (x, top), (other_x, bottom) = self._points(numbers)
        return min(x, other_x), top, max(x, other_x), bottom

    def _draw(self, part: _Part, image: Raster, fill: _Fill) -> None:
        from PIL import ImageDraw

        pen, numbers, unit = ImageDraw.Draw(image), part.numbers, self._unit
        match part.form:
            case "box":
                pen.rounded_rectangle(self._box(numbers[:4]), numbers[4] * unit, fill)
            case "oval":
                pen.ellipse(self._box(numbers), fill)
            case "ring":
                pen.ellipse(self._box(numbers[1:]), None, fill, max(1, round(numbers[0] * unit)))
            case "poly":
                pen.polygon(self._points(numbers), fill)
            case "blob":
                pen.polygon(_rounded(self._points(numbers), closed=True), fill)
            case "line":
                _line(pen, self._points(numbers[1:]), numbers[0] * unit, fill)
            case "curve":
                _line(pen, _rounded(self._points(numbers[1:]), closed=False), numbers[0] * unit, fill)
            case _:
                self._draw_many(part, pen, fill)

    def _draw_many(self, part: _Part, pen: ImageDraw, fill: _Fill) -> None:
        """Draw dots or keys in columns and rows."""
        if part.form == "dots":
            radius, columns, rows, *box = part.numbers
            for x, y in _grid(int(columns), int(rows), self._box(box)):
                pen.circle((x, y), radius * self._unit, fill)
            return
        columns, rows, *box = part.numbers
        left, top, right, bottom = self._box(box)
        wide, high = (right - left) / columns * 0.4, (bottom - top) / rows * 0.4
        for x, y in _grid(int(columns), int(rows), (left + wide, top + high, right - wide, bottom - high)):
            pen.rounded_rectangle((x - wide, y - high, x + wide, y + high), self._unit, fill)

    def _pattern(self, ground: _Color, mark: _Color) -> Raster:
        """Return the pattern of the brand, all over the sheet."""
        from PIL import Image, ImageDraw

        image = Image.new("RGB", self.image.size, ground)
        pen, side, step = ImageDraw.Draw(image), self.image.width, max(3, round(7 * self._unit))
        kind = _PATTERNS[_look(self._product, "pattern", len(_PATTERNS))]
        for at in range(step // 2, 2 * side, step):
            if kind in ("bands", "checks"):
                pen.line((0, at, side, at), mark, step // 3)
            if kind in ("stripes", "checks"):
                pen.line((at, 0, at, side), mark, step // 3)
            if kind == "diagonals":
                pen.line((at, 0, at - side, side), mark, step // 3)
            if kind == "dots" and at < side:
                for x in range(step // 2, side, step):
                    pen.circle((x, at), step / 5, mark)
        return image

    def _sign(self, box: tuple[int, int, int, int]) -> None:
        """Draw the sign of the brand in the middle of a label."""
        from PIL import ImageDraw

        pen = ImageDraw.Draw(self.image)
        left, top, right, bottom = box
        x, y, radius = (left + right) / 2, (top + bottom) / 2, min(right - left, bottom - top) * 0.28
        pen.circle((x, y), radius * 1.35, self._colors["label"])
        fill = self._colors["label sign"]
        corners = _SIGN_CORNERS[_look(self._product, "sign", len(_SIGN_CORNERS))]
        if corners:
            pen.regular_polygon((x, y, radius), corners, rotation=0, fill=fill)
        else:
            pen.circle((x, y), radius * 0.8, None, fill, round(radius * 0.4))


def _colors_by_role(product: Product, color: _Color) -> dict[str, _Color]:
    first = _look(product, "brand", len(_BRAND_COLORS))
    brand_colors = map(_rgb, _BRAND_COLORS[first:] + _BRAND_COLORS[:first])
    trim = next(one for one in brand_colors if sum(abs(a - b) for a, b in zip(one, color, strict=True)) > _TOO_NEAR)
    label, sign = (_PAPER, trim) if _look(product, "label", 2) else (trim, _PAPER)
    return {
        **{role: _rgb(code) for role, code in _SAME_FOR_ALL.items()},
        "body": color,
        "dark": _mixed(color, _BLACK, 0.26),
        "light": _mixed(color, _WHITE, 0.4),
        "trim": trim,
        "print": color,
        "print mark": _mixed(color, _WHITE if sum(color) < 420 else _BLACK, 0.16),
        "label": label,
        "label mark": _mixed(label, sign, 0.35),
        "label sign": sign,
    }


def _rounded(points: _Points, *, closed: bool) -> _Points:
    """Return a curve through the points (Catmull and Rom's), as many short straight pieces."""
    n = len(points)
    curve: _Points = [] if closed else [points[0]]
    for i in range(n if closed else n - 1):
        before, start, end, after = (points[j % n if closed else min(max(j, 0), n - 1)] for j in range(i - 1, i + 3))
        for piece in range(1, _PIECES + 1):
            t = piece / _PIECES
            x, y = (
                (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3) / 2
                for a, b, c, d in zip(before, start, end, after, strict=True)
            )
            curve.append((x, y))
    return curve


def _line(pen: ImageDraw, points: _Points, width: float, fill: _Fill) -> None:
    pen.line(points, fill, max(1, round(width)), joint="curve")
    for end in (points[0], points[-1]):
        pen.circle(end, max(0.0, width / 2 - 0.5), fill)


def _grid(columns: int, rows: int, box: _Box) -> _Points:
    """Return points in columns and rows, the outermost on the edges of `box`."""
    left, top, right, bottom = box
    across, down = (right - left) / max(columns - 1, 1), (bottom - top) / max(rows - 1, 1)
    return [(left + across * i, top + down * j) for i in range(columns) for j in range(rows)]


def _lit(thing: Raster) -> Raster:
    """Return the colours of `thing` with light from the left."""
    from PIL import Image, ImageChops

    ramp = Image.linear_gradient("L").rotate(90).resize(thing.size)
    light = ramp.point([round(255 - 0.3 * abs(level - 80)) for level in range(256)])
    return ImageChops.multiply(thing.convert("RGB"), Image.merge("RGB", (light, light, light)))


def _shadow(thing: Raster) -> Raster:
    """Return how dark the ground is around and below `thing`."""
    from PIL import Image, ImageChops, ImageDraw, ImageFilter

    side = thing.width
    floor = Image.new("L", thing.size)
    ImageDraw.Draw(floor).ellipse((side * 0.14, side * 0.87, side * 0.86, side * 0.94), 90)
    near = thing.getchannel("A").filter(ImageFilter.GaussianBlur(side / 90)).point([level // 3 for level in range(256)])
    return ImageChops.lighter(near, floor.filter(ImageFilter.GaussianBlur(side / 40)))
