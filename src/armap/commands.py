"""What the commands do: puts models, environments and stages together as the settings of a run say."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, JsonValue, ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from armap.environments import Wanted, environment_entry
from armap.errors import ConfigError, DataError
from armap.llms.cached import CachedLLM
from armap.llms.http import HTTPLLM
from armap.llms.scripted import ScriptedLLM
from armap.pipeline.collect import Inventor, collect
from armap.pipeline.evaluate import evaluate
from armap.pipeline.examine import examine
from armap.pipeline.funnel import ablations
from armap.pipeline.judging import PairJudge
from armap.pipeline.plan import AnyPlanner, label, plan, plan_one
from armap.pipeline.synthesize import SynthesisSettings, synthesize
from armap.pipeline.train import (
    CALIBRATION_FILE,
    REWARD_MODEL_FOLDER,
    help_train,
    split_pairs,
    train,
)
from armap.pipeline.writers import EnvironmentWriter, InstructionWriter, LLMWriter
from armap.policy import PromptedPolicy
from armap.protocols import LLM, HindsightWriter, RewardModel
from armap.reward_models import ShowProgress, is_address, linear_fit, load_reward_model, remarks, transformer_fit
from armap.rewards.calibration import Calibrated
from armap.rewards.chance import ChanceRewardModel
from armap.rewards.fit_settings import FitSettings
from armap.rewards.http import HTTPRewardModel
from armap.rewards.objective import STEPS, Objective, ObjectiveRewardModel
from armap.rewards.prompted import PromptedRewardModel
from armap.seeds import rng_for
from armap.store import Ledger, RunFolder
from armap.types import (
    Budget,
    Calibration,
    JudgeReport,
    Metrics,
    PreferencePair,
    Record,
    SamplingParams,
    SearchResult,
    Task,
    TrainingPoint,
    Trajectory,
)
from armap.weights import EMBEDDED, locate, require_local_extra
from armap.world import LiveWorld

SCRIPTED = "scripted"
"""Name of the model that draws among the legal actions at random and needs nothing installed."""
UNTRAINED = PROMPTED, CHANCE = "prompted", "chance"
"""Names of the reward models that nobody trained: the run's language model, and nothing at all."""


class AgentSettings(Record):
    """Who acts, and where."""

    env: str = "game24"
    """Name of the environment."""
    model: str = EMBEDDED
    """`embedded`, `scripted`, a local model, or the name of a model at `base_url`."""
    base_url: str | None = None
    """Address of an OpenAI-compatible server, if the model is there."""
    prompt_usd_per_million: float = Field(default=0.0, ge=0)
    """Price of a million tokens read."""
    completion_usd_per_million: float = Field(default=0.0, ge=0)
    """Price of a million tokens written."""
    temperature: float = Field(default=1.0, ge=0)
    """How freely actions are drawn."""
    choose: bool = True
    """Let the model choose among the legal actions where they are listed."""
    strict: bool = False
    """Accept nothing but `Action: ...` from a model that writes freely."""
    recall_chars: int = Field(default=200, ge=0)
    """Characters of each observation but the last that the model is shown."""
    data: str | None = None
    """Folder of data of the user's own for the environment."""
    images: bool = False
    """Keep a picture of every observation."""
    evaluation: str
    """Which evaluation tasks; none of them is trained on."""
    seed: int = 0
    """Decides every draw."""


class Workshop:
    """An open run folder together with the models and the world that its settings name. For one event loop.

    Every stage checks and loads what it needs before it is noted as begun, so a refused command binds nobody to its
    settings.

    Args:
        run: the run folder, open for writing.
        agent: who acts, and where.
        budget: what may be spent on language models.
        concurrency: how many tasks are under way at once.
        console: where progress is shown.

    Raises:
        ConfigError: there is no such environment, the address of the server holds a password, or a limit on money is
            set without prices.
    """

    def __init__(
        self, run: RunFolder, agent: AgentSettings, *, budget: Budget, concurrency: int, console: Console
    ) -> None:
        data = None if agent.data is None else Path(agent.data)
        wanted = Wanted(choose=agent.choose, data=data, images=run.images if agent.images else None)
        entry = environment_entry(agent.env, wanted)
        if urlsplit(agent.base_url or "").password:
            raise ConfigError("The server's address is kept in the run folder; put its password into ARMAP_API_KEY.")
        if budget.max_cost_usd is not None and not (agent.prompt_usd_per_million or agent.completion_usd_per_million):
            raise ConfigError(
                f"No price of {agent.model} is known, so --max-cost-usd could never stop it; collect with "
                "--prompt-price and --completion-price, in dollars per million tokens."
            )
        self.run = run
        self.agent = agent
        self.entry = entry
        self.ledger = Ledger(run, budget)
        self._concurrency = concurrency
        self._console = console
        self._environment = self.entry.make()
        self._world = LiveWorld(self.entry.make, build=self.entry.build, workers=not self.entry.inline)
        self._llm: LLM | None = None
        self._open = AsyncExitStack()
        self._open.callback(self._environment.close)
        self._open.callback(self._world.close)

    async def collect(self, *, tasks: int, samples: int, invent: bool = False) -> None:
        """Collect trajectories on training tasks, or on instructions that the model invents for them."""
        kept_out = self.evaluation_tasks()
        available = self.entry.training_tasks(kept_out)
        chosen = _draw(available, tasks, self.agent.seed, "training")
        inventor = None
        if invent:
            inventor = Inventor(
                self.llm(), rules=self.entry.rules, examples=available, forbidden=kept_out, seed=self.agent.seed
            )
        self.llm()
        self._begin("collect", tasks=tasks, samples=samples, invent=invent)
        if self.entry.notice:
            self._console.print(self.entry.notice, markup=False, highlight=False, soft_wrap=True)
        with self._progress("collect") as show:
            await collect(
                self.run,
                chosen,
                world=self._world,
                make_policy=self._policy,
                inventor=inventor,
                samples=samples,
                seed=self.agent.seed,
                concurrency=self._concurrency,
                on_progress=show,
            )

    async def synthesize(
        self, settings: SynthesisSettings, *, writer: str = "environment", elaborate: bool = True, judge: str = "none"
    ) -> None:
        """Make preference pairs.

        Args:
            settings: how they are made.
            writer: who writes the instructions, `environment` or `model`.
            elaborate: whether a model that writes elaborates what it wrote.
            judge: `model`, or `none`.
        """
        chosen: InstructionWriter
        if writer == "model":
            chosen = LLMWriter(self.llm(), seed=self.agent.seed, elaborate=elaborate)
        elif isinstance(self._environment, HindsightWriter):
            chosen = EnvironmentWriter(self._environment)
        else:
            raise ConfigError(f"{self.agent.env} cannot state outcomes in words; type: --writer model")
        if settings.labels == "oracle" and self.run.manifest.stages["collect"].settings.get("invent"):
            raise ConfigError(
                "What the environment pays says nothing about invented instructions; use a run folder that was "
                "collected without --invent."
            )
        asked = PairJudge(self.llm(), seed=self.agent.seed) if judge == "model" else None
        self.llm()
        self._begin("synthesize", writer=writer, elaborate=elaborate, judge=judge, **settings.model_dump(mode="json"))
        with self._progress("synthesize") as show:
            await synthesize(
                self.run,
                settings=settings,
                writer=chosen,
                judge=asked,
                world=self._world,
                make_policy=self._policy,
                evaluation_tasks=self.evaluation_tasks(),
                seed=self.agent.seed,
                concurrency=self._concurrency,
                on_progress=show,
            )

    async def train(
        self,
        *,
        kind: str,
        settings: FitSettings,
        heldout_share: float,
        unfinished: int = 0,
        tracker: str | None = None,
        helping: bool = False,
    ) -> None:
        """Fit a reward model.

        Args:
            kind: `transformer` or `linear`.
            settings: how a transformer is fitted.
            heldout_share: share of source tasks that are not trained on.
            unfinished: beginnings of each pair that are learned from too.
            tracker: where the curve goes, as accelerate names it.
            helping: take part in a fit that another process records, of a run folder that is only read.
        """
        pairs = self.run.read("pairs", PreferencePair)
        split_pairs(pairs, heldout_share=heldout_share, seed=self.agent.seed)
        with self._progress("train") as show:
            fit = linear_fit(self.agent.seed, show)
            if kind == "transformer":
                fit = transformer_fit(settings, run=self.run, seed=self.agent.seed, tracker=tracker, show=show)
            if not helping:
                self._begin(
                    "train",
                    kind=kind,
                    heldout_share=heldout_share,
                    unfinished=unfinished,
                    pairs=len(pairs),
                    fit=settings.model_dump(),
                )
            # Whoever helps does the same, but for what is written.
            step = help_train if helping else train
            model = await step(
                self.run,
                fit=fit,
                heldout_share=heldout_share,
                unfinished=unfinished,
                seed=self.agent.seed,
                on_point=_heed_interruption,
            )
        if model is not None:
            self._remark(model)
        if not helping and self.run.read_json("judge", JudgeReport) is None:
            await self.examine(reward_model=None)

    async def examine(self, *, reward_model: str | None) -> JudgeReport:
        """Find out how far a reward model can be trusted; of the run's own, the default, keep what is found."""
        judge = self._load_judge(reward_model)
        with self._console.status("examining the reward model"):
            found = await examine(
                self.run, judge, reward_model or f"{self.run.path.resolve().name}/{REWARD_MODEL_FOLDER}"
            )
        if reward_model is None:
            self.run.write_json("judge", found)
        return found

    async def evaluate(
        self,
        planners: Sequence[AnyPlanner],
        *,
        tasks: int,
        reward_model: str | None,
        objective: Objective | None = None,
    ) -> Metrics:
        """Let every planner try evaluation tasks, and measure what came of it. Further ones can be added later."""
        chosen = _draw_more(self.evaluation_tasks(), tasks, self.agent.seed, "evaluation")
        judge = self._judge(reward_model, objective)
        self.llm()
        self._begin(
            "evaluate",
            # Not the path of the run's own: a run folder may be moved.
            reward_model=reward_model,
            objective=None if objective is None else str(objective),
        )
        stages = {f"evaluate {label(planner)}": planner for planner in planners}
        # Those that can be refused come first, so that a refused command notes no other.
        for stage in sorted(stages, key=lambda stage: stage not in self.run.manifest.stages):
            self.run.begin_stage(stage, stages[stage].model_dump(mode="json"))
        with self._progress("evaluate") as show:
            await plan(
                self.run,
                chosen,
                planners,
                world=self._world,
                make_policy=self._policy,
                reward_model=judge,
                seed=self.agent.seed,
                concurrency=self._concurrency,
                on_progress=show,
            )
        return evaluate(self.run)

    async def plan_one(
        self, task: Task, planner: AnyPlanner, *, reward_model: str | None, objective: Objective | None = None
    ) -> SearchResult:
        """Let a planner try one task; nothing but the answers it bought is stored."""
        judge = self._judge(reward_model, objective)
        return await plan_one(task, planner, self._world, self._policy(), judge, self.agent.seed)

    def _judge(self, place: str | None, objective: Objective | None) -> RewardModel:
        """Return who scores: the reward model of a place, or of the run, as the objective has it."""
        judge = self._load_judge(place)
        if objective is not None:
            judge = ObjectiveRewardModel(judge, objective)
            reported = {name for one in self.run.read("trajectories", Trajectory) for name in one.metrics}
            self.warn_of_unknown(objective, reported)
        return self._calibrated(judge, place)

    def _load_judge(self, place: str | None) -> RewardModel:
        if place == PROMPTED:
            return PromptedRewardModel(self.llm(), seed=self.agent.seed)
        if place == CHANCE:
            return ChanceRewardModel(seed=self.agent.seed)
        judge = load_reward_model(place or self.run.path / REWARD_MODEL_FOLDER, self.run.images)
        self._open.callback(self._remark, judge)
        if isinstance(judge, HTTPRewardModel):
            self._open.push_async_callback(judge.close)
        return judge

    def _calibrated(self, judge: RewardModel, place: str | None) -> RewardModel:
        """Return a reward model with what its scores mean, where that stands beside it.

        The terms of an objective are points of the score, so it means the same.
        """
        if place is not None and (is_address(place) or place in UNTRAINED):
            return judge
        file = (self.run.path / REWARD_MODEL_FOLDER if place is None else Path(place)) / CALIBRATION_FILE
        if not file.is_file():
            return judge
        try:
            calibration = Calibration.model_validate_json(file.read_bytes())
        except ValidationError as error:
            raise DataError(f"{file} holds no calibration; restore it, or delete it to go without.") from error
        for sentence in ablations(calibration.labelled_by):
            self._console.print(sentence, style="yellow", markup=False, highlight=False, soft_wrap=True)
        return Calibrated(judge, calibration)

    def _remark(self, judge: RewardModel) -> None:
        """Say what a reward model did not read as it was."""
        for sentence in remarks(judge):
            self._console.print(sentence, markup=False, highlight=False, soft_wrap=True)

    def warn_of_unknown(self, objective: Objective, reported: Collection[str]) -> None:
        """Say which metrics of an objective nobody reports, if any."""
        if unknown := objective.unknown(reported):
            known = ", ".join(sorted({STEPS, *reported}))
            self._console.print(
                f"No trajectory reports {' or '.join(unknown)}, so {objective} counts it as 0; reported are: {known}.",
                style="yellow",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )

    def evaluation_tasks(self) -> list[Task]:
        """Return the tasks the settings keep for evaluation."""
        return self.entry.evaluation_tasks(self.agent.evaluation)

    def llm(self) -> LLM:
        """Return the language model, loaded when it is first needed."""
        if self._llm is None:
            with self._console.status(f"loading {self.agent.model}"):
                llm = _load_llm(self.agent, self._concurrency)
            if isinstance(llm, HTTPLLM):
                self._open.push_async_callback(llm.close)
            self._llm = CachedLLM(llm, self.ledger)
        return self._llm

    async def close(self) -> None:
        """Close the environments, and the connections of the language model."""
        await self._open.aclose()

    def _policy(self) -> PromptedPolicy:
        return PromptedPolicy(
            self.llm(),
            rules=self.entry.rules,
            examples=self.entry.examples,
            recall_chars=self.agent.recall_chars,
            sampling=SamplingParams(temperature=self.agent.temperature),
            choose=self.agent.choose,
            strict=self.agent.strict,
        )

    def _begin(self, stage: str, **settings: JsonValue) -> None:
        self.run.begin_stage(stage, {"agent": self.agent.model_dump(), **settings})

    @contextmanager
    def _progress(self, stage: str) -> Iterator[ShowProgress]:
        """Show how far a stage is while it runs."""
        columns = (
            TextColumn("{task.description:<10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=self._console) as progress:
            row = progress.add_task(stage, total=None, note="")
            yield lambda done, total, note="": progress.update(row, completed=done, total=total, note=note)


def agent_of(run: RunFolder) -> AgentSettings:
    """Return the agent that collected in `run`.

    Raises:
        ConfigError: nothing was collected there.
        DataError: its settings cannot be read.
    """
    begun = run.manifest.stages.get("collect")
    if begun is None:
        raise ConfigError(f"Nothing was collected in {run.path}; begin with `armap collect --run {run.path}`.")
    try:
        return AgentSettings.model_validate(begun.settings["agent"])
    except (KeyError, ValidationError) as error:
        raise DataError(
            f"{run.path / 'manifest.json'} does not hold the settings of an agent at stages.collect.settings.agent; "
            "restore the file or use another run folder."
        ) from error


def _load_llm(agent: AgentSettings, concurrency: int) -> LLM:
    if agent.model == SCRIPTED:
        return ScriptedLLM()
    if agent.base_url is not None:
        return HTTPLLM.from_environment(
            base_url=agent.base_url,
            model=agent.model,
            concurrency=concurrency,
            price_usd_per_million=(agent.prompt_usd_per_million, agent.completion_usd_per_million),
        )
    locate(agent.model)
    require_local_extra()
    from armap.llms.local import LocalLLM

    return LocalLLM(agent.model)


def _draw(tasks: list[Task], count: int, seed: int, purpose: str) -> list[Task]:
    """Return `count` of the tasks, drawn at random but kept in their order."""
    _check_count(tasks, count, purpose)
    return [tasks[i] for i in sorted(rng_for(seed, purpose).sample(range(len(tasks)), count))]


def _draw_more(tasks: list[Task], count: int, seed: int, purpose: str) -> list[Task]:
    """Do what `_draw` does, but so that a larger count draws all that a smaller one does."""
    _check_count(tasks, count, purpose)
    return [tasks[i] for i in sorted(rng_for(seed, purpose).sample(range(len(tasks)), len(tasks))[:count])]


def _check_count(tasks: list[Task], count: int, purpose: str) -> None:
    if not 1 <= count <= len(tasks):
        raise ConfigError(f"There are {len(tasks)} {purpose} tasks; ask for 1 to that many, not {count}.")


def _heed_interruption(_: TrainingPoint) -> None:
    """Let Ctrl-C end a fit: it never waits for anything, so the event loop gets no chance to cancel it."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
