"""Trains reward models in a run folder and examines them, whoever filled it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from functools import partial

from pydantic import JsonValue
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from armap.pipeline.examine import examine
from armap.pipeline.train import REWARD_MODEL_FOLDER, help_train, source_tasks, train
from armap.protocols import LLM, RewardModel
from armap.reward_models import ShowProgress, linear_fit, load_reward_model, made_from, remarks, transformer_fit
from armap.rewards.fit_settings import CHECKPOINT_FOLDER, FitSettings
from armap.rewards.http import HTTPRewardModel
from armap.store import ANY_RECORDS, RunFolder
from armap.types import JudgeReport, PreferencePair, TrainingPoint

_MOVABLE = (
    "agent.base_url", "agent.prompt_usd_per_million", "agent.completion_usd_per_million", "fit.pass_tokens",
)  # fmt: skip
"""Settings that decide nothing of what comes of a stage."""
_TRAINED = ("training.jsonl", "heldout.jsonl", CHECKPOINT_FOLDER, REWARD_MODEL_FOLDER)
"""What training leaves in a run folder: without any of it, a refused one is begun anew with other settings."""


class Judging:
    """An open run folder with the reward models that are trained in it or examined on it. For one event loop.

    Every stage checks and loads what it needs before it is noted as begun, so a refused command binds nobody to its
    settings.

    Args:
        run: the run folder, open for writing.
        seed: decides every draw.
        made_by: who filled the folder; every stage notes it.
        console: where progress is shown.

    Attributes:
        run: the run folder.
        console: where progress is shown.
        opened: what is to be closed in the end.
    """

    def __init__(self, run: RunFolder, *, seed: int, made_by: Mapping[str, JsonValue], console: Console) -> None:
        self.run = run
        self.console = console
        self.opened = AsyncExitStack()
        self._seed = seed
        self._made_by = made_by

    async def train(
        self,
        *,
        kind: str,
        settings: FitSettings,
        heldout_share: float,
        train_share: float = 1.0,
        unfinished: int = 0,
        tracker: str | None = None,
        helping: bool = False,
    ) -> None:
        """Fit a reward model.

        Args:
            kind: `transformer` or `linear`.
            settings: how a transformer is fitted.
            heldout_share: share of source tasks that are not trained on.
            train_share: share of the others that are; less than all is an ablation.
            unfinished: beginnings of each pair that are learned from too.
            tracker: where the curve goes, as accelerate names it.
            helping: take part in a fit that another process records, of a run folder that is only read.
        """
        pairs = self.run.read("pairs", PreferencePair)
        source_tasks(pairs)
        with self.progress("train") as show:
            fit = linear_fit(self._seed, show)
            if kind == "transformer":
                fit = transformer_fit(settings, run=self.run, seed=self._seed, tracker=tracker, show=show)
            if not helping:
                self.begin(
                    "train",
                    stored=_TRAINED,
                    kind=kind,
                    heldout_share=heldout_share,
                    train_share=train_share,
                    unfinished=unfinished,
                    pairs=len(pairs),
                    fit=settings.model_dump(),
                )
            # Whoever helps does the same, but for what is written.
            step = help_train if helping else partial(train, describe=partial(made_from, kind, settings))
            model = await step(
                self.run,
                fit=fit,
                heldout_share=heldout_share,
                train_share=train_share,
                unfinished=unfinished,
                seed=self._seed,
                on_point=_heed_interruption,
            )
        if model is not None:
            self.remark(model)
        if helping:
            return
        if model is not None or self.run.read_json("judge", JudgeReport) is None:
            await self.examine(reward_model=None)
        else:
            # One that is there is kept, unless it is damaged.
            load_reward_model(self.run.path / REWARD_MODEL_FOLDER, self.run.images)

    async def examine(self, *, reward_model: str | None) -> JudgeReport:
        """Find out how far a reward model can be trusted; of the run's own, the default, keep what is found."""
        judge = self.load_judge(reward_model)
        with self.console.status("examining the reward model"):
            found = await examine(
                self.run,
                judge,
                reward_model or f"{self.run.path.resolve().name}/{REWARD_MODEL_FOLDER}",
                own=reward_model is None,
            )
        if reward_model is None:
            self.run.write_json("judge", found)
        return found

    def load_judge(self, place: str | None) -> RewardModel:
        """Load a reward model of a folder, or of an address; of the run where the place is None."""
        judge = load_reward_model(place or self.run.path / REWARD_MODEL_FOLDER, self.run.images)
        self.opened.callback(self.remark, judge)
        if isinstance(judge, HTTPRewardModel):
            self.opened.push_async_callback(judge.close)
        return judge

    async def close(self) -> None:
        """Close whatever was opened, the connections of a reward model among it."""
        await self.opened.aclose()

    def begin(self, stage: str, *, stored: Sequence[str] = ANY_RECORDS, **settings: JsonValue) -> None:
        """Note a stage as begun with these settings, or check that it began with them; see `RunFolder.begin_stage`."""
        self.run.begin_stage(stage, {**self._made_by, **settings}, movable=_MOVABLE, stored=stored)

    @contextmanager
    def progress(self, stage: str) -> Iterator[ShowProgress]:
        """Show how far a stage is while it runs."""
        columns = (
            TextColumn("{task.description:<10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=self.console) as progress:
            row = progress.add_task(stage, total=None, note="")
            yield lambda done, total, note="": progress.update(row, completed=done, total=total, note=note)

    def remark(self, model: RewardModel | LLM) -> None:
        """Say what a model did not do as it was told."""
        for sentence in remarks(model):
            self.console.print(sentence, markup=False, highlight=False, soft_wrap=True)


def _heed_interruption(_: TrainingPoint) -> None:
    """Let Ctrl-C end a fit: it never waits for anything, so the event loop gets no chance to cancel it."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
