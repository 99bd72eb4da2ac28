"""What a client sees of the routes; the scores of trained models are in `test_scores.py`."""

import asyncio
import base64
import io
import json
import math
import zlib

import httpx
import pytest
from PIL import Image

from serve.process import odd_server


@pytest.fixture(scope="module")
def address():
    with odd_server(
        limits={"inputs": 5, "messages": 6, "images": 2, "image_px": 10_000, "image_bytes": 5000}
    ) as server:
        yield server.address


@pytest.fixture(scope="module")
def client(address):
    with httpx.Client(base_url=address, timeout=60) as client:
        yield client


def chat(*contents, **more):
    """A conversation whose messages are by turns the user's and the assistant's."""
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)], **more}


def error(response: httpx.Response) -> str:
    """Return the message of an error, which has the form that clients of OpenAI and vLLM expect."""
    assert response.is_error
    found = response.json()["error"]
    assert found.keys() == {"message", "type", "param", "code"}
    assert found["code"] == response.status_code
    assert "\n" not in found["message"]
    assert "secret" not in response.text
    return found["message"]


# Answers


def test_classify_answers_in_the_form_of_vllm(client):
    answer = client.post("/classify", json={"model": "odd", "input": ["say=1.5 tokens=3", "say=-2"], "user": "me"})
    assert answer.status_code == 200
    body = answer.json()
    assert body["id"].startswith("classify-")
    assert body["created"] > 1.6e9
    assert {name: body[name] for name in ("object", "model", "data", "usage")} == {
        "object": "list",
        "model": "odd",
        "data": [
            {"index": 0, "label": "LABEL_0", "probs": [1.5], "num_classes": 1},
            {"index": 1, "label": "LABEL_0", "probs": [-2.0], "num_classes": 1},
        ],
        "usage": {
            "prompt_tokens": 10,
            "total_tokens": 10,
            "completion_tokens": 0,
            "prompt_tokens_details": None,
            "completion_tokens_details": None,
        },
    }


@pytest.mark.parametrize("more", [{}, {"task": "classify"}, {"task": "reward"}, {"encoding_format": "float"}])
def test_pooling_answers_in_the_form_of_vllm(client, more):
    body = client.post("/pooling", json={"input": "say=1.5", **more}).json()
    assert body["id"].startswith("pooling-")
    assert body["data"] == [{"index": 0, "object": "pooling", "data": [1.5]}]
    assert body["usage"]["prompt_tokens"] == 7


def test_a_request_id_is_part_of_the_answer(client):
    assert client.post("/classify", json={"input": "", "request_id": "mine"}).json()["id"] == "classify-mine"


@pytest.mark.parametrize("route", ["/classify", "/pooling"])
def test_a_conversation_is_one_trajectory(client, route):
    parts = [{"type": "text", "text": "You see a shelf ."}]
    body = client.post(route, json=chat("say=3", "Action: take", parts)).json()
    assert len(body["data"]) == 1
    assert (body["data"][0].get("probs") or body["data"][0]["data"]) == [3.0]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, 2.0),
        ({"use_activation": None}, 2.0),
        ({"use_activation": False}, 2.0),
        ({"activation": False}, 2.0),
        ({"use_activation": True}, 1 / (1 + math.exp(-2))),
        ({"activation": True}, 1 / (1 + math.exp(-2))),
        ({"use_activation": False, "activation": True}, 2.0),
    ],
)
def test_scores_are_as_they_are_unless_an_activation_is_asked_for(client, asked, expected):
    found = client.post("/classify", json={"input": "say=2", **asked}).json()["data"][0]["probs"]
    assert found == [pytest.approx(expected)]


def test_the_schema_says_in_what_an_activation_left_out_differs_from_vllm(client):
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    for name in ("ClassificationChatRequest", "PoolingCompletionRequest"):
        assert "vLLM differs" in schemas[name]["properties"]["use_activation"]["description"]


def test_even_extreme_scores_have_an_activation(client):
    asked = {"input": ["say=1e9", "say=-1e9"], "use_activation": True}
    assert [one["data"] for one in client.post("/pooling", json=asked).json()["data"]] == [[1.0], [0.0]]


def test_health_models_metrics_and_the_schema_are_there(client):
    client.post("/classify", json={"input": "tokens=9"})
    assert client.get("/health").status_code == 200
    assert client.get("/v1/models").json()["data"][0]["id"] == "odd"
    assert client.get("/openapi.json").json()["openapi"] == "3.1.0"
    metrics = client.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    for name in ("armap_waiting 0.0", 'armap_requests_total{route="/classify",status="200"}', "armap_scored_total"):
        assert name in metrics.text


# Refusals


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b"null",
        b"[]",
        b"{}",
        b'{"input": "a", "messages": []}',
        b'{"input": []}',
        b'{"input": [1, 2]}',
        b'{"input": null}',
        b'{"input": "\\ud800"}',
        b'{"input": "\xff"}',
        b'{"input": NaN}',
        b'{"messages": []}',
        b'{"messages": [{"role": "robot", "content": "a"}]}',
        b'{"messages": [{"role": "user"}]}',
        b'{"messages": [{"role": "user", "content": [{"type": "video_url", "video_url": {"url": "x"}}]}]}',
        b'{"input": "a", "use_activation": "yes"}',
        b'{"input": "a", "truncate_prompt_tokens": 5}',
        b'{"input": "a", "normalize": true}',
        b'{"input": "a", "add_special_tokens": false}',
        b'{"messages": [{"role": "user", "content": "a"}], "tools": [{"type": "function"}]}',
    ],
)
def test_what_is_no_request_is_refused_with_a_sentence(client, body):
    answer = client.post("/classify", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert error(answer).endswith(".")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([{"type": "text"}], "messages.1.content.0.text: Field required."),
        ([{"type": "text", "text": 5}], "messages.1.content.0.text: Input should be a valid string."),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": None}], "messages.1.content.1.text: "),
        ([{"type": "image_url", "image_url": "data:"}], "messages.1.content.0.image_url: Input should be an object."),
        ([{"type": "image_url", "image_url": {}}], "messages.1.content.0.image_url.url: Field required."),
        ([{"type": "image_url"}], "messages.1.content.0.image_url: Field required."),
        ([{"type": "video_url"}], "messages.1.content.0: Input tag 'video_url' found"),
        ([{"text": "a"}], "messages.1.content.0: Unable to extract tag using discriminator 'type'."),
        (["a"], "messages.1.content.0: Input should be an object."),
        (5, "messages.1.content: Input should be a string or a list."),
        (None, "messages.1.content: Input should be a string or a list."),
    ],
)
def test_what_is_wrong_in_a_message_is_named_where_it_is(client, content, said):
    answer = client.post("/classify", json=chat("say=1", content, "end"))
    assert (answer.status_code, error(answer)[: len(said)]) == (400, said)
    assert answer.json()["error"]["param"] == said.partition(":")[0]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"input": [1, 2]}, "input.0: Input should be a valid string."),
        ({"input": ["a", [1]]}, "input.1: Input should be a valid string."),
        ({"input": []}, "input: List should have at least 1 item after validation, not 0."),
        ({"input": {}}, "input: Input should be a string or a list."),
        ({"messages": ["a"]}, "messages.0: Input should be an object."),
        ({"messages": [{"content": "a"}]}, "messages.0.role: Field required."),
        ({"input": "a", "model": 5}, "model: Input should be a valid string."),
    ],
)
def test_what_is_wrong_in_a_request_is_named_where_it_is(client, body, said):
    assert error(client.post("/classify", json=body)) == said


@pytest.mark.parametrize("name", ["tool_calls", "function_call", "reasoning_content", "reasoning", "thinking"])
@pytest.mark.parametrize("content", ["", None])
def test_what_a_message_says_beside_its_content_is_refused_rather_than_overlooked(client, name, content):
    body = chat("say=1", content, "end")
    body["messages"][1][name] = [{"type": "function", "function": {"name": "buy", "arguments": "{}"}}]
    answer = client.post("/classify", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, f"messages.1.{name}")
    assert error(answer) == f"`{name}` of a message is not read; write what it says into the message's `content`."


def test_fields_that_say_nothing_are_no_hindrance(client):
    body = chat("say=1", "Action: a", "end", add_special_tokens=True, tools=None)
    body["messages"][1] |= {"tool_calls": [], "function_call": None, "reasoning_content": "", "refusal": None}
    assert client.post("/classify", json=body).json()["data"][0]["probs"] == [1.0]


@pytest.mark.parametrize("more", [{"task": "embed"}, {"encoding_format": "base64"}, {"dimensions": 3}])
def test_pooling_refuses_what_a_reward_model_cannot_do(client, more):
    answer = client.post("/pooling", json={"input": "a", **more})
    assert answer.status_code == 400
    assert next(iter(more)) in error(answer)


def test_only_json_is_taken(client):
    answer = client.post("/classify", content=b'{"input": "a"}', headers={"Content-Type": "text/plain"})
    assert (answer.status_code, "application/json" in error(answer)) == (400, True)


def test_another_model_and_another_route_are_not_found(client):
    assert "/v1/models" in error(client.post("/classify", json={"input": "a", "model": "gpt"}))
    assert client.get("/classify/").status_code == 404
    assert error(client.get("/../etc/passwd")) == "Not Found."
    assert error(client.get("/classify")) == "Method Not Allowed."


@pytest.mark.parametrize(
    ("body", "limit"),
    [
        ({"input": ["a"] * 6}, "5 texts"),
        (chat(*["a"] * 7), "6 messages"),
        (chat("a", "b", [{"type": "image_url", "image_url": {"url": "data:"}}] * 3), "2 pictures"),
    ],
)
def test_more_than_is_allowed_is_too_much(client, body, limit):
    answer = client.post("/classify", json=body)
    assert (answer.status_code, limit in error(answer)) == (413, True)


def test_what_the_reward_model_cannot_read_is_too_long_and_harms_nobody_else(client):
    answer = client.post("/classify", json={"input": ["say=1", "tokens=101"]})
    assert (answer.status_code, "longer than the reward model can read" in error(answer)) == (422, True)
    assert client.post("/classify", json={"input": "tokens=100"}).status_code == 200


@pytest.mark.parametrize("text", ["say=nan", "say=inf", "say=-inf", "fail=1", "break=1", "stumble=1"])
def test_a_score_that_is_no_number_is_an_error_and_never_in_an_answer(client, text):
    answer = client.post("/classify", json={"input": ["say=1", text]})
    assert (answer.status_code, error(answer)) == (500, "The reward model gave no finite score.")


def test_a_text_without_tokens_is_refused(client):
    answer = client.post("/classify", json={"input": ["say=1", "tokens=0"]})
    assert (answer.status_code, error(answer)) == (422, "There is nothing to read in this.")


async def test_whoever_spoils_a_batch_spoils_only_their_own(address):
    texts = ["wait=0.2", *["say=1", "say=nan", "say=2", "fail=1", "say=3", "break=1", "stumble=1", "tokens=999"] * 6]
    async with httpx.AsyncClient(base_url=address, timeout=60) as client:
        answers = await asyncio.gather(*(client.post("/classify", json={"input": text}) for text in texts))
    for text, answer in zip(texts, answers, strict=True):
        name, _, value = text.partition("=")
        if name == "say" and value != "nan":
            assert answer.json()["data"][0]["probs"] == [float(value)]
        else:
            assert answer.status_code == {"wait": 200, "tokens": 422}.get(name, 500)


# Company


async def test_hundreds_of_clients_at_once_get_each_their_own_score_in_few_batches(address):
    async with httpx.AsyncClient(base_url=address, timeout=120, limits=httpx.Limits(max_connections=200)) as client:

        async def ask(i: int) -> list[float]:
            body = {"input": [f"say={i}", f"say={-i}"]} if i % 2 else chat(f"say={i}", "Action: a")
            answer = await client.post("/classify", json=body)
            assert answer.status_code == 200, answer.text
            return [one["probs"][0] for one in answer.json()["data"]]

        before = await batches(client)
        # A slow one first, so that the others have to wait for each other's company.
        slow = asyncio.create_task(client.post("/classify", json={"input": "wait=0.3"}))
        found: list[list[float]] = []
        for start in range(0, 240, 80):
            found += await asyncio.gather(*map(ask, range(start, start + 80)))
        await slow
        assert found == [[float(i), float(-i)] if i % 2 else [float(i)] for i in range(240)]
        assert await batches(client) - before < 200


async def batches(client: httpx.AsyncClient) -> float:
    lines = (await client.get("/metrics")).text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("armap_batches_total"))


# Pictures


def picture(red: int, *, kind: str = "PNG", size: tuple[int, int] = (8, 8), mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (red, 0, 0)).convert(mode).save(file, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return file.getvalue()


def shown(file: bytes, kind: str = "png") -> list[dict]:
    return [{"type": "image_url", "image_url": {"url": f"data:image/{kind};base64,{base64.b64encode(file).decode()}"}}]


@pytest.mark.parametrize(
    "start",
    [
        "DATA:IMAGE/PNG;BASE64,",
        "data:image/x-png;base64,",
        "data:image/png;charset=utf-8;base64,",
        "data:image/vnd.mozilla.apng;name=a b.png;charset=US-ASCII;base64,",
    ],
)
def test_a_data_uri_may_be_in_large_letters_and_have_parameters(client, start):
    url = start + base64.b64encode(picture(255)).decode()
    body = chat("say=1", "Action: look", [{"type": "image_url", "image_url": {"url": url}}])
    assert client.post("/classify", json=body).json()["data"][0]["probs"] == [2.0]


@pytest.mark.parametrize(("kind", "close"), [("PNG", 1e-9), ("WEBP", 1e-9), ("JPEG", 0.03)])
def test_a_picture_is_seen_by_the_reward_model(client, kind, close):
    for red in (0, 51, 255):
        body = chat("say=10", "Action: look", shown(picture(red, kind=kind)))
        found = client.post("/classify", json=body).json()["data"][0]["probs"][0]
        assert found == pytest.approx(10 + red / 255, abs=close)


async def test_equal_pictures_of_many_clients_are_not_taken_from_each_other(address):
    async with httpx.AsyncClient(base_url=address, timeout=60) as client:
        bodies = [chat(f"say={i}", "Action: look", shown(picture(255 * (i % 2)))) for i in range(60)]
        answers = await asyncio.gather(*(client.post("/classify", json=body) for body in bodies))
    assert [one.json()["data"][0]["probs"][0] for one in answers] == [i + i % 2 for i in range(60)]


def bomb() -> bytes:
    """A small file that says that it has 2.5 billion pixels."""
    file = bytearray(picture(0))
    file[16:24] = (50_000).to_bytes(4, "big") * 2
    file[29:33] = zlib.crc32(file[12:29]).to_bytes(4, "big")
    return bytes(file)


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        (shown(picture(0, size=(101, 100))), 413, "10,000 pixels"),
        (shown(bomb()), 413, "10,000 pixels"),
        (shown(b"\x89PNG" + bytes(6000)), 413, "5,000 bytes"),
        (shown(picture(0)[:45]), 400, "not a sound"),
        (shown(picture(0, kind="GIF"), "gif"), 400, "PNG, JPEG or WebP"),
        (shown(picture(0, kind="TIFF"), "png"), 400, "PNG, JPEG or WebP"),
        (shown(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "svg+xml"), 400, "PNG, JPEG or WebP"),
        (shown(b""), 400, "not a sound"),
        ([{"type": "image_url", "image_url": {"url": "data:image/png;base64,@@@@"}}], 400, "base64"),
        ([{"type": "image_url", "image_url": {"url": "data:image/png,abc"}}], 400, "data URI"),
        ([{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}], 400, "data URI"),
        ([{"type": "image_url", "image_url": {"url": "/etc/passwd"}}], 400, "data URI"),
        ([{"type": "image_url", "image_url": {"url": "http://127.0.0.1/a.png"}}], 400, "not fetched from elsewhere"),
        ([{"type": "image_url", "image_url": {"url": "HTTPS://example.com/a.png"}}], 400, "not fetched from elsewhere"),
        (shown(picture(0)) * 2, 400, "two pictures"),
    ],
)
def test_pictures_that_are_damaged_too_large_or_elsewhere_are_refused(client, content, status, said):
    answer = client.post("/classify", json=chat("task", "Action: look", content))
    assert (answer.status_code, said in error(answer)) == (status, True)


def test_an_action_has_no_picture_and_that_of_a_task_is_what_is_seen_first(client):
    assert client.post("/classify", json=chat("task", shown(picture(0)), "end")).status_code == 400
    assert client.post("/classify", json=chat(shown(picture(0)), "Action: look", "end")).status_code == 200


def test_the_body_of_an_answer_is_json_for_any_reader(client):
    answer = client.post("/classify", json={"input": "say=1e300"})
    assert json.loads(answer.content, parse_constant=pytest.fail)["data"][0]["probs"] == [1e300]
