"""The command line: one subcommand per stage, and `demo`, which runs them all."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import sys
import textwrap
import traceback
import warnings
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal, NamedTuple, Protocol, TypeVar

import typer
from pydantic import ValidationError
from rich.console import Console

from armap import __version__, weights
from armap.agent_settings import SCRIPTED, AgentSettings, agent_of
from armap.commands import UNTRAINED, Workshop, judging_of
from armap.doctor import examine
from armap.environments import ENVIRONMENTS, WEBSHOP_DATA, Wanted, environment_entry, open_catalogue, require_shop_extra
from armap.errors import ArmapError, BudgetError, ConfigError
from armap.images import ImageFolder
from armap.judging import Judging
from armap.pipeline.evaluate import evaluate as measure
from armap.pipeline.exchange import export_pairs, import_pairs
from armap.pipeline.funnel import data_remarks, funnel_table
from armap.pipeline.judge_report import judge_sections, judge_table
from armap.pipeline.negatives import ORIGINS
from armap.pipeline.page import write_page
from armap.pipeline.plan import PLANNERS, AnyPlanner, make_planner
from armap.pipeline.report import metrics_table, write_report
from armap.pipeline.sweep import sweep as sweep_weights
from armap.pipeline.synthesize import SynthesisSettings
from armap.pipeline.tradeoff import sweep_table
from armap.pipeline.train import REWARD_MODEL_FOLDER
from armap.planners.best_of_n import BestOfN
from armap.planners.greedy import Greedy
from armap.protocols import MAX_STEPS
from armap.reward_models import SERVE_TOKEN, is_address, load_reward_model
from armap.rewards.fit_settings import PRESETS, FitSettings
from armap.rewards.objective import Objective
from armap.serve import require_extra as require_serve_extra
from armap.store import RunFolder
from armap.types import Budget, JudgeReport, Metrics, SearchBudget, SearchResult, TaskFailure, Trajectory

app = typer.Typer(
    help="Learns a reward model for an agent's environment from the agent's own trajectories, and plans with it.",
    epilog="Exit codes: 0 done, 1 some tasks failed, 2 something asked for is impossible, 3 the budget is spent, "
    "70 a bug of armap, 130 interrupted. A command that was stopped goes on where it was when it is run again.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

_messages = Console(stderr=True)
# Defaults that typer reads and never changes.
_BASELINE_AND_BEST = ["greedy", "best_of_n"]
_AS_USUAL: list[str] = []
_ALL_ORIGINS: list[str] = [*ORIGINS]

T = TypeVar("T")
Shop = TypeVar("Shop", bound=Judging)


class _Do(Protocol):
    """Runs a coroutine in the one event loop of a command."""

    def __call__(self, work: Coroutine[Any, Any, T], /) -> T: ...


NewRun = Annotated[Path, typer.Option("--run", help="Run folder: made if it is missing, continued if it is not.")]
Run = Annotated[Path, typer.Option("--run", help="Run folder that `armap collect`, `import` or `demo` has made.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Env = Annotated[str, typer.Option(help=f"Environment: {', '.join(ENVIRONMENTS)}.")]
Model = Annotated[
    str,
    typer.Option(
        help="Language model: `embedded`; `scripted`, which acts at random; a .gguf file; a folder or Hub repository "
        "in the Hugging Face layout; or, with --base-url, the server's name for one."
    ),
]
BaseUrl = Annotated[
    str | None,
    typer.Option(
        help="Address of an OpenAI-compatible server, such as http://localhost:8000/v1; its key is read from "
        "ARMAP_API_KEY."
    ),
]
Temperature = Annotated[float, typer.Option(min=0, help="How freely actions are drawn; 0 always takes the likeliest.")]
Free = Annotated[
    bool, typer.Option("--free", help="Let the model write its actions instead of choosing among the legal ones.")
]
Strict = Annotated[
    bool, typer.Option("--strict", help="With --free: read only what follows `Action:`; refuse other replies.")
]
Evaluation = Annotated[
    str | None,
    typer.Option(help="Evaluation tasks, never trained on: for game24 a range of ranks, for toy a number of tasks."),
]
Seed = Annotated[int, typer.Option(help="Decides every random draw.")]
Concurrency = Annotated[int, typer.Option(min=1, help="Tasks under way at once.")]
MaxCalls = Annotated[
    int | None,
    typer.Option(
        min=0, help="Most calls to the language model, over the whole life of the run; say it with every command."
    ),
]
MaxTokens = Annotated[int | None, typer.Option(min=0, help="Most tokens read and written, likewise.")]
MaxSeconds = Annotated[float | None, typer.Option(min=0, help="Seconds after which this command makes no more calls.")]
MaxCost = Annotated[float | None, typer.Option("--max-cost-usd", min=0, help="Most money spent, likewise.")]
Data = Annotated[
    Path | None,
    typer.Option(resolve_path=True, help="Your own data, where the environment takes any; see armap data."),
]


def _setting(name: str, words: str, *flags: str, min: float | None = None, max: float | None = None) -> Any:  # noqa: ANN401 - as typer's own
    """Return the option for a setting of a fit; what it is where nobody sets it is in the help, 0 standing for None."""
    usual, of_embedded = (getattr(FitSettings(backbone=one), name) or 0 for one in ("any", weights.EMBEDDED))
    default = f"{usual}" if usual == of_embedded else f"{usual}; embedded: {of_embedded}"
    return typer.Option(*flags, help=words, show_default=default, min=min, max=max)


def _place(text: str) -> str:
    """Return an address or a name as it is, and a folder as it is found from anywhere."""
    return text if is_address(text) or text in UNTRAINED else str(Path(text).resolve())


def _model(name: str, base_url: str | None) -> str:
    """Return a model's file or folder as it is found from anywhere, and any other name as it is."""
    is_place = base_url is None and name not in (weights.EMBEDDED, SCRIPTED) and Path(name).exists()
    return str(Path(name).resolve()) if is_place else name


RewardModelPlace = Annotated[
    str | None,
    typer.Option(
        "--reward-model",
        parser=_place,
        metavar="FOLDER|URL|prompted|chance",
        help="Folder of a trained reward model, or the address of a server that `armap serve` runs, or vLLM where the "
        f"model reads text only, whose token is read from {SERVE_TOKEN}; default: the run's own. For comparison: "
        "`prompted` asks the run's language model, and `chance` knows nothing.",
    ),
]

Size = Annotated[
    int, typer.Option("--n", min=1, help="Trajectories per task: samples, trials, simulations, or a beam's width.")
]
Settings = Annotated[
    list[str], typer.Option("--set", help="A setting of a planner, such as mcts.exploration=2; repeat it for several.")
]
ObjectiveText = Annotated[
    str | None,
    typer.Option("--objective", help="What to look for, such as `score - 0.5*steps - 0.02*price`; default: the score."),
]
TaskMaxTrajectories = Annotated[
    int | None, typer.Option(min=1, help="Most trajectories that one search for one task may try.")
]
TaskMaxCalls = Annotated[
    int | None, typer.Option(min=0, help="Most calls to the language model that one search for one task may make.")
]
TaskMaxTokens = Annotated[int | None, typer.Option(min=0, help="Most tokens, likewise.")]
TaskMaxSeconds = Annotated[float | None, typer.Option(min=0, help="Most seconds, likewise.")]
TaskMaxCost = Annotated[float | None, typer.Option("--task-max-usd", min=0, help="Most dollars, likewise.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"armap {__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


class _Demo(NamedTuple):
    """How much of everything a demonstration does, so that it takes minutes on two cores."""

    evaluation: str
    tasks: int
    n: int
    collect_tasks: int
    samples: int


_DEMOS = {
    "game24": _Demo(evaluation="1-100", tasks=32, n=30, collect_tasks=20, samples=8),
    "webshop": _Demo(evaluation="test", tasks=8, n=6, collect_tasks=12, samples=5),
    "toy": _Demo(evaluation="40", tasks=32, n=10, collect_tasks=20, samples=8),
}


@app.command()
def demo(
    run: NewRun = Path("runs/demo"),
    env: Annotated[str, typer.Option(help=f"Environment: {', '.join(_DEMOS)}.")] = "game24",
    evaluation: Evaluation = None,
    tasks: Annotated[int | None, typer.Option(min=1, help="Evaluation tasks, drawn from those.")] = None,
    n: Annotated[int | None, typer.Option(min=1, help="Trajectories per evaluation task.")] = None,
    collect_tasks: Annotated[int | None, typer.Option(min=2, help="Training tasks to collect on.")] = None,
    samples: Annotated[int | None, typer.Option(min=2, help="Trajectories per training task.")] = None,
    model: Model = weights.EMBEDDED,
    base_url: BaseUrl = None,
    seed: Seed = 0,
    concurrency: Concurrency = 4,
    as_json: Json = False,
) -> None:
    """Run everything on one environment: collect, synthesize, train, evaluate, report.

    A small language model acts, a reward model learns from what it did, and Best-of-N with that reward model is
    compared with sampling and greedy acting on tasks that were kept from training.
    """
    if env not in _DEMOS:
        raise ConfigError(f"There is no demonstration of {env!r}; choose from: {', '.join(_DEMOS)}.")
    usual = _DEMOS[env]
    with _options():
        agent = AgentSettings(
            env=env,
            model=_model(model, base_url),
            base_url=base_url,
            evaluation=evaluation or usual.evaluation,
            seed=seed,
        )
    with _open(run, agent, Budget(), concurrency) as (shop, do):
        shop.require_evaluation_tasks(tasks or usual.tasks)
        do(shop.collect(tasks=collect_tasks or usual.collect_tasks, samples=samples or usual.samples))
        do(shop.synthesize(SynthesisSettings()))
        do(shop.train(kind="transformer", settings=FitSettings(), heldout_share=0.2))
        planners: list[AnyPlanner] = [Greedy(), BestOfN(n=n or usual.n)]
        metrics = do(shop.evaluate(planners, tasks=tasks or usual.tasks, reward_model=None))
        _tell(f"Report: {write_report(shop.run)}")
        _finish(metrics, as_json=as_json)


@app.command()
def collect(
    run: NewRun,
    env: Env = "game24",
    model: Model = weights.EMBEDDED,
    base_url: BaseUrl = None,
    prompt_price: Annotated[float, typer.Option(min=0, help="Dollars per million tokens read.")] = 0.0,
    completion_price: Annotated[float, typer.Option(min=0, help="Dollars per million tokens written.")] = 0.0,
    temperature: Temperature = 1.0,
    free: Free = False,
    strict: Strict = False,
    reply_tokens: Annotated[
        int, typer.Option(min=1, help="Longest reply of a model that writes freely; one that reasons needs thousands.")
    ] = 64,
    recall_chars: Annotated[
        int, typer.Option(min=0, help="Characters of each observation but the last that the model is shown.")
    ] = 200,
    data: Data = None,
    images: Annotated[
        bool, typer.Option("--images", help="Keep a picture of every observation, where the environment draws them.")
    ] = False,
    evaluation: Evaluation = None,
    invent: Annotated[
        bool,
        typer.Option("--invent", help="Let the model invent instructions for the training tasks before it tries them."),
    ] = False,
    tasks: Annotated[
        int | None, typer.Option(min=1, help="Training tasks to collect on; default: 40, or all of fewer.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Trajectories per task.")] = 8,
    seed: Seed = 0,
    concurrency: Concurrency = 4,
    max_calls: MaxCalls = None,
    max_tokens: MaxTokens = None,
    max_seconds: MaxSeconds = None,
    max_cost_usd: MaxCost = None,
    as_json: Json = False,
) -> None:
    """Let a language model act on training tasks, and keep its trajectories."""
    entry = environment_entry(env, Wanted(choose=not free, data=data))
    if strict and not free:
        raise ConfigError("--strict says how to read what the model writes freely; add --free, or leave it out.")
    with _options():
        agent = AgentSettings(
            env=env,
            model=_model(model, base_url),
            base_url=base_url,
            prompt_usd_per_million=prompt_price,
            completion_usd_per_million=completion_price,
            temperature=temperature,
            choose=not free,
            strict=strict,
            reply_tokens=reply_tokens,
            recall_chars=recall_chars,
            data=None if data is None else str(data),
            images=images,
            evaluation=evaluation or entry.default_evaluation,
            seed=seed,
        )
    budget = _budget(max_calls, max_tokens, max_seconds, max_cost_usd)
    with _open(run, agent, budget, concurrency) as (shop, do):
        do(shop.collect(tasks=tasks, samples=samples, invent=invent))
        there = shop.run.read("trajectories", Trajectory)
        not_begun = [entry for entry in shop.run.read("failures", TaskFailure) if entry.stage == "collect"]
        failures = [trajectory.failure for trajectory in there if trajectory.failure]
        failures += [entry.failure for entry in not_begun]
        failed = f"{len(failures)} failed, the first with: {failures[0].message}" if failures else "none failed"
        _say(
            as_json,
            f"{len(there)} trajectories are in {run / 'trajectories.jsonl'}; {failed}",
            trajectories=len(there),
            failed=len(failures),
            calls=shop.ledger.spent.calls,
            tokens=shop.ledger.spent.tokens,
            cost_usd=shop.ledger.spent.cost_usd,
        )
        _exit_with(bool(failures))


@app.command()
def synthesize(
    run: Run,
    writer: Annotated[
        Literal["environment", "model"],
        typer.Option(help="Who writes the instruction that fits a trajectory: the environment or the language model."),
    ] = "environment",
    elaborate: Annotated[
        bool, typer.Option(help="With --writer model: go into more detail once the instruction is restored.")
    ] = True,
    judge: Annotated[
        Literal["none", "model"] | None,
        typer.Option(
            help="Who has to agree, in both orders, that the chosen side is the better one; by default the language "
            "model where it is also the writer, and nobody where the environment compares outcomes itself."
        ),
    ] = None,
    origins: Annotated[
        list[str],
        typer.Option("--origin", help=f"How rejected sides are made: {', '.join(ORIGINS)}; repeat it for several."),
    ] = _ALL_ORIGINS,
    rejected: Annotated[int, typer.Option(min=1, help="Rejected sides of each origin for a chosen one.")] = 1,
    labels: Annotated[
        Literal["hindsight", "oracle"],
        typer.Option(help="`oracle` is an ablation: the environment's own reward says which side is the chosen one."),
    ] = "hindsight",
    unverified: Annotated[
        bool, typer.Option("--unverified", help="An ablation: keep pairs whose sides came to the same thing.")
    ] = False,
    concurrency: Concurrency = 4,
    max_calls: MaxCalls = None,
    max_tokens: MaxTokens = None,
    max_seconds: MaxSeconds = None,
    max_cost_usd: MaxCost = None,
    as_json: Json = False,
) -> None:
    """Make verified preference pairs out of the collected trajectories, and say what became of each."""
    budget = _budget(max_calls, max_tokens, max_seconds, max_cost_usd)
    with _options():
        settings = SynthesisSettings.model_validate(
            {
                "labels": labels,
                "origins": tuple(dict.fromkeys(origins)),
                "rejected": rejected,
                "verify": not unverified,
            }
        )
    asked = judge or ("model" if writer == "model" and not unverified and labels == "hindsight" else "none")
    with _open(run, None, budget, concurrency) as (shop, do):
        do(shop.synthesize(settings, writer=writer, elaborate=elaborate, judge=asked))
        data = measure(shop.run).data
        if as_json:
            sys.stdout.write(data.model_dump_json() + "\n")
            return
        console = Console()
        console.print(funnel_table(data))
        for remark in data_remarks(data):
            console.print(remark, markup=False, highlight=False, soft_wrap=True)
        sys.stdout.write(f"Pairs made: {_counts(data.pairs)}\nDiscarded:  {_counts(data.discarded)}\n")


@app.command("import")
def import_(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Preference data sets: .jsonl or .parquet files.")
    ],
    run: NewRun,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Take in preference pairs of a data set, to train on: `prompt`, `chosen`, `rejected` and `images`.

    A side is a list of messages, or a plain text. What both sides begin with stands in `prompt`, or in both of them. A
    row with one picture may have it in `image`.
    """
    with RunFolder(run) as folder:
        found = import_pairs(folder, files, seed=seed)
        left_out = f"; {found.discarded} rows were left out, as both of their sides are the same"
        _say(
            as_json,
            f"{found.pairs} pairs are in {run / 'pairs.jsonl'}{left_out if found.discarded else ''}.",
            **found._asdict(),
        )


@app.command("export")
def export(
    place: Annotated[Path, typer.Argument(metavar="FILE", help="Where to: a .jsonl file, or a .parquet file.")],
    run: Run,
    as_json: Json = False,
) -> None:
    """Write the preference pairs as a data set, which `datasets` loads and TRL trains on."""
    _require_run(run)
    with RunFolder(run, writable=False) as folder:
        count = export_pairs(folder, place)
        _say(as_json, f"{count} pairs are in {place}.", pairs=count, file=str(place))


@app.command()
def train(
    run: Run,
    kind: Annotated[
        Literal["transformer", "linear"],
        typer.Option(help="`transformer`, or `linear`: a tiny model on words that needs no torch."),
    ] = "transformer",
    preset: Annotated[
        str | None,
        typer.Option(
            help=f"Settings by name: {', '.join(PRESETS)}. Any of the options below wins over it.",
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="Language model, encoder or vision-language model to grow from, named as for --model.",
            show_default=weights.EMBEDDED,
        ),
    ] = None,
    layers: Annotated[
        int | None, _setting("layers", "Layers of the backbone to keep, from the bottom; 0 keeps all.", min=0)
    ] = None,
    max_tokens: Annotated[
        int | None,
        _setting("max_tokens", "Longest trajectory read; of a longer one earlier observations are shortened.", min=16),
    ] = None,
    pooling: Annotated[
        Literal["last", "mean"] | None,
        _setting("pooling", "Where the score is read: at the last token or, for comparison, as the mean of all."),
    ] = None,
    epochs: Annotated[int | None, _setting("epochs", "Passes over the training pairs.", min=1)] = None,
    pairs_per_step: Annotated[int | None, _setting("pairs_per_step", "Pairs per optimiser step.", min=1)] = None,
    learning_rate: Annotated[float | None, _setting("learning_rate", "Peak learning rate.", min=0)] = None,
    warmup_share: Annotated[
        float | None,
        _setting("warmup_share", "Share of the steps over which the rate rises to its peak.", min=0, max=1),
    ] = None,
    schedule: Annotated[
        Literal["falling", "constant"] | None,
        _setting("schedule", "What the rate does after that: it falls to a tenth, or stays."),
    ] = None,
    lora_rank: Annotated[int | None, _setting("lora_rank", "Rank of LoRA; 0 trains all weights.", min=0)] = None,
    lora_alpha: Annotated[float | None, _setting("lora_alpha", "LoRA's scale times its rank.", min=0)] = None,
    centering: Annotated[float | None, _setting("centering", "Pull of each pair's scores towards zero.", min=0)] = None,
    margin: Annotated[
        float | None, _setting("margin", "By how much the loss wants the chosen score above the rejected one.", min=0)
    ] = None,
    target: Annotated[
        Literal["pairwise", "classification"] | None,
        _setting("target", "What is learned; `classification`, for comparison, takes each trajectory for itself."),
    ] = None,
    pass_tokens: Annotated[
        int | None,
        _setting("pass_tokens", "Most tokens computed at once; a step takes as many passes as it needs.", min=16),
    ] = None,
    max_grad_norm: Annotated[float | None, _setting("max_grad_norm", "Longest gradient.", min=0)] = None,
    train_vision: Annotated[
        bool | None,
        typer.Option("--train-vision", help="Train what sees pictures too, instead of leaving it as it is."),
    ] = None,
    evaluate_every_steps: Annotated[
        int | None,
        _setting("evaluate_every_steps", "Steps between evaluations and checkpoints.", "--evaluate-every", min=1),
    ] = None,
    patience: Annotated[
        int | None,
        _setting("patience", "Evaluations without a lower held-out loss before training stops; 0 never stops.", min=0),
    ] = None,
    heldout_share: Annotated[float, typer.Option(min=0.01, max=0.9, help="Share of source tasks held out.")] = 0.2,
    train_share: Annotated[
        float, typer.Option(min=0.001, max=1, help="Share of the other source tasks to learn from; an ablation.")
    ] = 1.0,
    unfinished: Annotated[
        int,
        typer.Option(
            min=0,
            help="Beginnings of each pair to learn from too, for planners that judge unfinished trajectories: "
            "beam, and mcts with leaf=value.",
        ),
    ] = 0,
    tracker: Annotated[
        str | None,
        typer.Option(help="Where the curve goes besides the run folder: trackio, wandb, tensorboard and others."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a reward model on the pairs, and measure it on pairs of tasks it was not trained on."""
    said = {
        "backbone": backbone,
        "layers": layers,
        "max_tokens": max_tokens,
        "pooling": pooling,
        "epochs": epochs,
        "pairs_per_step": pairs_per_step,
        "learning_rate": learning_rate,
        "warmup_share": warmup_share,
        "schedule": schedule,
        "lora_rank": lora_rank,
        "lora_alpha": lora_alpha,
        "centering": centering,
        "margin": margin,
        "target": target,
        "pass_tokens": pass_tokens,
        "train_vision": train_vision,
        "max_grad_norm": max_grad_norm,
        "evaluate_every_steps": evaluate_every_steps,
        "patience": patience,
    }
    said = {name: value for name, value in said.items() if value is not None}
    idle = [*said, *(name for name, value in (("preset", preset), ("tracker", tracker)) if value)]
    if kind == "linear" and idle:
        raise ConfigError(f"--kind linear has no such settings; leave out --{idle[0].replace('_', '-')}.")
    settings = _fit_settings(preset, said)
    # `accelerate launch` numbers the processes it starts; the first one writes, the others help it to compute.
    helping = int(os.environ.get("WORLD_SIZE", "1")) > 1 and int(os.environ.get("RANK", "0")) > 0
    _require_run(run)
    with _opened(run, judging_of, writable=not helping) as (shop, do):
        do(
            shop.train(
                kind=kind,
                settings=settings,
                heldout_share=heldout_share,
                train_share=train_share,
                unfinished=unfinished,
                tracker=tracker,
                helping=helping,
            )
        )
        if helping:
            return
        found = measure(shop.run).reward_model
        accuracy = found.pairwise_accuracy
        if accuracy is None:
            raise ConfigError(f"{run} has a reward model but no held-out scores; train in a new run folder.")
        judged = shop.run.read_json("judge", JudgeReport)
        if judged and not as_json:
            Console().print(judge_table(judged))
        _say(
            as_json,
            f"Held-out pairwise accuracy {accuracy.mean:.3f} [{accuracy.low:.3f}, {accuracy.high:.3f}]; "
            f"the model is in {run / REWARD_MODEL_FOLDER}.",
            **found.model_dump(),
            judge=judged and judged.model_dump(),
        )


@app.command("judge-report")
def judge_report(
    run: Run = Path("runs/demo"),
    reward_model: Annotated[
        str | None,
        typer.Option(
            parser=_place,
            metavar="FOLDER|URL",
            help="Folder of a trained reward model, or the address of a server; default: the run's own.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say how far a reward model can be trusted: accuracy, calibration, what it leans on and what misleads it.

    It is examined on the pairs that were held out in the run, and on the candidates of best_of_n where that has run.
    The same is written to judge_report.html in the run folder, with charts.
    """
    _require_run(run)
    with _opened(run, judging_of) as (shop, do):
        found = do(shop.examine(reward_model=reward_model))
        page = write_page(
            shop.run.path / "judge_report.html", f"{found.reward_model} – armap", [*judge_sections(found)]
        )
        if as_json:
            sys.stdout.write(found.model_dump_json() + "\n")
        else:
            Console().print(judge_table(found))
            _tell(f"Report: {page}")


@app.command()
def plan(
    task: Annotated[
        str, typer.Argument(help="The task: for game24 '4 5 6 10' or '4 5 6 10 -> 17', for toy '1 -> red cube'.")
    ],
    run: Run = Path("runs/demo"),
    planner: Annotated[str, typer.Option(help=f"Who decides: {', '.join(PLANNERS)}.")] = "best_of_n",
    n: Size = 30,
    settings: Settings = _AS_USUAL,
    objective: ObjectiveText = None,
    reward_model: RewardModelPlace = None,
    task_max_trajectories: TaskMaxTrajectories = None,
    task_max_calls: TaskMaxCalls = None,
    task_max_tokens: TaskMaxTokens = None,
    task_max_seconds: TaskMaxSeconds = None,
    task_max_usd: TaskMaxCost = None,
    as_json: Json = False,
) -> None:
    """Try one task with a trained reward model, and print what was done step by step."""
    limits = _task_budget(task_max_trajectories, task_max_calls, task_max_tokens, task_max_seconds, task_max_usd)
    (chosen,) = _planners([planner], n, settings, limits)
    wanted = None if objective is None else Objective.parse(objective)
    with _open(run, None, Budget(), 1) as (shop, do):
        parsed = shop.entry.parse_task(task)
        result = do(shop.plan_one(parsed, chosen, reward_model=reward_model, objective=wanted))
        if as_json:
            sys.stdout.write(result.model_dump_json() + "\n")
        else:
            sys.stdout.write("\n".join(_read_aloud(result)) + "\n")
        _exit_with(result.failure is not None)


@app.command()
def evaluate(
    run: Run,
    planners: Annotated[
        list[str], typer.Option("--planner", help=f"{', '.join(PLANNERS)}; repeat it for several.")
    ] = _BASELINE_AND_BEST,
    n: Size = 30,
    settings: Settings = _AS_USUAL,
    objective: ObjectiveText = None,
    tasks: Annotated[
        int | None,
        typer.Option(min=1, help="Evaluation tasks, drawn from those of the run; default: 40, or all of fewer."),
    ] = None,
    reward_model: RewardModelPlace = None,
    concurrency: Concurrency = 4,
    max_calls: MaxCalls = None,
    max_tokens: MaxTokens = None,
    max_seconds: MaxSeconds = None,
    max_cost_usd: MaxCost = None,
    task_max_trajectories: TaskMaxTrajectories = None,
    task_max_calls: TaskMaxCalls = None,
    task_max_tokens: TaskMaxTokens = None,
    task_max_seconds: TaskMaxSeconds = None,
    task_max_usd: TaskMaxCost = None,
    as_json: Json = False,
) -> None:
    """Let planners try the evaluation tasks, and compare what they achieve with the best that was possible.

    best_of_n also gives the rows of sampling and oracle, which are read off the same candidates. Run it again with
    other planners or settings to add rows. mcts_paper and reflexion_paper have the settings of the paper's code.
    """
    limits = _task_budget(task_max_trajectories, task_max_calls, task_max_tokens, task_max_seconds, task_max_usd)
    chosen = _planners(planners, n, settings, limits)
    wanted = None if objective is None else Objective.parse(objective)
    budget = _budget(max_calls, max_tokens, max_seconds, max_cost_usd)
    with _open(run, None, budget, concurrency) as (shop, do):
        metrics = do(shop.evaluate(chosen, tasks=tasks, reward_model=reward_model, objective=wanted))
        _finish(metrics, as_json=as_json)


@app.command()
def sweep(
    run: Run,
    objective: Annotated[str, typer.Option(help="What to look for, with W where the weight stands.")] = (
        "score - W*steps"
    ),
    weights: Annotated[str, typer.Option(help="Weights to try, with commas between them.")] = "0,0.1,0.2,0.5,1,2",
    as_json: Json = False,
) -> None:
    """Show what an objective buys and costs at several weights, on the candidates best_of_n drew, without a call."""
    _require_run(run)
    with RunFolder(run) as folder:
        swept = sweep_weights(folder, objective, _numbers(weights))
        seen = {metric for point in swept.points for metric in point.answer_metrics}
        if unknown := Objective.parse(swept.points[-1].objective).unknown(seen):
            _tell(f"No answer reports {' or '.join(unknown)}; reported are: {', '.join(sorted(seen))}.", "yellow")
        if swept.left_out:
            _tell(
                f"Left out: {', '.join(swept.left_out)}. What they try depends on the objective; evaluate them with "
                "--objective in a run folder of their own."
            )
        if as_json:
            sys.stdout.write(swept.model_dump_json() + "\n")
        else:
            Console().print(sweep_table(swept))


@app.command()
def report(run: Run, as_json: Json = False) -> None:
    """Measure again what a run folder holds, and write its report.html."""
    _require_run(run)
    with RunFolder(run) as folder:
        measure(folder)
        page = write_report(folder)
        _say(as_json, f"Report: {page}", report=str(page))


@app.command()
def check_env(
    name: Annotated[str, typer.Argument(metavar="MODULE:CLASS", help="The environment, such as own_environment:Jugs.")],
    episodes: Annotated[int, typer.Option(min=1, help="Episodes to play and to repeat.")] = 5,
    max_steps: Annotated[
        int, typer.Option(min=1, max=MAX_STEPS, help="Steps after which an episode should have ended.")
    ] = MAX_STEPS,
    timeout_s: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds that one call may take.")] = 60.0,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Check an environment of your own against all that is relied on, and say in plain words what is wrong."""
    from armap.envs.check.supervise import check_class, in_words

    findings = 0
    for checked in check_class(name, seed=seed, episodes=episodes, max_steps=max_steps, timeout_s=timeout_s):
        findings += checked.finding is not None
        if as_json:
            sys.stdout.write(checked.model_dump_json() + "\n")
        elif checked.finding is None:
            sys.stdout.write(f"ok     {checked.claim}\n")
        else:
            sys.stdout.write(f"WRONG  {checked.claim}\n{textwrap.indent(in_words(checked.finding), ' ' * 7)}\n")
    if not as_json:
        sys.stdout.write(f"{name}: {'everything holds' if not findings else f'{findings} to repair'}.\n")
    _exit_with(findings > 0)


@app.command()
def shop(
    data: Data = None,
    host: Annotated[str, typer.Option(help="Address to listen on; the default lets in nobody but this machine.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8024,
) -> None:
    """Open WebShop to people: the same shop the agents shop in, as pages for a browser."""
    require_shop_extra()
    from armap.envs.webshop.server import make_app, serve

    serve(
        make_app(open_catalogue(data)),
        host=host,
        port=port,
        announce=lambda address: _tell(f"The shop is open at {address}; press Ctrl-C to close it."),
    )


@app.command()
def data(
    env: Annotated[Literal["webshop"], typer.Argument(help="The environment that takes data of your own.")],
    folder: Annotated[Path | None, typer.Argument(help="Folder with the files, to check and to index.")] = None,
    as_json: Json = False,
) -> None:
    """Say which data an environment takes and where they are to be had; or check and index a folder of them."""
    if folder is None:
        _say(as_json, WEBSHOP_DATA, env=env)
        return
    catalogue = open_catalogue(folder)
    counts = {kind: len(catalogue.goals(kind)) for kind in ("synthetic", "human")}
    _say(
        as_json,
        f"{len(catalogue):,} products, {counts['synthetic']:,} synthetic and {counts['human']:,} human goals; "
        f"use them with --env webshop --data {folder}.",
        products=len(catalogue),
        **counts,
        fingerprint=catalogue.fingerprint,
    )


@app.command()
def serve(
    reward_model: Annotated[
        Path, typer.Option("--reward-model", resolve_path=True, help="Folder of a trained reward model.")
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but this machine's own needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8025,
    token_env: Annotated[
        str, typer.Option(help="Environment variable with the token that everyone has to show, if there is one.")
    ] = SERVE_TOKEN,
    name: Annotated[str | None, typer.Option(help="The model's id; default: the name of its folder.")] = None,
    max_waiting: Annotated[
        int, typer.Option(min=1, help="Trajectories that may wait; beyond that requests are told to come back.")
    ] = 256,
    max_batch: Annotated[int, typer.Option(min=1, help="Trajectories scored together.")] = 32,
    allow_remote_images: Annotated[
        bool, typer.Option("--allow-remote-images", help="Fetch pictures from public addresses that requests name.")
    ] = False,
) -> None:
    """Serve a reward model over HTTP, on the routes on which vLLM would: /classify and /pooling.

    Without `use_activation` they answer the score as it is, where vLLM brings it between 0 and 1.
    """
    require_serve_extra()
    from armap.serve.app import make_app
    from armap.serve.limits import Limits
    from armap.serve.listening import require_token
    from armap.serve.listening import serve as listen

    token = os.environ.get(token_env)
    require_token(host, token, variable=token_env)
    limits = Limits(waiting=max_waiting, batch=max_batch)
    with TemporaryDirectory(prefix="armap-serve-") as folder:
        images = ImageFolder(Path(folder))
        listen(
            make_app(
                load_reward_model(reward_model, images),
                name=name or reward_model.name,
                images=images,
                token=token,
                remote_images=allow_remote_images,
                limits=limits,
            ),
            host=host,
            port=port,
            limits=limits,
            announce=lambda address: _tell(f"The reward model is served at {address}; press Ctrl-C to stop."),
        )


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what is installed, what is missing, and what to type."""
    found = examine()
    lines = [
        f"{'ok' if one.found else 'missing' if one.needed_for is None else 'without':<8}  {one.name:<15} "
        f"{one.found or one.remedy}{'' if one.found or one.needed_for is None else f' (for {one.needed_for})'}"
        for one in found
    ]
    versions = {one.name: one.found for one in found}
    _say(as_json, "\n".join([f"armap {__version__}", *lines]), armap=__version__, **versions)
    _exit_with(any(one.found is None and one.needed_for is None for one in found))


def main() -> None:
    """Run the command line; a user's mistake is one sentence and exit code 2."""
    # The advice of other libraries to developers is not for users.
    if not sys.warnoptions:
        warnings.simplefilter("ignore", FutureWarning)
    # Told to end in another way, it ends as after Ctrl-C: what was begun is put away, and scratch folders are removed.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    # In the background of a shell script Ctrl-C would be ignored, and with it all that ends as after it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        app(prog_name="armap")
    except BudgetError as error:
        _tell(str(error), style="yellow")
        sys.exit(3)
    except ArmapError as error:
        _tell(str(error), style="red")
        sys.exit(2)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _tell(f"{where}{error.strerror or error}.", style="red")
        sys.exit(2)
    except Exception:  # noqa: BLE001 - it is printed
        # Not 1, as if the rest were done.
        traceback.print_exc()
        sys.exit(70)


@contextmanager
def _options() -> Iterator[None]:
    """Make one sentence of what a record of settings refuses; its fields are named like the options, or in plural."""
    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        option = str(first["loc"][0]).replace("_", "-")
        raise ConfigError(
            f"--{option.removesuffix('s') if len(first['loc']) > 1 else option}: {first['msg']}."
        ) from error


def _budget(calls: int | None, tokens: int | None, seconds: float | None, cost_usd: float | None) -> Budget:
    """Return the budget the options ask for."""
    with _options():
        return Budget(max_calls=calls, max_tokens=tokens, max_seconds=seconds, max_cost_usd=cost_usd)


def _fit_settings(preset: str | None, said: dict[str, Any]) -> FitSettings:
    """Return how to fit: as the preset of that name says, but for what is said otherwise."""
    if preset is not None and preset not in PRESETS:
        raise ConfigError(f"There is no preset {preset!r}; choose from: {', '.join(PRESETS)}.")
    # 0 stands for all layers, and for no patience.
    of_zero = {name: None for name in ("layers", "patience") if said.get(name) == 0}
    with _options():
        return FitSettings(**{**PRESETS.get(preset or "", {}), **said, **of_zero})


def _open(
    run: Path, agent: AgentSettings | None, budget: Budget, concurrency: int
) -> AbstractContextManager[tuple[Workshop, _Do]]:
    """Open a run folder with the given agent, or with the one that collected in it."""
    if agent is None:
        _require_run(run)

    def make(folder: RunFolder, console: Console) -> Workshop:
        return Workshop(folder, agent or agent_of(folder), budget=budget, concurrency=concurrency, console=console)

    return _opened(run, make)


@contextmanager
def _opened(
    run: Path, make: Callable[[RunFolder, Console], Shop], *, writable: bool = True
) -> Iterator[tuple[Shop, _Do]]:
    """Open a run folder for what is made of it."""
    # Whoever only helps is silent.
    console = _messages if writable else Console(quiet=True)
    with RunFolder(run, writable=writable) as folder, asyncio.Runner() as runner:
        for repair in folder.repairs:
            _tell(f"Repaired {repair}.")
        shop = make(folder, console)
        try:
            yield shop, runner.run
        except KeyboardInterrupt:
            _tell("Interrupted; what was finished is stored. Run the same command again to go on.", style="yellow")
            raise
        finally:
            runner.run(shop.close())


def _require_run(run: Path) -> None:
    """Refuse a folder that is none, instead of making it."""
    if not (run / "manifest.json").is_file():
        raise ConfigError(f"{run} is no run folder; name one, or begin with `armap collect --run {run}`.")


def _task_budget(
    trajectories: int | None, calls: int | None, tokens: int | None, seconds: float | None, cost_usd: float | None
) -> SearchBudget:
    """Return what one search may spend."""
    with _options():
        return SearchBudget(
            max_trajectories=trajectories,
            max_calls=calls,
            max_tokens=tokens,
            max_seconds=seconds,
            max_cost_usd=cost_usd,
        )


def _planners(names: list[str], n: int, settings: list[str], budget: SearchBudget) -> list[AnyPlanner]:
    """Return the planners of the given names, each once, with what `--set` says of them."""
    wanted: dict[str, dict[str, str]] = {name: {} for name in names}
    for text in settings:
        left, equals, value = text.partition("=")
        name, dot, setting = left.strip().partition(".")
        if not (equals and dot and value.strip()):
            raise ConfigError(f"--set {text}: write PLANNER.SETTING=VALUE, such as mcts.exploration=2.")
        if name not in wanted:
            raise ConfigError(f"--set {text}: {name} is not among the planners; add --planner {name}.")
        wanted[name][setting] = value.strip()
    return [make_planner(name, n, given, budget) for name, given in wanted.items()]


def _numbers(text: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--weights {text}: write numbers with commas between them, such as 0,0.1,0.5,1.") from error
    if not all(map(math.isfinite, numbers)):
        raise ConfigError(f"--weights {text}: every weight must be a finite number.")
    return numbers


def _finish(metrics: Metrics, *, as_json: bool) -> None:
    """Print the metrics, and exit with 1 if a task failed."""
    if as_json:
        sys.stdout.write(metrics.model_dump_json() + "\n")
    else:
        Console().print(metrics_table(metrics))
    _exit_with(any(planner.failed for planner in metrics.planners.values()))


def _read_aloud(result: SearchResult) -> list[str]:
    """Return what a planner did, for a person."""
    if result.answer is None:
        return [f"Failed: {result.failure.message if result.failure else 'no answer'}"]
    answer = result.candidates[result.answer]
    lines = [result.task.instruction, ""]
    for number, step in enumerate(answer.trajectory.steps, 1):
        lines += [f"   {step.observation.text}", f"{number}. {step.action.text}"]
    lines += [f"   {answer.trajectory.final_observation.text}", ""]
    score = "" if answer.score is None else f", score {answer.score:.2f}"
    lines.append(
        f"{result.planner}: candidate {result.answer + 1} of {len(result.candidates)}{score}; "
        f"{result.usage.calls} calls, {result.env_steps} environment steps, {result.seconds:.1f} s"
    )
    return lines


def _say(as_json: bool, text: str, **fields: object) -> None:
    """Print what a command found."""
    sys.stdout.write((json.dumps(fields) if as_json else text) + "\n")


def _tell(sentence: str, style: str = "") -> None:
    """Print what happened on the way, unbroken, so that a log holds it in one line."""
    _messages.print(sentence, style=style, markup=False, highlight=False, soft_wrap=True)


def _counts(counts: dict[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{count} {name}" for name, count in ordered) or "none"


def _exit_with(failed: bool) -> None:
    if failed:
        raise typer.Exit(1)


if __name__ == "__main__":
    main()
