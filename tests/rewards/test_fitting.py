import json
import math
import multiprocessing
import random
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the local extra is not installed: fitting a reward model is not tested")

from safetensors.torch import load_file  # noqa: E402

from armap.errors import ConfigError  # noqa: E402
from armap.rewards.fit_settings import FitSettings  # noqa: E402
from armap.rewards.fitting import TransformerFit, _share_of_rate, classification_loss, pairwise_loss  # noqa: E402
from armap.rewards.rendering import render  # noqa: E402
from armap.rewards.transformer import TransformerRewardModel  # noqa: E402
from armap.types import PreferencePair, TrainingPoint  # noqa: E402
from tiny_model import make_tiny_model, plain_scores  # noqa: E402

from .toy_pairs import toy_pairs  # noqa: E402

PAIRS, HELDOUT = toy_pairs(120, 1), toy_pairs(40, 2)
QUICK = FitSettings(pairs_per_step=6, evaluate_every_steps=5, lora_rank=4, learning_rate=3e-3)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> str:
    return make_tiny_model(tmp_path_factory.mktemp("backbone"))


def fit(
    backbone: str,
    folder: Path,
    settings: FitSettings,
    pairs: list[PreferencePair] = PAIRS,
    heldout: list[PreferencePair] = HELDOUT,
) -> tuple[TransformerRewardModel, list[TrainingPoint]]:
    model, points = TransformerRewardModel.from_backbone(backbone, seed=1), []
    TransformerFit(model, pairs, heldout, settings, seed=0, folder=folder).run(points.append)
    return model, points


def sides(pairs: list[PreferencePair]) -> list:
    return [side for pair in pairs for side in (pair.chosen, pair.rejected)]


def margins(model: TransformerRewardModel, pairs: list[PreferencePair]) -> "torch.Tensor":
    scores = torch.tensor(model.score_blocking(sides(pairs)))
    return scores[0::2] - scores[1::2]


def heldout_loss(model: TransformerRewardModel) -> float:
    difference = margins(model, HELDOUT)
    return float(pairwise_loss(difference, torch.zeros_like(difference)))


# Loss and gradients


def group(n: int, seed: int) -> list[PreferencePair]:
    """Return pairs of one chosen trajectory with `n` rejected ones."""
    first, *others = toy_pairs(n, seed)
    rejected = [other.rejected.model_copy(update={"task": first.task}) for other in others]
    return [first, *(first.model_copy(update={"rejected": one}) for one in rejected)]


def loss_and_gradients(
    model: TransformerRewardModel, scores: "torch.Tensor"
) -> tuple["torch.Tensor", dict[str, "torch.Tensor"]]:
    model.network.zero_grad()
    loss = pairwise_loss(scores[0::2], scores[1::2], centering=1e-3)
    loss.backward()
    trained = {name: weight.grad.clone() for name, weight in model.network.named_parameters() if weight.requires_grad}
    return loss.detach(), trained


@pytest.mark.parametrize("lora_rank", [0, 4])
@pytest.mark.parametrize("pairs", [PAIRS[:8], [*group(4, 3), *group(4, 4)]], ids=["pairs", "groups"])
def test_loss_and_gradients_through_token_trees_are_those_of_plain_passes(backbone, tmp_path, pairs, lora_rank):
    model = TransformerRewardModel.from_backbone(backbone, seed=1)
    settings = QUICK.model_copy(update={"lora_rank": lora_rank})
    TransformerFit(model, pairs, HELDOUT, settings, seed=0, folder=tmp_path)
    for name, weight in model.network.named_parameters():
        if "lora_B" in name:
            # From its start, which is zero, no gradient would reach its partner.
            torch.nn.init.normal_(weight, std=0.1)
    trajectories = sides(pairs)
    trees, places = model.trees(trajectories)
    by_tree = model.forward(trees)
    loss, packed = loss_and_gradients(model, torch.stack([by_tree[tree][end] for tree, end in places]))
    texts = [torch.tensor([model.token_ids(trajectory)]) for trajectory in trajectories]
    plain_loss, plain = loss_and_gradients(model, torch.stack([model.network(text).logits[0, 0] for text in texts]))
    assert sum(map(len, trees)) < 0.8 * sum(text.shape[1] for text in texts)
    torch.testing.assert_close(loss, plain_loss, atol=1e-5, rtol=0)
    assert packed.keys() == plain.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(packed[name], gradient, atol=1e-4, rtol=1e-4)
        assert gradient.any()


def test_how_a_step_is_cut_into_passes_changes_neither_loss_nor_gradients(backbone, tmp_path):
    curves = []
    for pass_tokens in (1, 300, 100_000):
        settings = QUICK.model_copy(update={"pass_tokens": pass_tokens, "pairs_per_step": 8})
        model, points = fit(backbone, tmp_path / str(pass_tokens), settings, PAIRS[:40])
        curves.append(([point.loss for point in points], margins(model, HELDOUT).tolist()))
    for losses, found in curves[1:]:
        assert losses == pytest.approx(curves[0][0], abs=1e-5)
        assert found == pytest.approx(curves[0][1], abs=1e-3)


def test_a_chosen_trajectory_with_several_rejected_ones_is_computed_once_a_step(backbone, tmp_path):
    groups, others = group(4, 3), PAIRS[:56]
    chosen = groups[0].chosen
    model = TransformerRewardModel.from_backbone(backbone, seed=1)
    trees, _ = model.trees(sides(groups))
    alone = [model.trees(sides([pair]))[0] for pair in groups]
    assert len(trees) == 1
    assert len(trees[0]) < sum(len(tree) for each in alone for tree in each) - 3 * len(model.token_ids(chosen)) + 1
    # Among many other pairs they still meet.
    settings = QUICK.model_copy(update={"pairs_per_step": 8})
    running = TransformerFit(model, [*groups[:2], *others, *groups[2:]], HELDOUT, settings, seed=0, folder=tmp_path)
    steps_with = [sum(pair in groups for pair in batch) for _, batch in running.batches()]
    assert sum(map(bool, steps_with)) <= 2


@pytest.mark.parametrize("pass_tokens", [1, 100_000])
def test_a_fit_counts_the_tokens_it_computed_and_those_it_did_not_compute_again(backbone, tmp_path, pass_tokens):
    groups = [*group(4, 3), *group(4, 4)]
    settings = QUICK.model_copy(update={"pairs_per_step": 8, "pass_tokens": pass_tokens})
    model, _ = fit(backbone, tmp_path, settings, groups, groups[:4])
    computed = sum(len(tree) for tree in model.trees(sides(groups))[0] + model.trees(sides(groups[:4]))[0])
    assert model.computed_tokens == computed
    read = sum(len(model.token_ids(side)) for side in sides([*groups, *groups[:4]]))
    assert model.computed_tokens + model.avoided_tokens == read
    assert f"read {read:,} tokens and computed {computed:,}" in " ".join(model.remarks())


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_the_first_point_is_the_loss_of_plain_passes_at_the_untrained_weights(backbone, tmp_path, lora_rank):
    TransformerRewardModel.from_backbone(backbone, seed=1).save(tmp_path / "untrained")
    scores = torch.tensor(plain_scores(tmp_path / "untrained", [render(side) for side in sides(PAIRS[:8])]))
    settings = QUICK.model_copy(update={"pairs_per_step": 8, "lora_rank": lora_rank})
    _, points = fit(backbone, tmp_path / "fit", settings, PAIRS[:8])
    assert points[0].loss == pytest.approx(float(pairwise_loss(scores[0::2], scores[1::2], centering=1e-3)), abs=1e-4)
    assert points[0].accuracy == float((scores[0::2] > scores[1::2]).float().mean())


def test_swapping_chosen_and_rejected_changes_the_loss_by_the_margin():
    chosen, rejected = torch.tensor([2.0, -1.0, 300.0]), torch.tensor([0.5, 1.0, -300.0])
    there, back = pairwise_loss(chosen, rejected), pairwise_loss(rejected, chosen)
    assert float(back - there) == pytest.approx(float((chosen - rejected).mean()))
    assert float(pairwise_loss(chosen, chosen)) == pytest.approx(math.log(2))


def test_a_margin_asks_for_as_much_more():
    chosen, rejected = torch.tensor([2.0, -1.0]), torch.tensor([0.5, 1.0])
    assert pairwise_loss(chosen, rejected, margin=1.5) == pairwise_loss(chosen - 1.5, rejected)


def test_a_pairs_own_margin_counts_beside_that_of_the_settings(backbone, tmp_path):
    wanted = [1.0, 0.0, 2.5, 0.5]
    pairs = [pair.model_copy(update={"margin": margin}) for pair, margin in zip(PAIRS, wanted, strict=False)]
    untrained = margins(TransformerRewardModel.from_backbone(backbone, seed=1), pairs)
    expected = pairwise_loss(untrained - torch.tensor(wanted) - 0.25, torch.zeros(4))
    settings = QUICK.model_copy(update={"margin": 0.25, "centering": 0.0, "pass_tokens": 150})
    _, points = fit(backbone, tmp_path, settings, pairs)
    assert points[0].loss == pytest.approx(float(expected), abs=1e-4)


def test_centring_pulls_each_pair_to_zero_whatever_the_others_are():
    chosen, rejected = torch.tensor([3.0, -2.0]), torch.tensor([1.0, -4.0])
    pull = pairwise_loss(chosen, rejected, centering=0.1) - pairwise_loss(chosen, rejected)
    # The scores of both pairs cancel out, and yet they are far from zero.
    assert float(pull) == pytest.approx(0.1 * (4 + 6) / 2)


def test_classification_takes_a_score_for_log_odds():
    chosen, rejected = torch.tensor([2.0, 0.0]), torch.tensor([-1.0, 3.0])
    odds = torch.cat([chosen, -rejected])
    assert float(classification_loss(chosen, rejected)) == pytest.approx(float(-torch.sigmoid(odds).log().mean()))


def test_classification_learns_too_and_lifts_chosen_trajectories_above_zero(backbone, tmp_path):
    settings = FitSettings(target="classification", epochs=2, learning_rate=1e-2, evaluate_every_steps=20)
    model, _ = fit(backbone, tmp_path, settings)
    scores = torch.tensor(model.score_blocking(sides(HELDOUT)))
    assert float(scores[0::2].mean()) > 0 > float(scores[1::2].mean())


# Learning


@pytest.mark.parametrize("lora_rank", [0, 8])
def test_it_learns_to_judge_held_out_trajectories(backbone, tmp_path, lora_rank):
    settings = FitSettings(epochs=2, lora_rank=lora_rank, learning_rate=1e-2, evaluate_every_steps=20)
    untrained = heldout_loss(TransformerRewardModel.from_backbone(backbone, seed=1))
    model, points = fit(backbone, tmp_path, settings)
    assert [point.step for point in points] == list(range(1, 2 * len(PAIRS) // settings.pairs_per_step + 1))
    assert sum(point.loss for point in points[-5:]) < 0.7 * sum(point.loss for point in points[:5])
    # So small a model learns to tell objects from none, and not one object from another.
    assert heldout_loss(model) < 0.7 * untrained


def test_pairs_with_their_sides_swapped_teach_the_opposite(backbone, tmp_path):
    pairs, heldout = (
        [pair.model_copy(update={"chosen": pair.rejected, "rejected": pair.chosen}) for pair in there]
        for there in (PAIRS[:24], HELDOUT)
    )
    # All pairs in each step, as the order of pairs depends on the chosen sides.
    settings = QUICK.model_copy(update={"learning_rate": 1e-2, "pairs_per_step": 24, "epochs": 6})
    there, points = fit(backbone, tmp_path / "there", settings, PAIRS[:24])
    back, swapped_points = fit(backbone, tmp_path / "back", settings, pairs, heldout)
    assert points[0].accuracy == pytest.approx(1 - swapped_points[0].accuracy)
    assert float(margins(there, HELDOUT).mean()) > 0 > float(margins(back, HELDOUT).mean())


def test_it_stops_when_the_held_out_loss_no_longer_falls_and_keeps_the_best_weights(backbone, tmp_path):
    too_fast = FitSettings(epochs=20, learning_rate=0.3, warmup_share=0.5, evaluate_every_steps=2, patience=3)
    model, points = fit(backbone, tmp_path, too_fast, PAIRS[:32])
    losses = [point.heldout_loss for point in points if point.heldout_loss is not None]
    assert len(points) < 80
    assert len(losses) - 1 - losses.index(min(losses)) == 3
    assert heldout_loss(model) == pytest.approx(min(losses), abs=1e-4)


def test_without_patience_it_goes_on_to_the_end_and_still_keeps_the_best_weights(backbone, tmp_path):
    too_fast = FitSettings(epochs=4, learning_rate=0.3, evaluate_every_steps=2, patience=None)
    model, points = fit(backbone, tmp_path, too_fast, PAIRS[:24])
    losses = [point.heldout_loss for point in points if point.heldout_loss is not None]
    assert len(points) == 24
    assert heldout_loss(model) == pytest.approx(min(losses), abs=1e-4)


@pytest.mark.parametrize(("schedule", "last"), [("falling", 0.1), ("constant", 1.0)])
def test_the_rate_rises_over_the_warm_up_and_then_falls_to_a_tenth_or_stays(schedule, last):
    settings = QUICK.model_copy(update={"warmup_share": 0.25, "schedule": schedule})
    rates = [_share_of_rate(step, 40, settings) for step in range(1, 41)]
    assert rates[:10] == pytest.approx([step / 10 for step in range(1, 11)])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(last)


# What a fit leaves behind


def test_a_fit_with_lora_is_saved_as_a_plain_transformers_model(backbone, tmp_path):
    model, _ = fit(backbone, tmp_path / "fit", QUICK)
    trajectories = sides(HELDOUT[:10])
    scores = model.score_blocking(trajectories)
    model.save(tmp_path / "saved")
    untrained = TransformerRewardModel.from_backbone(backbone, seed=1)
    assert load_file(tmp_path / "saved" / "model.safetensors").keys() == untrained.network.state_dict().keys()
    assert plain_scores(tmp_path / "saved", [render(side) for side in trajectories]) == pytest.approx(scores, abs=1e-5)
    loaded = TransformerRewardModel.load(tmp_path / "saved")
    assert loaded.score_blocking(trajectories) == pytest.approx(scores, abs=1e-6)
    assert untrained.score_blocking(trajectories) != pytest.approx(scores, abs=1e-2)


def test_full_training_moves_every_weight_but_the_embeddings(backbone, tmp_path):
    before = TransformerRewardModel.from_backbone(backbone, seed=1).network.state_dict()
    model, _ = fit(backbone, tmp_path, QUICK.model_copy(update={"lora_rank": 0}))
    same = {name for name, weight in model.network.state_dict().items() if torch.equal(weight, before[name])}
    assert same == {"model.embed_tokens.weight"}


def test_a_fit_leaves_the_shared_backbone_as_it_was(backbone, tmp_path):
    fresh = TransformerRewardModel.from_backbone(backbone, seed=1).score_blocking(sides(HELDOUT[:5]))
    fit(backbone, tmp_path, QUICK.model_copy(update={"lora_rank": 0}))
    assert TransformerRewardModel.from_backbone(backbone, seed=1).score_blocking(sides(HELDOUT[:5])) == fresh


def test_a_fit_that_was_not_put_away_comes_to_the_same_without_a_step(backbone, tmp_path):
    model, points = fit(backbone, tmp_path, QUICK, PAIRS[:12])
    again, further = fit(backbone, tmp_path, QUICK, PAIRS[:12])
    assert points
    assert further == []
    assert again.score_blocking(sides(HELDOUT)) == model.score_blocking(sides(HELDOUT))


# Killing and going on


def fit_and_report(backbone: str, folder: Path) -> None:
    """Fit in a process of its own, writing every point to a file, and the scores in the end."""
    with (folder / "points.jsonl").open("a") as file:
        model = TransformerRewardModel.from_backbone(backbone, seed=1)
        settings = QUICK.model_copy(update={"patience": 100, "pairs_per_step": 2, "evaluate_every_steps": 3})
        running = TransformerFit(model, PAIRS[:120], HELDOUT[:8], settings, seed=0, folder=folder / "fit")
        running.run(lambda point: print(point.model_dump_json(), file=file, flush=True))
    (folder / "scores.json").write_text(json.dumps(model.score_blocking(sides(HELDOUT))))


def reported(folder: Path) -> list[TrainingPoint]:
    file = folder / "points.jsonl"
    return list(map(TrainingPoint.model_validate_json, file.read_text().splitlines())) if file.exists() else []


@pytest.fixture(scope="module")
def processes():
    """Processes that start with torch imported, as importing it takes longer than everything else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["armap.rewards.fitting"])
    return context


def test_a_fit_killed_at_ten_moments_goes_on_along_the_same_curve_to_the_same_scores(backbone, tmp_path, processes):
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    for folder in (calm, killed):
        folder.mkdir()

    def start(folder: Path) -> multiprocessing.process.BaseProcess:
        process = processes.Process(target=fit_and_report, args=(backbone, folder))
        process.start()
        return process

    undisturbed = start(calm)
    rng = random.Random(0)
    for _ in range(10):
        process = start(killed)
        enough = len(reported(killed)) + rng.randrange(8)
        while process.is_alive() and len(reported(killed)) < enough:
            time.sleep(0.002)
        time.sleep(rng.random() * 0.02)
        assert process.is_alive()
        process.kill()
        process.join()
    assert not (killed / "scores.json").exists()
    last = start(killed)
    for process in (undisturbed, last):
        process.join()
        assert process.exitcode == 0

    expected = {point.step: point for point in reported(calm)}
    assert list(expected) == list(range(1, 61))
    found = reported(killed)
    assert len(found) > len(expected), "no kill lost a step, so nothing was resumed"
    assert {point.step for point in found} == set(expected)
    for point in found:
        assert point.model_dump() == pytest.approx(expected[point.step].model_dump(), abs=1e-6)
    scores = [json.loads((folder / "scores.json").read_text()) for folder in (calm, killed)]
    assert scores[1] == pytest.approx(scores[0], abs=1e-6)


def test_a_fit_that_diverges_says_so_and_keeps_no_such_weights(tmp_path, backbone):
    wild = QUICK.model_copy(update={"learning_rate": 1e12, "warmup_share": 0.0})
    with pytest.raises(ConfigError, match=r"held-out loss after 5 steps is no number.* --learning-rate below 1e\+12"):
        fit(backbone, tmp_path, wild)
    assert not [*tmp_path.rglob("step-*")]
