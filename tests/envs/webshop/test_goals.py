from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from armap.envs.webshop.goals import (
    NO_PRICE_LIMIT_USD,
    draw_price_limit,
    goal_of_purchase,
    human_goals,
    official_order,
    rng_of_goals,
    synthetic_goals,
)
from armap.envs.webshop.products import NO_ATTRIBUTES

from .small_shop import GOODS, LAMP, SOFA, TABLE


def test_a_written_instruction_gives_a_goal_for_every_combination_of_options_and_all_share_a_price_limit():
    goals = list(synthetic_goals(GOODS, Random(0)))
    assert [goal.options for goal in goals] == [
        {"color": color, "size": size} for color in SOFA.options["color"] for size in SOFA.options["size"]
    ]
    (limit,) = {goal.price_limit_usd for goal in goals}
    assert goals[1].instruction == (
        "Find me easy clean sofas & couches for living room with color: grey, and size: three | four seats, "
        f"and price lower than {limit:.2f} dollars"
    )
    assert {goal.product_id for goal in goals} == {SOFA.id}
    assert {goal.attributes for goal in goals} == {("easy clean", "living room")}


def test_a_product_without_options_gives_one_goal():
    (goal,) = synthetic_goals([replace(SOFA, options={})], Random(0))
    assert goal.options == {}
    assert goal.instruction.startswith("Find me easy clean sofas & couches for living room, and price lower than ")


def test_an_instruction_of_a_person_gives_a_goal_if_it_names_an_attribute():
    (goal,) = human_goals(GOODS, Random(0))
    assert goal.instruction == (
        f"i want a grey couch that cleans easily, and price lower than {goal.price_limit_usd:.2f} dollars"
    )
    assert (goal.attributes, goal.options) == (("easy clean",), ("grey",))


@pytest.mark.parametrize(
    ("price", "limits"),
    [(0.5, {20, 30, 40}), (10, {30, 40, 50}), (199.99, {210, 220, 230}), (960, {980, 990}), (970, {990})],
)
def test_a_limit_is_the_larger_of_two_among_the_next_four_tens(price, limits):
    assert {draw_price_limit(price, Random(seed))[0] for seed in range(100)} == limits


@pytest.mark.parametrize("price", [980, 990, 5000])
def test_a_price_without_two_tens_above_it_has_no_limit(price):
    assert draw_price_limit(price, Random(0)) == (NO_PRICE_LIMIT_USD, "")


def test_the_same_seed_gives_the_same_goals_and_another_seed_other_limits():
    def goals(seed):
        return list(synthetic_goals([replace(SOFA, price=float(price)) for price in range(50)], Random(seed)))

    assert goals(1) == goals(1) != goals(2)


def test_official_numbers_are_those_of_the_original():
    # The order of the original for ten goals: random.seed(233); random.shuffle(goals).
    assert official_order(range(10)) == [5, 9, 0, 1, 4, 7, 6, 3, 8, 2]
    assert Counter(official_order(range(1000))) == Counter(range(1000))


options = st.fixed_dictionaries({}, optional={group: st.sampled_from(values) for group, values in SOFA.options.items()})


@settings(deadline=None)
@given(options)
def test_the_goal_of_a_purchase_asks_for_what_was_bought_whatever_the_order_of_choice(chosen):
    goal = goal_of_purchase(SOFA, chosen, seed=0)
    assert goal == goal_of_purchase(SOFA, dict(reversed(chosen.items())), seed=0)
    assert goal.options == chosen
    assert goal.price_limit_usd > SOFA.price
    assert all(f"{group}: {value}" in goal.instruction for group, value in chosen.items())
    assert SOFA.id not in goal.instruction


def test_a_purchase_that_a_goal_asks_for_is_told_as_that_goal():
    # Else an evaluation task would not be recognised among what was bought in training.
    goals = list(synthetic_goals([SOFA], rng_of_goals("synthetic", 7, SOFA.id)))
    assert [goal_of_purchase(SOFA, goal.options, seed=7) for goal in goals] == goals


def test_the_goal_of_a_purchase_without_a_written_instruction_names_the_kind_of_thing_and_some_attributes():
    assert goal_of_purchase(TABLE, {"shape": "round"}, seed=0).instruction.startswith(
        "Find me solid wood tables with shape: round, and price lower than "
    )
    many = replace(LAMP, attributes=("brass", "low energy", "dimmable", "cordless"))
    goal = goal_of_purchase(many, {}, seed=0)
    assert len(goal.attributes) == 3
    assert all(attribute in goal.instruction for attribute in goal.attributes)
    unknown = goal_of_purchase(replace(LAMP, attributes=NO_ATTRIBUTES), {}, seed=0)
    assert unknown.attributes == ()
    assert unknown.instruction.startswith("Find me lamps, and price lower than ")
