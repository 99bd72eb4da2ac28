"""What the commands do: puts models, environments and stages together as the settings of a run say."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console

from armap.agent_settings import SCRIPTED, AgentSettings, agent_of
from armap.environments import Wanted, environment_entry, without
from armap.errors import ConfigError, DataError
from armap.judging import Judging
from armap.llms.cached import CachedLLM
from armap.llms.http import HTTPLLM
from armap.llms.scripted import ScriptedLLM
from armap.pipeline.collect import Inventor, collect
from armap.pipeline.evaluate import evaluate
from armap.pipeline.funnel import ablations
from armap.pipeline.plan import AnyPlanner, label, plan, plan_one
from armap.pipeline.synthesize import SynthesisSettings, synthesize
from armap.pipeline.train import CALIBRATION_FILE, REWARD_MODEL_FOLDER
from armap.pipeline.verdicts import PairJudge
from armap.pipeline.writers import EnvironmentWriter, InstructionWriter, LLMWriter, begun_as
from armap.policy import PromptedPolicy
from armap.protocols import LLM, Environment, HindsightWriter, RewardModel
from armap.reward_models import is_address
from armap.rewards.calibration import Calibrated
from armap.rewards.chance import ChanceRewardModel
from armap.rewards.objective import STEPS, Objective, ObjectiveRewardModel
from armap.rewards.prompted import PromptedRewardModel
from armap.seeds import rng_for
from armap.store import Ledger, RunFolder
from armap.types import (
    Budget,
    Calibration,
    Metrics,
    SamplingParams,
    SearchResult,
    Task,
    Trajectory,
)
from armap.weights import EMBEDDED, locate, require_local_extra
from armap.workers import Inline
from armap.world import LiveWorld

_USUAL_TASKS = 40
"""Tasks that a stage tries where nothing else is said and there are so many."""
UNTRAINED = PROMPTED, CHANCE = "prompted", "chance"
"""Names of the reward models that nobody trained: the run's language model, and nothing at all."""


class Workshop(Judging):
    """An open run folder together with the models and the world that its settings name. For one event loop.

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
        agent.check()
        if budget.max_cost_usd is not None:
            agent.require_prices("--max-cost-usd")
        super().__init__(run, seed=agent.seed, made_by={"agent": agent.model_dump()}, console=console)
        self.agent = agent
        self.entry = entry
        self.ledger = Ledger(run, budget)
        self._concurrency = concurrency
        self._world = LiveWorld(self.entry.make, build=self.entry.build, workers=not self.entry.inline)
        self._llm: LLM | None = None
        self.opened.callback(self._world.close)

    def require_evaluation_tasks(self, count: int) -> None:
        """Say at once if there are not so many evaluation tasks.

        Raises:
            ConfigError: there are fewer.
        """
        _check_count(self.evaluation_tasks(), count, "evaluation")

    async def collect(self, *, tasks: int | None, samples: int, invent: bool = False) -> None:
        """Collect trajectories on training tasks, or on instructions that the model invents for them.

        Where no number of tasks is said, forty are tried, or all of fewer.
        """
        kept_out = self.evaluation_tasks()
        available = self.entry.training_tasks(kept_out)
        tasks = tasks or min(_USUAL_TASKS, len(available))
        chosen = _draw(available, tasks, self.agent.seed, "training")
        inventor = None
        if invent:
            inventor = Inventor(
                self.llm(),
                rules=self.entry.rules,
                examples=available,
                forbidden=kept_out,
                seed=self.agent.seed,
                reply_tokens=self.agent.thinking_tokens,
            )
        self.llm()
        self.begin("collect", tasks=tasks, samples=samples, invent=invent)
        if self.entry.notice:
            self.console.print(self.entry.notice, markup=False, highlight=False, soft_wrap=True)
        with self.progress("collect") as show:
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
        if writer != "model" and isinstance(environment := self._made(), HindsightWriter):
            chosen = EnvironmentWriter(environment)
        elif writer == "model" or settings.labels == "oracle":
            # Whoever goes by what the environment pays asks no writer, be it this one.
            chosen = LLMWriter(
                self.llm(), seed=self.agent.seed, elaborate=elaborate, reply_tokens=self.agent.thinking_tokens
            )
        else:
            raise ConfigError(
                f"{self.agent.env} cannot state outcomes in words; type: --writer model, or give it a method "
                "hindsight_task, as examples/own_environment.py has."
            )
        if settings.labels == "oracle" and self.run.manifest.stages["collect"].settings.get("invent"):
            raise ConfigError(
                "What the environment pays says nothing about invented instructions; use a run folder that was "
                "collected without --invent."
            )
        asked = None
        if judge == "model":
            asked = PairJudge(self.llm(), seed=self.agent.seed, reply_tokens=self.agent.thinking_tokens)
        self.llm()
        self.begin("synthesize", writer=writer, elaborate=elaborate, judge=judge, **settings.model_dump(mode="json"))
        with self.progress("synthesize") as show:
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

    def _made(self) -> Environment:
        """Return an environment of our own, in this process."""
        host = Inline(self.entry.make)
        self.opened.callback(host.close)
        return host.environment

    async def evaluate(
        self,
        planners: Sequence[AnyPlanner],
        *,
        tasks: int | None,
        reward_model: str | None,
        objective: Objective | None = None,
    ) -> Metrics:
        """Let every planner try evaluation tasks, and measure what came of it. Further ones can be added later."""
        self._refuse_uncounted(reward_model, planners)
        available = self.evaluation_tasks()
        chosen = _draw_more(available, tasks or min(_USUAL_TASKS, len(available)), self.agent.seed, "evaluation")
        judge = self._judge(reward_model, objective)
        self.llm()
        self.begin(
            "evaluate",
            # Not the path of the run's own: a run folder may be moved.
            reward_model=reward_model,
            # Another one may have taken its place since.
            calibration=self._calibration_digest(reward_model),
            objective=None if objective is None else str(objective),
        )
        stages = {f"evaluate {label(planner)}": planner for planner in planners}
        # Those that can be refused come first, so that a refused command notes no other.
        for stage in sorted(stages, key=lambda stage: stage not in self.run.manifest.stages):
            self.run.begin_stage(stage, stages[stage].model_dump(mode="json"))
        with self.progress("evaluate") as show:
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
        self._refuse_uncounted(reward_model, [planner])
        judge = self._judge(reward_model, objective)
        return await plan_one(task, planner, self._world, self._policy(), judge, self.agent.seed)

    def _refuse_uncounted(self, reward_model: str | None, planners: Sequence[AnyPlanner]) -> None:
        """Refuse limits on what a search may spend that could not hold.

        Raises:
            ConfigError: there are such limits.
        """
        if any(planner.budget.max_cost_usd is not None for planner in planners):
            self.agent.require_prices("--task-max-usd")
        limits = ("max_calls", "max_tokens", "max_cost_usd")
        if reward_model == PROMPTED and any(getattr(planner.budget, limit) for planner in planners for limit in limits):
            raise ConfigError(
                "What `--reward-model prompted` asks the language model is not counted by task; limit the run instead, "
                "with --max-calls, --max-tokens or --max-cost-usd, or the search with --task-max-trajectories."
            )

    def _judge(self, place: str | None, objective: Objective | None) -> RewardModel:
        """Return who scores: the reward model of a place, or of the run, as the objective has it."""
        judge = self.load_judge(place)
        if objective is not None:
            judge = ObjectiveRewardModel(judge, objective)
            reported = {name for one in self.run.read("trajectories", Trajectory) for name in one.metrics}
            self.warn_of_unknown(objective, reported)
        return self._calibrated(judge, place)

    def load_judge(self, place: str | None) -> RewardModel:
        """Load a reward model as `Judging` does, or one of those that nobody trained."""
        if place == PROMPTED:
            return PromptedRewardModel(self.llm(), seed=self.agent.seed, reply_tokens=self.agent.thinking_tokens)
        if place == CHANCE:
            return ChanceRewardModel(seed=self.agent.seed)
        return super().load_judge(place)

    def _calibrated(self, judge: RewardModel, place: str | None) -> RewardModel:
        """Return a reward model with what its scores mean, where that stands beside it.

        The terms of an objective are points of the score, so it means the same.
        """
        file = self._calibration_file(place)
        if file is None:
            return judge
        try:
            calibration = Calibration.model_validate_json(file.read_bytes())
        except ValidationError as error:
            raise DataError(f"{file} holds no calibration; restore it, or delete it to go without.") from error
        for sentence in (*ablations(calibration.labelled_by), *self._learned_from(calibration.source_task_ids)):
            self.console.print(sentence, style="yellow", markup=False, highlight=False, soft_wrap=True)
        return Calibrated(judge, calibration)

    def _calibration_file(self, place: str | None) -> Path | None:
        """Return where it stands what the scores of a reward model mean, if it does."""
        if place is not None and (is_address(place) or place in UNTRAINED):
            return None
        file = (self.run.path / REWARD_MODEL_FOLDER if place is None else Path(place)) / CALIBRATION_FILE
        return file if file.is_file() else None

    def _calibration_digest(self, place: str | None) -> str | None:
        """Return what tells a trained reward model from others, as it is fitted to what the model says of its pairs."""
        file = self._calibration_file(place)
        return None if file is None else hashlib.sha256(file.read_bytes()).hexdigest()[:16]

    def _learned_from(self, source_task_ids: Collection[str]) -> Iterator[str]:
        """Say how many evaluation tasks a reward model was made of, if any."""
        kept_out = {task.id for task in self.evaluation_tasks()}
        if seen := kept_out.intersection(map(begun_as, source_task_ids)):
            yield (
                f"The reward model was made of attempts at {len(seen)} of the {len(kept_out)} evaluation tasks of this "
                "run: how well it chooses there says little of tasks that it has not seen."
            )

    def warn_of_unknown(self, objective: Objective, reported: Collection[str]) -> None:
        """Say which metrics of an objective nobody reports, if any."""
        if unknown := objective.unknown(reported):
            known = ", ".join(sorted({STEPS, *reported}))
            self.console.print(
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
            with self.console.status(f"loading {self.agent.model}"):
                llm = _load_llm(self.agent, self._concurrency)
            if isinstance(llm, HTTPLLM):
                self.opened.push_async_callback(llm.close)
                self.opened.callback(self.remark, llm)
            self._llm = CachedLLM(llm, self.ledger)
        return self._llm

    @cached_property
    def _examples(self) -> list[Trajectory]:
        """The environment's examples but those of evaluation tasks."""
        shown = without([example.task for example in self.entry.examples], self.evaluation_tasks())
        return [example for example in self.entry.examples if example.task in shown]

    def _policy(self) -> PromptedPolicy:
        return PromptedPolicy(
            self.llm(),
            rules=self.entry.rules,
            examples=self._examples,
            recall_chars=self.agent.recall_chars,
            sampling=SamplingParams(temperature=self.agent.temperature, max_tokens=self.agent.reply_tokens),
            choose=self.agent.choose,
            strict=self.agent.strict,
        )


def judging_of(run: RunFolder, console: Console) -> Judging:
    """Return what trains and examines reward models in `run`, as whoever filled it wants it.

    Raises:
        ConfigError: nothing was collected or imported there.
        DataError: its settings cannot be read.
    """
    imported = run.manifest.stages.get("import")
    if imported is None or "collect" in run.manifest.stages:
        agent = agent_of(run)
        return Judging(run, seed=agent.seed, made_by={"agent": agent.model_dump()}, console=console)
    seed = imported.settings.get("seed")
    if not isinstance(seed, int):
        raise DataError(
            f"{run.path / 'manifest.json'} does not hold a seed at stages.import.settings.seed; restore the file or "
            "use another run folder."
        )
    return Judging(run, seed=seed, made_by={"seed": seed}, console=console)


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

    try:
        return LocalLLM(agent.model)
    except ConfigError as error:
        if agent.model == EMBEDDED or Path(agent.model).exists():
            raise
        said = str(error).removesuffix(".")
        raise ConfigError(f"{said}. If a server has this model, name its address with --base-url.") from error


def _draw(tasks: list[Task], count: int, seed: int, purpose: str) -> list[Task]:
    """Return `count` of the tasks, drawn at random but kept in their order."""
    _check_count(tasks, count, purpose)
    return [tasks[i] for i in sorted(rng_for(seed, purpose).sample(range(len(tasks)), count))]


def _draw_more(tasks: list[Task], count: int, seed: int, purpose: str) -> list[Task]:
    """Do what `_draw` does, but so that a larger count draws all that a smaller one does."""
    _check_count(tasks, count, purpose)
    return [tasks[i] for i in sorted(rng_for(seed, purpose).sample(range(len(tasks)), len(tasks))[:count])]


def _check_count(tasks: list[Task], count: int, purpose: str) -> None:
    if not tasks:
        kept = "; what is kept for evaluation is not trained on" if purpose == "training" else ""
        raise ConfigError(f"There are no {purpose} tasks{kept}.")
    if not 1 <= count <= len(tasks):
        raise ConfigError(f"There are {len(tasks)} {purpose} tasks; ask for 1 to that many, not {count}.")
