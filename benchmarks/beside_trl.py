"""Trains one reward model twice: with our trainer, and with the RewardTrainer of TRL.

Both start from the same weights, LoRA's and the head's among them, and take the same tokens in the same order with the
same loss, optimiser and learning rates, in 32 bits. TRL runs as who knows it would set it up for a small model: without
gradient checkpointing and dropout, nothing dropped for its length, no files, and its own collator. On a GPU the model
is whole, and a step has more pairs and is one pass.

The world is made up, so that nothing has to be installed: trajectories of nine steps and some 350 tokens.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import torch
import trl
from datasets import Dataset
from peft import LoraConfig
from rich.console import Console
from rich.table import Table
from simulated.shop import WORDS
from torch.nn import Module, Parameter
from torch.optim.lr_scheduler import LinearLR
from transformers import PrinterCallback, TrainerCallback

from armap.errors import ConfigError
from armap.rewards.fit_settings import FitSettings
from armap.rewards.fitting import TransformerFit
from armap.rewards.transformer import TransformerRewardModel
from armap.seeds import rng_for
from armap.types import Action, Observation, PreferencePair, Step, Task, Trajectory

_STEPS = 9
_ON_GPU = torch.cuda.is_available()
_LAYERS = None if _ON_GPU else 12
"""Of the embedded model; 12 as `armap train` keeps by default."""
_REPEATS = 3
_UNCOUNTED = 2
"""First steps of each training, which touch memory for the first time."""
_SETTINGS = FitSettings(
    layers=_LAYERS,
    pairs_per_step=32 if _ON_GPU else 4,
    pass_tokens=32768 if _ON_GPU else 4096,
    warmup_share=0.0,
    centering=0.0,
    evaluate_every_steps=1_000_000,
)
PAIRS = _SETTINGS.pairs_per_step * (12 if _ON_GPU else 7)
"""Pairs of a training, which are as many steps."""


def group(number: int, parting: Sequence[int]) -> list[PreferencePair]:
    """Return pairs of one chosen trajectory with rejected ones that part from it, each after so many of its steps."""
    rng = Random(number)
    actions = [f"click[{rng.choice(WORDS)}]" for _ in range(_STEPS)]
    chosen = _trajectory(number, actions, "The order is placed.")
    pairs = []
    for i, parts in enumerate(parting):
        others = [f"click[{rng.choice(WORDS)} {i}]" for _ in range(parts, _STEPS)]
        pairs.append(
            PreferencePair(
                id=f"{number}/{i}",
                task=chosen.task,
                chosen=chosen,
                rejected=_trajectory(number, [*actions[:parts], *others], "The cart is empty."),
                source_task_id=chosen.task.id,
                origin="altered_action",
                instruction_writer="environment",
                verified_by="execution",
            )
        )
    return pairs


def _trajectory(number: int, actions: Sequence[str], outcome: str) -> Trajectory:
    def seen(count: int) -> str:
        rng = rng_for(number, "observation", *actions[:count])
        return " ".join(rng.choices(WORDS, k=rng.randrange(20, 30)))

    return Trajectory(
        id="/".join([str(number), *actions]),
        task=Task(
            id=str(number),
            env="made up",
            instruction=f"Buy a large blue cotton shirt from a warehouse for less than {number} dollars.",
        ),
        steps=tuple(
            Step(observation=Observation(text=seen(i)), action=Action(text=action)) for i, action in enumerate(actions)
        ),
        final_observation=Observation(text=f"{outcome} {seen(_STEPS)}"),
        stop_reason="terminated",
    )


class Training(NamedTuple):
    """What one training came to."""

    losses: list[float]
    """Of each step, in nats."""
    ends: list[tuple[float, float]]
    """When each step ended: by the clock, and by the CPU time of all cores, in seconds."""

    def note(self, loss: float) -> None:
        """Take notice of the end of a step."""
        self.losses.append(loss)
        self.ends.append((time.perf_counter(), time.process_time()))

    def seconds(self, clock: int = 0) -> float:
        """Return what the counted steps took, which the last one, followed by tidying up, is not."""
        return self.ends[-2][clock] - self.ends[_UNCOUNTED - 1][clock]

    def pairs_per_s(self) -> float:
        """Return pairs per second by the clock."""
        return (len(self.losses) - _UNCOUNTED - 1) * _SETTINGS.pairs_per_step / self.seconds()


class _Noting(TrainerCallback):
    """Notes what TRL logs."""

    def __init__(self, training: Training) -> None:
        self._training = training

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:  # noqa: ANN401
        if "loss" in logs:
            self._training.note(logs["loss"])


def train_both(start: Path, pairs: Sequence[PreferencePair]) -> tuple[Training, Training]:
    """Train the model of a folder on pairs, with ours and with TRL's trainer."""
    mine, its = Training([], []), Training([], [])
    with tempfile.TemporaryDirectory() as folder:
        model = TransformerRewardModel.load(start)
        fit = TransformerFit(model, pairs, pairs[:1], _SETTINGS, seed=0, folder=Path(folder))
        tokens = [
            {"chosen_ids": model.token_ids(pair.chosen), "rejected_ids": model.token_ids(pair.rejected)}
            for _, batch in fit.batches()
            for pair in batch
        ]
        trainer = trl_trainer(start, tokens, folder)
        for other, weight in zip(trained(trainer.model), trained(model.network), strict=True):
            other.data.copy_(weight)
        trainer.add_callback(_Noting(its))
        fit.run(lambda point: mine.note(point.loss))
        trainer.train()
    return mine, its


def trl_trainer(start: Path, tokens: list[dict[str, list[int]]], folder: str) -> trl.RewardTrainer:
    """Return TRL's trainer of the model of a folder on pairs of tokens."""
    settings = trl.RewardConfig(
        output_dir=folder,
        per_device_train_batch_size=_SETTINGS.pairs_per_step,
        num_train_epochs=1,
        train_sampling_strategy="sequential",
        max_length=None,
        learning_rate=_SETTINGS.learning_rate,
        max_grad_norm=_SETTINGS.max_grad_norm,
        gradient_checkpointing=False,
        bf16=False,
        dataloader_pin_memory=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    lora = LoraConfig(
        task_type="SEQ_CLS",
        r=_SETTINGS.lora_rank,
        lora_alpha=_SETTINGS.lora_alpha,
        lora_dropout=0.0,
        target_modules="all-linear",
        modules_to_save=["score"],
    )
    trainer = trl.RewardTrainer(str(start), settings, train_dataset=Dataset.from_list(tokens), peft_config=lora)
    trainer.remove_callback(PrinterCallback)
    # Our rates: without warm-up they fall in a line, to a tenth in the last step.
    steps = len(tokens) // _SETTINGS.pairs_per_step
    trainer.lr_scheduler = LinearLR(trainer.create_optimizer(), 1.0, 0.1, total_iters=steps - 1)
    return trainer


def trained(network: Module) -> list[Parameter]:
    """Return the weights that are trained, in the order of the layers."""
    return [weight for weight in network.parameters() if weight.requires_grad]


def compare(name: str, pairs: Sequence[PreferencePair]) -> None:
    """Print what the two trainers make of pairs, and as the last line one JSON object."""
    # TRL and peft ask for names that transformers is about to drop.
    warnings.filterwarnings("ignore", ".*gradient_checkpointing", FutureWarning)
    try:
        model = TransformerRewardModel.from_backbone(layers=_LAYERS)
    except ConfigError as error:
        sys.exit(str(error))
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder))
        trainings = [train_both(Path(folder), pairs) for _ in range(_REPEATS)]
    difference = max(
        abs(one - other) for both in trainings for one, other in zip(*(x.losses for x in both), strict=True)
    )
    if difference > 1e-3:
        sys.exit(f"The losses differ by {difference:.1e}; the comparison means nothing.")
    sides = [side for pair in pairs for side in (pair.chosen, pair.rejected)]
    found = {
        "name": name,
        "ours_tokens": sum(map(len, model.trees(sides)[0])),
        "trl_tokens": sum(len(model.token_ids(side)) for side in sides),
        "ours": statistics.median(mine.pairs_per_s() for mine, _ in trainings),
        "trl": statistics.median(its.pairs_per_s() for _, its in trainings),
        "ratio": statistics.median(its.seconds() / mine.seconds() for mine, its in trainings),
        "cpu_time_ratio": statistics.median(its.seconds(1) / mine.seconds(1) for mine, its in trainings),
        "max_loss_difference": difference,
        "unit": "pairs per second",
    }
    show(*trainings[0], found)
    print(json.dumps(found))


def show(mine: Training, its: Training, found: dict[str, Any]) -> None:
    """Print both curves, and how fast they were gone through."""
    curves = Table("loss of step", *map(str, range(1, len(mine.losses) + 1)))
    speeds = Table("trainer", "tokens", "pairs per second", "faster", "by CPU time")
    curves.add_row("TRL", *(f"{loss:.4f}" for loss in its.losses))
    curves.add_row("armap", *(f"{loss:.4f}" for loss in mine.losses))
    speeds.add_row(f"TRL {trl.__version__}", f"{found['trl_tokens']:,}", f"{found['trl']:.2f}")
    ratios = (f"{found[ratio]:.2f} x" for ratio in ("ratio", "cpu_time_ratio"))
    speeds.add_row("armap", f"{found['ours_tokens']:,}", f"{found['ours']:.2f}", *ratios)
    for table in (curves, speeds):
        Console().print(table)
    print(f"The losses differ by {found['max_loss_difference']:.1e} at most.")
