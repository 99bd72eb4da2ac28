import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from armap.browser import Browser, find_browser
from armap.envs.webshop.environment import WebShop
from armap.envs.webshop.index import Catalogue, build
from armap.envs.webshop.pages import clickables
from armap.envs.webshop.server import make_app, serve
from armap.envs.webshop.session import Session, Shop
from armap.envs.webshop.splits import parse_task
from armap.errors import ConfigError

from .controls import ReadPage
from .odd_pages import HOSTILE
from .small_shop import GOODS, SOFA

ODD_GOODS = tuple(
    replace(
        SOFA,
        id=f"B0000ODD{i:02}",
        title=f"sofa {text}",
        description=text,
        features=(text,),
        options={text: (text.lower(), "plain")},
        instruction=None,
    )
    for i, text in enumerate(HOSTILE[:-1])
)

CHOICE = ("grey", "three | four seats")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop") / "catalogue"
    build(folder, [*GOODS, *ODD_GOODS])
    return folder


@pytest.fixture(scope="module")
def catalogue(folder):
    return Catalogue(folder)


@pytest.fixture(scope="module")
def client(catalogue):
    return TestClient(make_app(catalogue))


@pytest.fixture(scope="module")
def wanted(catalogue):
    """Return the number of the task that wants the sofa in grey, with three or four seats."""
    (number,) = [i for i, goal in enumerate(catalogue.goals("synthetic")) if set(goal.options.values()) == set(CHOICE)]
    return str(number)


def act(client, page, target, words=""):
    """Do what a browser does when the control for `target` is used, and return the page it gets."""
    control = ReadPage(page.text).by_target[target]
    address = f"?search={words}" if target == "search" else control.address
    return client.request(control.method, page.url.join(address))


def bought(client, task):
    page = client.get("/start", params={"task": task})
    page = act(client, page, "search", "linen couch")
    page = act(client, page, SOFA.id.lower())
    for target in (*CHOICE, "buy now"):
        page = act(client, page, target)
    return page


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_random_clicks_stay_in_step_with_the_environment(client, catalogue, seed):
    rng = Random(seed)
    shop = Shop(catalogue)
    task = parse_task(catalogue, "0")
    session = Session(task.instruction)
    page = client.get("/start", params={"task": "0"})
    for _ in range(15):
        targets = sorted(clickables(shop.page(session)))
        assert sorted(ReadPage(page.text).by_target) == targets
        if not targets:
            return
        target = rng.choice(targets)
        words = rng.choice(["sofa", "oak table", "<r>", "script alert", "nothing of the kind"])
        page = act(client, page, target, words)
        action = f"search[{words}]" if target == "search" else f"click[{target}]"
        session = shop.after(session, action) or session


def test_a_purchase_is_paid_what_the_environment_pays_and_only_on_request(client, catalogue, wanted):
    page = bought(client, wanted)
    assert "worth 1" not in page.text
    worth = client.get(ReadPage(page.text).links["Show what this purchase is worth"])
    environment = WebShop(catalogue)
    environment.reset(parse_task(catalogue, wanted))
    for action in ("search[linen couch]", *(f"click[{target}]" for target in (SOFA.id, *CHOICE, "buy now"))):
        result = environment.step(action)
    assert result.terminated
    assert f"worth {result.env_reward:.3f} of 1" in worth.text


def test_one_who_only_looks_around_has_no_task_and_no_reward(client):
    page = bought(client, "none")
    assert "You bought" in page.text
    assert "worth" not in page.text
    assert client.get(page.url.join(f"{page.url.path}/worth")).status_code == 404


def test_the_back_button_leads_to_the_page_as_it_was_and_other_ways_lead_on_from_there(client):
    start = client.get("/start", params={"task": "0"})
    results = act(client, start, "search", "linen couch")
    sofa = act(client, results, SOFA.id.lower())
    grey = act(client, sofa, "grey")
    assert ReadPage(grey.text).by_target["grey"].pressed
    again = client.get(sofa.url)
    assert again.text == sofa.text
    red = act(client, again, "dark red")
    assert {t for t, control in ReadPage(red.text).by_target.items() if control.pressed} == {"dark red"}
    assert act(client, again, "grey").url == grey.url


def test_a_link_buys_nothing(client):
    page = act(client, act(client, client.get("/start?task=0"), "search", "linen couch"), SOFA.id.lower())
    assert client.get(page.url.join("?click=Buy+Now")).status_code == 405


@pytest.mark.parametrize("asked", ["?click=no+such+thing", "?click=", "?search=", "?search=++", "?click=%F0%28"])
def test_what_cannot_be_done_leaves_the_page_as_it_is(client, asked):
    page = client.get("/start?task=0")
    assert client.get(page.url.join(asked)).url == page.url


@pytest.mark.parametrize("words", ["[x] sofa", "sofa]", "a\nb", "sofa " * 80, "<script>alert(1)</script>"])
def test_any_words_can_be_searched_for(client, words):
    page = client.get("/start?task=0")
    results = client.get(page.url, params={"search": words})
    assert results.status_code == 200
    assert "Total results" in results.text
    assert "<script" not in results.text


@pytest.mark.parametrize("task", ["999999", "-1", "", "one", "human 999", "<script>"])
def test_a_task_that_there_is_not_is_answered_with_what_to_type(client, task):
    page = client.get("/start", params={"task": task})
    assert page.status_code == 400
    assert 'role="alert"' in page.text
    assert "<script" not in page.text


def test_a_random_task_is_one_of_the_catalogue(client, catalogue):
    page = client.get("/start?task=random")
    instructions = {goal.instruction for goal in catalogue.goals("synthetic")}
    assert instructions & set(ReadPage(page.text).texts)


def test_every_answer_forbids_scripts_frames_and_guesses_of_its_kind(client):
    picture = ReadPage(act(client, client.get("/start?task=0"), "search", "sofa").text)
    (address, *_) = [facts["src"] for tag, facts in picture.tags if tag == "img"]
    for place in ("/", "/start?task=0", "/start?task=x", "/page/none", address, "/shop.css"):
        answer = client.get(place, follow_redirects=False)
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none';")
        assert "script-src" not in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_pictures_are_drawn_once_and_may_be_kept(client):
    asked = {"product": SOFA.id, "size": "300", "look": "grey"}
    first = client.get("/picture", params=asked)
    assert first.headers["content-type"] == "image/png"
    assert first.content.startswith(b"\x89PNG")
    assert "max-age=3600" in first.headers["cache-control"]
    assert client.get("/picture", params=asked).content == first.content


@pytest.mark.parametrize("change", [{"product": "none"}, {"size": "100000"}, {"size": "x"}, {"size": ""}])
def test_pictures_of_no_product_and_of_no_size_of_ours_are_not_drawn(client, change):
    assert client.get("/picture", params={"product": SOFA.id, "size": "300"} | change).status_code == 404


def test_every_picture_on_a_page_is_there(client):
    page = act(client, client.get("/start?task=0"), "search", "sofa")
    addresses = [facts["src"] for tag, facts in ReadPage(page.text).tags if tag == "img"]
    assert len(addresses) == 10
    assert all(client.get(address).status_code == 200 for address in addresses)


def test_pages_are_forgotten_when_there_are_too_many_and_the_shopper_is_told(catalogue):
    client = TestClient(make_app(catalogue, remembered_pages=3))
    start = client.get("/start?task=0")
    for words in ("a", "b", "c"):
        assert client.get(start.url, params={"search": words}).status_code == 200
    for words in ("d", "e", "f"):
        other = client.get("/start?task=none")
        client.get(other.url, params={"search": words})
    assert client.get(start.url).status_code == 404
    assert "/" in ReadPage(client.get(start.url).text).links.values()


def test_a_port_that_is_taken_is_named(catalogue):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigError, match="choose another"):
        serve(make_app(catalogue), host="127.0.0.1", port=taken.getsockname()[1], announce=print)


@pytest.fixture
def address(folder):
    program = """
import sys
from functools import partial
from pathlib import Path
from armap.envs.webshop.index import Catalogue
from armap.envs.webshop.server import make_app, serve
serve(make_app(Catalogue(Path(sys.argv[1]))), host="127.0.0.1", port=0, announce=partial(print, flush=True))
"""
    server = subprocess.Popen([sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, text=True)
    yield server.stdout.readline().strip()
    os.kill(server.pid, signal.SIGINT)
    server.communicate()
    assert server.returncode == 0


def test_a_person_buys_a_sofa_with_a_real_browser(address, catalogue, wanted):
    try:
        find_browser()
    except ConfigError as error:
        pytest.skip(str(error))
    from selenium.webdriver.support.wait import WebDriverWait

    shop = Shop(catalogue)
    session = Session(parse_task(catalogue, wanted).instruction)
    with Browser(width_px=1100, height_px=900) as browser:
        driver = browser.driver

        def control(target):
            (found,) = driver.find_elements("css selector", f'[data-click="{target}"]')
            return found

        def click(button):
            before = driver.current_url
            button.click()
            WebDriverWait(driver, 60).until(lambda driver: driver.current_url != before)

        def targets():
            return {found.get_attribute("data-click") for found in driver.find_elements("css selector", "[data-click]")}

        driver.get(address)
        driver.find_element("id", "task").send_keys(wanted)
        click(driver.find_element("xpath", "//button[text()='Start']"))
        assert session.instruction in driver.find_element("tag name", "body").text
        driver.find_element("id", "words").send_keys("linen couch")
        click(control("search"))
        session = shop.after(session, "search[linen couch]")
        for target in (SOFA.id.lower(), "features", "< prev", *CHOICE):
            assert targets() == set(clickables(shop.page(session)))
            click(control(target))
            session = shop.after(session, f"click[{target}]")
        pressed = driver.find_elements("css selector", '[aria-pressed="true"]')
        assert [button.text.removeprefix("✓ ") for button in pressed] == list(dict(session.chosen).values())
        (picture,) = driver.find_elements("tag name", "img")
        assert driver.execute_script("return arguments[0].naturalWidth", picture) == 300
        driver.back()
        driver.forward()
        click(control("buy now"))
        session = shop.after(session, "click[buy now]")
        assert shop.page(session).kind == "done"
        assert "Thank you" in driver.find_element("tag name", "h1").text
        assert targets() == set()
        click(driver.find_element("link text", "Show what this purchase is worth"))
        assert "1.000 of 1" in driver.find_element("tag name", "h1").text
