"""Scores through the service, against those of the same reward model in this process."""

import asyncio
import math
import os
import signal
from dataclasses import replace

import httpx
import pytest
from PIL import Image

pytest.importorskip("torch", reason="the local extra is not installed: no transformer reward model is served")

from armap.errors import RewardModelError, UnavailableError
from armap.images import ImageFolder
from armap.reward_models import remarks
from armap.rewards.http import HTTPRewardModel
from armap.rewards.linear import LinearRewardModel
from armap.rewards.rendering import render
from armap.rewards.transformer import TransformerRewardModel
from armap.serve.batching import Batcher
from armap.types import Action, Observation, Step, Task, Trajectory
from rewards.toy_pairs import toy_pairs, toy_trajectories
from serve.process import served
from tiny_model import make_tiny_model, plain_scores

TRAJECTORIES = toy_trajectories(60, 2)

ODD = [
    "",
    " \t\n\r\n ",
    "Action: take the red cube",
    "Thought: take\nAction: leave",
    "Was the task done?",
    "<end> <|im_end|> <unknown>",
    "\u2028\u2029\u0085\ufeff\u200b\u200d",
    "e\u0301 é ﬁ ½ ①",
    "\u202ered\u202c العربية 日本語",
    "🧑‍🚀🇳🇴👩‍👩‍👧",
    "\x00\x01\x7f\ufffd\U0010ffff",
    '"\\" \\u0041 {"text": "cube"} </s>',
    "red " * 60,
]


def odd_trajectory(number: int) -> Trajectory:
    """A trajectory with odd texts everywhere."""
    texts = iter((ODD[number:] + ODD) * 3)
    steps = tuple(
        Step(observation=Observation(text=next(texts)), action=Action(text=next(texts), thought=next(texts)))
        for _ in range(number % 4)
    )
    return Trajectory(
        id=f"odd {number}",
        task=Task(id="odd", env="odd", instruction=next(texts)),
        steps=steps,
        final_observation=Observation(text=next(texts)),
        stop_reason="truncated",
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A reward model that has to shorten some of what it reads."""
    folder = tmp_path_factory.mktemp("reward_model")
    backbone = make_tiny_model(folder / "backbone")
    TransformerRewardModel.from_backbone(backbone, seed=1, max_tokens=200).save(folder / "judge")
    return folder / "judge"


@pytest.fixture(scope="module")
def local(folder):
    return TransformerRewardModel.load(folder)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="module")
def server(folder, scratch):
    environment = os.environ | {"MY_TOKEN": "s3cret", "TMPDIR": str(scratch)}
    command = ("serve", "--reward-model", str(folder), "--port", "0", "--token-env", "MY_TOKEN")
    with served("-m", "armap.cli", *command, environment=environment) as server:
        yield server


@pytest.fixture
async def remote(server):
    model = HTTPRewardModel(server.address, token="s3cret")
    yield model
    await model.close()


@pytest.fixture
async def client(server):
    headers = {"Authorization": "Bearer s3cret"}
    async with httpx.AsyncClient(base_url=server.address, headers=headers, timeout=60) as client:
        yield client


async def test_the_service_scores_as_the_reward_model_does_here(remote, local):
    assert await remote.score(TRAJECTORIES) == pytest.approx(await local.score(TRAJECTORIES), abs=1e-5)


async def test_what_is_served_is_read_once(local):
    batcher = Batcher(local, waiting=9, batch=4)
    work = asyncio.create_task(batcher.run())
    before = local.reader.count
    found = await batcher.score(TRAJECTORIES[:9])
    work.cancel()
    assert local.reader.count == before + 9
    assert [one.score for one in found] == pytest.approx(await local.score(TRAJECTORIES[:9]), abs=1e-5)


async def test_odd_texts_are_scored_as_they_are_here(remote, local):
    odd = [odd_trajectory(number) for number in range(40)]
    assert await remote.score(odd) == pytest.approx(await local.score(odd), abs=1e-5)


async def test_long_trajectories_are_shortened_as_they_are_here(remote, local):
    (one,) = toy_trajectories(1, 0)
    first = replace(one.steps[0], observation=Observation(text="red cube " * 200))
    long = [one.model_copy(update={"steps": (first,) * n + one.steps}) for n in (1, 2, 5)]
    shortened = local.reader.shortened
    here = await local.score(long)
    assert local.reader.shortened == shortened + 3
    assert await remote.score(long) == pytest.approx(here, abs=1e-5)


async def test_what_was_shortened_is_told_whoever_asks(server, remote, client):
    (one,) = toy_trajectories(1, 0)
    page = replace(one.steps[0], observation=Observation(text="red cube " * 200))
    wordy = replace(one.steps[0], action=Action(text="red cube " * 200))
    trajectories = [one, *(one.model_copy(update={"steps": (step, *one.steps)}) for step in (page, wordy))]
    before = await counted(client)
    await remote.score(trajectories)
    said = remarks(remote)
    assert said[0].startswith(f"2 of 3 trajectories were longer than what {server.address} reads; ")
    assert said[1].startswith("Of 1 of these whole steps were left out")
    assert len(said) == 2
    after = await counted(client)
    assert after["armap_shortened_total"] - before["armap_shortened_total"] == 2
    assert after["armap_without_steps_total"] - before["armap_without_steps_total"] == 1
    messages = [{"role": "user", "content": text} for text in ("red", "red cube " * 200)]
    for asked, shortened in (({"messages": messages}, "1"), ({"input": ["red", "cube"]}, "0")):
        for route in ("/classify", "/pooling"):
            assert (await client.post(route, json=asked)).headers["X-Armap-Shortened"] == shortened


@pytest.mark.parametrize("kind", ["transformer", "linear"])
async def test_pictures_for_a_model_that_sees_none_cost_nothing_and_are_told(folder, tmp_path, kind):
    if kind == "linear":
        folder = tmp_path / "judge"
        LinearRewardModel.fit(toy_pairs(10, 0), seed=0).save(folder)
    images = ImageFolder(tmp_path / "images")
    Image.new("RGB", (3, 2)).save(tmp_path / "a.png")
    (one,) = toy_trajectories(1, 0)
    seen = Observation(text=one.final_observation.text, image=images.add((tmp_path / "a.png").read_bytes()))
    with served("-m", "armap.cli", "serve", "--reward-model", str(folder), "--port", "0") as server:
        model = HTTPRewardModel(server.address, images=images)
        plain, pictured = await model.score([one, one.model_copy(update={"final_observation": seen})])
        await model.close()
        async with httpx.AsyncClient(base_url=server.address) as client:
            found = await counted(client)
    assert plain == pictured
    assert remarks(model) == [f"1 pictures were not read by {server.address}: it sees none, or not so many."]
    assert found["armap_unread_pictures_total"] == 1


async def test_what_cannot_be_shortened_enough_is_an_error(remote):
    (one,) = toy_trajectories(1, 0)
    long = one.model_copy(update={"task": one.task.model_copy(update={"instruction": "red " * 300})})
    with pytest.raises(RewardModelError, match="longer than the reward model can read"):
        await remote.score([long])


async def test_texts_are_scored_as_transformers_alone_would(client, folder):
    texts = [
        "Task: red cube",
        *(render(one) for one in TRAJECTORIES[:10]),
        *(text for text in ODD if text.strip() and "<" not in text),
    ]
    answer = (await client.post("/classify", json={"input": texts})).json()
    found = [one["probs"][0] for one in answer["data"]]
    assert found == pytest.approx(plain_scores(folder, texts), abs=1e-5)
    activated = (await client.post("/pooling", json={"input": texts, "use_activation": True})).json()
    assert [one["data"][0] for one in activated["data"]] == pytest.approx(
        [1 / (1 + math.exp(-score)) for score in found], abs=1e-6
    )


async def test_tokens_are_counted(client, local):
    answer = (await client.post("/classify", json={"input": [render(one) for one in TRAJECTORIES[:3]]})).json()
    assert answer["usage"]["prompt_tokens"] == sum(len(local.token_ids(one)) for one in TRAJECTORIES[:3])
    found = await counted(client)
    # What they share was computed once.
    assert 0 < found["armap_computed_tokens_total"] < found["armap_read_tokens_total"]


async def counted(client: httpx.AsyncClient) -> dict[str, float]:
    lines = [line.split() for line in (await client.get("/metrics")).text.splitlines()]
    return {name: float(value) for name, value, *_ in lines if name.endswith("_total")}


async def test_many_planners_at_once_get_their_own_scores(remote, local):
    here = await local.score(TRAJECTORIES)
    asked = [TRAJECTORIES[i : i + 6] for i in range(0, 60, 3)]
    found = await asyncio.gather(*(remote.score(some) for some in asked))
    for i, scores in enumerate(found):
        assert scores == pytest.approx(here[3 * i : 3 * i + 6], abs=1e-5)


async def test_the_token_is_asked_for(server):
    model = HTTPRewardModel(server.address)
    with pytest.raises(UnavailableError, match="ARMAP_SERVE_TOKEN"):
        await model.score(TRAJECTORIES[:1])
    await model.close()


async def test_the_model_is_named_after_its_folder_and_nothing_says_where_that_is(client, folder):
    for path in ("/v1/models", "/openapi.json", "/metrics", "/health", "/nowhere"):
        assert str(folder.parent) not in (await client.get(path)).text
    assert (await client.get("/v1/models")).json()["data"][0]["id"] == "judge"


def test_the_service_ends_when_told_to_and_leaves_nothing_behind(server, scratch):
    assert list(scratch.glob("armap-*"))
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(timeout=60)
    assert "Traceback" not in server.process.stdout.read()
    assert server.process.returncode == 0
    assert not list(scratch.glob("armap-*"))
