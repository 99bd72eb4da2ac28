import importlib.util
import math
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, Protocol

import pytest

from armap.envs import toy
from armap.errors import ConfigError
from armap.pipeline.train import SavableRewardModel
from armap.rewards.linear import LinearRewardModel
from armap.types import Trajectory
from rewards.toy_pairs import toy_pairs, toy_trajectories

# Many of one task, which begin alike, and some of others.
TRAJECTORIES = toy_trajectories(25, 1, toy.tasks(1, 0, "train")[0]) + toy_trajectories(15, 2)


class Loader(Protocol):
    """Loads a saved model."""

    def __call__(self, folder: Path) -> SavableRewardModel: ...


class Member(NamedTuple):
    model: SavableRewardModel
    load: Loader


def linear(folder: Path) -> Member:
    return Member(LinearRewardModel.fit(toy_pairs(50, 1), seed=0), LinearRewardModel.load)


def transformer(folder: Path) -> Member:
    from armap.rewards.transformer import TransformerRewardModel
    from tiny_model import make_tiny_model

    backbone = make_tiny_model(folder / "backbone")
    return Member(TransformerRewardModel.from_backbone(backbone, seed=1), TransformerRewardModel.load)


needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="the local extra is not installed: no transformer is tested"
)


@pytest.fixture(scope="module", params=[linear, pytest.param(transformer, marks=needs_torch)])
def member(request: Any, tmp_path_factory: Any) -> Member:
    return request.param(tmp_path_factory.mktemp("member"))


def close_to(scores: list[float]) -> Any:
    """Equal but for the last digits, which depend on how numbers are added up."""
    return pytest.approx(scores, abs=1e-5)


async def test_every_trajectory_gets_one_finite_score_and_they_differ(member):
    scores = await member.model.score(TRAJECTORIES)
    assert len(scores) == len(TRAJECTORIES)
    assert all(type(score) is float and math.isfinite(score) for score in scores)
    assert len(set(scores)) > 5


@pytest.mark.parametrize("seed", range(5))
async def test_scores_follow_the_order_of_the_trajectories(member, seed):
    scores = await member.model.score(TRAJECTORIES)
    order = Random(seed).sample(range(len(TRAJECTORIES)), len(TRAJECTORIES))
    assert await member.model.score([TRAJECTORIES[i] for i in order]) == close_to([scores[i] for i in order])


async def test_a_score_does_not_depend_on_what_else_is_scored(member):
    scores = await member.model.score(TRAJECTORIES)
    assert [(await member.model.score([one]))[0] for one in TRAJECTORIES] == close_to(scores)
    assert await member.model.score(TRAJECTORIES[3:7] * 3) == close_to(scores[3:7] * 3)


async def test_nothing_to_score_has_no_scores(member):
    assert await member.model.score([]) == []


async def test_what_the_environment_paid_and_measured_and_the_name_of_a_trajectory_do_not_count(member):
    def disguised(trajectory: Trajectory) -> Trajectory:
        steps = tuple(replace(step, env_reward=step.env_reward + 1) for step in trajectory.steps)
        return trajectory.model_copy(update={"id": "another", "steps": steps, "metrics": {"price": 5.0}})

    scores = await member.model.score(TRAJECTORIES)
    assert await member.model.score([disguised(trajectory) for trajectory in TRAJECTORIES]) == close_to(scores)


async def test_a_saved_model_is_loaded_with_the_same_scores(member, tmp_path):
    folder = tmp_path / "new" / "model"
    member.model.save(folder)
    assert await member.load(folder).score(TRAJECTORIES) == close_to(await member.model.score(TRAJECTORIES))


def test_an_empty_folder_holds_no_model(member, tmp_path):
    with pytest.raises(ConfigError, match="train one with `armap train`"):
        member.load(tmp_path)


def test_every_reward_model_has_a_name(member):
    assert member.model.name
