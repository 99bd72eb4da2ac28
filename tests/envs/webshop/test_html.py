from dataclasses import replace

import pytest
from hypothesis import given, settings

from armap.envs.webshop.html import as_html, chosen_look
from armap.envs.webshop.pages import Page, as_text, clickables

from .controls import ReadPage
from .odd_pages import KINDS, pages
from .small_shop import SOFA, TABLE


def address_of(product, size_px, color):
    return f"/picture?{product.id}&{size_px}&{color}"


@settings(deadline=None)
@given(pages())
def test_the_controls_of_a_page_are_its_clickables_each_once(page):
    targets = [target for target, _ in ReadPage(as_html(page)).controls]
    assert sorted(targets) == sorted(text.encode("utf-8", "replace").decode() for text in clickables(page))


@settings(deadline=None)
@given(pages())
def test_only_a_purchase_is_a_post(page):
    for target, control in ReadPage(as_html(page)).controls:
        assert control.method == ("POST" if target == "buy now" else "GET")


@settings(deadline=None)
@given(pages())
def test_whatever_products_say_is_text_and_never_a_tag_or_an_attribute(page):
    html = as_html(page, picture_address=address_of, stylesheet_address="/shop.css", links=[("out", "/")])
    html.encode("utf-8")
    read = ReadPage(html)
    harmless = {
        "html",
        "head",
        "meta",
        "title",
        "link",
        "body",
        "header",
        "section",
        "main",
        "nav",
        "article",
        "footer",
    }
    harmless |= {"h1", "h2", "p", "ol", "ul", "li", "a", "span", "div", "img", "form", "label", "input", "button"}
    harmless |= {"fieldset", "legend"}
    assert {tag for tag, _ in read.tags} <= harmless
    for _, attributes in read.tags:
        assert not any(name.startswith("on") or name == "style" for name in attributes)
        assert (attributes.get("href") or "?").startswith(("?", "/", "data:,"))
        assert (attributes.get("src") or "/").startswith("/")


@settings(deadline=None)
@given(pages())
def test_a_page_says_everything_that_its_text_says(page):
    said = " ".join("".join(ReadPage(as_html(page)).texts).split())
    for part in as_text(page).split(" [SEP] "):
        if part != "Search":
            assert " ".join(part.encode("utf-8", "replace").decode().split()).strip() in said


def test_a_chosen_option_is_the_pressed_one():
    page = Page("item", "", products=(SOFA,), chosen={"color": "grey"})
    controls = ReadPage(as_html(page)).by_target
    assert {target for target, control in controls.items() if control.pressed} == {"grey"}


def test_of_equal_option_values_the_one_that_a_click_chooses_can_be_clicked():
    sofa = replace(SOFA, options={"frame": ("oak", "ash"), "legs": ("oak", "reviews")})
    html = as_html(Page("item", "", products=(sofa,)))
    assert html.count(">oak</button>") == 2
    assert html.index(">oak</button>") < html.index("<legend>legs") < html.index('data-click="oak"')
    # A click on this text opens the page of reviews.
    assert '<button type="button" disabled aria-pressed="false">reviews</button>' in html


def test_a_product_that_was_looked_at_is_marked():
    page = Page("results", "", ("x",), 1, 2, (SOFA, TABLE), visited=frozenset({TABLE.id}))
    html = as_html(page)
    assert html.count("seen") == 2
    assert html.index(SOFA.id) < html.index(TABLE.id) < html.index(">seen<")


def test_pictures_show_the_chosen_colour():
    page = Page("item", "", products=(SOFA,), chosen={"color": "dark red", "size": "two seats"})
    assert chosen_look(page) == "dark red"
    assert "&amp;dark red" in as_html(page, picture_address=address_of)
    assert "<img" not in as_html(page)


@pytest.mark.parametrize("kind", KINDS)
def test_a_shopper_without_a_task_reads_of_no_instruction(kind):
    shown = () if kind == "search" else (SOFA,)
    assert "Instruction" not in as_html(Page(kind, "", products=shown))


def test_the_last_page_shows_no_score_and_no_task():
    page = Page("done", "buy a lamp below 20.00 dollars", products=(SOFA,), chosen={"color": "grey"})
    html = as_html(page)
    for word in ("score", "reward", "20.00"):
        assert word not in html.lower()
    assert "$199.99" in html
    assert "color: grey" in html
