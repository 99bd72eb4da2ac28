"""A transformer with a scalar head as reward model, on the CPU or a GPU."""

from __future__ import annotations

import asyncio
import copy
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

from armap import weights
from armap.errors import ConfigError, RewardModelError
from armap.rewards.rendering import renderings
from armap.seeds import stable_hash
from armap.tokentree import TokenTree, pack
from armap.types import Trajectory

_TREE_TOKENS = 512
"""Longest token tree: attention is quadratic in it, while every split computes the shared beginning again."""
_PASS_TOKENS = 4096
"""Most tokens in one pass of the network, padding included."""

logging.set_verbosity_error()
logging.disable_progress_bar()


class TransformerRewardModel:
    """Scores a trajectory by a linear head on the final hidden state of its last token.

    Trajectories that begin alike are computed once up to where they part.

    Args:
        name: identity for records.
        tokenizer: a transformers tokenizer.
        network: a transformers sequence-classification network with one label and a causal backbone.

    Attributes:
        network: the network, for whoever trains it.
        computed_tokens: tokens computed by `score` until now.
        avoided_tokens: tokens that `score` would have computed without sharing beginnings.
        read: trajectories read until now, once per time.
        shortened: those among them that were longer than the limit.

    Source: ARMAP, reward model; its released code for the place the score is read.
    """

    def __init__(self, name: str, tokenizer: Any, network: Any) -> None:  # noqa: ANN401 - transformers is untyped here
        self.name = name
        self.network = network
        self.computed_tokens = 0
        self.avoided_tokens = 0
        self.read = 0
        self.shortened = 0
        self._tokenizer = tokenizer
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reward-model")

    @classmethod
    def from_backbone(
        cls, model: str = weights.EMBEDDED, *, layers: int | None = None, max_tokens: int | None = None, seed: int = 0
    ) -> Self:
        """Put a new, untrained head on a causal language model.

        Args:
            model: what `armap.weights.locate` accepts.
            layers: keep this many layers from the bottom; None keeps all.
            max_tokens: longest trajectory; of a longer one the earlier observations are shortened. None for as long
                as the backbone reads. It is saved with the model.
            seed: decides the head.

        Raises:
            ConfigError: the model cannot be loaded, or has fewer layers.
        """
        local = weights.load(model)
        config = copy.deepcopy(local.network.config)
        if layers is not None and not 1 <= layers <= config.num_hidden_layers:
            raise ConfigError(f"{local.name} has {config.num_hidden_layers} layers; keep 1 to that many, not {layers}.")
        config.num_labels = 1
        config.num_hidden_layers = layers or config.num_hidden_layers
        if max_tokens is not None:
            config.max_trajectory_tokens = min(max_tokens, config.max_position_embeddings)
        if hasattr(config, "quantization_config"):
            # The weights were unpacked on loading; saying otherwise would make the result impossible to save.
            del config.quantization_config
        with torch.random.fork_rng():
            torch.manual_seed(stable_hash("head", seed))
            network = AutoModelForSequenceClassification.from_config(config, attn_implementation="sdpa")
        lacking, _ = network.base_model.load_state_dict(local.network.base_model.state_dict(), strict=False)
        if lacking:
            raise ConfigError(f"{local.name} cannot carry a reward head: it lacks the weights {lacking[0]}.")
        return cls(
            f"{local.name}, {config.num_hidden_layers} layers",
            local.tokenizer,
            network.float().to(weights.device()).eval(),
        )

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load a trained reward model.

        Raises:
            ConfigError: there is none, or it has no trained head.
        """
        if not (folder / "config.json").is_file():
            raise ConfigError(f"There is no reward model in {folder}; train one with `armap train`.")
        try:
            network, report = AutoModelForSequenceClassification.from_pretrained(
                folder,
                dtype=torch.float32,
                output_loading_info=True,
                # Reported below in a sentence instead of raised.
                ignore_mismatched_sizes=True,
                attn_implementation="sdpa",
            )
            tokenizer = AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError, SafetensorError) as error:
            raise ConfigError(f"The reward model in {folder} cannot be read: {str(error).splitlines()[0]}") from error
        head = network.score.weight
        # Absence first: transformers gives a plain language model a random head of two labels.
        absent = sorted([*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])])
        if absent or not bool(head.isfinite().all()) or not bool(head.any()):
            raise ConfigError(
                f"The model in {folder} has no trained reward head"
                + (f" (its weights lack {absent[0]})" if absent else "")
                + "; train one with `armap train`."
            )
        if head.shape[0] != 1:
            raise ConfigError(f"The model in {folder} has {head.shape[0]} labels; a reward model has one.")
        return cls(str(folder), tokenizer, network.to(weights.device()).eval())

    async def score(self, trajectories: Sequence[Trajectory | str]) -> list[float]:
        """Return one score per trajectory; see `armap.protocols.RewardModel.score`.

        Scores do not depend on the order or the company of a trajectory. A text in place of one is scored as it stands.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self.score_blocking, tuple(trajectories))

    def score_blocking(self, trajectories: Sequence[Trajectory | str]) -> list[float]:
        """Do what `score` does, in the caller's thread."""
        trees, places = self.trees(trajectories)
        self.network.eval()
        scores: list[list[float]] = [[] for _ in trees]
        by_length = sorted(range(len(trees)), key=lambda i: len(trees[i]))
        with torch.inference_mode():
            while by_length:
                longest = len(trees[by_length[-1]])
                rows = [by_length.pop() for _ in range(min(len(by_length), max(1, _PASS_TOKENS // longest)))]
                for row, values in zip(rows, self.forward([trees[i] for i in rows]), strict=True):
                    scores[row] = values.tolist()
        found = [scores[tree][end] for tree, end in places]
        for trajectory, score in zip(trajectories, found, strict=True):
            if not math.isfinite(score):
                what = "a text" if isinstance(trajectory, str) else f"trajectory {trajectory.id!r}"
                raise RewardModelError(f"{self.name} gives {what} the score {score}")
        computed = sum(map(len, trees))
        self.computed_tokens += computed
        self.avoided_tokens += sum(trees[tree].depths[trees[tree].ends[end]] + 1 for tree, end in places) - computed
        return found

    def trees(self, trajectories: Sequence[Trajectory | str]) -> tuple[list[TokenTree], list[tuple[int, int]]]:
        """Merge trajectories of one task into token trees of bounded length.

        Returns:
            The trees, and for each trajectory its tree and which of that tree's sequences it is.

        Raises:
            RewardModelError: a trajectory is longer than the network can read.
        """
        trees: list[TokenTree] = []
        current: dict[str, int] = {}
        places: list[tuple[int, int]] = []
        known: dict[tuple[str, tuple[int, ...]], tuple[int, int]] = {}
        for trajectory in trajectories:
            ids = self.token_ids(trajectory)
            task = "" if isinstance(trajectory, str) else trajectory.task.instruction
            key = (task, tuple(ids))
            if key not in known:
                tree = current.get(task)
                if tree is None or len(trees[tree]) + trees[tree].new_tokens(ids) > _TREE_TOKENS:
                    tree = current[task] = len(trees)
                    trees.append(TokenTree())
                trees[tree].add(ids)
                known[key] = (tree, len(trees[tree].ends) - 1)
            places.append(known[key])
        return trees, places

    def token_ids(self, trajectory: Trajectory | str) -> list[int]:
        """Return a rendered trajectory, or a text, as token ids, shortened if it is longer than the limit.

        Raises:
            RewardModelError: it is too long however much is left out.
        """
        config = self.network.config
        limit: int = getattr(config, "max_trajectory_tokens", config.max_position_embeddings)
        ids: list[int] = []
        for attempt, text in enumerate(renderings(trajectory)):
            ids = self._tokenizer(text).input_ids
            if len(ids) <= limit:
                self.read += 1
                self.shortened += attempt > 0
                return ids
        raise RewardModelError(
            f"a trajectory has {len(ids)} tokens even without its earlier observations, but {self.name} reads at most "
            f"{limit}; train a reward model with a higher --max-tokens"
        )

    def forward(self, trees: Sequence[TokenTree]) -> list[torch.Tensor]:
        """Return for each tree the scores of its sequences, in order; gradients flow where they are enabled."""
        packed = pack(trees)
        device = self.network.score.weight.device
        mask = torch.zeros(packed.mask.shape, dtype=torch.float32)
        mask.masked_fill_(torch.from_numpy(~packed.mask), torch.finfo(torch.float32).min)
        hidden = self.network.base_model(
            input_ids=torch.from_numpy(packed.tokens).to(device),
            position_ids=torch.from_numpy(packed.positions).to(device),
            attention_mask=mask.to(device),
            use_cache=False,
        ).last_hidden_state
        scores = self.network.score(hidden).squeeze(-1)
        return [scores[row, tree.ends] for row, tree in enumerate(trees)]

    def save(self, folder: Path) -> None:
        """Write the model in the Hugging Face layout."""
        self.network.save_pretrained(folder)
        self._tokenizer.save_pretrained(folder)
