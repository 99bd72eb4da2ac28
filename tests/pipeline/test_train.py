from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from armap.errors import ConfigError
from armap.pipeline.model_card import MadeFrom
from armap.pipeline.train import split_pairs, train
from armap.rewards.calibration import fit_calibration
from armap.rewards.fit_settings import FitSettings
from armap.rewards.linear import LinearRewardModel
from armap.store import RunFolder
from armap.types import Calibration, HeldoutScore, PreferencePair, TrainingPoint
from rewards.toy_pairs import toy_pairs

PAIRS = toy_pairs(60, 0)


def run_folder(path, pairs: Sequence[PreferencePair] = PAIRS) -> RunFolder:
    run = RunFolder(path)
    for pair in pairs:
        run.append("pairs", pair)
    return run


def fit_linear(pairs, heldout, *, on_point):
    return LinearRewardModel.fit(pairs, seed=0)


async def run_train(run, fit=fit_linear, on_point=lambda _: None, unfinished=0, train_share=1.0):
    await train(
        run,
        fit=fit,
        describe=lambda: MadeFrom("armap"),
        heldout_share=0.25,
        train_share=train_share,
        unfinished=unfinished,
        seed=0,
        on_point=on_point,
    )


def asked(pair: PreferencePair) -> tuple[str, str]:
    return pair.task.instruction, pair.chosen.first_observation.text


@given(
    chosen=st.sets(st.integers(0, len(PAIRS) - 1), min_size=1),
    heldout_share=st.floats(0.01, 0.9),
    seed=st.integers(0, 5),
)
@settings(deadline=None)
def test_a_split_puts_every_pair_on_one_side_and_no_source_task_on_both(chosen, heldout_share, seed):
    pairs = [PAIRS[i] for i in chosen]
    sources = {pair.source_task_id for pair in pairs}
    if len(sources) < 2:
        with pytest.raises(ConfigError, match=f"from {len(sources)} source tasks"):
            split_pairs(pairs, heldout_share=heldout_share, seed=seed)
        return
    training, heldout = split_pairs(pairs, heldout_share=heldout_share, seed=seed)
    left_out = [pair for pair in pairs if pair not in [*training, *heldout]]
    assert len(training) + len(heldout) + len(left_out) == len(pairs)
    # Where it can be, no task that is trained on is held out, though other source tasks led to it.
    trained = {asked(pair) for pair in training}
    assert {asked(pair) for pair in left_out} <= trained
    assert trained.isdisjoint(map(asked, heldout)) or not left_out
    assert {pair.source_task_id for pair in training}.isdisjoint(pair.source_task_id for pair in heldout)
    assert training
    assert heldout


def test_a_split_does_not_depend_on_the_order_of_the_pairs():
    sides = [split_pairs(pairs, heldout_share=0.3, seed=0) for pairs in (PAIRS, PAIRS[::-1])]
    assert [{pair.id for pair in side} for side in sides[0]] == [{pair.id for pair in side} for side in sides[1]]


@pytest.mark.parametrize("sources", [0, 1])
async def test_too_few_source_tasks_are_refused_and_nothing_is_written(tmp_path, sources):
    pairs = [pair for pair in PAIRS if pair.source_task_id == PAIRS[0].source_task_id][: 5 * sources]
    with run_folder(tmp_path, pairs) as run:
        with pytest.raises(ConfigError, match=f"from {sources} source tasks, and training needs two"):
            await run_train(run)
        assert not (tmp_path / "reward_model").exists()
        assert run.read("heldout", HeldoutScore) == []


async def test_the_saved_model_scores_held_out_pairs_as_recorded(tmp_path):
    with run_folder(tmp_path) as run:
        await run_train(run)
        scored = {score.pair_id: score for score in run.read("heldout", HeldoutScore)}
    _, heldout = split_pairs(sorted(PAIRS, key=lambda pair: pair.id), heldout_share=0.25, seed=0)
    assert scored.keys() == {pair.id for pair in heldout}
    model = LinearRewardModel.load(tmp_path / "reward_model")
    for pair in heldout:
        score = scored[pair.id]
        assert await model.score([pair.chosen, pair.rejected]) == [score.chosen, score.rejected]
        assert (score.source_task_id, score.origin) == (pair.source_task_id, pair.origin)


async def test_the_order_in_which_pairs_were_made_changes_nothing(tmp_path):
    for name, pairs in (("a", PAIRS), ("b", PAIRS[::-1])):
        with run_folder(tmp_path / name, pairs) as run:
            await run_train(run)
    for file in ("heldout.jsonl", "reward_model/linear.npy", "reward_model/README.md"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


async def test_a_model_that_is_there_is_kept_and_not_fitted_again(tmp_path):
    def never(pairs, heldout, *, on_point):
        raise AssertionError("fitted again")

    with run_folder(tmp_path) as run:
        await run_train(run)
        before = (tmp_path / "heldout.jsonl").read_bytes()
        await run_train(run, fit=never)
        assert (tmp_path / "heldout.jsonl").read_bytes() == before


async def test_a_fit_that_repeats_steps_after_a_resumption_logs_each_once_and_shows_all(tmp_path):
    class KilledError(Exception):
        pass

    def steps(first, last, then):
        def fit(pairs, heldout, *, on_point):
            for step in range(first, last + 1):
                on_point(TrainingPoint(step=step, loss=1 / step, accuracy=0.5))
            return then(pairs)

        return fit

    def killed(pairs):
        raise KilledError

    shown = []
    with run_folder(tmp_path) as run:
        with pytest.raises(KilledError):
            await run_train(run, steps(1, 7, killed))
        await run_train(run, steps(5, 10, lambda pairs: LinearRewardModel.fit(pairs, seed=0)), shown.append)
        assert [point.step for point in run.read("training", TrainingPoint)] == list(range(1, 11))
    assert [point.step for point in shown] == list(range(5, 11))


async def test_a_kill_before_the_last_rename_leaves_no_half_model(tmp_path):
    (tmp_path / ".reward_model.draft").mkdir()
    (tmp_path / ".reward_model.draft" / "linear.npy").write_bytes(b"half")
    (tmp_path / ".reward_model.draft" / "left_over").write_bytes(b"")
    with run_folder(tmp_path) as run:
        await run_train(run)
    there = sorted(path.name for path in (tmp_path / "reward_model").iterdir())
    assert there == ["README.md", "calibration.json", "linear.npy"]


@pytest.mark.parametrize("killed", [False, True])
async def test_checkpoints_are_there_until_the_model_is(tmp_path, killed):
    (tmp_path / "checkpoints" / "step-1").mkdir(parents=True)
    if killed:
        (tmp_path / "reward_model").mkdir()
    seen = []
    with run_folder(tmp_path) as run:
        await run_train(run, on_point=lambda _: seen.append((tmp_path / "checkpoints").exists()))
    assert all(seen)
    assert not [path for path in tmp_path.iterdir() if "checkpoints" in path.name]


async def test_what_scores_mean_is_fitted_to_the_held_out_pairs_and_stands_beside_the_model(tmp_path):
    with run_folder(tmp_path) as run:
        await run_train(run)
        scored = run.read("heldout", HeldoutScore)
    calibration = Calibration.model_validate_json((tmp_path / "reward_model" / "calibration.json").read_bytes())
    source_task_ids = tuple(sorted({pair.source_task_id for pair in PAIRS}))
    whence = {"labelled_by": ("execution",), "source_task_ids": source_task_ids}
    assert calibration == fit_calibration(scored).model_copy(update=whence)
    assert calibration.pairs == len(scored)


async def test_the_model_card_has_the_numbers_of_this_run(tmp_path):
    with run_folder(tmp_path) as run:
        await run_train(run)
        scored = run.read("heldout", HeldoutScore)
    card = (tmp_path / "reward_model" / "README.md").read_text("utf-8")
    accuracy = sum(score.chosen > score.rejected for score in scored) / len(scored)
    assert f"| all | {len(scored)} | {accuracy:.1%} | " in card
    assert f"{len(PAIRS) - len(scored)} preference pairs to learn from and {len(scored)} held out" in card


async def test_a_transformer_is_fitted_logged_saved_and_scores_as_recorded(tmp_path):
    pytest.importorskip("torch", reason="the local extra is not installed: no transformer is fitted by the stage")
    from armap.rewards.fitting import TransformerFit
    from armap.rewards.transformer import TransformerRewardModel
    from tiny_model import make_tiny_model

    backbone = make_tiny_model(tmp_path / "backbone")
    settings = FitSettings(backbone=backbone, layers=2, pairs_per_step=8, evaluate_every_steps=2, lora_rank=2)

    def fit(pairs, heldout, *, on_point):
        model = TransformerRewardModel.from_backbone(backbone, layers=2)
        TransformerFit(model, pairs, heldout, settings, seed=0, folder=tmp_path / "run" / "fit").run(on_point)
        return model

    with run_folder(tmp_path / "run") as run:
        await run_train(run, fit)
        points, scored = run.read("training", TrainingPoint), run.read("heldout", HeldoutScore)
    assert [point.step for point in points] == list(range(1, len(points) + 1))
    assert points[-1].heldout_loss is not None
    model = TransformerRewardModel.load(tmp_path / "run" / "reward_model")
    pair = next(pair for pair in PAIRS if pair.id == scored[0].pair_id)
    assert await model.score([pair.chosen, pair.rejected]) == pytest.approx(
        [scored[0].chosen, scored[0].rejected], abs=1e-4
    )
    assert "layers" in (tmp_path / "run" / "reward_model" / "README.md").read_text("utf-8")


async def test_beginnings_are_learned_from_where_wanted_and_held_out_with_their_pairs(tmp_path):
    given = []

    def fit(pairs, heldout, *, on_point):
        given.extend((pairs, heldout))
        return LinearRewardModel.fit(pairs, seed=0)

    with run_folder(tmp_path) as run:
        await run_train(run, fit, unfinished=2)
        scored = run.read("heldout", HeldoutScore)
    plain = split_pairs(sorted(PAIRS, key=lambda pair: pair.id), heldout_share=0.25, seed=0)
    for there, whole in zip(given, plain, strict=True):
        assert there[: len(whole)] == whole
        begun = there[len(whole) :]
        assert begun
        sources = {pair.source_task_id for pair in whole}
        assert all(pair.source_task_id in sources and pair.chosen.stop_reason == "truncated" for pair in begun)
    assert {score.pair_id for score in scored} == {pair.id for pair in plain[1]}


async def test_less_data_is_a_share_of_the_source_tasks_and_the_held_out_pairs_stay_the_same(tmp_path):
    given = {}

    def noting(share):
        def fit(pairs, heldout, *, on_point):
            given[share] = ({pair.id: pair.source_task_id for pair in pairs}, [pair.id for pair in heldout])
            return LinearRewardModel.fit(pairs, seed=0)

        return fit

    for share in (1.0, 0.5, 0.2, 0.001):
        with run_folder(tmp_path / str(share)) as run:
            await run_train(run, noting(share), train_share=share)
    everything, heldout = given[1.0]
    for share in (0.5, 0.2, 0.001):
        pairs, held_out = given[share]
        assert held_out == heldout
        sources = set(pairs.values())
        assert len(sources) == max(1, round(share * len(set(everything.values()))))
        assert pairs == {name: source for name, source in everything.items() if source in sources}
    assert given[0.2][0].keys() < given[0.5][0].keys()
