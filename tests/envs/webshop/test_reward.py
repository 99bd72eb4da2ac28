from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from armap.envs.webshop.goals import NO_PRICE_LIMIT_USD, Goal
from armap.envs.webshop.products import Product
from armap.envs.webshop.reward import Reward, reward
from armap.envs.webshop.tagger import RuleTagger

from .small_shop import GOODS, LAMP, SOFA, TABLE

NOUNS = RuleTagger()


def goal(**changes: object) -> Goal:
    asked = Goal(SOFA.id, "Find me ...", ("easy clean", "living room"), {"color": "grey"}, 200.0)
    return replace(asked, **changes)


def paid(
    bought: Product, chosen: dict[str, str], asked: Goal, wanted: Product = SOFA, *, faithful: bool = True
) -> Reward:
    return reward(bought, chosen, asked, wanted, nouns=NOUNS, faithful=faithful)


def test_a_purchase_of_all_that_was_asked_for_is_paid_in_full():
    assert paid(SOFA, {"color": "grey"}, goal()) == Reward(1.0, 1.0, attributes=2, options=1, price=True)


def test_every_attribute_option_and_the_price_count_alike():
    assert paid(SOFA, {"color": "dark red"}, goal()).total == 3 / 4
    assert paid(SOFA, {}, goal()).total == 3 / 4
    assert paid(SOFA, {}, goal(price_limit_usd=190.0)).total == 2 / 4
    assert paid(SOFA, {}, goal(price_limit_usd=190.0, attributes=("easy clean", "waterproof"))).total == 1 / 4
    assert paid(SOFA, {}, goal(options={})).total == 1


def test_a_price_at_the_limit_is_within_it():
    assert paid(SOFA, {}, goal(price_limit_usd=SOFA.price)).price
    assert not paid(SOFA, {}, goal(price_limit_usd=SOFA.price - 0.01)).price
    assert paid(SOFA, {}, goal(price_limit_usd=NO_PRICE_LIMIT_USD)).price


@pytest.mark.parametrize(
    ("wanted", "has"),
    [
        ("clean easy", True),  # the same words in another order
        ("easily clean", True),  # 86 % alike to "easy clean"
        ("wood", True),  # all words of one are words of the other
        ("wooden framing", False),
        ("3-seat", True),  # in the title
        ("solid frame", True),  # in a bullet point
        ("couch of linen", True),  # in the description
        ("linen description", False),
    ],
)
def test_an_attribute_is_had_by_its_words_or_by_what_is_written_about_the_product(wanted, has):
    assert paid(SOFA, {}, goal(attributes=(wanted,))).attributes == has


def test_the_wrong_kind_of_product_pays_less_by_what_the_titles_share():
    def factor(bought: Product) -> float:
        return paid(bought, {}, goal(), SOFA).type_factor

    def factor_of_title(title: str, **changes: object) -> float:
        return factor(replace(LAMP, title=title, **changes))

    # Seven nouns are wanted: linen sofa seat couch living room ... in the title of the sofa.
    assert NOUNS(SOFA.title) == ["linen", "sofa", "seat", "couch", "living", "room"]
    assert factor_of_title("Brass Lamp") == 0
    assert factor_of_title("Brass Lamp", label=SOFA.label, category_path=SOFA.category_path) == 0
    assert factor_of_title("Lamp for a Living Wall") == 0.5
    assert factor_of_title("Lamp for a Living Wall", label=SOFA.label) == 1
    assert factor_of_title("Lamp", category_path=SOFA.category_path) == 0
    assert factor_of_title("Room", category_path="Home & Kitchen›  Furniture ›Lamps") == 1
    assert factor_of_title("Room", category_path="Garden › Furniture › Lamps") == 0.5
    assert factor_of_title("Living Room Lamp") == 1
    long_title = replace(SOFA, title=" ".join(f"Word{i}" for i in range(11)))
    assert paid(replace(LAMP, title="Word1"), {}, goal(), long_title).type_factor == 0.1
    assert paid(replace(LAMP, title="Word1 Word2"), {}, goal(), long_title).type_factor == 0.5
    no_nouns = replace(SOFA, title="42 / 7")
    assert paid(LAMP, {}, goal(), no_nouns).type_factor == 0.5
    assert paid(no_nouns, {}, goal(), no_nouns).type_factor == 1


ROUND = Goal(TABLE.id, "", ("solid wood",), {"shape": "rectangular"}, 20.0)


def test_a_colour_within_a_chosen_value_spoils_it_as_in_the_original():
    # `rectangular` contains `tan`, which the chosen value becomes, while the one asked for stays a pair.
    assert paid(TABLE, {"shape": "rectangular"}, ROUND, TABLE).options == 0
    assert paid(TABLE, {"shape": "rectangular"}, ROUND, TABLE, faithful=False).options == 1
    assert paid(TABLE, {"shape": "rectangular"}, replace(ROUND, options=("rectangular",)), TABLE).options == 1


@pytest.mark.parametrize(
    ("chosen", "asked", "faithfully", "sensibly"),
    [
        ({"color": "grey"}, {"color": "grey"}, 1, 1),
        ({"color": "light grey"}, {"color": "grey"}, 1, 1),  # the first colour of the list that is in it
        ({"color": "grey stone"}, {"color": "grey sky"}, 1, 0),  # `grey` is within ('color', 'grey sky')
        ({"color": "dark red"}, {"color": "light red"}, 0, 0),
        ({"color": "ruby"}, {"color": "ruby"}, 1, 1),
        ({"size": "grey"}, {"color": "grey"}, 1, 0),  # groups are not compared
        ({"color": "grey", "size": "xl"}, {"color": "grey", "size": "xl"}, 2, 2),
        ({"size": "xl"}, {"size": "xxl"}, 0, 0),
        ({"size": "10 inch"}, {"size": "12 inch"}, 0, 0),
        ({"size": "10 inch"}, ("12 inch",), 1, 0),  # 86 % alike
        ({"color": "grey stone"}, ("grey",), 1, 1),
        ({"color": "grey stone"}, ("stone",), 0, 1),
        ({"color": "dark red"}, ("red",), 0, 1),  # `dark` comes before `red`
        ({"fit": "xl"}, ("x-l",), 0, 0),
        ({}, ("grey",), 0, 0),
    ],
)
def test_options_count_by_their_words(chosen, asked, faithfully, sensibly):
    assert paid(SOFA, chosen, goal(options=asked)).options == faithfully
    assert paid(SOFA, chosen, goal(options=asked), faithful=False).options == sensibly


@settings(deadline=None)
@given(
    st.sampled_from(GOODS),
    st.sampled_from(GOODS),
    st.dictionaries(st.text(max_size=5), st.text(max_size=9), max_size=3),
    st.dictionaries(st.text(max_size=5), st.text(max_size=9), max_size=3),
    st.lists(st.text(max_size=9), max_size=3),
    st.booleans(),
)
def test_a_reward_is_a_share_whatever_is_bought(bought, wanted, chosen, asked, attributes, faithful):
    options = asked if len(asked) % 2 else tuple(asked.values())
    one = Goal(wanted.id, "", tuple(attributes), options, 100.0)
    got = paid(bought, chosen, one, wanted, faithful=faithful)
    assert 0 <= got.total <= got.type_factor <= 1
    assert (got.total == 1) == (
        got.type_factor == 1
        and (got.attributes, got.options, got.price) == (len(one.attributes), len(one.options), True)
    )
