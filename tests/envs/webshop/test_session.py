import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from armap.envs.webshop.index import Catalogue, build
from armap.envs.webshop.pages import clickables
from armap.envs.webshop.products import Product
from armap.envs.webshop.session import Session, Shop, read_action

from .small_shop import GOODS, LAMP, SOFA, TABLE

START = Session("Find me a couch")
CHAIRS = tuple(replace(LAMP, id=f"B0CHAIR{i:03}", title="Plain Chair", department="garden") for i in range(25))


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    folder = tmp_path_factory.mktemp("shop") / "catalogue"
    build(folder, [*GOODS, *CHAIRS])
    return Catalogue(folder)


@pytest.fixture(scope="module")
def shop(catalogue: Catalogue) -> Shop:
    return Shop(catalogue)


def follow(shop: Shop, *actions: str, start: Session = START) -> Session:
    session = start
    for action in actions:
        after = shop.after(session, action)
        assert after is not None, action
        session = after
    return session


def shown(shop: Shop, session: Session) -> list[str]:
    return [product.id for product in shop.page(session).products]


def test_a_search_shows_what_was_found_ten_a_page(shop):
    session = follow(shop, "search[plain CHAIR]")
    page = shop.page(session)
    assert (page.kind, page.words, page.number, page.total) == ("results", ("plain", "chair"), 1, 25)
    assert len(page.products) == 10
    later = follow(shop, "click[next >]", "click[Next >]", start=session)
    assert len(shop.page(later).products) == 5
    beyond = follow(shop, "click[next >]", start=later)
    assert (beyond.number, shop.page(beyond).products) == (4, ())
    assert follow(shop, "click[< prev]", "click[< prev]", "click[< prev]", start=beyond) == session


def test_no_more_than_fifty_products_are_found(tmp_path):
    build(tmp_path / "many", [replace(LAMP, id=f"B0LAMP{i:04}") for i in range(60)])
    many = Shop(Catalogue(tmp_path / "many"))
    assert many.page(follow(many, "search[lamp]")).total == 50


def test_a_product_is_opened_by_its_id_and_is_visited_until_the_search_bar_is_seen_again(shop):
    item = follow(shop, "search[sofa]", "click[b00sofa001]")
    assert (item.kind, item.product_id, shown(shop, item)) == ("item", SOFA.id, [SOFA.id])
    back = follow(shop, "click[< prev]", start=item)
    assert (back.kind, back.visited) == ("results", {SOFA.id})
    assert follow(shop, "search[table]", start=back).visited == {SOFA.id}
    assert follow(shop, "click[back to search]", start=back) == START


def test_a_choice_replaces_the_former_one_of_its_group_and_is_kept_on_the_pages_about_the_product(shop):
    item = follow(shop, "search[sofa]", "click[b00sofa001]", "click[two seats]", "click[grey]", "click[dark red]")
    assert item.chosen == (("size", "two seats"), ("color", "dark red"))
    assert follow(shop, "click[three | four seats]", start=item).chosen == (
        ("size", "three | four seats"),
        ("color", "dark red"),
    )
    for about in ("description", "features", "reviews"):
        page = follow(shop, f"click[{about}]", start=item)
        assert page == replace(item, kind=about)
        assert follow(shop, "click[< prev]", start=page) == item
    assert follow(shop, "click[< prev]", start=item).chosen == ()
    assert follow(shop, "search[lamp]", start=item).chosen == ()


def test_buying_ends_it(shop):
    done = follow(shop, "search[sofa]", "click[b00sofa001]", "click[grey]", "click[buy now]")
    assert (done.kind, done.product_id, done.chosen) == ("done", SOFA.id, (("color", "grey"),))
    assert shop.product(done) == SOFA
    assert shop.after(done, "search[sofa]") is None
    assert shop.after(done, "click[back to search]") is None


@pytest.mark.parametrize(
    ("before", "action"),
    [
        ((), "click[search]"),
        ((), "click[back to search]"),
        ((), "click[buy now]"),
        ((), "search[]"),
        ((), "search"),
        ((), "look[sofa]"),
        ((), " search[sofa]"),
        ((), "search[sofa\n]"),
        ((), f"search[{'a' * 1000}]"),
        (("search[sofa]",), "click[b00lamp999]"),
        (("search[sofa]",), "click[< prev]"),
        (("search[sofa]",), "click[buy now]"),
        (("search[sofa]",), "click[b00sofa001"),
        (("search[sofa]", "click[b00sofa001]"), "click[b00sofa001]"),
        (("search[sofa]", "click[b00sofa001]"), "click[next >]"),
        (("search[sofa]", "click[b00sofa001]"), "click[round]"),
        (("search[sofa]", "click[b00sofa001]", "click[reviews]"), "click[buy now]"),
        (("search[sofa]", "click[b00sofa001]", "click[reviews]"), "click[grey]"),
    ],
)
def test_what_cannot_be_done_leads_nowhere(shop, before, action):
    assert shop.after(follow(shop, *before), action) is None


def test_of_equal_values_the_last_group_has_it_and_buttons_come_first(tmp_path):
    double = replace(TABLE, options={"top": ("oak", "reviews"), "legs": ("oak", "b [x]")})
    build(tmp_path / "double", [double])
    shop = Shop(Catalogue(tmp_path / "double"))
    item = follow(shop, "search[oak table]", "click[b00table02]")
    assert follow(shop, "click[oak]", start=item).chosen == (("legs", "oak"),)
    assert follow(shop, "click[reviews]", start=item).kind == "reviews"
    assert shop.after(item, "click[b [x]]") is None


@settings(deadline=None)
@given(st.text("ab[]\n é"))
def test_an_action_is_read_as_the_original_reads_it(text):
    match = re.match(r"(.+)\[(.+)\]", text)
    assert read_action(text) == ((match[1], match[2].lower()) if match else ("", ""))


def test_reading_takes_no_longer_for_a_hostile_text():
    for text in ("[" * 100_000, "]" * 100_000, "a" + "[" * 900, "click[" * 150 + "]"):
        assert read_action(text)[0] != "click"


@settings(deadline=None)
@given(st.data())
def test_whatever_can_be_clicked_leads_somewhere_and_nothing_changes_the_session_before(shop, data):
    session = START
    for _ in range(data.draw(st.integers(0, 8))):
        targets = clickables(shop.page(session))
        searches = [f"search[{words}]" for words in ("chair", "sofa", "oak", "<r>", "nothing of this")]
        clicks = [f"click[{target}]" for target in targets if target != "search"]
        action = data.draw(st.sampled_from(clicks if clicks and data.draw(st.booleans()) else searches))
        copy = replace(session)
        after = shop.after(session, action)
        assert session == copy
        if session.kind == "done":
            assert after is None
            return
        assert after is not None
        assert shop.after(session, action.upper().replace("CLICK", "click").replace("SEARCH", "search")) == after
        session = after


# The hidden first words of a search


def test_hidden_words_list_products_in_the_order_of_the_catalogue(shop, catalogue):
    def found(words):
        return shop.page(follow(shop, f"search[{words}]")).total, shown(shop, follow(shop, f"search[{words}]"))

    assert found("<q> Tables") == (1, [TABLE.id])
    assert found("<a> easy clean") == (1, [SOFA.id])
    assert found("<c> garden") == (28, list(catalogue.ids)[:10])
    for nothing in ("<q>", "<a>", "<c>", "<c> nowhere", "<q> table", "<a> clean"):
        assert found(nothing) == (0, [])


def test_a_random_search_finds_the_same_on_every_page_and_in_every_episode_with_the_seed(shop, catalogue):
    def found(seed):
        session = follow(shop, "search[<r>]", start=replace(START, seed=seed))
        pages = [shown(shop, replace(session, number=number)) for number in (1, 2, 3)]
        return [product_id for page in pages for product_id in page]

    assert sorted(found(0)) == sorted(catalogue.ids)
    assert found(0) == found(0) != found(1)


def test_without_quirks_hidden_words_are_words(catalogue):
    shop = Shop(catalogue, faithful=False)
    assert shop.page(follow(shop, "search[<q> brass]")).total == 1
    assert shop.page(follow(shop, "search[<r>]")).total == 0


# Sessions of people, recorded on the full catalogue


class Recorded(Catalogue):
    """The products of one recorded session, and what was found then."""

    def __init__(self, pages: list[dict]) -> None:
        self._found: dict[tuple[str, ...], dict[int, list[str]]] = {}
        self._seen: dict[str, dict[str, set[str]]] = {}
        for page in pages:
            content = page.get("content", {})
            if page["page"] == "search_results":
                self._found.setdefault(tuple(content["keywords"]), {})[content["page"]] = content["search_result_asins"]
            for group, value in content.get("options", {}).items():
                self._seen.setdefault(content["asin"], {}).setdefault(group, set()).add(value)

    def search(self, words: str, *, k: int = 50) -> list[str]:
        pages = self._found[tuple(words.split(" "))]
        return [product_id for number in range(1, max(pages) + 1) for product_id in pages.get(number, ["-"] * 10)][:k]

    def product(self, product_id: str) -> Product:
        options = {group: tuple(values) for group, values in self._seen.get(product_id, {}).items()}
        return replace(LAMP, id=product_id, options=options)


def action_between(before: Session, page: dict) -> str:
    """Return what the person did to get to `page`."""
    content = page.get("content", {})
    if page["page"] == "index":
        return "click[back to search]"
    if page["page"] == "search_results":
        if before.kind == "item":
            return "click[< prev]"
        on = before.kind == "results" and before.words == tuple(content["keywords"])
        return "click[next >]" if on else f"search[{' '.join(content['keywords'])}]"
    if page["page"] == "item_page":
        new = set(content["options"].items()) - set(before.chosen)
        if before.kind == "results":
            return f"click[{content['asin'].lower()}]"
        return f"click[{new.pop()[1]}]" if new else "click[< prev]"
    return "click[buy now]" if page["page"] == "done" else f"click[{page['url'].split('/')[-2].lower()}]"


def recorded_sessions() -> list[Path]:
    folder = os.environ.get("ARMAP_WEBSHOP_DATA")
    return sorted((Path(folder) / "human_trajs").glob("*.jsonl")) if folder else []


@pytest.mark.skipif(not recorded_sessions(), reason="set ARMAP_WEBSHOP_DATA to a folder with human_trajs/*.jsonl")
def test_recorded_sessions_of_people_replay():
    kinds = {"index": "search", "search_results": "results", "item_page": "item", "item_sub_page": "description"}
    steps = 0
    for path in recorded_sessions():
        pages = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        shop = Shop(Recorded(pages))
        session = Session(pages[0]["goal"]["instruction_text"])
        for page in pages[1:]:
            if page["page"] == "index" and session.kind == "search":
                continue
            session = follow(shop, action_between(session, page), start=session)
            steps += 1
            content = page.get("content", {})
            assert session.kind == kinds.get(page["page"], page["page"])
            if page["page"] == "search_results":
                assert (list(session.words), session.number) == (content["keywords"], content["page"])
                assert shown(shop, session) == content["search_result_asins"]
            elif content:
                assert (session.product_id, dict(session.chosen)) == (content["asin"], content["options"])
        assert session.kind == "done"
    assert steps == 51
