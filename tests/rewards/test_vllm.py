"""A real vLLM scores as this package does; runs where ARMAP_VLLM names its command, or one is on the path."""

import asyncio
import os
import shutil
import socket
import subprocess
import time

import httpx
import pytest

pytest.importorskip("torch", reason="the local extra is not installed: vLLM is not given a model")

from armap.errors import RewardModelError, UnavailableError
from armap.rewards.http import HTTPRewardModel
from armap.rewards.transformer import TransformerRewardModel
from rewards.test_chat_template import TRAJECTORIES, told

VLLM = os.environ.get("ARMAP_VLLM") or shutil.which("vllm")
MOST_TOKENS = 1024
STARTS_WITHIN_S = 600

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(VLLM is None, reason="no vLLM: ARMAP_VLLM has to name its command"),
]


@pytest.fixture(scope="module")
def model() -> TransformerRewardModel:
    # vLLM has no kernels for the sizes of the heads that tiny models have.
    return TransformerRewardModel.from_backbone(layers=2, max_tokens=MOST_TOKENS)


@pytest.fixture(scope="module")
def server(model, tmp_path_factory):
    """The address of a vLLM that serves the folder that was saved."""
    folder = tmp_path_factory.mktemp("vllm")
    model.save(folder / "reward_model")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    address = f"http://127.0.0.1:{port}"
    command = [VLLM, "serve", str(folder / "reward_model"), "--host", "127.0.0.1", "--port", port]
    command += ["--runner", "pooling", "--dtype", "float32", "--max-model-len", str(MOST_TOKENS), "--enforce-eager"]
    with (folder / "said").open("w+") as said, subprocess.Popen(command, stdout=said, stderr=said) as process:
        try:
            deadline = time.monotonic() + STARTS_WITHIN_S
            while not answers(address):
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"vLLM did not start: {(folder / 'said').read_text()[-4000:]}")
                time.sleep(1)
            yield address
        finally:
            process.terminate()


def answers(address: str) -> bool:
    try:
        return httpx.get(f"{address}/health").is_success
    except httpx.TransportError:
        return False


def score(address, *trajectories, **settings) -> list[float]:
    async def ask() -> list[float]:
        there = HTTPRewardModel(address, **settings)
        try:
            return await there.score(trajectories)
        finally:
            await there.close()

    return asyncio.run(ask())


def test_vllm_scores_a_saved_model_as_it_is_scored_here(server, model):
    assert score(server, *TRAJECTORIES) == pytest.approx(model.score_blocking(TRAJECTORIES), abs=1e-4)


def test_what_is_too_long_for_vllm_is_refused_in_its_words(server):
    with pytest.raises(RewardModelError, match="maximum context length"):
        score(server, told(("take it",), ("far " * 2 * MOST_TOKENS,)))


def test_a_name_that_vllm_does_not_know_is_said_to_be_wrong(server):
    with pytest.raises(UnavailableError, match=r"`another` does not exist.*a model that it has"):
        score(server, TRAJECTORIES[0], model="another")
