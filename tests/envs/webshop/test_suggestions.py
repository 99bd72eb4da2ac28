from hypothesis import given
from hypothesis import strategies as st

from armap.envs.webshop.session import read_action
from armap.envs.webshop.suggestions import suggested_searches


def test_searches_name_what_is_wanted_without_price_and_small_words():
    searches = suggested_searches(
        "Can you get me a table lamp for small spaces and children with color: green, and size: 8 oz, and price lower "
        "than 50.00 dollars"
    )
    assert searches == (
        "table lamp small spaces children",
        "table lamp small spaces children green 8 oz",
        "table lamp small",
        "lamp small spaces",
        "small spaces children",
    )


def test_an_instruction_of_small_words_only_suggests_nothing():
    assert suggested_searches("Please find me something.") == ()


@given(st.text())
def test_every_suggestion_is_a_search_whatever_the_instruction(instruction):
    searches = suggested_searches(instruction)
    assert len(searches) == len(set(searches)) <= 10
    for words in searches:
        assert read_action(f"search[{words}]") == ("search", words)
