"""The reward models by what is in a folder, or at an address."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from armap.errors import ConfigError
from armap.images import ImageFolder
from armap.protocols import RewardModel
from armap.rewards.http import HTTPRewardModel
from armap.rewards.linear import LinearRewardModel
from armap.weights import require_local_extra, stored_settings

if TYPE_CHECKING:
    from armap.rewards.transformer import TransformerRewardModel

SERVE_TOKEN = "ARMAP_SERVE_TOKEN"  # noqa: S105 - the name of a variable
"""Environment variable with the token of a reward model's server."""
_VILA_MODEL_TYPE, _VILA_SAVED = "llava_llama", "VilaForSequenceClassification"
"""What a published VILA 1.5 says it is, and what a reward model made of one says."""


@runtime_checkable
class Remarking(Protocol):
    """A reward model that says what it did not read as it was."""

    def remarks(self) -> list[str]:
        """Return a sentence for each thing that was shortened or left out."""
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


def remarks(judge: RewardModel) -> list[str]:
    """Return what a reward model did not read as it was, a sentence each; nothing where it cannot say."""
    return judge.remarks() if isinstance(judge, Remarking) else []
