"""The reward models by what is in a folder, or at an address, and how new ones are fitted."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from armap.errors import ConfigError
from armap.images import ImageFolder
from armap.pipeline.model_card import MadeFrom
from armap.pipeline.train import Fit, SavableRewardModel
from armap.protocols import LLM, RewardModel
from armap.rewards.fit_settings import FitSettings
from armap.rewards.http import HTTPRewardModel
from armap.rewards.linear import LinearRewardModel
from armap.store import RunFolder
from armap.types import PreferencePair, TrainingPoint
from armap.weights import published, require_local_extra, stored_settings

if TYPE_CHECKING:
    from armap.rewards.transformer import TransformerRewardModel

SERVE_TOKEN = "ARMAP_SERVE_TOKEN"  # noqa: S105 - the name of a variable
"""Environment variable with the token of a reward model's server."""
_VILA_MODEL_TYPE, _VILA_SAVED = "llava_llama", "VilaForSequenceClassification"
"""What a published VILA 1.5 says it is, and what a reward model made of one says."""


class ShowProgress(Protocol):
    """Shows how far a stage is."""

    def __call__(self, done: int, total: int | None, note: str = "") -> None:
        """Say that `done` of `total` are done."""
        ...


@runtime_checkable
class Remarking(Protocol):
    """A model that says what it did not do as it was told, and what it saved."""

    def remarks(self) -> list[str]:
        """Return a sentence for each thing that was shortened, left out or saved."""
        ...


def is_address(place: str) -> bool:
    """Return whether a reward model is at an address rather than in a folder."""
    return place.lower().startswith(("http://", "https://"))


def load_reward_model(place: str | Path, images: ImageFolder | None = None) -> RewardModel:
    """Load a reward model of any kind, or connect to one.

    Args:
        place: its folder, or the address of its server.
        images: where the pictures are that trajectories name.

    Raises:
        ConfigError: there is none.
    """
    if isinstance(place, str) and is_address(place):
        return HTTPRewardModel(place, token=os.environ.get(SERVE_TOKEN), images=images)
    folder = Path(place)
    if LinearRewardModel.is_in(folder):
        return LinearRewardModel.load(folder)
    # Before torch is asked for, which may be missing and takes seconds to import.
    if not folder.is_dir():
        raise ConfigError(f"There is no reward model in {folder}; train one with `armap train`.")
    return transformer_family(str(folder)).load(folder, images=images)


def transformer_family(backbone: str) -> type[TransformerRewardModel]:
    """Return the class of reward models that grow from a backbone, or are in a folder.

    Raises:
        ConfigError: torch and transformers are missing.
    """
    require_local_extra()
    settings = stored_settings(backbone)
    if settings.get("model_type") == _VILA_MODEL_TYPE or _VILA_SAVED in (settings.get("architectures") or ()):
        from armap.rewards.vila import VilaRewardModel

        return VilaRewardModel
    from armap.rewards.transformer import TransformerRewardModel

    return TransformerRewardModel


def remarks(model: RewardModel | LLM) -> list[str]:
    """Return what a model did not do as it was told or saved, a sentence each; nothing where it cannot say."""
    return model.remarks() if isinstance(model, Remarking) else []


def made_from(kind: str, settings: FitSettings) -> MadeFrom:
    """Return what a reward model of a kind is grown from, for its card."""
    if kind != "transformer":
        return MadeFrom("armap")
    repository, licence = published(settings.backbone)
    library = transformer_family(settings.backbone).library
    return MadeFrom(library, repository, licence, settings.model_dump(exclude={"backbone"}))


def linear_fit(seed: int, show: ShowProgress) -> Fit:
    """Return what fits the tiny model on words."""

    def fit(
        pairs: Sequence[PreferencePair],
        heldout: Sequence[PreferencePair],
        *,
        on_point: Callable[[TrainingPoint], None],
    ) -> SavableRewardModel:
        model = LinearRewardModel.fit(pairs, seed=seed)
        show(1, 1)
        return model

    return fit


def transformer_fit(
    settings: FitSettings, *, run: RunFolder, seed: int, tracker: str | None, show: ShowProgress
) -> Fit:
    """Return what fits a transformer, whose backbone is loaded at once.

    Args:
        settings: how it is fitted.
        run: where its checkpoints go, and its pictures are.
        seed: decides its start and the order of the pairs.
        tracker: where the curve goes beside the run folder, as accelerate names it.
        show: told of every step.

    Raises:
        ConfigError: torch, transformers or the tracker is missing, there is no such backbone, or it has nothing of what
            is to be trained.
    """
    require_local_extra()
    if tracker is not None:
        _require_tracker(tracker)
    from armap.rewards.fitting import TransformerFit

    model = transformer_family(settings.backbone).from_backbone(
        settings.backbone,
        layers=settings.layers,
        max_tokens=settings.max_tokens,
        pooling=settings.pooling,
        seed=seed,
        images=run.images,
    )

    if settings.train_vision and not model.sees:
        raise ConfigError(f"{model.name} sees no pictures; leave --train-vision out, or choose another --backbone.")

    def fit(
        pairs: Sequence[PreferencePair],
        heldout: Sequence[PreferencePair],
        *,
        on_point: Callable[[TrainingPoint], None],
    ) -> SavableRewardModel:
        _refuse_unreadable(model, pairs, heldout)
        # Some trackers talk; but only results go to stdout.
        with redirect_stdout(sys.stderr):
            one = TransformerFit(model, pairs, heldout, settings, seed=seed, folder=run.path, tracker=tracker)

            def note(point: TrainingPoint) -> None:
                show(point.step, one.total_steps, _note(point))
                on_point(point)

            one.run(note)
        return model

    return fit


def _refuse_unreadable(
    model: TransformerRewardModel, pairs: Sequence[PreferencePair], heldout: Sequence[PreferencePair]
) -> None:
    """Read all pairs before time is spent on any.

    Raises:
        RewardModelError: a trajectory is longer than the network can read.
        ConfigError: both sides of every pair that is to be learned from are read alike.
    """
    differ = [model.read(pair.chosen).tokens != model.read(pair.rejected).tokens for pair in [*pairs, *heldout]]
    if not any(differ[: len(pairs)]):
        raise ConfigError(
            f"{model.name} reads both sides of every pair alike, so there is nothing to learn: what they differ in is "
            "beyond --max-tokens, or in pictures that it does not see."
        )


def _require_tracker(name: str) -> None:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    known = sorted(map(str, LOGGER_TYPE_TO_CLASS))
    if name not in known:
        raise ConfigError(f"There is no tracker {name!r}; choose from: {', '.join(known)}.")
    if name not in map(str, get_available_trackers()):
        raise ConfigError(f"The tracker {name} is not installed; type: pip install {name}")


def _note(point: TrainingPoint) -> str:
    heldout = "" if point.heldout_accuracy is None else f", held-out accuracy {point.heldout_accuracy:.2f}"
    return f"loss {point.loss:.3f}{heldout}"
