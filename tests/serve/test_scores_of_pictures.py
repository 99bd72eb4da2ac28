"""Scores of a reward model that sees, through the service and in this process."""

import io
from dataclasses import replace

import pytest

pytest.importorskip("torch", reason="the local extra is not installed: no vision reward model is served")

from PIL import Image

from armap.images import ImageFolder
from armap.reward_models import load_reward_model, transformer_family
from armap.rewards.http import HTTPRewardModel
from armap.types import Observation
from rewards.toy_pairs import toy_trajectories
from serve.process import served
from tiny_model import make_tiny_vision_model


@pytest.fixture(scope="module", params=["idefics3", "qwen2_5_vl", "vila"])
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param)
    if request.param == "vila":
        pytest.importorskip("sentencepiece", reason="sentencepiece is not installed: no VILA is served")
        from tiny_vila import make_tiny_vila

        backbone = str(make_tiny_vila(path / "backbone"))
    else:
        backbone = make_tiny_vision_model(path / "backbone", request.param)
    transformer_family(backbone).from_backbone(backbone, seed=1).save(path / "judge")
    return path / "judge"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return ImageFolder(tmp_path_factory.mktemp("images"))


def with_pictures(images: ImageFolder):
    """Ten trajectories whose observations have pictures of several shapes, or none here and there."""
    shown = []
    for color, size in {"red": (40, 24), "green": (24, 40), "blue": (16, 16)}.items():
        image = Image.new("RGB", size, color)
        image.paste("white", (0, 0, 9, 9))
        image.save(file := io.BytesIO(), "PNG")
        shown.append(images.add(file.getvalue()))
    for i, one in enumerate(toy_trajectories(10, 3)):
        steps = tuple(
            replace(step, observation=Observation(text=step.observation.text, image=[*shown, None][(i + j) % 4]))
            for j, step in enumerate(one.steps)
        )
        end = Observation(text=one.final_observation.text, image=shown[i % 3])
        yield one.model_copy(update={"steps": steps, "final_observation": end})


async def test_pictures_are_scored_through_the_service_as_here(folder, images):
    trajectories = list(with_pictures(images))
    local = load_reward_model(folder, images)
    here = await local.score(trajectories)
    end = Observation(text=trajectories[0].final_observation.text)
    unseen = await local.score([trajectories[0].model_copy(update={"final_observation": end})])
    assert unseen != pytest.approx(here[:1], abs=1e-3)
    with served("-m", "armap.cli", "serve", "--reward-model", str(folder), "--port", "0") as server:
        remote = HTTPRewardModel(server.address, images=images)
        assert await remote.score(trajectories) == pytest.approx(here, abs=1e-5)
        await remote.close()
