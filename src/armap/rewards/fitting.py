"""Fits a transformer reward model to preference pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.nn.functional import logsigmoid

from armap import weights
from armap.rewards.fit_settings import FitSettings
from armap.rewards.transformer import TransformerRewardModel
from armap.seeds import rng_for
from armap.types import PreferencePair, TrainingPoint

_CHECKPOINT = "checkpoint.pt"


def pairwise_loss(chosen: torch.Tensor, rejected: torch.Tensor, *, centering: float = 0.0) -> torch.Tensor:
    """Return the Bradley-Terry loss of preference pairs.

    Args:
        chosen: `[P]` scores of the chosen trajectories.
        rejected: `[P]` scores of the rejected ones, in the same order.
        centering: weight of the pull towards zero.

    Returns:
        Scalar, in nats, averaged over the P pairs.

    Source: ARMAP, pairwise loss of the reward model; the centring term is its released code's.
    """
    return -logsigmoid(chosen - rejected).mean() + centering * (chosen + rejected).mean().abs()


class TransformerFit:
    """One fit, which can be killed at any moment and goes on from its last checkpoint along the same curve.

    Args:
        model: the reward model; its network is trained in place.
        pairs: what it learns from.
        heldout: what decides when to stop and which weights are kept.
        settings: how.
        seed: decides the order of the pairs and the start of LoRA.
        folder: where the checkpoint is kept while the fit runs.
    """

    def __init__(
        self,
        model: TransformerRewardModel,
        pairs: Sequence[PreferencePair],
        heldout: Sequence[PreferencePair],
        settings: FitSettings,
        *,
        seed: int,
        folder: Path,
    ) -> None:
        self._model = model
        self._pairs = pairs
        self._heldout = heldout
        self._settings = settings
        self._seed = seed
        self._file = folder / _CHECKPOINT
        self._trained = _make_trainable(model.network, settings, seed)
        self._optimizer = torch.optim.AdamW(self._trained.values(), lr=settings.learning_rate, weight_decay=0.0)
        self._best_loss = math.inf
        self._best = self._weights()
        self._evaluations_since_best = 0
        self._step = 0
        if self._file.exists():
            self._resume()

    @property
    def total_steps(self) -> int:
        """Steps until the last epoch is over."""
        return self._settings.epochs * math.ceil(len(self._pairs) / self._settings.pairs_per_step)

    def run(self, on_point: Callable[[TrainingPoint], None]) -> None:
        """Train to the end, and leave the weights of the lowest held-out loss in the model, LoRA merged in.

        Args:
            on_point: told of every step, some of them again after a resumption.
        """
        for step, batch in self._batches():
            loss, accuracy = self._train_step(step, batch)
            self._step = step
            if step % self._settings.evaluate_every_steps and step != self.total_steps:
                on_point(TrainingPoint(step=step, loss=loss, accuracy=accuracy))
                continue
            heldout_loss, heldout_accuracy = self._evaluate()
            on_point(
                TrainingPoint(
                    step=step,
                    loss=loss,
                    accuracy=accuracy,
                    heldout_loss=heldout_loss,
                    heldout_accuracy=heldout_accuracy,
                )
            )
            self._note(heldout_loss)
            self._save()
        self._put(self._best)
        _merge(self._model.network)
        self._file.unlink(missing_ok=True)

    def _batches(self) -> Iterator[tuple[int, list[PreferencePair]]]:
        """Yield the steps that are still to do, until the held-out loss has stopped falling."""
        size = self._settings.pairs_per_step
        step = 0
        for epoch in range(self._settings.epochs):
            order = list(range(len(self._pairs)))
            rng_for(self._seed, "epoch", epoch).shuffle(order)
            for start in range(0, len(order), size):
                step += 1
                if self._evaluations_since_best >= self._settings.patience:
                    return
                if step > self._step:
                    yield step, [self._pairs[i] for i in order[start : start + size]]

    def _train_step(self, step: int, batch: Sequence[PreferencePair]) -> tuple[float, float]:
        self._model.network.train()
        rate = self._settings.learning_rate * _schedule(step, self.total_steps, self._settings.warmup_share)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        chosen, rejected = self._scores(batch)
        loss = pairwise_loss(chosen, rejected, centering=self._settings.centering)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._trained.values(), self._settings.max_grad_norm)
        self._optimizer.step()
        return float(loss.detach()), float((chosen > rejected).float().mean())

    def _scores(self, pairs: Sequence[PreferencePair]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return `[P]` scores of both sides, each pair computed as one token tree."""
        sides = [side for pair in pairs for side in (pair.chosen, pair.rejected)]
        trees, places = self._model.trees(sides)
        by_tree = self._model.forward(trees)
        scores = torch.stack([by_tree[tree][end] for tree, end in places])
        return scores[0::2], scores[1::2]

    def _evaluate(self) -> tuple[float, float]:
        """Return loss and pairwise accuracy on the held-out pairs."""
        scores = self._model.score_blocking([side for pair in self._heldout for side in (pair.chosen, pair.rejected)])
        chosen, rejected = torch.tensor(scores[0::2]), torch.tensor(scores[1::2])
        loss = pairwise_loss(chosen, rejected)
        return float(loss), float((chosen > rejected).float().mean())

    def _note(self, heldout_loss: float) -> None:
        if heldout_loss < self._best_loss:
            self._best_loss, self._best, self._evaluations_since_best = heldout_loss, self._weights(), 0
        else:
            self._evaluations_since_best += 1

    def _weights(self) -> dict[str, torch.Tensor]:
        return {name: weight.detach().clone() for name, weight in self._trained.items()}

    def _put(self, values: dict[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, weight in self._trained.items():
                weight.copy_(values[name])

    def _save(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        draft = self._file.with_suffix(".draft")
        torch.save(
            {
                "step": self._step,
                "weights": self._weights(),
                "optimizer": self._optimizer.state_dict(),
                "best_loss": self._best_loss,
                "best": self._best,
                "evaluations_since_best": self._evaluations_since_best,
            },
            draft,
        )
        draft.replace(self._file)

    def _resume(self) -> None:
        state = torch.load(self._file, weights_only=True, map_location=weights.device())
        self._put(state["weights"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._step = state["step"]
        self._best_loss, self._best = state["best_loss"], state["best"]
        self._evaluations_since_best = state["evaluations_since_best"]


def _make_trainable(network: Any, settings: FitSettings, seed: int) -> dict[str, torch.nn.Parameter]:  # noqa: ANN401
    """Prepare the network for training in place and return what is to be trained, by name."""
    if settings.lora_rank:
        adapter = LoraConfig(
            r=settings.lora_rank, lora_alpha=settings.lora_alpha, lora_dropout=0.0, target_modules="all-linear"
        )
        owner, name = weights.text_tower(network)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            setattr(owner, name, get_peft_model(getattr(owner, name), adapter))
    else:
        network.get_input_embeddings().requires_grad_(False)
    return {name: weight for name, weight in network.named_parameters() if weight.requires_grad}


def _merge(network: Any) -> None:  # noqa: ANN401
    """Put LoRA's weights into the layers they belong to."""
    owner, name = weights.text_tower(network)
    adapted = getattr(owner, name)
    if isinstance(adapted, PeftModel):
        setattr(owner, name, adapted.merge_and_unload())
    network.eval()


def _schedule(step: int, total_steps: int, warmup_share: float) -> float:
    """Return the factor of the learning rate: a linear rise, then a linear fall to a tenth."""
    warmup_steps = max(1, round(total_steps * warmup_share))
    if step <= warmup_steps:
        return step / warmup_steps
    return 1.0 - 0.9 * (step - warmup_steps) / max(1, total_steps - warmup_steps)
