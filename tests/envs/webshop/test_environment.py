import json
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from armap.envs.play import play
from armap.envs.webshop.environment import WebShop
from armap.envs.webshop.goals import official_order
from armap.envs.webshop.index import Catalogue, build
from armap.envs.webshop.pages import Page
from armap.envs.webshop.splits import SPLITS, evaluation_tasks, parse_task, tasks, training_tasks
from armap.envs.webshop.tagger import RuleTagger
from armap.errors import ConfigError, EnvError
from armap.images import ImageFolder
from armap.protocols import Environment, HindsightWriter, Snapshots
from armap.types import Task, Trajectory

from .small_shop import GOODS, SOFA

GREY_SOFA = ("search[sofa]", "click[b00sofa001]", "click[grey]", "click[two seats]", "click[buy now]")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop") / "catalogue"
    build(folder, GOODS)
    return folder


@pytest.fixture(scope="module")
def catalogue(folder: Path) -> Catalogue:
    return Catalogue(folder)


@pytest.fixture(scope="module")
def make(catalogue: Catalogue) -> Callable[..., WebShop]:
    return partial(WebShop, catalogue, tagger=RuleTagger())


@pytest.fixture(scope="module")
def task(catalogue: Catalogue) -> Task:
    """The task of buying the grey sofa with two seats."""
    wanted = {"color": "grey", "size": "two seats"}
    (found,) = (task for task in evaluation_tasks(catalogue, "0-3") if task.config["options"] == wanted)
    return found


def test_an_episode_reads_as_documented(make, task):
    environment = make()
    start = environment.reset(task)
    assert start.text == f"WebShop [SEP] Instruction: [SEP] {task.instruction} [SEP] Search"
    assert start.actions is None
    results = [environment.step(action) for action in GREY_SOFA]
    assert results[0].observation.actions == ("click[back to search]", "click[next >]", "click[b00sofa001]")
    assert "click[three | four seats]" in results[1].observation.actions
    assert [result.env_reward for result in results] == [0, 0, 0, 0, 1]
    last = results[-1]
    assert (last.terminated, last.truncated, last.observation.actions) == (True, False, None)
    assert last.observation.text == (
        "Thank you for shopping with us! [SEP] You bought: Linen Sofa, 3-Seat Couch for Living Room "
        "[SEP] color: grey [SEP] size: two seats [SEP] Price: $199.99"
    )
    assert last.metrics == {"price": 199.99, "steps": 5}


def test_the_last_observation_is_the_same_whatever_was_asked_for(make, catalogue):
    played = [play(make(), task, GREY_SOFA) for task in evaluation_tasks(catalogue, "0-3")]
    assert len({trajectory.final_observation.text for trajectory in played}) == 1
    assert {trajectory.env_reward for trajectory in played} == {1, 0.8, 0.6}


@pytest.mark.parametrize("action", ["", "click[buy now]", "search[]", "buy", "click[search]", "\ud800", "[" * 100_000])
def test_an_illegal_action_says_what_may_be_written_and_changes_nothing(make, task, action):
    environment = make()
    start = environment.reset(task)
    answer = environment.step(action)
    assert answer.observation.text.startswith("Illegal action: write search[words], or click[thing]")
    assert answer.observation.text.endswith(start.text)
    assert (answer.env_reward, answer.terminated, answer.truncated) == (0, False, False)
    assert not environment.step("search[sofa]").observation.text.startswith("Illegal")


def test_the_step_limit_cuts_an_episode_off(make, task):
    environment = make()
    environment.reset(task)
    results = [environment.step("search[sofa]") for _ in range(15)]
    assert [result.truncated for result in results] == [False] * 14 + [True]
    assert results[-1].observation.actions is None
    with pytest.raises(EnvError, match="reset"):
        environment.step("search[sofa]")
    environment.reset(task.model_copy(update={"config": {**task.config, "step_limit": 5}}))
    last = [environment.step(action) for action in GREY_SOFA][-1]
    assert (last.terminated, last.truncated) == (True, False)


def test_every_kind_of_observation_shows_the_same_shop(make, task):
    texts = {kind: play(make(observation=kind), task, GREY_SOFA) for kind in ("text", "text_rich", "html")}
    assert len({trajectory.env_reward for trajectory in texts.values()}) == 1
    assert "[clicked button] grey [clicked button_]" in texts["text_rich"].steps[4].observation.text
    assert "<html" in texts["html"].steps[1].observation.text
    for trajectory in texts.values():
        assert all(task.instruction.split(" with ")[1] in step.observation.text for step in trajectory.steps)


def test_each_observation_carries_the_picture_of_its_page(make, task, tmp_path):
    images = ImageFolder(tmp_path)
    trajectory = play(make(images=images), task, GREY_SOFA)
    pictures = [step.observation.image for step in trajectory.steps] + [trajectory.final_observation.image]
    assert all(picture is not None for picture in pictures)
    assert len({picture.sha256 for picture in pictures}) == len(pictures)
    assert all(images.read(picture) for picture in pictures)


def test_a_painter_of_ones_own_paints_the_pages(make, task, tmp_path):
    painted: list[Page] = []
    png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\2\0\0\0\3" + b"\0" * 20

    def paint(page: Page) -> bytes:
        painted.append(page)
        return png

    trajectory = play(make(images=ImageFolder(tmp_path), painter=paint), task, GREY_SOFA)
    assert [page.kind for page in painted] == ["search", "results", "item", "item", "item", "done"]
    assert (trajectory.final_observation.image.width_px, trajectory.final_observation.image.height_px) == (2, 3)


# Tasks


def test_tasks_have_the_official_numbers_and_the_wording_of_their_goals(catalogue, task):
    assert [one.instruction for one in tasks(catalogue, "test")] == [
        goal.instruction for goal in catalogue.goals("synthetic")
    ]
    assert [one.id for one in tasks(catalogue, "test")] == [f"synthetic {number}" for number in range(4)]
    (human,) = tasks(catalogue, "human-test")
    assert (human.id, human.config["options"]) == ("human 0", ["grey"])
    assert play(WebShop(catalogue), human, GREY_SOFA).env_reward == 1


def test_a_task_survives_storage(make, task):
    again = Task.model_validate_json(task.model_dump_json())
    assert play(make(), again, GREY_SOFA).env_reward == 1


def test_splits_by_name_share_no_task(tmp_path):
    build(tmp_path / "big", [replace(SOFA, id=f"B0{i:06}") for i in range(160)])
    big = Catalogue(tmp_path / "big")
    assert len(tasks(big, "test")) == 500
    assert len(tasks(big, "train")) == 140
    assert {one.id for one in tasks(big, "test")}.isdisjoint(one.id for one in tasks(big, "train"))
    assert len(tasks(big, "human-test")) == 160
    assert [one.id for one in training_tasks(big, exclude=tasks(big, "test"))] == [
        f"synthetic {number}" for number in range(500, 640)
    ]
    assert len(training_tasks(big, exclude=evaluation_tasks(big, "500-509"))) == 130
    assert {split for split in SPLITS if split.startswith("human")} == {"human-test", "human-test-500", "human-train"}
    order = official_order(range(640))
    assert parse_task(big, "0").config["product_id"] == f"B0{order[0] // 4:06}"


@pytest.mark.parametrize("text", ["1", "synthetic 1", " 1 "])
def test_a_typed_number_is_a_task(catalogue, text):
    assert parse_task(catalogue, text) == evaluation_tasks(catalogue, "0-3")[1]


def test_a_typed_number_of_a_persons_goal_is_a_task(catalogue):
    assert [parse_task(catalogue, "human 0")] == evaluation_tasks(catalogue, "human 0-0")


@pytest.mark.parametrize("text", ["4", "human 1", "sofa", "", "-1", "1.5", "human"])
def test_what_is_no_goal_is_refused(catalogue, text):
    with pytest.raises(ConfigError):
        parse_task(catalogue, text)


@pytest.mark.parametrize("text", ["0-4", "2-1", "dev", "", "3", "human 0-1", "-", "0-", "train", "human-train"])
def test_what_selects_no_tasks_is_refused(catalogue, text):
    with pytest.raises(ConfigError):
        evaluation_tasks(catalogue, text)


@pytest.mark.parametrize(
    "change",
    [
        {"catalogue": "another"},
        {"product_id": "B0NOTHING"},
        {"product_id": None},
        {"attributes": "easy clean"},
        {"options": 3},
        {"price_limit_usd": 0},
        {"price_limit_usd": float("nan")},
        {"step_limit": 0},
        {"step_limit": True},
        {"colour": "red"},
    ],
)
def test_a_task_that_is_malformed_or_of_another_catalogue_is_refused(make, task, change):
    environment = make()
    with pytest.raises(EnvError, match=r"^webshop cannot start task 'synthetic \d': "):
        environment.reset(task.model_copy(update={"config": {**task.config, **change}}))


# Hindsight


def test_a_purchase_is_the_task_of_buying_just_that(make, task, catalogue):
    table = play(make(), task, ("search[table]", "click[b00table02]", "click[round]", "click[buy now]"))
    assert table.env_reward < 1
    hindsight = make().hindsight_task(table)
    assert hindsight.instruction.startswith("Find me solid wood tables with shape: round, and price lower than ")
    assert (hindsight.env, hindsight.split) == ("webshop", task.split)
    assert hindsight.config["catalogue"] == catalogue.fingerprint
    assert play(make(), hindsight, table.actions).env_reward == 1
    detour = ("search[oak]", "click[next >]", "click[< prev]", *table.actions)
    assert make().hindsight_task(play(make(), task, detour)) == hindsight
    assert make().hindsight_task(play(make(), hindsight, table.actions)) == hindsight


def test_nothing_bought_is_no_task(make, task):
    environment = make()
    short = task.model_copy(update={"config": {**task.config, "step_limit": 2}})
    assert environment.hindsight_task(play(environment, short, ("search[sofa]", "click[b00sofa001]"))) is None


def test_a_purchase_that_a_quirk_spoils_is_no_task(make, task):
    spoiled = ("search[table]", "click[b00table02]", "click[rectangular]", "click[buy now]")
    assert make().hindsight_task(play(make(), task, spoiled)) is None
    plain = make(faithful=False)
    assert play(plain, plain.hindsight_task(play(plain, task, spoiled)), spoiled).env_reward == 1


# The contract of environments, on the catalogue that comes with the package


@pytest.fixture(scope="module")
def shop() -> WebShop:
    return WebShop(tagger=RuleTagger())


@pytest.fixture(scope="module")
def training(shop: WebShop) -> list[Task]:
    return tasks(shop.catalogue, "train")


def random_trajectory(shop: WebShop, task: Task, rng: Random) -> Trajectory:
    observation = shop.reset(task)
    actions: list[str] = []
    while True:
        searches = [f"search[{' '.join(rng.sample(task.instruction.split(), 3))}]"]
        # Buying is drawn as often as all other clicks together, so that many episodes end with it.
        buy = [action for action in observation.actions or () if action == "click[buy now]"]
        actions.append(rng.choice(rng.choice([observation.actions or searches, buy or searches])))
        result = shop.step(actions[-1])
        observation = result.observation
        if result.terminated or result.truncated:
            return play(shop, task, actions)


@given(st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_a_random_shopper_meets_the_contract(shop, training, rng):
    assert isinstance(shop, HindsightWriter)
    task = rng.choice(training)
    trajectory = random_trajectory(shop, task, rng)
    assert play(WebShop(tagger=RuleTagger()), task, trajectory.actions) == trajectory
    assert all(step.env_reward == 0 for step in trajectory.steps[:-1])
    assert 0 <= trajectory.env_reward <= 1
    hindsight = shop.hindsight_task(trajectory)
    if hindsight is None:
        assert trajectory.stop_reason == "truncated"
        return
    again = play(shop, hindsight, trajectory.actions)
    assert again.env_reward == 1
    assert again.final_observation == trajectory.final_observation
    assert shop.hindsight_task(again) == hindsight
    for step, other in zip(again.steps, trajectory.steps, strict=True):
        assert step.observation.text == other.observation.text.replace(task.instruction, hindsight.instruction)


@given(st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_two_shoppers_bought_the_same_exactly_when_their_hindsight_tasks_are_equal(shop, training, rng):
    task = rng.choice(training[:3])
    one, other = (random_trajectory(shop, task, rng) for _ in range(2))
    hindsight = shop.hindsight_task(one), shop.hindsight_task(other)
    if None not in hindsight and hindsight[0] == hindsight[1]:
        assert one.final_observation == other.final_observation
    if hindsight[0] is not None and one.final_observation == other.final_observation:
        assert hindsight[0].instruction == hindsight[1].instruction


@given(st.randoms(use_true_random=False), st.integers(0, 14))
@settings(max_examples=30, deadline=None)
def test_a_snapshot_leads_back_in_another_environment(shop, training, rng, at):
    assert isinstance(shop, Snapshots)
    task = rng.choice(training)
    trajectory = random_trajectory(shop, task, rng)
    at = min(at, len(trajectory.actions) - 1)
    shop.reset(task)
    for action in trajectory.actions[:at]:
        shop.step(action)
    snapshot = pickle.dumps(shop.snapshot())
    rest = [shop.step(action) for action in trajectory.actions[at:]]
    assert len(snapshot) < 3000
    other = WebShop(tagger=RuleTagger())
    other.restore(pickle.loads(snapshot))
    assert [other.step(action) for action in trajectory.actions[at:]] == rest


def test_what_is_no_snapshot_is_refused(make):
    with pytest.raises(EnvError, match="snapshot"):
        make().restore({"page": 1})


def test_the_factory_can_be_sent_to_another_process(folder, task):
    make = pickle.loads(pickle.dumps(partial(WebShop, folder, observation="text_rich")))
    environment: Environment = make()
    assert play(environment, task, GREY_SOFA).env_reward == 1
    environment.close()


def test_builds_differ_where_behaviour_does(make, shop):
    builds = {one.build for one in (make(), make(observation="html"), make(faithful=False), shop)}
    assert len(builds) == 4
    assert "rules" in make().build


def test_rules_and_examples_are_short_and_the_examples_succeed(shop):
    assert 0 < len(shop.rules) < 400
    for kind in ("text", "text_rich"):
        (example,) = WebShop(observation=kind).examples
        assert example.env_reward == 1
        assert example.task.id not in {task.id for task in tasks(shop.catalogue, "test")}
        assert len(example.steps) <= 6
        assert len(json.dumps([step.observation.text for step in example.steps])) < 6000


def test_every_goal_of_a_sample_can_be_fulfilled(shop):
    rng = Random(0)
    for task in rng.sample(tasks(shop.catalogue, "test"), 40):
        product = shop.catalogue.product(task.config["product_id"])
        shop.reset(task)
        shop.step(f"search[{product.title}]")
        shop.step(f"click[{product.id}]")
        for value in task.config["options"].values():
            shop.step(f"click[{value}]")
        assert shop.step("click[buy now]").env_reward == 1


@pytest.mark.skipif("ARMAP_WEBSHOP_DATA" not in os.environ, reason="set ARMAP_WEBSHOP_DATA to WebShop's official files")
def test_the_1000_official_products_have_their_6910_goals():
    official = WebShop(Path(os.environ["ARMAP_WEBSHOP_DATA"]), tagger=RuleTagger())
    assert (len(official.catalogue), len(official.catalogue.goals("synthetic"))) == (1000, 6910)
    assert len(tasks(official.catalogue, "train")) == 6410
    # The first goals of the original, but for the price limit, which it draws anew at every start.
    assert [task.instruction.partition(", and price")[0] for task in tasks(official.catalogue, "test")[:4]] == [
        'Find me double sided, machine washable decorative pillows with printing technology with size: 28" x 28"',
        "Find me butt lifting, light weight women's shorts with high waist, tummy control with color: black, "
        "and size: 3x-large",
        "Find me ready hang wall art with solid wood for living room with color: turtles and african american couple, "
        "and size: 8x10 inch",
        "Find me dual band streaming media players with quad core",
    ]
