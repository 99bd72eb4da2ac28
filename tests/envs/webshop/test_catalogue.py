import os
import subprocess
import sys
from collections import defaultdict
from itertools import combinations
from math import prod
from random import Random

import pytest

from armap.envs.webshop.assortment import read_assortment
from armap.envs.webshop.catalogue import generate
from armap.envs.webshop.goals import human_goals, synthetic_goals
from armap.envs.webshop.products import Product
from armap.envs.webshop.reward import reward
from armap.envs.webshop.tagger import default_tagger
from armap.seeds import stable_hash

PRODUCTS = generate()
BY_ID = {product.id: product for product in PRODUCTS}
TYPES, _ = read_assortment()
SHOP = 17352305033675490737
BUTTONS = {
    "back to search",
    "next >",
    "< prev",
    "description",
    "features",
    "reviews",
    "attributes",
    "buy now",
    "search",
}


RIVALS: dict[str, list[Product]] = defaultdict(list)
for _product in PRODUCTS:
    RIVALS[_product.label].append(_product)


def pages(product):
    return "\n".join((product.title, *product.features, product.description)).lower()


@pytest.fixture(scope="module")
def nouns():
    return default_tagger()


def test_the_shop_is_large_and_every_type_has_products_that_compete():
    assert len(PRODUCTS) >= 1000
    assert len({product.department for product in PRODUCTS}) >= 6
    assert len(TYPES) >= 60
    assert RIVALS.keys() == {kind.label for kind in TYPES}
    for rivals in RIVALS.values():
        assert 12 <= len(rivals) <= 30
        assert len({rival.title.split()[0] for rival in rivals}) >= 4
        prices = [rival.price for rival in rivals]
        assert max(prices) > 2 * min(prices)


def test_no_two_products_are_alike():
    assert len(BY_ID) == len(PRODUCTS)
    assert len({product.title for product in PRODUCTS}) == len(PRODUCTS)


def test_the_same_seed_gives_the_same_shop_in_every_process():
    program = (
        "import hashlib; from armap.envs.webshop.catalogue import generate; "
        "print(hashlib.sha256('\\n'.join(product.to_json() for product in generate(3)).encode()).hexdigest())"
    )
    shops = set()
    for hash_seed in ("0", "1"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        shops.add(
            subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, env=environment).stdout
        )
    assert len(shops) == 1


def test_the_shop_is_the_same_on_every_machine_and_version_of_python():
    # Runs name products by id, so whoever changes the shop makes older runs unreadable.
    assert stable_hash([product.to_json() for product in PRODUCTS]) == SHOP


def test_another_seed_gives_another_shop():
    assert not {product.title for product in generate(1)} & {product.title for product in PRODUCTS[:20]}


def test_titles_are_short_enough_for_ten_to_be_read_at_once():
    for product in PRODUCTS:
        assert 6 <= len(product.title.split()) <= 14, product.title
        assert len(product.id) <= 10


def test_pages_name_every_attribute_of_a_product():
    for product in PRODUCTS:
        assert 3 <= len(product.attributes) <= 7
        assert len(set(product.attributes)) == len(product.attributes)
        for attribute in product.attributes:
            assert attribute in pages(product), (product.title, attribute)


def test_pages_claim_no_attribute_that_the_product_lacks():
    pools = {kind.label: [attribute.name for attribute in kind.attributes] for kind in TYPES}
    for product in PRODUCTS:
        for attribute in pools[product.label]:
            assert attribute in product.attributes or attribute not in pages(product), (product.title, attribute)


def test_titles_do_not_tell_everything():
    for product in PRODUCTS:
        title = product.title.lower()
        told = [attribute for attribute in product.attributes if attribute in title]
        assert 1 <= len(told) <= 3
    assert sum(all(attribute in product.title.lower() for attribute in product.attributes) for product in PRODUCTS) < 50


def test_every_product_has_a_page_worth_opening():
    for product in PRODUCTS:
        assert 3 <= len(product.features) <= 5
        assert len(set(product.features)) == len(product.features)
        assert 2 <= product.description.count(".") <= 4
        assert product.category_path.count("›") >= 2


def test_options_can_be_told_apart_and_are_no_buttons():
    ids = {product.id.lower() for product in PRODUCTS}
    for product in PRODUCTS:
        values = [value for group in product.options.values() for value in group]
        assert len(set(values)) == len(values)
        assert not set(values) & (BUTTONS | ids)
        assert len(product.options) <= 3
        assert all(2 <= len(group) <= 6 for group in product.options.values())
        assert prod(map(len, product.options.values())) <= 18


def test_prices_are_in_dollars_and_cents_and_some_are_ranges():
    for product in PRODUCTS:
        assert all(price == round(price, 2) and price >= 1 for price in product.prices)
        assert product.prices[0] <= product.price <= product.prices[-1]
    assert 20 <= sum(len(product.prices) == 2 for product in PRODUCTS) <= 300


def test_most_products_are_asked_for_and_by_attributes_of_their_own():
    asked = [product for product in PRODUCTS if product.instruction]
    assert len(asked) > 0.75 * len(PRODUCTS)
    for product in asked:
        assert 2 <= len(product.instruction_attributes) <= 4
        assert set(product.instruction_attributes) <= set(product.attributes)
        assert all(attribute in product.instruction for attribute in product.instruction_attributes)
    assert len({product.instruction.partition(" a")[0] for product in asked}) >= 8


def test_people_ask_for_attributes_and_options_the_product_has_in_words():
    people = [(product, human) for product in PRODUCTS for human in product.human_instructions]
    assert len(people) >= 300
    for product, human in people:
        assert human.attributes
        assert set(human.attributes) <= set(product.attributes)
        assert set(human.options) <= {value for group in product.options.values() for value in group}
        assert all(words in human.instruction for words in (*human.attributes, *human.options))


@pytest.mark.parametrize("goals_of", [synthetic_goals, human_goals])
@pytest.mark.parametrize("faithful", [True, False])
def test_buying_just_what_was_asked_for_earns_everything(goals_of, faithful, nouns):
    for goal in goals_of(PRODUCTS, Random(0)):
        wanted = BY_ID[goal.product_id]
        chosen = goal.options
        if isinstance(chosen, tuple):
            chosen = {group: value for group, values in wanted.options.items() for value in values if value in chosen}
        assert reward(wanted, chosen, goal, wanted, nouns=nouns, faithful=faithful).total == 1, goal


def test_another_choice_of_an_option_earns_less(nouns):
    goals = list(synthetic_goals(PRODUCTS, Random(0)))
    for goal in Random(1).sample(goals, 1500):
        wanted = BY_ID[goal.product_id]
        for group, values in wanted.options.items():
            for value in set(values) - {goal.options[group]}:
                chosen = {**goal.options, group: value}
                assert reward(wanted, chosen, goal, wanted, nouns=nouns).total < 1, (chosen, goal)


def test_a_rival_with_all_that_was_asked_for_is_as_good_as_the_product_itself(nouns):
    for goal in human_goals(PRODUCTS, Random(0)):
        wanted = BY_ID[goal.product_id]
        for rival in RIVALS[wanted.label]:
            if set(goal.attributes) <= set(rival.attributes) and rival.price <= goal.price_limit_usd:
                bought = reward(rival, {}, goal, wanted, nouns=nouns)
                assert (bought.type_factor, bought.attributes, bought.price) == (1, len(goal.attributes), True)


def test_most_products_have_a_look_alike_that_lacks_one_attribute_asked_for():
    asked = [product for product in PRODUCTS if product.instruction]
    with_look_alike = 0
    for product in asked:
        wanted = set(product.instruction_attributes)
        with_look_alike += any(len(wanted - set(rival.attributes)) == 1 for rival in RIVALS[product.label])
    assert with_look_alike > 0.8 * len(asked)


def test_the_names_of_a_type_share_their_last_noun_so_that_titles_can_be_compared():
    for kind in TYPES:
        words = [set(noun.lower().split()) for noun in kind.nouns]
        assert all(a & b for a, b in combinations(words, 2)), kind.label
