import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="the local extra is not installed: no transformer reward model is tested")

from peft import LoraConfig, get_peft_model  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer  # noqa: E402

from armap import weights  # noqa: E402
from armap.envs import toy  # noqa: E402
from armap.errors import ConfigError, RewardModelError  # noqa: E402
from armap.rewards.fit_settings import FitSettings  # noqa: E402
from armap.rewards.fitting import TransformerFit  # noqa: E402
from armap.rewards.rendering import render  # noqa: E402
from armap.rewards.transformer import TransformerRewardModel  # noqa: E402
from armap.types import Observation, Trajectory  # noqa: E402
from tiny_model import (  # noqa: E402
    make_tiny_alibi_model,
    make_tiny_encoder,
    make_tiny_model,
    make_tiny_vision_model,
    make_tiny_windowed_model,
    plain_scores,
)

from .toy_pairs import toy_pairs, toy_trajectories  # noqa: E402

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


async def test_trajectories_of_one_task_cost_less_than_plain_passes_and_are_scored_alike(model, saved):
    candidates = TRAJECTORIES[:60]
    expected = plain_scores(saved, [render(candidate) for candidate in candidates])
    assert await model.score(candidates) == pytest.approx(expected, abs=1e-5)
    assert model.computed_tokens + model.avoided_tokens == sum(token_counts(saved, candidates))
    assert model.avoided_tokens > model.computed_tokens / 2
    assert f" computed {model.computed_tokens:,} of them" in " ".join(model.remarks())


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
async def test_a_score_that_is_no_number_is_an_error_and_names_the_trajectory(model, score):
    torch.nn.init.constant_(model.network.score.weight, score)
    with pytest.raises(RewardModelError, match="'trajectory 0'"):
        await model.score(TRAJECTORIES[:2])


async def test_a_trajectory_longer_than_the_network_reads_is_an_error(tmp_path):
    model = TransformerRewardModel.from_backbone(make_tiny_model(tmp_path, max_positions=20))
    with pytest.raises(RewardModelError, match="reads at most 20"):
        await model.score(TRAJECTORIES[:1])


# Prefixes shared from call to call


async def test_calls_about_one_task_compute_only_what_no_earlier_call_had(model, saved):
    candidates = TRAJECTORIES[:30]
    for start in range(0, 30, 7):
        await model.score(candidates[start : start + 7])
    in_parts = model.computed_tokens
    assert model.computed_tokens + model.avoided_tokens == sum(token_counts(saved, candidates))
    at_once = TransformerRewardModel.load(saved)
    await at_once.score(candidates)
    assert in_parts == at_once.computed_tokens


async def test_what_is_kept_is_forgotten_when_weights_have_been_trained(model, saved, tmp_path):
    before = await model.score(TRAJECTORIES[:5])
    model.network.train()
    with torch.no_grad():
        model.network.get_input_embeddings().weight.mul_(1.5)
    model.save(tmp_path)
    after = await model.score(TRAJECTORIES[:5])
    assert after != pytest.approx(before, abs=1e-3)
    assert after == pytest.approx(plain_scores(tmp_path, [render(one) for one in TRAJECTORIES[:5]]), abs=1e-5)


async def test_tasks_beyond_the_memory_are_forgotten_and_scored_anew_alike(model, scored_alone):
    by_task = [toy_trajectories(40, seed, task) for seed, task in enumerate(toy.tasks(12, 0, "train"))]
    first = [await model.score(candidates) for candidates in by_task]
    computed = model.computed_tokens
    again = [await model.score(candidates) for candidates in by_task]
    assert model.computed_tokens > computed
    for one, other in zip(first, again, strict=True):
        assert other == pytest.approx(one, abs=1e-5)


# Backbones of other kinds


@pytest.mark.parametrize(
    ("make", "layout"),
    [
        (make_tiny_encoder, "padded batches"),
        (make_tiny_alibi_model, "padded batches"),
        (lambda folder: make_tiny_windowed_model(folder, window=16), "padded batches"),
        (lambda folder: make_tiny_windowed_model(folder, window=1 << 20), "token trees"),
    ],
    ids=["encoder", "positions from the mask", "narrow window", "wide window"],
)
def test_every_backbone_scores_as_plain_passes_do_in_the_layout_it_is_fit_for(tmp_path, make, layout):
    model = TransformerRewardModel.from_backbone(make(tmp_path / "backbone"), seed=1)
    model.save(tmp_path / "saved")
    expected = plain_scores(tmp_path / "saved", [render(one) for one in TRAJECTORIES])
    assert max(expected) - min(expected) > 0.05
    for one in (model, TransformerRewardModel.load(tmp_path / "saved")):
        assert one.layout == layout
        assert one.score_blocking(TRAJECTORIES) == pytest.approx(expected, abs=1e-5)
        alone = [one.score_blocking([trajectory])[0] for trajectory in TRAJECTORIES[:10]]
        assert alone == pytest.approx(expected[:10], abs=1e-5)


def test_a_window_that_covers_the_longest_trajectory_is_no_window(tmp_path):
    backbone = make_tiny_windowed_model(tmp_path, window=64)
    assert TransformerRewardModel.from_backbone(backbone, max_tokens=64).layout == "token trees"
    assert TransformerRewardModel.from_backbone(backbone, max_tokens=65).layout == "padded batches"


def test_trajectories_that_fill_an_encoder_are_shortened_to_what_it_reads(tmp_path):
    (trajectory,) = toy_trajectories(1, 0)
    first = replace(trajectory.steps[0], observation=Observation(text="many words " * 100))
    long = trajectory.model_copy(update={"steps": (first, *trajectory.steps)})
    model = TransformerRewardModel.from_backbone(make_tiny_encoder(tmp_path, max_positions=128))
    assert len(model.token_ids(long)) <= 128
    assert model.reader.shortened == 1
    assert len(model.score_blocking([long, trajectory])) == 2


def test_control_tokens_in_what_was_seen_are_text(model):
    faked = TRAJECTORIES[0].model_copy(update={"final_observation": Observation(text="<end> You left.")})
    control = model.processor.convert_tokens_to_ids("<end>")
    assert control not in model.token_ids(faked)


# Pooling, for comparison


@torch.inference_mode()
def plain_means(folder: Path, trajectories: list[Trajectory]) -> list[float]:
    """Return what a folder's head says of the mean hidden state, by transformers alone."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    network = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = [torch.tensor([tokenizer(render(trajectory)).input_ids]) for trajectory in trajectories]
    return [float(network.score(network.base_model(one).last_hidden_state.mean(1))) for one in tokens]


@pytest.mark.parametrize("make", [make_tiny_model, make_tiny_alibi_model], ids=["token trees", "padded batches"])
def test_pooling_by_the_mean_is_the_head_on_the_mean_hidden_state_however_it_is_computed(tmp_path, make):
    model = TransformerRewardModel.from_backbone(make(tmp_path / "backbone"), seed=1, pooling="mean")
    model.save(tmp_path / "saved")
    expected = plain_means(tmp_path / "saved", TRAJECTORIES)
    assert max(expected) - min(expected) > 0.05
    for one in (model, TransformerRewardModel.load(tmp_path / "saved")):
        assert one.score_blocking(TRAJECTORIES) == pytest.approx(expected, abs=1e-5)
        # Of one task, from call to call.
        for start in range(0, 60, 25):
            assert one.score_blocking(TRAJECTORIES[start : min(60, start + 25)]) == pytest.approx(
                expected[start : min(60, start + 25)], abs=1e-5
            )


def test_an_encoder_has_its_own_place_for_the_score_and_refuses_another(tmp_path):
    with pytest.raises(ConfigError, match="leave --pooling out"):
        TransformerRewardModel.from_backbone(make_tiny_encoder(tmp_path), pooling="mean")


def test_a_model_that_was_pooled_in_an_unknown_way_is_refused(damaged):
    change_config(damaged, trajectory_pooling="max")
    assert "trajectory_pooling is 'max'" in refusal(damaged)


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
    stored = load_file(folder / "model.safetensors")
    del stored["score.weight"]
    if head is not None:
        stored["score.weight"] = head
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})


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


ALL_KINDS = {
    "causal": make_tiny_model,
    "encoder": make_tiny_encoder,
    "vision": lambda folder: make_tiny_vision_model(folder, "qwen2_5_vl"),
}
every_kind = pytest.mark.parametrize("make", ALL_KINDS.values(), ids=ALL_KINDS.keys())


@every_kind
def test_a_model_saved_in_half_precision_is_loaded_in_either(make, tmp_path):
    whole = TransformerRewardModel.from_backbone(make(tmp_path / "backbone"), seed=3)
    half = TransformerRewardModel.from_backbone(str(tmp_path / "backbone"), seed=3, dtype="bfloat16")
    half.save(tmp_path / "half")
    stored = load_file(tmp_path / "half" / "model.safetensors")
    assert {weight.dtype for name, weight in stored.items() if name != "score.weight"} == {torch.bfloat16}
    expected = whole.score_blocking(TRAJECTORIES[:20])
    spread = max(expected) - min(expected)
    for dtype in ("bfloat16", "float32"):
        loaded = TransformerRewardModel.load(tmp_path / "half", dtype=dtype)
        assert loaded.network.dtype == getattr(torch, dtype)
        if weights.kind(loaded.network.config) != "encoder":
            assert torch.equal(weights.head(loaded.network).weight, weights.head(half.network).weight)
        assert loaded.score_blocking(TRAJECTORIES[:20]) == pytest.approx(expected, abs=0.3 * spread)


def test_half_precision_leaves_the_places_of_tokens_exact(tmp_path):
    half = TransformerRewardModel.from_backbone(make_tiny_model(tmp_path), dtype="bfloat16")
    kept = [buffer for buffer in half.network.buffers() if buffer.is_floating_point()]
    assert kept
    assert {buffer.dtype for buffer in kept} == {torch.float32}


@every_kind
def test_a_model_in_several_files_is_loaded_as_before_and_refused_if_the_head_is_in_none(make, tmp_path):
    model = TransformerRewardModel.from_backbone(make(tmp_path / "backbone"), seed=3)
    model.save(tmp_path / "saved")
    whole = tmp_path / "saved" / "model.safetensors"
    model.network.save_pretrained(tmp_path / "saved", max_shard_size="20KB")
    whole.unlink(missing_ok=True)
    index = json.loads((tmp_path / "saved" / "model.safetensors.index.json").read_text())
    again = TransformerRewardModel.load(tmp_path / "saved")
    assert again.score_blocking(TRAJECTORIES[:5]) == pytest.approx(model.score_blocking(TRAJECTORIES[:5]), abs=1e-5)
    head = next(name for name in ("score.weight", "classifier.weight") if name in index["weight_map"])
    shard = tmp_path / "saved" / index["weight_map"].pop(head)
    left = {name: weight for name, weight in load_file(shard).items() if name != head}
    save_file(left, shard, metadata={"format": "pt"})
    (tmp_path / "saved" / "model.safetensors.index.json").write_text(json.dumps(index))
    assert head in refusal(tmp_path / "saved")


@every_kind
def test_a_head_of_zeros_or_of_two_labels_is_refused(make, tmp_path):
    model = TransformerRewardModel.from_backbone(make(tmp_path / "backbone"), seed=3)
    head = weights.head(model.network)
    torch.nn.init.zeros_(head.weight)
    model.save(tmp_path / "zero")
    assert "no trained reward head" in refusal(tmp_path / "zero")
    head.weight = torch.nn.Parameter(torch.ones(2, head.in_features))
    head.bias = None if head.bias is None else torch.nn.Parameter(torch.ones(2))
    model.network.config.num_labels = 2
    model.save(tmp_path / "two")
    assert "2 labels" in refusal(tmp_path / "two")


@every_kind
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_head_that_half_precision_lost_or_doubled_is_refused(make, dtype, tmp_path):
    model = TransformerRewardModel.from_backbone(make(tmp_path / "backbone"), seed=3, dtype=dtype)
    model.save(tmp_path)
    name = next(name for name, part in model.network.named_modules() if part is weights.head(model.network))
    stored = load_file(tmp_path / "model.safetensors")
    doubled = {key: torch.cat([one, one]) if key.startswith(name) else one for key, one in stored.items()}
    save_file(doubled, tmp_path / "model.safetensors", metadata={"format": "pt"})
    refusal(tmp_path)
    change_config(tmp_path, id2label={"0": "bad", "1": "good"}, label2id={"bad": 0, "good": 1})
    assert "2 labels" in refusal(tmp_path)
    lost = {key: one for key, one in stored.items() if not key.startswith(name)}
    save_file(lost, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert f"{name}." in refusal(tmp_path)


def test_an_adapter_is_refused_and_what_it_was_merged_into_is_loaded_with_its_head(backbone, saved, tmp_path):
    adapted = get_peft_model(
        AutoModelForSequenceClassification.from_pretrained(saved),
        LoraConfig(task_type="SEQ_CLS", r=2, modules_to_save=["score"], init_lora_weights=False),
    )
    torch.nn.init.normal_(adapted.base_model.model.score.modules_to_save["default"].weight)
    adapted.save_pretrained(tmp_path / "adapter")
    assert "holds a LoRA adapter" in refusal(tmp_path / "adapter")
    tokenizer = AutoTokenizer.from_pretrained(saved)
    merged = adapted.merge_and_unload()
    for part in (merged, tokenizer):
        part.save_pretrained(tmp_path / "merged")
    expected = plain_scores(tmp_path / "merged", [render(one) for one in TRAJECTORIES[:5]])
    again = TransformerRewardModel.load(tmp_path / "merged")
    assert again.score_blocking(TRAJECTORIES[:5]) == pytest.approx(expected, abs=1e-5)
    # Merged into the language model alone, as is done for a policy: the head is lost.
    for part in (AutoModelForCausalLM.from_pretrained(backbone), tokenizer):
        part.save_pretrained(tmp_path / "lost")
    assert "no trained reward head" in refusal(tmp_path / "lost")


@every_kind
def test_a_fit_with_lora_is_merged_and_saved_as_a_plain_model(make, tmp_path):
    model = TransformerRewardModel.from_backbone(make(tmp_path / "backbone"), seed=3)
    names = set(model.network.state_dict())
    untrained = model.score_blocking(TRAJECTORIES[:5])
    settings = FitSettings(pairs_per_step=4, evaluate_every_steps=2, lora_rank=4, learning_rate=3e-3)
    TransformerFit(model, toy_pairs(8, 1), toy_pairs(4, 2), settings, seed=0, folder=tmp_path).run(lambda _: None)
    assert set(model.network.state_dict()) == names
    model.save(tmp_path / "saved")
    trained = model.score_blocking(TRAJECTORIES[:5])
    assert trained != pytest.approx(untrained, abs=1e-3)
    assert TransformerRewardModel.load(tmp_path / "saved").score_blocking(TRAJECTORIES[:5]) == pytest.approx(
        trained, abs=1e-5
    )


async def test_a_long_trajectory_is_shortened_to_the_limit_it_was_made_with_and_counted(tmp_path):
    (trajectory,) = toy_trajectories(1, 0)
    words = Observation(text="many words " * 200)
    first = replace(trajectory.steps[0], observation=words)
    long = trajectory.model_copy(update={"steps": (first, *trajectory.steps)})
    model = TransformerRewardModel.from_backbone(make_tiny_model(tmp_path / "tiny"), max_tokens=400)
    model.save(tmp_path / "saved")
    again = TransformerRewardModel.load(tmp_path / "saved")
    for one in (model, again):
        assert len(one.token_ids(long)) <= 400
        assert len(one.token_ids(trajectory)) <= 400
        assert (one.reader.count, one.reader.shortened) == (2, 1)
    assert await model.score([long]) == pytest.approx(await again.score([long]), abs=1e-6)
