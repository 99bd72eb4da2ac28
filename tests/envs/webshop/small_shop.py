"""A few products for tests."""

from dataclasses import replace

from armap.envs.webshop.products import HumanInstruction, Product

SOFA = Product(
    id="B00SOFA001",
    title="Linen Sofa, 3-Seat Couch for Living Room",
    description="A couch of linen.",
    features=("Easy to clean", " solid frame "),
    department="garden",
    label="sofas & couches",
    category_path="Home & Kitchen › Furniture › Living Room Furniture › Sofas",
    attributes=("easy clean", "wood frame", "living room"),
    options={"color": ("grey", "dark red"), "size": ("two seats", "three | four seats")},
    prices=(180.0, 220.5),
    price=199.99,
    images=(),
    option_images={},
    instruction="Find me easy clean sofas & couches for living room",
    instruction_attributes=("easy clean", "living room"),
    human_instructions=(
        HumanInstruction("i want a grey couch that cleans easily.", ("easy clean",), ("grey",)),
        HumanInstruction("i want a couch.", (), ()),
    ),
)
TABLE = replace(
    SOFA,
    id="B00TABLE02",
    title="Rectangular Oak Table",
    description="",
    features=("Oak",),
    label="tables",
    category_path="Home & Kitchen › Furniture › Tables",
    attributes=("solid wood",),
    options={"shape": ("rectangular", "round")},
    prices=(12.0,),
    price=12.0,
    instruction=None,
    instruction_attributes=(),
    human_instructions=(),
)
LAMP = replace(
    TABLE,
    id="B00LAMP003",
    title="Brass Lamp",
    label="lamps",
    category_path="Lighting",
    attributes=("brass",),
    options={},
)
GOODS = (SOFA, TABLE, LAMP)
