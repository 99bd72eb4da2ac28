"""Pictures of real pages go through everything: collected, made pairs of, learned from, served, and scored alike."""

import asyncio
import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the local extra is not installed: no reward model reads pictures of pages")
pytest.importorskip("PIL", reason="the shop extra is not installed: no reward model reads pictures of pages")
pytest.importorskip("starlette", reason="the serve extra is not installed: no reward model that sees is served")

from typer.testing import CliRunner

from armap.cli import app
from armap.environments import environment_entry
from armap.errors import ConfigError
from armap.images import ImageFolder
from armap.rewards.http import HTTPRewardModel
from armap.rewards.transformer import TransformerRewardModel
from armap.store import RunFolder
from armap.types import HeldoutScore, PreferencePair, Trajectory
from serve.process import served
from tiny_model import make_tiny_model, make_tiny_vision_model

FAMILIES = {"webshop": "smolvlm", "miniwob": "qwen2_5_vl"}


def require(env: str) -> None:
    try:
        environment_entry(env)
    except ConfigError as error:
        pytest.skip(f"no pictures of {env} are learned from: {error}")
    if FAMILIES[env] == "smolvlm" and importlib.util.find_spec("num2words") is None:
        pytest.skip("SmolVLM's processor needs num2words: pip install num2words")


def armap(*words: object) -> None:
    """Run a command in this process, which has imported everything already."""
    done = CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)
    # 1 where a rollout failed, as browsers do on busy machines.
    assert done.exit_code <= 1, done.output


def pairs_of(run: Path) -> tuple[list[PreferencePair], list[HeldoutScore]]:
    with RunFolder(run, writable=False) as folder:
        return folder.read("pairs", PreferencePair), folder.read("heldout", HeldoutScore)


def without_pictures(trajectory: Trajectory) -> Trajectory:
    steps = tuple(
        replace(step, observation=step.observation.model_copy(update={"image": None})) for step in trajectory.steps
    )
    last = trajectory.final_observation.model_copy(update={"image": None})
    return trajectory.model_copy(update={"steps": steps, "final_observation": last})


async def scored_by_service(folder: Path, trajectories: list[Trajectory], images: ImageFolder) -> list[float]:
    with served("-m", "armap.cli", "serve", "--reward-model", str(folder), "--port", "0") as server:
        remote = HTTPRewardModel(server.address, images=images)
        scores = await remote.score(trajectories)
        await remote.close()
    return scores


@pytest.mark.parametrize("env", FAMILIES)
def test_pictures_of_pages_are_collected_learned_from_and_scored_alike_here_and_by_the_service(env, tmp_path):
    require(env)
    run = tmp_path / "run"
    # MiniWoB++ does not say in words what was achieved; a model that was never trained says something.
    agent = "scripted" if env == "webshop" else make_tiny_model(tmp_path / "agent")
    few = ("--tasks", 4, "--samples", 3, "--evaluation", {"webshop": "test", "miniwob": "0-9"}[env], "--seed", 1)
    armap("collect", "--env", env, "--model", agent, "--images", *few, "--concurrency", 2, "--run", run)
    writer = "environment" if env == "webshop" else "model"
    armap("synthesize", "--writer", writer, "--judge", "none", "--concurrency", 2, "--run", run)
    backbone = make_tiny_vision_model(tmp_path / "backbone", FAMILIES[env])
    options = ("--layers", 0, "--lora-rank", 4, "--max-tokens", 1024, "--heldout-share", 0.5)
    armap("train", "--backbone", backbone, *options, "--run", run)

    images = ImageFolder(run / "images")
    pairs, heldout = pairs_of(run)
    trajectories = [side for pair in pairs for side in (pair.chosen, pair.rejected)]
    local = TransformerRewardModel.load(run / "reward_model", images=images)
    here = dict(zip((one.id for one in trajectories), local.score_blocking(trajectories), strict=True))
    shown = [step.observation.image for one in trajectories for step in one.steps]
    assert shown
    assert all(shown)
    assert local.reader.images > 0
    blind = local.score_blocking([without_pictures(one) for one in trajectories])
    assert blind != pytest.approx([*here.values()], abs=1e-3)
    by_pair = {scored.pair_id: (scored.chosen, scored.rejected) for scored in heldout}
    assert by_pair
    for pair in pairs:
        if pair.id in by_pair:
            assert (here[pair.chosen.id], here[pair.rejected.id]) == pytest.approx(by_pair[pair.id], abs=1e-4)
    there = asyncio.run(scored_by_service(run / "reward_model", trajectories, images))
    assert there == pytest.approx([*here.values()], abs=1e-5)
