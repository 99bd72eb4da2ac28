import os
import signal
from contextlib import closing
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from armap.browser import find_browser
from armap.envs.webshop.pages import Page
from armap.envs.webshop.screenshots import PhotographedWebShop, Screenshots
from armap.envs.webshop.session import Session, Shop
from armap.envs.webshop.splits import tasks
from armap.errors import ConfigError, EnvError
from armap.images import ImageFolder

from .odd_pages import HOSTILE, KINDS
from .small_shop import GOODS, SOFA

ITEM = Page("item", "find a sofa", products=(SOFA,))


@pytest.fixture(scope="module")
def screenshots():
    try:
        find_browser()
    except ConfigError as error:
        pytest.skip(str(error))
    with Screenshots() as screenshots:
        yield screenshots


def image_of(png: bytes) -> Image.Image:
    with Image.open(BytesIO(png)) as image:
        return image.convert("RGB")


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_is_a_picture_of_one_size_and_the_same_every_time(screenshots, kind):
    shown = {"search": (), "results": GOODS}.get(kind, (SOFA,))
    page = Page(kind, "find a sofa", ("sofa",), 1, 3, shown, {"color": "grey"} if shown == (SOFA,) else {})
    png = screenshots.shoot(page)
    assert image_of(png).size == (768, 1024)
    assert len(image_of(png).getcolors(100_000)) > 100
    assert screenshots.shoot(ITEM) != screenshots.shoot(replace(ITEM, chosen={"color": "grey"}))
    assert screenshots.shoot(page) == png


def test_the_stylesheet_and_the_picture_of_the_product_are_seen(screenshots):
    image = image_of(screenshots.shoot(ITEM))
    assert image.getpixel((400, 10)) == (0x14, 0x50, 0x6B)
    picture = image.crop((40, 180, 300, 440))
    assert len(picture.getcolors(100_000)) > 1


def test_what_products_say_does_nothing_in_the_browser(screenshots):
    page = replace(ITEM, products=(replace(SOFA, title=" ".join(HOSTILE), description="<script>document.title = 1"),))
    assert screenshots.shoot(page) == screenshots.shoot(page)
    assert image_of(screenshots.shoot(replace(page, kind="description"))).size == (768, 1024)


def browsers_of_this_process() -> list[int]:
    """Return the process ids of the browsers whose drivers are children of this process."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, fields = status.read_text().rsplit(")", 1)
        except OSError:
            continue
        parents[int(name.split()[0])] = (int(fields.split()[1]), name.partition("(")[2])
    drivers = {pid for pid, (parent, name) in parents.items() if parent == os.getpid() and "chromedriver" in name}
    return [pid for pid, (parent, _) in parents.items() if parent in drivers]


def test_a_browser_that_dies_is_an_error_and_the_next_picture_gets_another(screenshots):
    before = screenshots.shoot(ITEM)
    killed = browsers_of_this_process()
    assert killed
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(EnvError, match="browser"):
        screenshots.shoot(ITEM)
    assert screenshots.shoot(ITEM) == before
    assert not set(browsers_of_this_process()) & set(killed)


def test_a_photographed_shop_shows_every_page_as_the_browser_does(screenshots, tmp_path):
    images = ImageFolder(tmp_path / "images")
    with closing(PhotographedWebShop(None, images=images, suggest=True)) as shop:
        task = tasks(shop.catalogue, "train")[0]
        observation = shop.reset(task)
        page = Shop(shop.catalogue, faithful=True).page(Session(task.instruction, task.seed))
        assert images.read(observation.image) == screenshots.shoot(page)
        assert shop.step(observation.actions[0]).observation.image != observation.image
