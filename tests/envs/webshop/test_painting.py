from dataclasses import replace
from io import BytesIO

import pytest
from hypothesis import given, settings
from PIL import Image

from armap.envs.webshop.pages import Page
from armap.envs.webshop.painting import paint

from .odd_pages import HOSTILE, KINDS, pages
from .small_shop import GOODS, SOFA, TABLE

ITEM = Page("item", "find a sofa", products=(SOFA,))
RESULTS = Page("results", "find a sofa", ("sofa",), 1, 3, GOODS)


def image_of(png: bytes) -> Image.Image:
    with Image.open(BytesIO(png)) as image:
        return image.convert("RGB")


@settings(max_examples=60, deadline=None)
@given(pages())
def test_every_page_is_a_picture_of_one_size_and_equal_pages_are_equal_pictures(page):
    picture = paint(page)
    assert image_of(picture).size == (768, 1024)
    assert paint(replace(page)) == picture


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (ITEM, replace(ITEM, chosen={"color": "grey"})),
        (replace(ITEM, chosen={"color": "grey"}), replace(ITEM, chosen={"color": "dark red"})),
        (ITEM, replace(ITEM, instruction="find a lamp")),
        (ITEM, replace(ITEM, products=(replace(SOFA, prices=(1.0,)),))),
        (RESULTS, replace(RESULTS, number=2)),
        (RESULTS, replace(RESULTS, visited=frozenset({TABLE.id}))),
        (RESULTS, replace(RESULTS, products=GOODS[:2])),
        (replace(ITEM, kind="features"), replace(ITEM, kind="description")),
    ],
)
def test_pages_that_differ_to_a_shopper_differ_in_the_picture(one, other):
    assert paint(one) != paint(other)


def test_ten_results_fit_with_an_instruction_of_three_lines():
    goods = tuple(replace(TABLE, id=f"B00000000{i}", title="A long title of many words " * 9) for i in range(10))
    page = replace(RESULTS, instruction="a rather long instruction " * 12, products=goods)
    ground = image_of(paint(page)).getpixel((2, 1000))
    last_row = image_of(paint(page)).crop((0, 1005, 768, 1024))
    assert last_row.getcolors() == [(768 * 19, ground)]


@pytest.mark.parametrize("kind", KINDS)
def test_pages_without_end_are_cut_off(kind):
    options = {f"group {i}": tuple(f"{text} {i}" for text in HOSTILE) for i in range(200)}
    long = "word " * 5000 + "x" * 5000
    endless = replace(SOFA, title=long, description=long, features=(long,) * 50, options=options)
    chosen = {group: values[0] for group, values in options.items()}
    shown = () if kind == "search" else (endless,)
    assert image_of(paint(Page(kind, long, products=shown, chosen=chosen))).size == (768, 1024)
