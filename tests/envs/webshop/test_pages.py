from dataclasses import replace

import pytest

from armap.envs.webshop.pages import Page, as_rich_text, as_text, clickables

from .small_shop import GOODS, LAMP, SOFA, TABLE

ASKED = "Find me a couch"
SEARCH = Page("search", ASKED)
RESULTS = Page("results", ASKED, words=("a", "couch"), total=3, products=GOODS, visited=frozenset({TABLE.id}))
ITEM = Page("item", ASKED, words=("a", "couch"), products=(SOFA,), chosen={"size": "two seats", "color": "dark red"})


def test_the_page_with_the_search_bar():
    assert as_text(SEARCH) == "WebShop [SEP] Instruction: [SEP] Find me a couch [SEP] Search"
    assert as_rich_text(SEARCH) == "WebShop\nInstruction: \nFind me a couch\n[button] Search [button_]\n"
    assert clickables(SEARCH) == ("search",)


def test_a_page_of_results():
    assert as_text(RESULTS) == (
        "Instruction: [SEP] Find me a couch [SEP] Back to Search [SEP] Page 1 (Total results: 3) [SEP] Next > "
        "[SEP] B00SOFA001 [SEP] Linen Sofa, 3-Seat Couch for Living Room [SEP] $180.0 to $220.5 "
        "[SEP] B00TABLE02 [SEP] Rectangular Oak Table [SEP] $12.0 [SEP] B00LAMP003 [SEP] Brass Lamp [SEP] $12.0"
    )
    assert as_rich_text(RESULTS) == (
        "Instruction:\nFind me a couch\n[button] Back to Search [button_]\nPage 1 (Total results: 3)\n"
        "[button] Next > [button_]\n\n[button] B00SOFA001 [button_]\nLinen Sofa, 3-Seat Couch for Living Room\n"
        "$180.0 to $220.5\n\n[clicked button] B00TABLE02 [clicked button_]\nRectangular Oak Table\n$12.0\n"
        "\n[button] B00LAMP003 [button_]\nBrass Lamp\n$12.0\n"
    )
    assert clickables(RESULTS) == ("back to search", "next >", "b00sofa001", "b00table02", "b00lamp003")


def test_a_later_page_of_results_can_be_left_backwards_even_when_it_is_empty():
    page = replace(RESULTS, number=2, products=())
    assert as_text(page).endswith("[SEP] Page 2 (Total results: 3) [SEP] < Prev [SEP] Next >")
    assert clickables(page) == ("back to search", "< prev", "next >")


def test_the_page_of_a_product():
    assert as_text(ITEM) == (
        "Instruction: [SEP] Find me a couch [SEP] Back to Search [SEP] < Prev [SEP] color [SEP] grey [SEP] dark red "
        "[SEP] size [SEP] two seats [SEP] three | four seats [SEP] Linen Sofa, 3-Seat Couch for Living Room "
        "[SEP] Price: $180.0 to $220.5 [SEP] Rating: N.A. [SEP] Description [SEP] Features [SEP] Reviews [SEP] Buy Now"
    )
    assert as_rich_text(ITEM) == (
        "You have clicked two seats.\nYou have clicked dark red.\n"
        "Instruction:\nFind me a couch\n[button] Back to Search [button_]\n[button] < Prev [button_]\n"
        "color\n  [button] grey [button_]\n  [clicked button] dark red [clicked button_]\n"
        "size\n  [clicked button] two seats [clicked button_]\n  [button] three | four seats [button_]\n"
        "Linen Sofa, 3-Seat Couch for Living Room\nPrice: $180.0 to $220.5\nRating: N.A.\n"
        "[button] Description [button_]\n[button] Features [button_]\n[button] Reviews [button_]\n"
        "[button] Buy Now [button_]\n"
    )
    assert clickables(ITEM) == (
        *("back to search", "< prev", "description", "features", "reviews", "buy now"),
        *("grey", "dark red", "two seats", "three | four seats"),
    )


def test_chosen_options_cannot_be_told_from_the_plain_text():
    assert as_text(ITEM) == as_text(replace(ITEM, chosen={}))


def test_what_looks_chosen_is_what_the_address_of_the_page_quotes():
    hotel = replace(SOFA, options={"hôtel": ("hôtel", "inn", '10"')})
    page = replace(ITEM, products=(hotel,), chosen={"hôtel": "hôtel"})
    assert "clicked" not in as_rich_text(page)
    assert "clicked" not in as_rich_text(replace(page, chosen={"hôtel": '10"'}))
    assert "You have clicked inn.\n" in as_rich_text(replace(page, words=("an", '"inn"')))


@pytest.mark.parametrize(
    ("kind", "text", "rich"),
    [
        ("description", " [SEP] A couch of linen.", "A couch of linen.\n"),
        ("features", " [SEP] Easy to clean [SEP] solid frame", " Easy to clean\n  solid frame \n"),
        ("reviews", "", ""),
    ],
)
def test_the_pages_about_a_product(kind, text, rich):
    page = replace(ITEM, kind=kind)
    assert as_text(page) == f"Instruction: [SEP] Find me a couch [SEP] Back to Search [SEP] < Prev{text}"
    assert as_rich_text(page) == (
        "Instruction:\nFind me a couch\n[button] Back to Search [button_]\n[button] < Prev [button_]\n" + rich
    )
    assert clickables(page) == ("back to search", "< prev")


def test_blank_texts_are_kept_or_dropped_as_a_browser_does():
    odd = replace(LAMP, title=" \n ", description="  ", features=("", "x\n", "\n"))
    item = as_text(replace(ITEM, products=(odd,), chosen={}))
    assert "< Prev [SEP] Price:" in item
    assert as_text(replace(ITEM, kind="description", products=(odd,))).endswith("< Prev [SEP] ")
    assert as_text(replace(ITEM, kind="features", products=(odd,))).endswith("< Prev [SEP]  [SEP] x")


def test_the_same_value_in_two_groups_can_be_clicked_once():
    double = replace(SOFA, options={"top": ("oak", "ash"), "legs": ("ash", "buy now")})
    assert clickables(replace(ITEM, products=(double,)))[5:] == ("buy now", "oak", "ash")


def test_the_last_page_says_what_was_bought_and_neither_the_score_nor_what_was_asked_for():
    page = replace(ITEM, kind="done")
    assert as_text(page) == (
        "Thank you for shopping with us! [SEP] You bought: Linen Sofa, 3-Seat Couch for Living Room "
        "[SEP] color: dark red [SEP] size: two seats [SEP] Price: $199.99"
    )
    assert as_rich_text(page) == as_text(page).replace(" [SEP] ", "\n") + "\n"
    assert clickables(page) == ()
    assert as_text(page) == as_text(replace(page, chosen=dict(reversed(page.chosen.items()))))
