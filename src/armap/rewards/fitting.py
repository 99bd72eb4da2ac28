"""Fits a transformer reward model to preference pairs, in one process or several."""

from __future__ import annotations

import copy
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, gather_object
from peft import LoraConfig, PeftModel, get_peft_model
from torch.nn.functional import logsigmoid, softplus

from armap import weights
from armap.errors import ConfigError
from armap.rewards.fit_settings import CHECKPOINT_FOLDER, FitSettings
from armap.rewards.rendering import TrajectoryTree
from armap.rewards.transformer import TransformerRewardModel
from armap.seeds import rng_for
from armap.types import PreferencePair, TrainingPoint

_TRAINED = "trained.pt"
_SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)
_Place = tuple[int, int]
"""A tree, and which of its sequences."""


def pairwise_loss(
    chosen: torch.Tensor, rejected: torch.Tensor, *, centering: float = 0.0, margin: torch.Tensor | float = 0.0
) -> torch.Tensor:
    """Return the Bradley-Terry loss of preference pairs.

    Args:
        chosen: `[P]` scores of the chosen trajectories.
        rejected: `[P]` scores of the rejected ones, in the same order.
        centering: weight of the pull towards zero.
        margin: by how much a chosen trajectory is to be above its rejected one; one number, or `[P]` of them.

    Returns:
        Scalar, in nats, averaged over the P pairs.

    Source: ARMAP, pairwise loss of the reward model; the centring term is its released code's, which takes it of one
    pair at a time.
    """
    return (-logsigmoid(chosen - rejected - margin) + centering * (chosen + rejected).abs()).mean()


def classification_loss(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
    """Return the loss of taking each score for the log-odds that a trajectory is a chosen one; likewise.

    Source: ARMAP, ablation of the pairwise loss.
    """
    return (softplus(-chosen) + softplus(rejected)).mean() / 2


class _Pass(NamedTuple):
    """What goes through the network at once."""

    trees: list[TrajectoryTree]
    chosen: list[_Place]
    rejected: list[_Place]
    margins: list[float]

    def tokens(self) -> tuple[int, int]:
        """Return how many tokens are computed, and how many the sides of the pairs have together."""
        trees = [self.trees[tree] for tree, _ in (*self.chosen, *self.rejected)]
        ends = [end for _, end in (*self.chosen, *self.rejected)]
        read = sum(tree.depths[tree.ends[end]] + 1 for tree, end in zip(trees, ends, strict=True))
        return sum(map(len, self.trees)), read


class _Scores(torch.nn.Module):
    """The network as accelerate prepares it: trees in, the scores of their sequences out."""

    def __init__(self, model: TransformerRewardModel) -> None:
        super().__init__()
        self.network = model.network
        self._forward = model.forward

    def forward(self, trees: Sequence[TrajectoryTree]) -> list[torch.Tensor]:
        return self._forward(trees)


class TransformerFit:
    """One fit, which can be killed at any moment and goes on from its last checkpoint along the same curve.

    It runs through accelerate: what `accelerate launch` and `accelerate config` say of devices, processes, precision,
    FSDP and DeepSpeed holds here. Each process takes its share of the pairs of every step, and computes it in passes of
    bounded length whose gradients add up, so the curve is the same however the pairs are spread.

    Args:
        model: the reward model; its network is trained in place.
        pairs: what it learns from.
        heldout: what decides when to stop and which weights are kept.
        settings: how.
        seed: decides the order of the pairs and the start of LoRA.
        folder: where checkpoints are kept, in `CHECKPOINT_FOLDER`; all processes must see it. They stay there until
            whoever started the fit has put away what came of it.
        tracker: where the curve goes beside `on_point`, as accelerate names it, such as `trackio`; None for nowhere.
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
        tracker: str | None = None,
    ) -> None:
        self._model = model
        self._pairs = pairs
        self._heldout = heldout
        self._settings = settings
        self._seed = seed
        self._folder = folder / CHECKPOINT_FOLDER
        # What sees has layers that no score depends on, and passes without pictures do not use it at all.
        unused = [DistributedDataParallelKwargs(find_unused_parameters=True)] if settings.train_vision else []
        self._accelerator = Accelerator(log_with=tracker, project_dir=folder, kwargs_handlers=unused)
        self._progress = _Progress()
        self._trained = _make_trainable(model.network, settings, seed)
        # A network in shards can be neither merged nor saved; what becomes of it is put into this copy.
        sharded = self._accelerator.distributed_type in _SHARDED
        self._whole = copy.deepcopy(model.network) if sharded and self._accelerator.is_main_process else None
        optimizer = torch.optim.AdamW(self._trained.values(), lr=settings.learning_rate, weight_decay=0.0)
        self._scores, self._optimizer = self._accelerator.prepare(_Scores(model), optimizer)
        self._accelerator.register_for_checkpointing(self._progress)
        self._accelerator.register_save_state_pre_hook(self._save_trained)
        self._accelerator.register_load_state_pre_hook(self._load_trained)
        there = self._checkpoints()
        if tracker is not None:
            self._begin_tracking(folder.resolve().name, settings, resumed=bool(there))
        if there:
            self._accelerator.load_state(str(there[-1]))

    @property
    def total_steps(self) -> int:
        """Steps until the last epoch is over."""
        return self._settings.epochs * math.ceil(len(self._pairs) / self._settings.pairs_per_step)

    def run(self, on_point: Callable[[TrainingPoint], None]) -> None:
        """Train to the end, and leave the weights of the lowest held-out loss in the model, LoRA merged in.

        Args:
            on_point: told of every step, some of them again after a resumption.
        """
        for step, batch in self.batches():
            point = TrainingPoint(step=step, **self._train_step(step, batch))
            self._progress.step = step
            evaluated = step % self._settings.evaluate_every_steps == 0 or step == self.total_steps
            if evaluated:
                loss, accuracy = self._evaluate()
                if not math.isfinite(loss):
                    raise ConfigError(
                        f"The held-out loss after {step} steps is no number: the weights have outgrown themselves. "
                        f"Train in another run folder with a --learning-rate below {self._settings.learning_rate:g}."
                    )
                point = point.model_copy(update={"heldout_loss": loss, "heldout_accuracy": accuracy})
                self._progress.note(loss)
            on_point(point)
            self._accelerator.log(point.model_dump(exclude={"step"}, exclude_none=True), step=step)
            if evaluated:
                self._save()
        self._accelerator.load_state(str(self._checkpoint(self._progress.best_step)))
        self._finish()

    def _begin_tracking(self, name: str, settings: FitSettings, *, resumed: bool) -> None:
        """Tell the tracker what is fitted and how, under the name of its folder."""
        known = {setting: value for setting, value in settings.model_dump().items() if value is not None}
        of_trackers = {"trackio": {"name": name, "resume": "allow" if resumed else "never"}, "wandb": {"name": name}}
        self._accelerator.init_trackers("armap", config=known, init_kwargs=of_trackers)

    def batches(self) -> Iterator[tuple[int, list[PreferencePair]]]:
        """Yield the steps that are still to do, until the held-out loss has stopped falling."""
        size = self._settings.pairs_per_step
        step = 0
        for epoch in range(self._settings.epochs):
            order = _shuffled(self._pairs, self._seed, epoch, size)
            for start in range(0, len(order), size):
                step += 1
                if self._progress.evaluations_since_best >= (self._settings.patience or math.inf):
                    return
                if step > self._progress.step:
                    yield step, order[start : start + size]

    def _train_step(self, step: int, batch: Sequence[PreferencePair]) -> dict[str, float]:
        """Change the weights once, and return loss and accuracy over the whole batch, of all processes."""
        self._scores.train()
        rate = self._settings.learning_rate * _share_of_rate(step, self.total_steps, self._settings)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        passes = self._passes(batch)
        # accelerate divides by the number of passes and averages over the processes; here it is to be the sum of both.
        scale = len(passes) * self._accelerator.num_processes / len(batch)
        self._accelerator.gradient_accumulation_steps, self._accelerator.step = len(passes), 0
        loss_sum, right = 0.0, 0.0
        for one in passes:
            with self._accelerator.accumulate(self._scores):
                chosen, rejected = self._both_sides(one)
                loss = self._loss(chosen, rejected, one.margins) * len(one.chosen)
                self._accelerator.backward(loss * scale)
                if self._accelerator.sync_gradients:
                    self._accelerator.clip_grad_norm_(self._scores.parameters(), self._settings.max_grad_norm)
                self._optimizer.step()
                self._optimizer.zero_grad()
            loss_sum += float(loss.detach())
            right += _judged_rightly(chosen, rejected)
        loss_sum, right = self._over_processes(loss_sum, right)
        return {"loss": loss_sum / len(batch), "accuracy": right / len(batch)}

    def _evaluate(self) -> tuple[float, float]:
        """Return pairwise loss and accuracy on the held-out pairs."""
        self._scores.eval()
        loss_sum, right = 0.0, 0.0
        with torch.no_grad():
            for one in self._passes(self._heldout):
                chosen, rejected = self._both_sides(one)
                loss_sum += float(pairwise_loss(chosen, rejected)) * len(one.chosen) if one.chosen else 0.0
                right += _judged_rightly(chosen, rejected)
        loss_sum, right = self._over_processes(loss_sum, right)
        return loss_sum / len(self._heldout), right / len(self._heldout)

    def _loss(self, chosen: torch.Tensor, rejected: torch.Tensor, margins: list[float]) -> torch.Tensor:
        if not len(chosen):
            # Of a pass that only keeps in step with other processes: no loss, but gradients, which are zero.
            return (chosen.sum() + rejected.sum()) * 0
        if self._settings.target == "classification":
            return classification_loss(chosen, rejected)
        margin = self._settings.margin + chosen.new_tensor(margins)
        return pairwise_loss(chosen, rejected, centering=self._settings.centering, margin=margin)

    def _passes(self, batch: Sequence[PreferencePair]) -> list[_Pass]:
        """Return this process's share of a batch in passes, as many as in every other process."""
        workers, rank = self._accelerator.num_processes, self._accelerator.process_index
        share = math.ceil(len(batch) / workers)
        passes = _split(self._model, batch[rank * share : (rank + 1) * share], self._settings.pass_tokens)
        if workers > 1:
            most = max(gather_object([len(passes)]))
            passes += [_Pass(self._model.trees([batch[0].chosen])[0], [], [], [])] * (most - len(passes))
        return passes

    def _both_sides(self, one: _Pass) -> tuple[torch.Tensor, torch.Tensor]:
        """Return `[P]` scores of the chosen and of the rejected sides of a pass."""
        by_tree = self._scores(one.trees)
        computed, read = one.tokens()
        self._model.computed_tokens += computed
        self._model.avoided_tokens += read - computed
        if not one.chosen:
            return by_tree[0][:0], by_tree[0][:0]
        chosen, rejected = (
            torch.stack([by_tree[tree][end] for tree, end in places]) for places in (one.chosen, one.rejected)
        )
        return chosen, rejected

    def _over_processes(self, *sums: float) -> list[float]:
        if self._accelerator.num_processes == 1:
            return list(sums)
        total: list[float] = torch.tensor(gather_object([sums]), dtype=torch.float64).sum(0).tolist()
        return total

    # Checkpoints

    def _checkpoint(self, step: int) -> Path:
        return self._folder / f"step-{step:08d}"

    def _checkpoints(self) -> list[Path]:
        """Return the complete checkpoints, the newest last."""
        return sorted(self._folder.glob("step-*"))

    def _save(self) -> None:
        """Write a checkpoint, and remove those that are neither the newest nor the best."""
        draft = self._folder / "draft"
        if self._accelerator.is_main_process:
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
        self._accelerator.wait_for_everyone()
        self._accelerator.save_state(str(draft))
        self._accelerator.wait_for_everyone()
        if self._accelerator.is_main_process:
            newest = self._checkpoint(self._progress.step)
            draft.rename(newest)
            for folder in {*self._checkpoints()} - {newest, self._checkpoint(self._progress.best_step)}:
                shutil.rmtree(folder)
        self._accelerator.wait_for_everyone()

    def _save_trained(self, _: list[torch.nn.Module], states: list[dict[str, torch.Tensor]], folder: str) -> None:
        """Write the trained weights alone in place of all weights; of a network in shards accelerate writes its own."""
        if not states:
            return
        states.clear()
        if self._accelerator.is_main_process:
            torch.save({name: weight.detach() for name, weight in self._trained.items()}, Path(folder) / _TRAINED)

    def _load_trained(self, networks: list[torch.nn.Module], folder: str) -> None:
        if not networks:
            return
        networks.clear()
        values = torch.load(Path(folder) / _TRAINED, weights_only=True, map_location="cpu")
        with torch.no_grad():
            for name, weight in self._trained.items():
                weight.copy_(values[name])

    def _finish(self) -> None:
        """Make one whole network of what was trained."""
        if self._accelerator.distributed_type in _SHARDED:
            state = self._accelerator.get_state_dict(self._scores)
            if self._whole is not None:
                prefix = "network."
                self._whole.load_state_dict({name.removeprefix(prefix): one for name, one in state.items()})
                self._model.network = self._whole.to(self._accelerator.device)
                _merge(self._model.network)
        else:
            # Whoever prepares a network for mixed precision also gets it back as it was.
            self._accelerator.unwrap_model(self._scores, keep_fp32_wrapper=False)
            _merge(self._model.network)
        self._model.forget(pictures=True)
        counted = self._over_processes(self._model.computed_tokens, self._model.avoided_tokens)
        self._model.computed_tokens, self._model.avoided_tokens = map(int, counted)
        for tracker in self._accelerator.trackers:
            tracker.finish()
        self._accelerator.wait_for_everyone()


class _Progress:
    """How far a fit is; a part of its checkpoints."""

    def __init__(self) -> None:
        self.step = self.best_step = self.evaluations_since_best = 0
        self.best_loss = math.inf

    def note(self, heldout_loss: float) -> None:
        """Take notice of an evaluation after this step."""
        if heldout_loss < self.best_loss:
            self.best_loss, self.best_step, self.evaluations_since_best = heldout_loss, self.step, 0
        else:
            self.evaluations_since_best += 1

    def state_dict(self) -> dict[str, float]:
        """Return everything."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Take everything back."""
        vars(self).update(state)


def _shuffled(pairs: Sequence[PreferencePair], seed: int, epoch: int, at_once: int) -> list[PreferencePair]:
    """Return pairs in the order of an epoch: any, but up to `at_once` of the same task together.

    So they meet in one step, where what their trajectories share is computed once: the whole way of a beginning.
    """
    rng = rng_for(seed, "epoch", epoch)
    alike: dict[str, list[PreferencePair]] = {}
    for pair in pairs:
        alike.setdefault(pair.task.instruction, []).append(pair)
    groups: list[list[PreferencePair]] = []
    for group in alike.values():
        rng.shuffle(group)
        groups += [group[start : start + at_once] for start in range(0, len(group), at_once)]
    rng.shuffle(groups)
    return [pair for group in groups for pair in group]


def _split(model: TransformerRewardModel, pairs: Sequence[PreferencePair], pass_tokens: int) -> list[_Pass]:
    """Return pairs in passes of bounded length, but for one whose only pair or tree is longer."""
    trees, places = model.trees([side for pair in pairs for side in (pair.chosen, pair.rejected)])
    passes: list[_Pass] = []
    there: dict[int, int] = {}
    tokens = 0
    # Pairs whose trees are shared come after each other.
    margins = (pair.margin for pair in pairs)
    for chosen, rejected, margin in sorted(zip(places[0::2], places[1::2], margins, strict=True)):
        new = {tree for tree, _ in (chosen, rejected)} - there.keys()
        if not passes or (new and tokens + sum(len(trees[tree]) for tree in new) > pass_tokens):
            passes.append(_Pass([], [], [], []))
            there, tokens, new = {}, 0, {tree for tree, _ in (chosen, rejected)}
        for tree in sorted(new):
            there[tree] = len(passes[-1].trees)
            passes[-1].trees.append(trees[tree])
            tokens += len(trees[tree])
        passes[-1].chosen.append((there[chosen[0]], chosen[1]))
        passes[-1].rejected.append((there[rejected[0]], rejected[1]))
        passes[-1].margins.append(margin)
    return passes


def _make_trainable(network: Any, settings: FitSettings, seed: int) -> dict[str, torch.nn.Parameter]:  # noqa: ANN401
    """Prepare the network for training in place and return what is to be trained, by name."""
    for weight in weights.vision_weights(network):
        weight.requires_grad_(settings.train_vision)
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
    """Put LoRA's weights into the layers they belong to, and leave the network as it is after loading."""
    owner, name = weights.text_tower(network)
    adapted = getattr(owner, name)
    if isinstance(adapted, PeftModel):
        setattr(owner, name, adapted.merge_and_unload())
    for weight in weights.vision_weights(network):
        weight.requires_grad_(False)
    network.eval()


def _judged_rightly(chosen: torch.Tensor, rejected: torch.Tensor) -> float:
    """Return how many of some pairs are judged rightly, a draw being half of one."""
    return float((1 + torch.sign(chosen - rejected).detach()).sum()) / 2


def _share_of_rate(step: int, total_steps: int, settings: FitSettings) -> float:
    """Return the factor of the learning rate: a linear rise, then a linear fall to a tenth or none."""
    warmup_steps = max(1, round(total_steps * settings.warmup_share))
    if step <= warmup_steps:
        return step / warmup_steps
    if settings.schedule == "constant":
        return 1.0
    return 1.0 - 0.9 * (step - warmup_steps) / max(1, total_steps - warmup_steps)
