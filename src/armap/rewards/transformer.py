"""A transformer with a scalar head as reward model, on the CPU or a GPU: language model, encoder or vision-language."""

from __future__ import annotations

import asyncio
import copy
import math
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any, ClassVar, Literal, NamedTuple, Self, cast, get_args

import torch
from transformers import DynamicCache
from transformers.utils import logging

from armap import weights
from armap.errors import ConfigError, RewardModelError
from armap.images import ImageFolder
from armap.rewards import rendering, seeing, tree_attention
from armap.rewards.chat_template import chat_template
from armap.rewards.rendering import PLACE_BITS, Reader, ReadTrajectory, TrajectoryTree
from armap.tokentree import pad
from armap.types import ImageRef, Trajectory

_PASS_TOKENS = 4096
"""Most tokens in one pass of the network, padding included."""
_KEPT_TOKENS = 8192
"""Tokens whose keys and values are kept between calls; for a 135M model some 20 kB each."""
_KEPT_IMAGE_TOKENS = 65536
"""Tokens of pictures whose features are kept; for a 3B model some 8 kB each."""
_KEPT_IMAGES = 4096
"""Pictures whose tokens are kept; some 30 kB each."""
_KEPT_PIXELS = 1 << 26
"""Numbers of pictures that were read as tokens and are kept until they are looked at, so that each is prepared once."""

Pooling = Literal["last", "mean"]
"""Where a score is read: at the last token, or as the mean of what the head says at every token."""

logging.set_verbosity_error()
logging.disable_progress_bar()


class _Kept(NamedTuple):
    """What was computed for a task until now."""

    tree: TrajectoryTree
    cache: Any
    """transformers cache with keys and values of all tokens."""
    scores: list[float]
    """`[N]` what the head says at each token."""


class TransformerRewardModel:
    """Scores a trajectory by a linear head, without an activation.

    The head of a causal language model, also of one that sees, reads the final hidden state of the last token; that of
    an encoder reads what transformers' classifier of its family reads, as a rule the class token. One made with
    `pooling="mean"` takes the mean of what its head says at every token, for comparison only. Trajectories that begin
    alike are computed once up to where they part if the backbone allows it, which is tried out on loading. A picture's
    features are computed once per content as long as what sees is frozen, which it is on loading.

    Args:
        scorer: name, tokenizer or processor, and network, as `armap.weights` loads them.
        images: where the pictures are that trajectories name; None if there are none.

    Attributes:
        name: identity for records.
        network: the network, for whoever trains it. What is kept of earlier calls is forgotten when `score` finds it
            in training mode.
        processor: its tokenizer; of a vision-language model its processor.
        layout: how trajectories are computed: as `token trees`, or each alone in `padded batches`.
        computed_tokens: tokens computed until now, by `score` and by whoever trains the network.
        avoided_tokens: tokens that would have been computed besides if beginnings were not shared.
        reader: reads trajectories as tokens, and counts what it could not read whole.

    Source: ARMAP, reward model; its released code for the place the score is read.
    """

    library: ClassVar[str] = "transformers"
    """What else loads the folder that `save` writes."""

    def __init__(self, scorer: weights.Scorer, images: ImageFolder | None = None) -> None:
        self.name, self.network = scorer.name, scorer.network
        self.layout: Literal["token trees", "padded batches"] = "padded batches"
        self.computed_tokens = self.avoided_tokens = 0
        self._kind = weights.kind(self.network.config)
        self.processor = scorer.processor
        self._eyes = _Eyes(scorer, images) if self._kind == "vision" else None
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reward-model")
        self._cache_argument = weights.cache_argument(self._tower)
        config = self.network.config
        self._pooling = _pooling(self.name, config)
        limit = getattr(config, "max_trajectory_tokens", weights.longest_text(scorer))
        self.reader = Reader(
            self.name,
            getattr(scorer.processor, "tokenizer", scorer.processor),
            max_tokens=limit,
            max_images=getattr(config, "max_trajectory_images", None),
            eyes=self._eyes,
        )
        if self._eyes:
            self._try_out_eyes(self._eyes)
        if self._kind != "encoder" and not weights.attends_to_part(config, limit):
            self.layout = self._try_out()

    @classmethod
    def from_backbone(
        cls,
        model: str = weights.EMBEDDED,
        *,
        layers: int | None = None,
        max_tokens: int | None = None,
        max_images: int | None = None,
        image_px: int = seeing.IMAGE_PX,
        pooling: Pooling = "last",
        seed: int = 0,
        dtype: str = "float32",
        images: ImageFolder | None = None,
    ) -> Self:
        """Put a new, untrained head on a causal language model, an encoder or a vision-language model.

        Args:
            model: what `armap.weights.locate` accepts.
            layers: keep this many layers of what reads text, from the bottom; None keeps all.
            max_tokens: longest trajectory, image tokens included; of a longer one the earlier observations are
                shortened. None for as long as the backbone reads. This and the next three are saved with the model.
            max_images: most pictures of a trajectory, the last ones; None for all.
            image_px: longest side of a picture; larger ones are scaled down.
            pooling: where the score is read.
            seed: decides the head.
            dtype: precision of the weights, as torch names it.
            images: where the pictures are that trajectories name.

        Raises:
            ConfigError: the model cannot be loaded or cannot carry a head, or has fewer layers.
        """
        scorer = weights.new_scorer(model, layers=layers, seed=seed, dtype=dtype)
        config = scorer.network.config
        config.max_trajectory_images, config.trajectory_image_px = max_images, image_px
        config.trajectory_pooling = pooling
        if max_tokens is not None:
            config.max_trajectory_tokens = min(max_tokens, weights.longest_text(scorer))
        return cls(scorer, images)

    @classmethod
    def load(cls, folder: Path, *, images: ImageFolder | None = None, dtype: str | None = None) -> Self:
        """Load a trained reward model.

        Args:
            folder: where it was saved.
            images: where the pictures are that trajectories name.
            dtype: precision of the weights, as torch names it; None for the stored one on a GPU and 32 bits on a CPU.

        Raises:
            ConfigError: there is none, or it has no trained head.
        """
        return cls(weights.load_scorer(folder, dtype=dtype), images)

    async def score(self, trajectories: Sequence[Trajectory | str]) -> list[float]:
        """Return one score per trajectory; see `armap.protocols.RewardModel.score`.

        Scores do not depend on the order or the company of a trajectory, but for rounding: some 1e-6 in 32 bits, 1e-2
        in 16. A text in place of one is scored as it stands, control tokens being text like any other. What is computed
        for trajectories of one task is kept for the next call about it.

        Raises:
            ConfigError: there are pictures to read, and no folder to read them from.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self.score_blocking, tuple(trajectories))

    async def score_read(self, trajectories: Sequence[Trajectory | str], read: Sequence[ReadTrajectory]) -> list[float]:
        """Do what `score` does, of trajectories that `read` has read already."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._score_read, tuple(trajectories), tuple(read))

    def score_blocking(self, trajectories: Sequence[Trajectory | str]) -> list[float]:
        """Do what `score` does, in the caller's thread."""
        return self._score_read(trajectories, [self.read(trajectory) for trajectory in trajectories])

    def _score_read(self, trajectories: Sequence[Trajectory | str], read: Sequence[ReadTrajectory]) -> list[float]:
        if self.network.training:
            self.forget()
            self.network.eval()
        tasks = [_task(trajectory) for trajectory in trajectories]
        # Not inference mode: its tensors could not be used again in training, and features of pictures are.
        with torch.no_grad():
            if self.layout == "token trees" and len(set(tasks)) == 1:
                found, computed = self._score_task(read, tasks[0])
            else:
                found, computed = self._score_tasks(read, tasks)
        for trajectory, score in zip(trajectories, found, strict=True):
            if not math.isfinite(score):
                what = "a text" if isinstance(trajectory, str) else f"trajectory {trajectory.id!r}"
                raise RewardModelError(f"{self.name} gives {what} the score {score}")
        self.computed_tokens += computed
        self.avoided_tokens += sum(len(one.tokens) for one in read) - computed
        return found

    def trees(self, trajectories: Sequence[Trajectory | str]) -> tuple[list[TrajectoryTree], list[tuple[int, int]]]:
        """Merge trajectories of one task into token trees of bounded length; in padded batches each is a tree alone.

        Any two of one task fit into one tree.

        Returns:
            The trees, and for each trajectory its tree and which of that tree's sequences it is.

        Raises:
            RewardModelError: a trajectory is longer than the network can read.
        """
        tasks = [_task(trajectory) for trajectory in trajectories]
        return self._merged([self.read(trajectory) for trajectory in trajectories], tasks)

    def forward(self, trees: Sequence[TrajectoryTree]) -> list[torch.Tensor]:
        """Return for each tree the scores of its sequences, in order; gradients flow where they are enabled."""
        if self.layout == "padded batches":
            return self._forward_padded(trees)
        tokens = self._padded([[token for tree in trees for token in tree.tokens]])
        hidden = self._tower(
            **self._embedded(tokens, trees),
            position_ids=self._positions([trees]),
            **tree_attention.of(trees, self.network.device),
            use_cache=False,
        ).last_hidden_state[0]
        by_tree = torch.split(self._judged(hidden), [len(tree) for tree in trees])
        return [self._read_out(said, tree, tree.ends) for said, tree in zip(by_tree, trees, strict=True)]

    def read(self, trajectory: Trajectory | str) -> ReadTrajectory:
        """Return a trajectory, or a text, as the network reads it; see `Reader.read`."""
        return self.reader.read(trajectory)

    def token_ids(self, trajectory: Trajectory | str) -> list[int]:
        """Return a trajectory, or a text, as token ids; see `Reader.read`."""
        of_images = self._eyes.token_id if self._eyes else 0
        return [token if token >= 0 else of_images for token in self.read(trajectory).tokens]

    def remarks(self) -> list[str]:
        """Return what was not read as it was, and what sharing beginnings saved, a sentence each."""
        saved = (
            f"{self.name} read {self.computed_tokens + self.avoided_tokens:,} tokens and computed "
            f"{self.computed_tokens:,} of them, as what begins alike is computed once."
        )
        return [*self.reader.remarks(), *([saved] if self.avoided_tokens > 0 else [])]

    def forget(self, *, pictures: bool = False) -> None:
        """Forget what is kept of earlier calls to `score`, as must be done when weights have changed.

        Args:
            pictures: also what was seen in pictures, as must be done when the precision has changed.
        """
        self._kept.clear()
        if self._eyes and pictures:
            self._eyes.forget()

    def save(self, folder: Path) -> None:
        """Write the model in the Hugging Face layout, for other servers too if it reads text only."""
        self.network.save_pretrained(folder)
        processor = self.processor
        if not self.sees:
            # Of a tokenizer of its own, as an agent may talk by the same one.
            processor = copy.copy(processor)
            processor.chat_template = chat_template(processor)
        processor.save_pretrained(folder)

    @property
    def sees(self) -> bool:
        """Whether it reads pictures."""
        return self._eyes is not None

    @property
    def _tower(self) -> Any:  # noqa: ANN401 - transformers is untyped here
        owner, name = weights.text_tower(self.network)
        return getattr(owner, name)

    def _merged(
        self, read: Sequence[ReadTrajectory], tasks: Sequence[str]
    ) -> tuple[list[TrajectoryTree], list[tuple[int, int]]]:
        longest = max((len(one.tokens) for one in read), default=0)
        tree_tokens = max(_PASS_TOKENS, 2 * longest) if self.layout == "token trees" else 0
        return rendering.merged(read, tasks, tree_tokens=tree_tokens)

    def _score_tasks(self, read: Sequence[ReadTrajectory], tasks: Sequence[str]) -> tuple[list[float], int]:
        """Return scores, and how many tokens were computed, trees of like length together."""
        trees, places = self._merged(read, tasks)
        scores: list[list[float]] = [[] for _ in trees]
        waiting = sorted(range(len(trees)), key=lambda i: len(trees[i]))
        while waiting:
            rows = [waiting.pop()]
            longest = tokens = len(trees[rows[0]])
            while waiting:
                size = longest if self.layout == "padded batches" else len(trees[waiting[-1]])
                if tokens + size > _PASS_TOKENS:
                    break
                tokens += size
                rows.append(waiting.pop())
            for row, values in zip(rows, self.forward([trees[i] for i in rows]), strict=True):
                scores[row] = values.tolist()
        return [scores[tree][end] for tree, end in places], sum(map(len, trees))

    def _score_task(self, read: Sequence[ReadTrajectory], task: str) -> tuple[list[float], int]:
        """Return scores of trajectories of one task, and how many tokens were computed that no earlier call had."""
        kept = self._kept.pop(task, None) or _Kept(TrajectoryTree(), DynamicCache(), [])
        found = [0.0] * len(read)
        computed = 0
        waiting: list[int] = []
        for i in sorted(range(len(read)), key=lambda i: read[i].tokens):
            if len(kept.tree) and len(kept.tree) + kept.tree.new_tokens(read[i].tokens) > _KEPT_TOKENS:
                computed += self._grow(kept, waiting, found)
                kept, waiting = _Kept(TrajectoryTree(), DynamicCache(), []), []
            kept.tree.add_trajectory(read[i])
            waiting.append(i)
        computed += self._grow(kept, waiting, found)
        self._kept[task] = kept
        while sum(len(one.tree) for one in self._kept.values()) > _KEPT_TOKENS:
            self._kept.popitem(last=False)
        return found, computed

    def _grow(self, kept: _Kept, waiting: Sequence[int], found: list[float]) -> int:
        """Compute and count a tree's new tokens, and put the scores of its last sequences into `found`."""
        if not waiting:
            return 0
        tree, start = kept.tree, len(kept.scores)
        positions = self._positions([[tree]])
        for begin in range(start, len(tree), _PASS_TOKENS):
            end = min(begin + _PASS_TOKENS, len(tree))
            hidden = self._tower(
                **self._embedded(self._padded([tree.tokens[begin:end]]), [tree]),
                **tree_attention.of_part(tree, begin, end, self.network.device),
                position_ids=positions[..., begin:end],
                use_cache=True,
                **{self._cache_argument: kept.cache},
            ).last_hidden_state
            kept.scores.extend(self._judged(hidden[0]).tolist())
        ends = tree.ends[len(tree.ends) - len(waiting) :]
        for i, score in zip(waiting, self._read_out(torch.tensor(kept.scores), tree, ends).tolist(), strict=True):
            found[i] = score
        return len(tree) - start

    def _embedded(self, tokens: torch.Tensor, trees: Sequence[TrajectoryTree]) -> dict[str, Any]:
        if self._eyes is None:
            return {"input_ids": tokens}
        images = {number: image for tree in trees for number, image in tree.images.items()}
        return self._eyes.embedded(tokens, images, self._tower.get_input_embeddings())

    def _judged(self, hidden: torch.Tensor) -> torch.Tensor:
        judge = weights.head(self.network)
        # Not in mixed precision: with 8 bits after the point a score would hardly tell good from better.
        with torch.autocast(hidden.device.type, enabled=False):
            scores: torch.Tensor = judge(hidden.to(judge.weight.dtype)).squeeze(-1)
        return scores.float()

    def _read_out(self, said: torch.Tensor, tree: TrajectoryTree, ends: Sequence[int]) -> torch.Tensor:
        """Return `[E]` scores of the sequences that end at E tokens, from `[N]` what the head says at each token."""
        if self._pooling == "last":
            return said[ends]
        # The head is linear, so this is what it says of the mean hidden state.
        return torch.stack([said[tree.path(end)].mean() for end in ends])

    def _forward_padded(self, trees: Sequence[TrajectoryTree]) -> list[torch.Tensor]:
        """Return the same as `forward`, each tree being a single sequence and a row of its own."""
        tokens = self._padded([tree.tokens for tree in trees])
        seen = self._padded([[1] * len(tree) for tree in trees])
        if self._kind == "encoder":
            return list(self.network(input_ids=tokens, attention_mask=seen).logits.float())
        where = {"position_ids": self._positions([[tree] for tree in trees])} if trees[0].positions else {}
        embedded = self._embedded(tokens, trees)
        hidden = self._tower(**embedded, **where, attention_mask=seen, use_cache=False).last_hidden_state
        return [self._read_out(said, tree, tree.ends) for said, tree in zip(self._judged(hidden), trees, strict=True)]

    def _positions(self, rows: Sequence[Sequence[TrajectoryTree]]) -> torch.Tensor:
        """Return `[B, L]` positions, or `[3, B, L]` where the network tells height, width and time apart.

        Args:
            rows: in each row trees that lie end to end.
        """
        if not rows[0][0].positions:
            return self._padded([[depth for tree in row for depth in tree.depths] for row in rows])
        places = [[place for tree in row for place in tree.positions] for row in rows]
        return torch.stack([self._padded([[place[axis] for place in row] for row in places]) for axis in range(3)])

    def _padded(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        return torch.from_numpy(pad(rows)).to(self.network.device)

    def _try_out(self) -> Literal["token trees", "padded batches"]:
        """Return the layout that the backbone is fit for: trees if they give what plain passes give."""
        drawn = Random(0).choices(range(self.network.config.get_text_config().vocab_size), k=24)
        sequences = (tuple(drawn[:16]), tuple(drawn[:8] + drawn[16:]))
        both = [ReadTrajectory(one, {}, self._eyes.positions(one, {}) if self._eyes else []) for one in sequences]
        usual = self._tower.config._attn_implementation
        with torch.no_grad():
            alone = torch.tensor(self._score_tasks(both, ["", ""])[0])
            if usual not in ("sdpa", tree_attention.NAME):
                return "padded batches"
            self.layout = "token trees"
            self._tower.set_attn_implementation(tree_attention.NAME)
            try:
                together = torch.tensor(self._score_tasks(both, ["", ""])[0])
                later = torch.tensor([self._score_task([one], "")[0][0] for one in both])
            except (TypeError, ValueError, RuntimeError, IndexError, AttributeError):
                # How a network refuses a mask or a cache of its own making is its own affair.
                together = later = torch.full_like(alone, math.nan)
            finally:
                self.forget()
        if self._agree(alone, together) and self._agree(alone, later):
            return "token trees"
        self._tower.set_attn_implementation(usual)
        return "padded batches"

    def _try_out_eyes(self, eyes: _Eyes) -> None:
        """Check that parts put together here see what the whole network sees: some families mask pictures their way."""
        with torch.no_grad():
            read, prepared = eyes.probe()
            inputs = {name: one.to(self.network.device) for name, one in prepared.items()}
            said = self._judged(self.network.base_model(**inputs, use_cache=False).last_hidden_state[0])
            whole = said[-1:] if self._pooling == "last" else said.mean(0, keepdim=True)
            parts = torch.tensor(self._score_tasks([read], [""])[0])
        if not self._agree(whole.cpu(), parts):
            raise ConfigError(
                f"A {self.network.config.model_type} model cannot be a backbone: it reads pictures in a way of its own."
            )

    def _agree(self, one: torch.Tensor, other: torch.Tensor) -> bool:
        close = 1e-3 if self.network.dtype == torch.float32 else 5e-2
        return bool((one - other).abs().max() < close * (one.abs().max() + 1e-6))


def _pooling(name: str, config: Any) -> Pooling:  # noqa: ANN401
    """Return where a network's score is read.

    Raises:
        ConfigError: it cannot be read there.
    """
    pooling = getattr(config, "trajectory_pooling", "last")
    if pooling not in get_args(Pooling):
        raise ConfigError(f"{name} reads its score in a way that is not known here: trajectory_pooling is {pooling!r}.")
    if pooling == "mean" and weights.kind(config) == "encoder":
        raise ConfigError(
            f"A {config.model_type} model is an encoder, which reads its score as transformers' classifier does; "
            "leave --pooling out."
        )
    return cast(Pooling, pooling)


def _task(trajectory: Trajectory | str) -> str:
    return "" if isinstance(trajectory, str) else trajectory.task.instruction


class _AsTokens(NamedTuple):
    """A picture as the text tower counts it."""

    tokens: list[int]
    """As `rendering.numbered` gives them, with the control tokens around them."""
    grid: Any
    """`[tiles, 3]` patches in time, height and width, where the network wants to know; otherwise None."""


class _Eyes:
    """The part of a vision-language model that sees, and what it saw lately."""

    def __init__(self, scorer: weights.Scorer, images: ImageFolder | None) -> None:
        self._network = scorer.network
        self._processor = scorer.processor
        self._images = images
        self._limit_px = getattr(self._network.config, "trajectory_image_px", seeing.IMAGE_PX)
        self._known: OrderedDict[int, _AsTokens] = OrderedDict()
        self._prepared: OrderedDict[int, dict[str, torch.Tensor]] = OrderedDict()
        self._features: OrderedDict[int, torch.Tensor] = OrderedDict()
        self.token_id: int = self._processor.image_token_id

    def tokens(self, image: ImageRef) -> list[int]:
        return self._as_tokens(image).tokens

    def probe(self) -> tuple[ReadTrajectory, dict[str, torch.Tensor]]:
        """Return a picture as a trajectory, and as the whole network reads it."""
        prepared = seeing.prepare_image(self._processor, seeing.probe_image(), limit_px=32)
        image = ImageRef(sha256="0" * 64, width_px=32, height_px=16)
        self._take_in(0, prepared)
        self._features[0] = self._look(prepared)
        tokens = tuple(self._known[0].tokens)
        return ReadTrajectory(tokens, {0: image}, self.positions(tokens, {0: image})), prepared

    def _as_tokens(self, image: ImageRef) -> _AsTokens:
        number = rendering.number_of(image)
        if number not in self._known:
            prepared = self._prepared[number] = self._prepare(image)
            self._take_in(number, prepared)
            while sum(_numbers(one) for one in self._prepared.values()) > _KEPT_PIXELS:
                self._prepared.popitem(last=False)
        self._known.move_to_end(number)
        return self._known[number]

    def _take_in(self, number: int, prepared: dict[str, torch.Tensor]) -> None:
        ids = prepared["input_ids"][0].tolist()
        tokens = rendering.numbered(ids, self.token_id, number)
        self._known[number] = _AsTokens(tokens, prepared.get("image_grid_thw"))
        if len(self._known) > _KEPT_IMAGES:
            self._known.popitem(last=False)

    def positions(self, tokens: tuple[int, ...], images: dict[int, ImageRef]) -> list[list[int]]:
        base = self._network.base_model
        if not hasattr(base, "get_rope_index"):
            return []
        ids = torch.tensor([tokens])
        of_images = ids < 0
        # A picture begins with its token of place 0.
        first = [-1 - token >> PLACE_BITS for token in tokens if token < 0 and (-1 - token) % (1 << PLACE_BITS) == 0]
        found, _ = base.get_rope_index(
            input_ids=ids.masked_fill(of_images, self.token_id),
            mm_token_type_ids=of_images.int(),
            image_grid_thw=torch.cat([self._as_tokens(images[number]).grid for number in first]) if first else None,
        )
        positions: list[list[int]] = found[:, 0].T.tolist()
        return positions

    def embedded(self, tokens: torch.Tensor, images: dict[int, ImageRef], embedding: Any) -> dict[str, Any]:  # noqa: ANN401
        """Return what the text tower reads for `[B, L]` tokens, features put in at those of pictures."""
        of_images = tokens < 0
        embeds = embedding(tokens.masked_fill(of_images, self.token_id))
        if not bool(of_images.any()):
            return {"inputs_embeds": embeds}
        numbers = -1 - tokens[of_images]
        there, which = torch.unique(numbers >> PLACE_BITS, return_inverse=True)
        features = [self._seen(images[number]) for number in there.tolist()]
        starts = torch.tensor([0, *(one.shape[1] for one in features)], device=tokens.device).cumsum(0)[:-1]
        found = torch.cat(features, 1)[:, starts[which] + numbers % (1 << PLACE_BITS)].to(embeds.dtype)
        embeds = embeds.index_put(of_images.nonzero(as_tuple=True), found[0])
        # Some networks look again, and add what they see to the first layers.
        again = {"visual_pos_masks": of_images, "deepstack_visual_embeds": list(found[1:])} if len(found) > 1 else {}
        return {"inputs_embeds": embeds, **again}

    def _seen(self, image: ImageRef) -> torch.Tensor:
        """Return `[1 + A, T, D]` features of a picture's T tokens: for the input, and for A layers after it."""
        number = rendering.number_of(image)
        # Features of weights that are being trained are gone with the next step.
        lasting = not any(weight.requires_grad for weight in weights.vision_weights(self._network))
        if lasting and number in self._features:
            self._features.move_to_end(number)
            return self._features[number]
        if not lasting:
            self._features.clear()
        prepared = self._prepared.pop(number, None)
        features = self._look(self._prepare(image) if prepared is None else prepared)
        if features.shape[1] != sum(token < 0 for token in self.tokens(image)):
            raise ConfigError(
                f"The processor and the network of {self._network.config.model_type} disagree about the size of "
                "pictures; take both from the same checkpoint."
            )
        if lasting:
            self._features[number] = features
            while sum(one.shape[1] for one in self._features.values()) > _KEPT_IMAGE_TOKENS:
                self._features.popitem(last=False)
        return features

    def forget(self) -> None:
        """Forget what was seen."""
        self._features.clear()

    def _look(self, prepared: dict[str, torch.Tensor]) -> torch.Tensor:
        text = ("input_ids", "attention_mask", "mm_token_type_ids")
        inputs = {name: one.to(self._network.device) for name, one in prepared.items() if name not in text}
        out = self._network.base_model.get_image_features(**inputs, return_dict=True)
        again = [torch.cat(list(layer)) for layer in getattr(out, "deepstack_features", None) or []]
        return torch.stack([torch.cat(list(out.pooler_output)), *again])

    def _prepare(self, image: ImageRef) -> dict[str, torch.Tensor]:
        if self._images is None:
            raise ConfigError("A trajectory names pictures, and there is no folder to read them from; give one.")
        return seeing.prepare_image(self._processor, self._images.read(image), limit_px=self._limit_px)


def _numbers(prepared: dict[str, torch.Tensor]) -> int:
    return sum(one.numel() for one in prepared.values())
