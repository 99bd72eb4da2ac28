import subprocess
import sys
from dataclasses import replace
from io import BytesIO

import pytest
from tests.envs.webshop.small_shop import SOFA

from armap.envs.webshop.assortment import read_assortment
from armap.envs.webshop.catalogue import generate
from armap.envs.webshop.pictures import UNKNOWN, draw, silhouette
from armap.images import ImageFolder

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed; type: pip install 'armap[shop]'")

PRODUCTS = generate()
FIRST_OF_TYPE = list({product.label: product for product in reversed(PRODUCTS)}.values())


def opened(png):
    return Image.open(BytesIO(png)).convert("RGB")


def color_of(picture):
    """Return the most frequent colour in the middle, roughly."""
    middle = picture.crop((20, 20, picture.width - 20, picture.height - 20)).quantize(6).convert("RGB")
    return max(middle.getcolors())[1]


@pytest.mark.parametrize("size_px", [1, 17, 64, 160, 333])
def test_a_picture_is_a_png_file_of_the_size_asked_for(size_px, tmp_path):
    png = draw(SOFA, size_px)
    image = ImageFolder(tmp_path).add(png)
    assert (image.width_px, image.height_px) == (size_px, size_px)
    opened(png).verify()


def test_every_type_of_the_embedded_shop_has_a_silhouette():
    assert [product.label for product in FIRST_OF_TYPE if silhouette(product) == UNKNOWN] == []
    assert len({silhouette(product) for product in FIRST_OF_TYPE}) >= 60


def test_products_of_one_type_share_their_silhouette():
    kinds = {}
    for product in PRODUCTS:
        assert kinds.setdefault(product.label, silhouette(product)) == silhouette(product)
    assert kinds.keys() == {kind.label for kind in read_assortment()[0]}


def test_every_silhouette_can_be_drawn_and_two_products_never_look_the_same():
    pictures = {draw(product, 48) for product in PRODUCTS[::3]} | {draw(product, 48) for product in FIRST_OF_TYPE}
    assert len(pictures) == len({product.id for product in (*PRODUCTS[::3], *FIRST_OF_TYPE)})


def test_equal_arguments_give_an_equal_picture_in_another_process():
    program = (
        "import hashlib; from armap.envs.webshop.catalogue import generate; "
        "from armap.envs.webshop.pictures import draw; "
        "print(hashlib.sha256(b''.join(draw(product, 64) for product in generate()[:20])).hexdigest())"
    )
    runs = [subprocess.run([sys.executable, "-c", program], check=True, capture_output=True).stdout for _ in range(2)]
    assert runs[0] == runs[1]


def test_the_color_chosen_is_the_color_drawn():
    shirt = next(product for product in PRODUCTS if product.label == "winter jackets" and "color" in product.options)
    teal, mustard = (color_of(opened(draw(shirt, 160, color))) for color in ("teal", "mustard"))
    assert teal[2] > teal[0] + 30
    assert mustard[0] > mustard[2] + 60


def test_the_first_color_offered_is_drawn_until_one_is_chosen():
    product = next(product for product in PRODUCTS if len(product.options.get("color", ())) > 1)
    first, second, *_ = product.options["color"]
    assert draw(product, 64) == draw(product, 64, first) != draw(product, 64, second)


def test_a_chosen_material_or_flavor_gives_its_color_too():
    cabinet = replace(SOFA, label="filing cabinets", title="Filing Cabinet", options={"color": ("white", "walnut")})
    white, walnut = (color_of(opened(draw(cabinet, 160, color))) for color in ("white", "walnut"))
    assert sum(white) > sum(walnut)


@pytest.mark.parametrize(
    ("label", "path", "title", "expected"),
    [
        ("sofas & couches", "", "", "sofa"),
        ("women's pumps", "", "Pointed Toe Stiletto", "pump_shoe"),
        ("men's t-shirts & tanks", "", "", "tshirt"),
        ("sofa tables", "", "", "table"),
        ("mattresses", "", "", "bed"),
        ("misc", "Beauty & Personal Care › Oral Care › Toothpaste", "", "tube"),
        ("misc", "", "STARLITE Vanilla Body Lotion 12 oz", "pump"),
        ("", "", "Ünknown ✨ thing", UNKNOWN),
        ("", "", "", UNKNOWN),
    ],
)
def test_the_silhouette_of_a_real_product_is_guessed_from_its_words(label, path, title, expected):
    product = replace(SOFA, label=label, category_path=path, title=title)
    assert silhouette(product) == expected
    draw(product, 32)


@pytest.mark.parametrize("color", ["dark blue", "navy | white stripes", "a-12", "", "🦩", "(*"])
def test_any_option_may_be_given_as_a_color(color):
    draw(SOFA, 32, color)


def test_importing_pictures_does_not_import_pillow():
    program = "import sys, armap.envs.webshop.pictures; print('PIL' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout == "False\n"
    )
