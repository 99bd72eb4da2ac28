import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.envs.webshop.small_shop import GOODS, SOFA

from armap.envs.webshop.products import NO_ATTRIBUTES, HumanInstruction, Product, draw_price, read_products
from armap.errors import DataError

RAW = {
    "asin": "B00000001",
    "name": "Oak Table",
    "full_description": "A table.",
    "small_description": ["Round ", "Heavy"],
    "category": "garden",
    "query": " Side Tables ",
    "product_category": "Home › Tables",
    "pricing": "$1,012.50",
    "images": ["http://shop/1.jpg", "http://shop/2.jpg"],
    "customization_options": {
        "Color": [{"value": " Dark/Red ", "image": "http://shop/red.jpg"}, {"value": "Oak"}],
        "Size": None,
    },
    "seller_name": "somebody",
}
FACTS = {
    "B00000001": {
        "attributes": ["solid wood", "easy clean"],
        "instruction": "Find me a table",
        "instruction_attributes": ["easy clean"],
    }
}


def official(folder, items, facts=FACTS, human=None):
    folder.mkdir(exist_ok=True)
    paths = []
    for name, content in (("items_shuffle", items), ("items_ins_v2", facts), ("items_human_ins", human or {})):
        paths.append(folder / f"{name}.json")
        paths[-1].write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return paths


def read(folder, *items, **files):
    return list(read_products(*official(folder, list(items), **files)))


def test_a_product_is_cleaned_as_the_original_loader_does(tmp_path):
    (product,) = read(tmp_path, RAW)
    assert product == Product(
        id="B00000001",
        title="Oak Table",
        description="A table.",
        features=("Round ", "Heavy"),
        department="garden",
        label="side tables",
        category_path="Home › Tables",
        attributes=("solid wood", "easy clean"),
        options={"color": ("dark | red", "oak")},
        prices=(1012.5,),
        price=1012.5,
        images=("http://shop/1.jpg", "http://shop/2.jpg"),
        option_images={"dark | red": "http://shop/red.jpg"},
        instruction="Find me a table",
        instruction_attributes=("easy clean",),
        human_instructions=(),
    )
    assert product.price_tag == "$1012.5"


@pytest.mark.parametrize(
    ("pricing", "prices", "tag"),
    [
        ("", (100.0,), "$100.0"),
        (None, (100.0,), "$100.0"),
        ("$12", (12.0,), "$12.0"),
        ("$5.00 - $9.00", (5.0, 9.0), "$5.0 to $9.0"),
        ("$5.00 - $9.00 ($1.20 / Ounce)", (5.0, 9.0), "$5.0 to $9.0"),
    ],
)
def test_prices_are_read_as_they_are_listed(tmp_path, pricing, prices, tag):
    (product,) = read(tmp_path, RAW | {"pricing": pricing})
    assert product.prices == prices
    assert product.price_tag == tag
    assert prices[0] <= product.price <= prices[-1]


@given(st.integers(), st.text(max_size=10), st.floats(0, 1e4), st.floats(0, 1e4))
def test_a_price_is_drawn_from_its_range_and_always_the_same(seed, product_id, low, width):
    price = draw_price(product_id, (low, low + width), seed=seed)
    assert low <= price <= low + width
    assert price == draw_price(product_id, (low, low + width), seed=seed)


def test_another_seed_draws_other_prices(tmp_path):
    paths = official(tmp_path, [RAW | {"pricing": "$5 - $900"}])
    drawn = {next(iter(read_products(*paths, seed=seed))).price for seed in range(5)}
    assert len(drawn) == 5


def test_products_without_a_proper_id_and_repeated_ones_are_left_out(tmp_path):
    items = [RAW | {"asin": name} for name in ("A", "nan", "12345678901", "A", "B")]
    items[3]["name"] = "the second A"
    assert [(product.id, product.title) for product in read(tmp_path, *items)] == [
        ("A", RAW["name"]),
        ("B", RAW["name"]),
    ]


def test_a_product_nobody_knows_anything_about_has_the_attribute_of_the_original(tmp_path):
    (product,) = read(tmp_path, RAW | {"asin": "B2", "small_description": "one text", "customization_options": ""})
    assert product.attributes == NO_ATTRIBUTES
    assert product.instruction is None
    assert product.features == ("one text",)
    assert product.options == {}


def test_instructions_of_people_come_with_the_product_and_without_who_they_were(tmp_path):
    said = {
        "instruction": "i want a table.",
        "instruction_attributes": ["easy clean"],
        "instruction_options": ["oak"],
        "worker_id": "somebody",
    }
    (product,) = read(tmp_path, RAW, human={"B00000001": [said]})
    assert product.human_instructions == (HumanInstruction("i want a table.", ("easy clean",), ("oak",)),)
    assert "somebody" not in product.to_json()


def test_a_file_is_read_to_its_end_however_long_it_is(tmp_path):
    # Longer than what is read at a time, and with texts in which no end of a chunk can hide a mistake.
    items = [RAW | {"asin": f"B{i}", "full_description": '"}], {[\\é😀' * 300} for i in range(2000)]
    paths = official(tmp_path, items)
    assert [product.id for product in read_products(*paths)] == [item["asin"] for item in items]


def test_an_empty_list_holds_no_products(tmp_path):
    assert read(tmp_path) == []


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"name": 3}, "name must be a text, found 3"),
        ({"query": None}, "query must be a text, found null"),
        ({"images": "http://shop/1.jpg"}, "images must be a list of texts"),
        ({"images": [1]}, "images must be a list of texts"),
        ({"pricing": "ask us"}, "pricing 'ask us' holds no price"),
        ({"pricing": "$"}, "holds no price"),
        ({"pricing": "$1.2.3"}, "holds no price"),
        ({"customization_options": ["red"]}, "customization_options must be an object"),
        ({"customization_options": {"Color": "red"}}, "customization_options of 'Color' must be a list"),
        ({"customization_options": {"Color": ["red"]}}, "option 'Color': expected an object, found str"),
        ({"customization_options": {"Color": [{}]}}, "option 'Color': value is missing"),
    ],
)
def test_a_malformed_product_is_named_with_its_file_and_number(tmp_path, change, place):
    with pytest.raises(DataError, match=r"items_shuffle\.json, product 2") as caught:
        read(tmp_path, RAW, RAW | {"asin": "B2"} | change)
    assert place in str(caught.value)


@pytest.mark.parametrize(
    "field", [name for name in RAW if name not in ("pricing", "seller_name", "images", "customization_options")]
)
def test_a_missing_field_is_named(tmp_path, field):
    with pytest.raises(DataError, match=f"product 1: {field} is missing"):
        read(tmp_path, {name: value for name, value in RAW.items() if name != field})


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", r"character 0: malformed JSON: expected '\['"),
        ("{}", r"character 0: malformed JSON: expected '\['"),
        ("[{", "character 2: malformed JSON"),
        (f"[{json.dumps(RAW)} 3]", "malformed JSON: expected ','"),
        ('[{"asin": tru}]', "character 10: malformed JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("[3]", "product 1: expected an object, found int"),
        ("[] []", "more than one value"),
    ],
)
def test_a_file_that_is_no_list_of_products_is_refused_with_the_place(tmp_path, text, place):
    with pytest.raises(DataError, match=f"items_shuffle.json.*{place}"):
        list(read_products(*official(tmp_path, text)))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"facts": "[]"}, r"items_ins_v2.json, character 0: malformed JSON: expected '\{'"),
        ({"facts": {"B00000001": []}}, "items_ins_v2.json, product B00000001: expected an object"),
        ({"facts": {"B00000001": {"attributes": "soft"}}}, "product B00000001: attributes must be a list of texts"),
        ({"human": {"B00000001": {}}}, "items_human_ins.json, product B00000001: the instructions must be a list"),
        ({"human": {"B00000001": [{}]}}, "items_human_ins.json, product B00000001: instruction is missing"),
    ],
)
def test_what_is_wrong_in_the_other_files_is_named_too(tmp_path, files, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, RAW, **files)


def test_a_missing_file_and_one_in_another_encoding_are_refused(tmp_path):
    paths = official(tmp_path, [RAW])
    paths[0].write_bytes(b'[{"asin": "\xff"}]')
    with pytest.raises(DataError, match="not UTF-8"):
        list(read_products(*paths))
    with pytest.raises(DataError, match=r"absent\.json cannot be read: No such file"):
        list(read_products(tmp_path / "absent.json", *paths[1:]))


@pytest.mark.parametrize("product", GOODS)
def test_a_product_survives_being_written(product):
    assert Product.from_json(product.to_json()) == product
    assert "\n" not in product.to_json()


def test_the_order_of_options_survives_being_written():
    assert list(Product.from_json(SOFA.to_json()).options) == list(SOFA.options)
