import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="the local extra is not installed: no transformer reward model is tested")

from safetensors.torch import load_file, save_file  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402

from armap.envs import toy  # noqa: E402
from armap.errors import ConfigError, RewardModelError  # noqa: E402
from armap.rewards.rendering import render  # noqa: E402
from armap.rewards.transformer import TransformerRewardModel  # noqa: E402
from armap.types import Observation, Trajectory  # noqa: E402
from tiny_model import make_tiny_model, plain_scores  # noqa: E402

from .toy_pairs import toy_trajectories  # noqa: E402

# Sixty of one task, which share beginnings and fill several trees, and thirty of other tasks.
TRAJECTORIES = toy_trajectories(60, 1, toy.tasks(1, 0, "train")[0]) + toy_trajectories(30, 2)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> str:
    return make_tiny_model(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="module")
def saved(backbone, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("reward model")
    TransformerRewardModel.from_backbone(backbone, seed=1).save(folder)
    return folder


@pytest.fixture
def model(saved) -> TransformerRewardModel:
    return TransformerRewardModel.load(saved)


@pytest.fixture(scope="module")
def scored_alone(saved) -> tuple[TransformerRewardModel, list[float]]:
    model = TransformerRewardModel.load(saved)
    return model, [model.score_blocking([trajectory])[0] for trajectory in TRAJECTORIES]


@pytest.fixture
def damaged(saved, tmp_path) -> Path:
    """A copy to damage."""
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def token_counts(folder: Path, trajectories: list[Trajectory]) -> list[int]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return [len(tokenizer(render(trajectory)).input_ids) for trajectory in trajectories]


# Scoring


async def test_scores_are_those_of_plain_passes_over_one_trajectory_each(model, saved):
    scores = await model.score(TRAJECTORIES)
    assert scores == pytest.approx(plain_scores(saved, [render(trajectory) for trajectory in TRAJECTORIES]), abs=1e-5)
    assert max(scores) - min(scores) > 0.1


@settings(max_examples=25, deadline=None)
@given(company=st.lists(st.integers(0, len(TRAJECTORIES) - 1), min_size=1, max_size=40))
def test_a_score_depends_on_neither_order_nor_company_nor_repetition(scored_alone, company):
    model, alone = scored_alone
    together = model.score_blocking([TRAJECTORIES[i] for i in company])
    assert together == pytest.approx([alone[i] for i in company], abs=1e-5)


async def test_equal_trajectories_have_equal_scores_and_are_computed_once(model):
    trajectory, other = TRAJECTORIES[0], TRAJECTORIES[70]
    twin = trajectory.model_copy(update={"id": "twin"})
    first, _, second = await model.score([trajectory, other, twin])
    assert first == second
    computed = model.computed_tokens
    await model.score([trajectory, other])
    assert model.computed_tokens == 2 * computed


async def test_no_trajectories_have_no_scores(model):
    assert await model.score([]) == []


async def test_computed_and_avoided_tokens_add_up_to_those_of_plain_passes(model, saved):
    (trajectory, *_) = TRAJECTORIES
    longer = trajectory.model_copy(update={"final_observation": Observation(text="You left with the red cube .")})
    await model.score([trajectory])
    (length,) = token_counts(saved, [trajectory])
    assert (model.computed_tokens, model.avoided_tokens) == (length, 0)
    await model.score([trajectory, longer, trajectory])
    counts = token_counts(saved, [trajectory, longer, trajectory])
    assert model.computed_tokens + model.avoided_tokens == length + sum(counts)
    # The second and the third trajectory cost only what the first does not have.
    assert model.computed_tokens < 2 * length + 15


async def test_trajectories_of_one_task_cost_less_than_plain_passes(model, saved):
    candidates = TRAJECTORIES[:60]
    await model.score(candidates)
    assert model.computed_tokens + model.avoided_tokens == sum(token_counts(saved, candidates))
    assert model.avoided_tokens > model.computed_tokens / 2


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
async def test_a_score_that_is_no_number_is_an_error_and_names_the_trajectory(model, score):
    torch.nn.init.constant_(model.network.score.weight, score)
    with pytest.raises(RewardModelError, match="'trajectory 0'"):
        await model.score(TRAJECTORIES[:2])


async def test_a_trajectory_longer_than_the_network_reads_is_an_error(tmp_path):
    model = TransformerRewardModel.from_backbone(make_tiny_model(tmp_path, max_positions=20))
    with pytest.raises(RewardModelError, match="reads at most 20"):
        await model.score(TRAJECTORIES[:1])


# Making


async def test_a_new_head_depends_on_the_seed_and_on_nothing_else(backbone):
    torch.manual_seed(3)
    first = TransformerRewardModel.from_backbone(backbone, seed=1).score_blocking(TRAJECTORIES[:5])
    torch.manual_seed(4)
    again = TransformerRewardModel.from_backbone(backbone, seed=1).score_blocking(TRAJECTORIES[:5])
    other = TransformerRewardModel.from_backbone(backbone, seed=2).score_blocking(TRAJECTORIES[:5])
    assert first == again != other


async def test_layers_are_kept_from_the_bottom(backbone, tmp_path):
    model = TransformerRewardModel.from_backbone(backbone, layers=1)
    whole = TransformerRewardModel.from_backbone(backbone)
    kept, all_weights = model.network.base_model.state_dict(), whole.network.base_model.state_dict()
    assert len(kept) < len(all_weights)
    assert all(torch.equal(weight, all_weights[name]) for name, weight in kept.items())
    model.save(tmp_path)
    assert TransformerRewardModel.load(tmp_path).network.config.num_hidden_layers == 1


@pytest.mark.parametrize("layers", [0, 3, -1])
def test_more_layers_than_there_are_or_none_are_refused(backbone, layers):
    with pytest.raises(ConfigError, match="has 2 layers"):
        TransformerRewardModel.from_backbone(backbone, layers=layers)


# Saving and loading


async def test_a_saved_model_scores_as_before(backbone, tmp_path):
    model = TransformerRewardModel.from_backbone(backbone, seed=3)
    before = await model.score(TRAJECTORIES)
    model.save(tmp_path)
    assert await TransformerRewardModel.load(tmp_path).score(TRAJECTORIES) == pytest.approx(before, abs=1e-6)


def refusal(folder: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        TransformerRewardModel.load(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    return str(caught.value)


def change_config(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def change_head(folder: Path, head: "torch.Tensor | None") -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["score.weight"]
    if head is not None:
        weights["score.weight"] = head
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_folder_without_a_model_is_refused(tmp_path):
    assert "There is no reward model" in refusal(tmp_path)
    assert "There is no reward model" in refusal(tmp_path / "missing")


def test_a_plain_language_model_is_refused_as_having_no_trained_head(backbone):
    assert "no trained reward head" in refusal(Path(backbone))


def test_a_model_whose_file_lacks_the_head_is_refused(damaged):
    change_head(damaged, None)
    assert "score.weight" in refusal(damaged)


def test_a_model_with_two_labels_is_refused(damaged):
    change_head(damaged, torch.ones(2, 32))
    change_config(damaged, id2label={"0": "bad", "1": "good"}, label2id={"bad": 0, "good": 1})
    assert "2 labels" in refusal(damaged)


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_a_head_that_is_zero_or_no_number_is_refused(damaged, value):
    change_head(damaged, torch.full((1, 32), value))
    assert "no trained reward head" in refusal(damaged)


def test_weights_of_another_shape_are_refused(damaged):
    change_head(damaged, torch.ones(2, 32))
    refusal(damaged)


@pytest.mark.parametrize("content", [b"", b"junk that is no safetensors file"])
def test_a_damaged_weight_file_is_refused(damaged, content):
    (damaged / "model.safetensors").write_bytes(content)
    refusal(damaged)


def test_a_damaged_config_is_refused(damaged):
    (damaged / "config.json").write_text("{")
    refusal(damaged)


async def test_a_long_trajectory_is_shortened_to_the_limit_it_was_made_with_and_counted(tmp_path):
    (trajectory,) = toy_trajectories(1, 0)
    words = Observation(text="many words " * 200)
    first = trajectory.steps[0].model_copy(update={"observation": words})
    long = trajectory.model_copy(update={"steps": (first, *trajectory.steps)})
    model = TransformerRewardModel.from_backbone(make_tiny_model(tmp_path / "tiny"), max_tokens=400)
    model.save(tmp_path / "saved")
    again = TransformerRewardModel.load(tmp_path / "saved")
    for one in (model, again):
        assert len(one.token_ids(long)) <= 400
        assert len(one.token_ids(trajectory)) <= 400
        assert (one.read, one.shortened) == (2, 1)
    assert await model.score([long]) == pytest.approx(await again.score([long]), abs=1e-6)
