"""Against a server that misbehaves as a script says; scores of a real one are in `tests/serve/test_scores.py`."""

import asyncio
import base64
from collections.abc import Sequence

import pytest
from PIL import Image

from armap.errors import ArmapError, ConfigError, RewardModelError, UnavailableError
from armap.images import ImageFolder
from armap.rewards.http import HTTPRewardModel
from armap.types import Observation, Trajectory
from llms.hostile_server import (
    HostileServer,
    body,
    dripping_body,
    endless_body,
    half_body,
    half_chunked_body,
    hang_up,
    late,
    refusal,
    reset,
)

from .toy_pairs import toy_trajectories

TRAJECTORIES = toy_trajectories(12, 1)


def scored(*probs: object):
    """What vLLM answers."""
    return body({"object": "list", "data": [{"index": 0, "label": "LABEL_0", "probs": list(probs), "num_classes": 1}]})


async def count_messages(request, writer):
    """Scores a conversation by its length and its last message."""
    await scored(len(request["messages"]) + len(request["messages"][-1]["content"]) / 1000)(request, writer)


async def scores(server: HostileServer, trajectories: Sequence[Trajectory], **settings: object) -> list[float]:
    model = HTTPRewardModel(f"http://{server.address}", **({"backoff_s": 0.001} | settings))
    try:
        return await model.score(trajectories)
    finally:
        await model.close()


async def score(server: HostileServer, **settings: object) -> float:
    (found,) = await scores(server, TRAJECTORIES[:1], **settings)
    return found


async def complaint(server: HostileServer, error: type[ArmapError] = RewardModelError, **settings: object) -> str:
    with pytest.raises(error) as caught:
        await score(server, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Asking


async def test_a_trajectory_is_asked_about_as_a_conversation_and_without_activation():
    async with HostileServer(otherwise=scored(0.25)) as server:
        assert await score(server, model="judge", token="t0ken") == 0.25
    (request,) = server.requests
    (trajectory, *_) = TRAJECTORIES
    assert (request["use_activation"], request["model"], server.targets) == (False, "judge", ["/classify"])
    assert server.headers[0]["authorization"] == "Bearer t0ken"
    assert [message["role"] for message in request["messages"]] == [
        "system",
        *["user", "assistant"] * len(trajectory.steps),
        "user",
    ]
    assert request["messages"][0]["content"] == trajectory.task.instruction
    assert request["messages"][2]["content"] == f"Action: {trajectory.steps[0].action.text}"
    assert request["messages"][-1]["content"] == trajectory.final_observation.text


async def test_nothing_is_said_about_the_model_or_a_token_unless_they_are_given():
    async with HostileServer(otherwise=scored(1)) as server:
        await score(server)
    assert "model" not in server.requests[0]
    assert "authorization" not in server.headers[0]


async def test_pictures_are_sent_along_before_the_text_they_belong_to(tmp_path):
    Image.new("RGB", (3, 2)).save(tmp_path / "a.png")
    images = ImageFolder(tmp_path / "images")
    png = (tmp_path / "a.png").read_bytes()
    seen = Observation(text="the end", image=images.add(png))
    trajectory = TRAJECTORIES[0].model_copy(update={"final_observation": seen})
    async with HostileServer(otherwise=scored(1)) as server:
        await scores(server, [trajectory], images=images)
        with pytest.raises(ConfigError, match="no folder to read them from"):
            await scores(server, [trajectory])
    picture, text = server.requests[0]["messages"][-1]["content"]
    assert text == {"type": "text", "text": "the end"}
    assert base64.b64decode(picture["image_url"]["url"].removeprefix("data:image/png;base64,")) == png


async def test_scores_come_in_the_order_of_the_trajectories_whoever_is_answered_first():
    script = [late(0.3 - 0.02 * i, count_messages) for i in range(12)]
    async with HostileServer(script) as server:
        found = await scores(server, TRAJECTORIES)
    expected = [2 * len(one.steps) + 2 + len(one.final_observation.text) / 1000 for one in TRAJECTORIES]
    assert found == pytest.approx(expected)


async def test_nothing_to_score_has_no_scores():
    async with HostileServer() as server:
        assert await scores(server, []) == []


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({}, []),
        ({"X-Armap-Shortened": "0", "X-Armap-Unread-Pictures": "0"}, []),
        ({"X-Armap-Shortened": "-1", "X-Armap-Without-Steps": "many", "X-Armap-Unread-Pictures": "9" * 5000}, []),
        ({"X-Armap-Shortened": "1"}, ["3 of 3 trajectories were longer than what"]),
        ({"x-armap-unread-pictures": "2"}, ["6 pictures were not read by"]),
    ],
)
async def test_what_a_server_says_that_it_did_not_read_is_told_and_one_that_says_nothing_is_fine(headers, said):
    async with HostileServer(otherwise=body({"data": [{"probs": [1]}]}, headers=headers)) as server:
        model = HTTPRewardModel(f"http://{server.address}")
        assert await model.score(TRAJECTORIES[:3]) == [1, 1, 1]
        await model.close()
    found = model.remarks()
    assert len(found) == len(said)
    assert all(one.startswith(start) for one, start in zip(found, said, strict=True))


async def test_no_more_requests_are_on_their_way_than_allowed():
    async with HostileServer(otherwise=late(0.02, scored(1))) as server:
        await scores(server, TRAJECTORIES, concurrency=3)
    assert server.most_at_once == 3


# What passes


@pytest.mark.parametrize("trouble", [hang_up, reset, half_body, half_chunked_body])
async def test_a_broken_connection_is_tried_again(trouble):
    async with HostileServer([trouble, trouble], otherwise=scored(2)) as server:
        assert await score(server) == 2


@pytest.mark.parametrize("status", [408, 425, 429, 502, 503, 504])
async def test_what_a_server_says_will_pass_is_tried_again(status):
    async with HostileServer([refusal(status)] * 3, otherwise=scored(2)) as server:
        assert await score(server) == 2
    assert len(server.requests) == 4


@pytest.mark.parametrize("asked", ["0.3", "1"])
async def test_a_server_is_left_alone_for_as_long_as_it_asks(asked):
    async with HostileServer([refusal(503, Retry_After=asked)], otherwise=scored(2)) as server:
        started = asyncio.get_running_loop().time()
        assert await score(server) == 2
        assert asyncio.get_running_loop().time() - started >= float(asked) - 0.01


@pytest.mark.parametrize("header", ["soon", "-5", "1e3", "Thu, 01 Jan 1970 00:00:00 GMT", "\u00b2"])
async def test_a_retry_after_that_says_nothing_is_not_heeded(header):
    async with HostileServer([refusal(503, Retry_After=header)], otherwise=scored(2)) as server:
        assert await score(server) == 2


async def test_a_server_that_hangs_is_tried_again():
    async with HostileServer([late(30, scored(1)), dripping_body], otherwise=scored(2)) as server:
        assert await score(server, timeout_s=0.5) == 2


async def test_patience_ends():
    async with HostileServer(otherwise=refusal(503, "too much is waiting")) as server:
        said = await complaint(server, UnavailableError, patience_s=0.5)
    assert "no score within 0.5 s; the last attempt brought HTTP 503 (too much is waiting)" in said


async def test_patience_ends_before_a_far_away_retry_after():
    async with HostileServer(otherwise=refusal(503, Retry_After="3600")) as server:
        assert "within 0.5 s" in await complaint(server, UnavailableError, patience_s=0.5)


async def test_a_server_that_went_away_for_good_ends_the_work():
    async with HostileServer(otherwise=scored(1)) as server:
        model = HTTPRewardModel(f"http://{server.address}", patience_s=0.5, backoff_s=0.001)
        assert await model.score(TRAJECTORIES[:1]) == [1]
    with pytest.raises(UnavailableError, match=r"ConnectError.* Start again to go on from here"):
        await model.score(TRAJECTORIES[:1])
    await model.close()


async def test_a_server_that_never_was_there_is_the_users_to_start():
    async with HostileServer() as server:
        pass
    with pytest.raises(ConfigError, match=r"Nobody answers at .*; start the reward model's server first"):
        await score(server)


# What does not pass


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (400, "HTTP 400 (no)"),
        (413, "HTTP 413"),
        (422, "HTTP 422"),
        (500, "HTTP 500"),
        (302, "HTTP 302"),
    ],
)
async def test_a_refusal_is_not_argued_with(status, said):
    async with HostileServer(otherwise=refusal(status)) as server:
        assert said in await complaint(server)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (401, "put the server's token into ARMAP_SERVE_TOKEN"),
        (403, "put the server's token into ARMAP_SERVE_TOKEN"),
        (404, "name the server's root"),
    ],
)
async def test_a_refusal_of_whoever_asks_is_about_no_trajectory(status, advice):
    async with HostileServer(otherwise=refusal(status)) as server:
        assert advice in await complaint(server, UnavailableError)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"not json",
        b"[" * 50_000,
        b'{"data": [{"probs": [NaN]}]}',
        b'{"data": [{"probs": [Infinity]}]}',
        b'{"data": [{"probs": [1e999]}]}',
        b'{"data": [{"probs": ["1.0"]}]}',
        b'{"data": [{"probs": [true]}]}',
        b'{"data": [{"probs": [null]}]}',
        b'{"data": [{"probs": []}]}',
        b'{"data": [{"probs": 1.0}]}',
        b'{"data": [{}]}',
        b'{"data": []}',
        b'{"data": [{"probs": [1.0]}, {"probs": [1.0]}]}',
        b"{}",
        b"[1.0]",
        b"\xff",
    ],
)
async def test_an_answer_without_one_finite_score_is_an_error(answer):
    async with HostileServer(otherwise=body(answer)) as server:
        assert "gave no score" in await complaint(server)
    assert len(server.requests) == 1


async def test_a_model_with_two_labels_is_no_reward_model():
    async with HostileServer(otherwise=scored(0.3, 0.7)) as server:
        assert "2 scores, while a reward model has one" in await complaint(server)


@pytest.mark.parametrize("status", [200, 400])
async def test_an_endless_answer_is_not_read_to_its_end(status):
    async with HostileServer(otherwise=endless_body(status)) as server:
        assert "more than 1,048,576 bytes" in await complaint(server)


async def test_one_trajectory_without_a_score_ends_the_whole_call_at_once():
    async with HostileServer([refusal(400)], otherwise=late(60, scored(1))) as server:
        with pytest.raises(RewardModelError, match="HTTP 400"):
            await asyncio.wait_for(scores(server, TRAJECTORIES), 30)


async def test_the_token_is_never_quoted():
    async with HostileServer(otherwise=refusal(400, "bad token s3cret\x1b[31m")) as server:
        said = await complaint(server, token="s3cret")
    assert "bad token [token] [31m" in said


# Settings


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:8025",
        "ftp://a",
        "http://a..b",
        "http://a:0",
        "http://",
        "http://a:s3cret@c",
        "http://a?key=s3cret",
        "http://a#b",
        "http://a:99999",
    ],
)
def test_an_address_that_is_none_or_holds_a_secret_is_refused(url):
    with pytest.raises(ConfigError, match="ARMAP_SERVE_TOKEN") as caught:
        HTTPRewardModel(url)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("settings", [{"token": "two words"}, {"token": ""}, {"token": "é"}, {"concurrency": 0}])
def test_settings_that_cannot_work_are_refused(settings):
    with pytest.raises(ConfigError):
        HTTPRewardModel("http://localhost", **settings)


@pytest.mark.parametrize("path", ["/sub", "/sub/"])
async def test_a_server_may_be_behind_a_path(path):
    async with HostileServer(otherwise=scored(1)) as server:
        model = HTTPRewardModel(f"http://{server.address}{path}")
        await model.score(TRAJECTORIES[:1])
        await model.close()
    assert server.targets == ["/sub/classify"]


def test_the_name_is_the_address():
    assert HTTPRewardModel("http://localhost:8025").name == "http://localhost:8025"
