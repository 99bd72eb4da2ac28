"""Train: fit a reward model to the preference pairs."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from armap.errors import ConfigError
from armap.pipeline.beginnings import unfinished_pairs
from armap.pipeline.kept_out import at_other_tasks
from armap.pipeline.model_card import MadeFrom, model_card
from armap.protocols import RewardModel
from armap.rewards.calibration import fit_calibration
from armap.rewards.fit_settings import CHECKPOINT_FOLDER
from armap.seeds import rng_for
from armap.store import RunFolder
from armap.types import HeldoutScore, PreferencePair, TrainingPoint

REWARD_MODEL_FOLDER = "reward_model"
"""Where in a run folder the trained reward model lies."""
CALIBRATION_FILE = "calibration.json"
"""Where in that folder stands what its scores mean."""


class SavableRewardModel(RewardModel, Protocol):
    """A reward model that can be written to a folder."""

    name: str

    def save(self, folder: Path) -> None:
        """Write the model."""
        ...


class Fit(Protocol):
    """Fits a reward model of some kind."""

    def __call__(
        self,
        pairs: Sequence[PreferencePair],
        heldout: Sequence[PreferencePair],
        *,
        on_point: Callable[[TrainingPoint], None],
    ) -> SavableRewardModel:
        """Return the model fitted to `pairs`; tell `on_point` of every step, after a resumption some of them again."""
        ...


def source_tasks(pairs: Sequence[PreferencePair]) -> list[str]:
    """Return the ids of the source tasks that pairs come from, of which training needs two.

    Raises:
        ConfigError: there are fewer.
    """
    sources = sorted({pair.source_task_id for pair in pairs})
    if len(sources) < 2:
        raise ConfigError(
            f"There are preference pairs from {len(sources)} source tasks, and training needs two at least; "
            "collect and synthesize more first."
        )
    return sources


def split_pairs(
    pairs: Sequence[PreferencePair], *, heldout_share: float, seed: int
) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """Split pairs into those to train on and those held out, so that no source task is on both sides.

    What different source tasks led to may be one and the same task; of those that are held out, pairs at such a task
    are left out if it is trained on, unless all are.

    Raises:
        ConfigError: the pairs come from fewer than two source tasks.
    """
    sources = source_tasks(pairs)
    rng_for(seed, "heldout").shuffle(sources)
    # At least one source on either side.
    count = min(len(sources) - 1, max(1, round(len(sources) * heldout_share)))
    kept_out = set(sources[:count])
    training = [pair for pair in pairs if pair.source_task_id not in kept_out]
    heldout = [pair for pair in pairs if pair.source_task_id in kept_out]
    return training, at_other_tasks(heldout, training) or heldout


async def train(
    run: RunFolder,
    *,
    fit: Fit,
    describe: Callable[[], MadeFrom],
    heldout_share: float,
    train_share: float,
    unfinished: int,
    seed: int,
    on_point: Callable[[TrainingPoint], None],
) -> SavableRewardModel | None:
    """Fit a reward model to `pairs.jsonl`, save it in `reward_model/` and score the held-out pairs.

    Writes `training.jsonl` and `heldout.jsonl`. A model that is there already is kept.

    Args:
        run: the run folder.
        fit: fits a reward model.
        describe: says what it grows from, for its card; asked once there is something to describe.
        heldout_share: share of the source tasks whose pairs are held out.
        train_share: share of the other source tasks that are learned from.
        unfinished: how many beginnings of each pair are learned from too; see `unfinished_pairs`.
        seed: decides every draw.
        on_point: told of every step.

    Returns:
        The model, or None if there was one already.

    Raises:
        ConfigError: there are too few pairs.
    """
    folder = run.path / REWARD_MODEL_FOLDER
    training, heldout = _read_split(run, heldout_share, train_share, seed)
    if folder.exists():
        _forget_checkpoints(run)
        return None
    logged = max((point.step for point in run.read("training", TrainingPoint)), default=0)

    def note(point: TrainingPoint) -> None:
        if point.step > logged:
            run.append("training", point)
        on_point(point)

    model = fit(
        _with_beginnings(training, unfinished, seed), _with_beginnings(heldout, unfinished, seed), on_point=note
    )
    scored = await _score_heldout(run, model, heldout)
    draft = run.path / f".{REWARD_MODEL_FOLDER}.draft"
    shutil.rmtree(draft, ignore_errors=True)
    model.save(draft)
    calibration = fit_calibration(scored).model_copy(
        update={
            "labelled_by": tuple(sorted({pair.verified_by for pair in training})),
            "source_task_ids": tuple(sorted({pair.source_task_id for pair in (*training, *heldout)})),
        }
    )
    (draft / CALIBRATION_FILE).write_text(calibration.model_dump_json(indent=2) + "\n", encoding="utf-8")
    card = model_card(model.name, describe(), training=training, heldout=heldout, scored=scored)
    (draft / "README.md").write_text(card, encoding="utf-8")
    # Last of all, so that whoever finds the folder finds everything.
    draft.rename(folder)
    _forget_checkpoints(run)
    return model


async def help_train(
    run: RunFolder,
    *,
    fit: Fit,
    heldout_share: float,
    train_share: float,
    unfinished: int,
    seed: int,
    on_point: Callable[[TrainingPoint], None],
) -> None:
    """Take part in a fit that spans several processes, of which another one does `train` and writes everything."""
    training, heldout = _read_split(run, heldout_share, train_share, seed)
    if not (run.path / REWARD_MODEL_FOLDER).exists():
        fit(
            _with_beginnings(training, unfinished, seed), _with_beginnings(heldout, unfinished, seed), on_point=on_point
        )


def _forget_checkpoints(run: RunFolder) -> None:
    """Remove the checkpoints of a fit, once what came of it is safe."""
    there, gone = run.path / CHECKPOINT_FOLDER, run.path / f".{CHECKPOINT_FOLDER}.gone"
    shutil.rmtree(gone, ignore_errors=True)
    if there.exists():
        # Under another name first: half a checkpoint is never to be taken for a whole one.
        there.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def _read_split(
    run: RunFolder, heldout_share: float, train_share: float, seed: int
) -> tuple[list[PreferencePair], list[PreferencePair]]:
    # In the order of their ids, as records of concurrent tasks come in any order.
    pairs = sorted(run.read("pairs", PreferencePair), key=lambda pair: pair.id)
    training, heldout = split_pairs(pairs, heldout_share=heldout_share, seed=seed)
    sources = sorted({pair.source_task_id for pair in training})
    rng_for(seed, "train share").shuffle(sources)
    learned = set(sources[: max(1, round(len(sources) * train_share))])
    return [pair for pair in training if pair.source_task_id in learned], heldout


def _with_beginnings(pairs: Sequence[PreferencePair], count: int, seed: int) -> list[PreferencePair]:
    found = list(pairs)
    for pair in pairs if count else ():
        begun = unfinished_pairs(pair)
        found += rng_for(seed, "beginnings", pair.id).sample(begun, min(count, len(begun)))
    return found


async def _score_heldout(run: RunFolder, model: RewardModel, heldout: Sequence[PreferencePair]) -> list[HeldoutScore]:
    scores = await model.score([side for pair in heldout for side in (pair.chosen, pair.rejected)])
    scored = [
        HeldoutScore(
            pair_id=pair.id, source_task_id=pair.source_task_id, origin=pair.origin, chosen=chosen, rejected=rejected
        )
        for pair, chosen, rejected in zip(heldout, scores[0::2], scores[1::2], strict=True)
    ]
    there = {score.pair_id for score in run.read("heldout", HeldoutScore)}
    for score in scored:
        if score.pair_id not in there:
            run.append("heldout", score)
    return scored
