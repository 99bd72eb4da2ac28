import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from tests.envs.webshop.small_shop import GOODS, LAMP, SOFA, TABLE
from tests.envs.webshop.test_products import RAW, official

from armap.envs.webshop.goals import human_goals, official_order, synthetic_goals
from armap.envs.webshop.index import (
    FORMAT,
    Catalogue,
    build,
    official_files,
    open_embedded,
    open_or_build,
    searched_text,
)
from armap.envs.webshop.products import HumanInstruction, read_products
from armap.errors import ConfigError, DataError


def built(folder, products=GOODS, **options):
    build(folder, products, **options)
    return Catalogue(folder)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "armap" / "webshop"


def test_a_catalogue_holds_its_products_in_their_order(tmp_path):
    catalogue = built(tmp_path / "shop")
    assert len(catalogue) == 3
    assert list(catalogue.ids) == [product.id for product in GOODS]
    assert [catalogue.product(name) for name in catalogue.ids] == list(GOODS)
    assert catalogue.ids[-1] == LAMP.id
    assert catalogue.ids[:2] == [SOFA.id, TABLE.id]


@pytest.mark.parametrize("unknown", ["", "B", "B00SOFA0011", "a", "zzzzzzzzzzzzz", "é", "\ud83d", 3])
def test_what_is_not_sold_is_not_found(tmp_path, unknown):
    catalogue = built(tmp_path / "shop")
    assert SOFA.id in catalogue
    assert unknown not in catalogue
    if isinstance(unknown, str):
        with pytest.raises(KeyError):
            catalogue.product(unknown)


def test_a_search_looks_at_title_description_first_bullet_point_and_options(tmp_path):
    assert searched_text(SOFA) == (
        "linen sofa, 3-seat couch for living room a couch of linen. easy to clean "
        "color: grey, dark red, and size: two seats, three | four seats"
    )
    catalogue = built(tmp_path / "shop")
    assert catalogue.search("the couches") == [SOFA.id]
    assert catalogue.search("rectangular") == [TABLE.id]
    assert catalogue.search("solid frame") == []
    assert catalogue.search("oak") == [TABLE.id, LAMP.id]
    assert catalogue.search("oak", k=1) == [TABLE.id]


def test_of_equal_products_the_one_with_the_lower_id_comes_first(tmp_path):
    names = ["b2", "B3", "B10", "a1", "é"]
    catalogue = built(tmp_path / "shop", [replace(LAMP, id=name) for name in names])
    assert catalogue.search("brass") == ["B10", "B3", "a1", "b2", "é"]


def many_goals():
    human = tuple(HumanInstruction(f"want {i}.", ("soft",) if i % 2 else (), ()) for i in range(5))
    options = {"size": ("s", "m", "l"), "color": ("red", "blue"), "fit": ("slim",)}
    return [replace(SOFA, id=f"P{i}", options=options, human_instructions=human) for i in range(6)] + [TABLE]


def test_goals_come_in_the_official_order(tmp_path):
    products = many_goals()
    catalogue = built(tmp_path / "shop", products)
    # Only price limits depend on how goals are drawn.
    for kind, make in (("synthetic", synthetic_goals), ("human", human_goals)):
        expected = official_order(list(make(products, Random(0))))
        found = list(catalogue.goals(kind))
        assert [(goal.product_id, goal.attributes, goal.options) for goal in found] == [
            (goal.product_id, goal.attributes, goal.options) for goal in expected
        ]
        assert [catalogue.goals(kind)[i] for i in range(len(found))] == found


def test_the_limit_of_a_goal_is_stored_and_depends_on_the_seed_alone(tmp_path):
    catalogue = built(tmp_path / "all", many_goals())
    again = built(tmp_path / "again", reversed(many_goals()))
    other = built(tmp_path / "other", many_goals(), seed=1)
    limits = [{(g.product_id, g.price_limit_usd) for g in one.goals("synthetic")} for one in (catalogue, again, other)]
    assert limits[0] == limits[1] != limits[2]
    assert all(goal.price_limit_usd > SOFA.price for goal in catalogue.goals("human"))


def test_the_fingerprint_tells_shops_apart_and_equal_ones_not(tmp_path):
    catalogue = built(tmp_path / "a")
    others = [built(tmp_path / "b", GOODS[:2]), built(tmp_path / "c", seed=1), built(tmp_path / "d", GOODS[::-1])]
    assert catalogue.fingerprint == built(tmp_path / "e").fingerprint
    assert len({catalogue.fingerprint, *(other.fingerprint for other in others)}) == 4
    assert catalogue.name == f"webshop-3-{catalogue.fingerprint[:8]}"


def test_texts_that_are_no_proper_unicode_survive(tmp_path):
    broken = replace(SOFA, title="half a \ud83d face")
    catalogue = built(tmp_path / "shop", [broken])
    assert catalogue.product(SOFA.id) == broken
    assert catalogue.search("half face") == [SOFA.id]


# What must not be opened or built


def test_an_existing_folder_is_not_written_over(tmp_path):
    built(tmp_path / "shop")
    with pytest.raises(ConfigError, match="exists already"):
        build(tmp_path / "shop", GOODS)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"shop could not be written: .*File exists"):
        build(tmp_path / "file" / "shop", GOODS)


def test_a_build_that_fails_leaves_nothing_behind(tmp_path):
    with pytest.raises(DataError, match="two products have the id 'B00LAMP003': numbers 2 and 3"):
        build(tmp_path / "shop", [*GOODS, LAMP])
    with pytest.raises(DataError, match="at least one product"):
        build(tmp_path / "shop", [])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"holds no catalogue of products: catalogue\.json cannot be read"):
        Catalogue(tmp_path)
    (tmp_path / "catalogue.json").write_text('{"name": "mine"}')
    with pytest.raises(DataError, match="does not describe a catalogue"):
        Catalogue(tmp_path)


def test_a_catalogue_of_another_version_is_refused(tmp_path):
    built(tmp_path / "shop")
    manifest = tmp_path / "shop" / "catalogue.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": FORMAT + 1}))
    with pytest.raises(DataError, match=f"is in format {FORMAT + 1}, not {FORMAT}; delete it"):
        Catalogue(tmp_path / "shop")


@pytest.mark.parametrize("damage", [Path.unlink, lambda file: os.truncate(file, file.stat().st_size - 1)])
def test_a_torn_catalogue_is_refused_whichever_file_is_torn(tmp_path, damage):
    names = [file.name for file in built_files(tmp_path / "whole") if file.name != "catalogue.json"]
    assert len(names) > 10
    for name in names:
        build(tmp_path / name, GOODS)
        damage(tmp_path / name / name)
        with pytest.raises(DataError, match=f"is damaged, as {name} has not its"):
            Catalogue(tmp_path / name)


def built_files(folder):
    build(folder, GOODS)
    return sorted(folder.iterdir())


# The official files


def test_official_files_are_built_once_and_opened_by_their_content(tmp_path, cache):
    official(tmp_path / "data", [RAW])
    first = open_or_build(tmp_path / "data")
    assert list(first.ids) == [RAW["asin"]]
    assert first.product(RAW["asin"]) == next(read_products(*official_files(tmp_path / "data")))
    before = sorted(cache.glob("items*"))
    official(tmp_path / "copy", [RAW])
    assert open_or_build(tmp_path / "copy" / "items_shuffle.json").fingerprint == first.fingerprint
    assert sorted(cache.glob("items*")) == before
    official(tmp_path / "copy", [RAW | {"name": "Another Table"}])
    assert open_or_build(tmp_path / "copy").product(RAW["asin"]).title == "Another Table"
    assert open_or_build(tmp_path / "data", seed=1).fingerprint != first.fingerprint


@pytest.mark.parametrize(("unused_h", "survives"), [(1, True), (25, False)])
def test_a_catalogue_of_other_content_is_deleted_when_nobody_opened_it_for_a_day(tmp_path, cache, unused_h, survives):
    official(tmp_path / "data", [RAW])
    open_or_build(tmp_path / "data")
    (old,) = cache.glob("items*")
    for beside in ("items_shuffle-mine", "items_shuffle_1000-0123456789abcdef", "items_shuffle-0123456789abcdef"):
        (cache / beside).mkdir()
    long_ago = time.time() - unused_h * 3600
    os.utime(old / "catalogue.json", (long_ago, long_ago))
    unfinished = cache / ".items_shuffle-0123456789abcdef-k1ll3d"
    unfinished.mkdir()
    os.utime(unfinished, (long_ago, long_ago))
    official(tmp_path / "data", [RAW | {"name": "Another Table"}])
    open_or_build(tmp_path / "data")
    assert old.exists() == unfinished.exists() == survives
    assert len(list(cache.glob("items*"))) == 4 + survives


def test_opening_a_catalogue_keeps_it(tmp_path, cache):
    for name in ("Table", "Chair"):
        official(tmp_path / name, [RAW | {"name": name}])
    open_or_build(tmp_path / "Table")
    (table,) = cache.glob("items*")
    os.utime(table / "catalogue.json", (0, 0))
    open_or_build(tmp_path / "Table")
    open_or_build(tmp_path / "Chair")
    assert table.exists()


def test_the_files_of_one_size_belong_together(tmp_path):
    for name in ("items_shuffle_1000", "items_ins_v2_1000", "items_shuffle", "items_ins_v2", "items_human_ins"):
        (tmp_path / f"{name}.json").touch()
    files = official_files(tmp_path / "items_shuffle_1000.json")
    assert [file.name for file in files] == [
        "items_shuffle_1000.json",
        "items_ins_v2_1000.json",
        "items_human_ins.json",
    ]
    (tmp_path / "items_human_ins_1000.json").touch()
    assert official_files(tmp_path / "items_shuffle_1000.json").human == tmp_path / "items_human_ins_1000.json"
    with pytest.raises(ConfigError, match=r"holds items_shuffle\.json, items_shuffle_1000\.json; name the one"):
        official_files(tmp_path)


def test_missing_official_files_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"holds no items_shuffle\*\.json"):
        official_files(tmp_path)
    with pytest.raises(ConfigError, match="name WebShop's file of products"):
        official_files(tmp_path / "absent.json")
    (tmp_path / "items_shuffle_7.json").touch()
    with pytest.raises(ConfigError, match=r"items_ins_v2_7\.json is missing"):
        official_files(tmp_path)
    (tmp_path / "items_ins_v2_7.json").touch()
    assert official_files(tmp_path).human is None


def test_two_processes_may_build_the_same_at_once(tmp_path, cache):
    official(tmp_path / "data", [RAW | {"asin": f"B{i}"} for i in range(200)])
    program = (
        "import sys; from pathlib import Path; from armap.envs.webshop.index import open_or_build; "
        "print(open_or_build(Path(sys.argv[1])).fingerprint)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "data")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    fingerprints = {process.communicate()[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert len(fingerprints) == 1
    assert [folder.name for folder in cache.iterdir() if folder.name.startswith(".")] == []


def test_the_catalogue_of_the_package_opens_without_any_file(cache):
    catalogue = open_embedded()
    assert len(catalogue) >= 1000
    assert open_embedded().fingerprint == catalogue.fingerprint
    product = catalogue.product(catalogue.ids[0])
    assert product.id in catalogue.search(product.title, k=5)


@pytest.mark.skipif(
    "ARMAP_WEBSHOP_DATA" not in os.environ,
    reason="set ARMAP_WEBSHOP_DATA to a folder with WebShop's files of 1,000 products to check their numbers",
)
def test_the_1000_official_products_have_6910_synthetic_goals(cache):
    catalogue = open_or_build(Path(os.environ["ARMAP_WEBSHOP_DATA"]))
    assert len(catalogue) == 1000
    assert len(catalogue.goals("synthetic")) == 6910
