"""The paper's main table for one environment, with our numbers beside the paper's.

    python benchmarks/paper/tables.py game24 --run runs/paper-game24
    python benchmarks/paper/tables.py webshop --run runs/paper-webshop --data FOLDER
    python benchmarks/paper/tables.py scienceworld --run runs/paper-scienceworld

It collects, synthesizes, trains and lets every planner try the same evaluation tasks with equal numbers of
trajectories, then prints the table as Markdown. All of it is done by the commands of armap, so it can be killed and
started again, and what is there is not done again: asked for more tasks (--tasks) or more seeds (--seeds) it does the
rest. One reward model, in a run folder of its own, serves all seeds; with --reward-model none is trained. In webshop
and scienceworld it learns from attempts at random, which are to be had by the thousand.

Rows are as in `armap evaluate`: success is what the environment pays, in percent of the most it can pay, with 95 %
bootstrap intervals over tasks; differences are paired by task; sampling and oracle are read off the candidates of
Best-of-N.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from armap.store import RunFolder
from armap.types import Interval, JudgeReport, Metrics


class Experiment(NamedTuple):
    """How an environment is tried."""

    evaluation: str
    """Which tasks are kept for evaluation."""
    tasks: int
    """How many of them are tried."""
    n: int
    """Trajectories per task and planner. Source: the paper's are 100 for the Game of 24 and 10 elsewhere."""
    collect: Sequence[str]
    """Options of `armap collect`, for what the reward model learns from."""
    policy: Sequence[str]
    """Options of `armap collect`, for how the policy acts on evaluation tasks."""
    synthesize: Sequence[str]
    """Options of `armap synthesize`."""
    train: Sequence[str]
    """Options of `armap train`."""
    planners: Sequence[Sequence[str]]
    """Options of `armap evaluate`, once for each planner; `N` stands for the number of trajectories."""
    paper: Mapping[str, tuple[float, float]]
    """The paper's success in percent, by planner: with Phi-3.5-mini (3.8B) and with Llama-3.1-70B as policy."""


_USUAL = (
    ("--planner", "greedy", "--planner", "best_of_n", "--planner", "reflexion"),
    # However wide, a beam may come to more ends than it is wide.
    ("--planner", "beam", "--task-max-trajectories", "N"),
    ("--planner", "mcts"),
    ("--planner", "mcts_paper"),
)
_EXECUTED = ("--origin", "other_outcome", "--origin", "near_neighbour")
"""Rejected sides that were executed when trajectories were collected, so that nothing is asked for them."""
EXPERIMENTS = {
    "game24": Experiment(
        evaluation="901-1000",
        tasks=100,
        n=100,
        collect=("--tasks", "160", "--samples", "8", "--temperature", "4"),
        policy=("--temperature", "4"),
        synthesize=("--rejected", "4", *_EXECUTED),
        train=(
            "--unfinished", "2", "--heldout-share", "0.04", "--pairs-per-step", "48", "--evaluate-every", "60",
            "--patience", "20",
        ),
        planners=(
            *_USUAL,
            (
                "--planner", "mcts", "--n", "600", "--set", "mcts.leaf=value", "--set", "mcts.backup=open",
                "--set", "mcts.exploration=0.3", "--set", "mcts.proposals=400", "--set", "mcts.widening=none",
                "--task-max-trajectories", "N",
            ),
        ),
        paper={
            "sampling": (2.0, 9.6), "greedy": (2.1, 6.0), "reflexion": (4.0, 16.0), "best_of_n": (9.0, 19.0),
            "mcts_paper": (10.0, 24.0),
        },
    ),
    "webshop": Experiment(
        evaluation="test",
        tasks=50,
        n=10,
        collect=("--model", "scripted", "--tasks", "2000", "--samples", "6"),
        policy=(),
        synthesize=("--rejected", "2", *_EXECUTED),
        train=("--kind", "linear", "--heldout-share", "0.01"),
        planners=_USUAL,
        paper={
            "sampling": (34.7, 52.0), "greedy": (42.4, 50.4), "reflexion": (53.3, 56.5), "best_of_n": (52.1, 62.0),
            "mcts_paper": (53.7, 66.8),
        },
    ),
    "scienceworld": Experiment(
        evaluation="unseen",
        tasks=50,
        n=10,
        collect=("--model", "scripted", "--tasks", "28", "--samples", "6"),
        policy=(),
        synthesize=("--rejected", "2", *_EXECUTED),
        train=("--kind", "linear", "--heldout-share", "0.1"),
        planners=_USUAL,
        paper={
            "sampling": (7.6, 50.6), "greedy": (6.5, 55.1), "reflexion": (7.2, 56.7), "best_of_n": (17.0, 57.0),
            "mcts_paper": (24.3, 55.9),
        },
    ),
}  # fmt: skip


def main() -> None:
    """Read the options, do what is left to do, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("env", choices=EXPERIMENTS)
    parser.add_argument("--run", type=Path, required=True, help="folder for one run folder per seed")
    parser.add_argument("--model", help="the policy; default: the embedded model")
    parser.add_argument("--base-url", help="address of an OpenAI-compatible server")
    parser.add_argument("--data", help="folder of the environment's data")
    parser.add_argument("--reward-model", help="a trained reward model; default: one is trained")
    parser.add_argument("--tasks", type=int, help="evaluation tasks")
    parser.add_argument("--n", type=int, help="trajectories per task")
    parser.add_argument("--seeds", type=int, default=1)
    asked = parser.parse_args()
    usual = EXPERIMENTS[asked.env]
    experiment = usual._replace(tasks=asked.tasks or usual.tasks, n=asked.n or usual.n)
    world = ("--env", asked.env, "--evaluation", experiment.evaluation, *given("--data", asked.data))
    policy = (*given("--model", asked.model), *given("--base-url", asked.base_url))
    learned = asked.run / "reward"
    if not asked.reward_model:
        acting = () if "--model" in experiment.collect else policy
        armap("collect", "--run", learned, *world, *acting, *experiment.collect)
        armap("synthesize", "--run", learned, *experiment.synthesize)
        armap("train", "--run", learned, *experiment.train)
    reward_model = asked.reward_model or learned / "reward_model"
    runs = [asked.run / f"seed-{seed}" for seed in range(asked.seeds)]
    for seed, run in enumerate(runs):
        acting = (*policy, *experiment.policy, "--seed", str(seed))
        armap("collect", "--run", run, *world, *acting, "--tasks", 1, "--samples", 1)
        for options in experiment.planners:
            n = () if "--n" in options else ("--n", experiment.n)
            planner = [str(experiment.n) if option == "N" else option for option in options]
            armap("evaluate", "--run", run, "--tasks", experiment.tasks, *n, *planner, "--reward-model", reward_model)
    print("\n".join(table(runs, experiment)))
    if not asked.reward_model:
        with RunFolder(learned, writable=False) as folder:
            judge = folder.read_json("judge", JudgeReport)
        assert judge is not None
        print(f"\nPairwise accuracy on {judge.pairs} held-out pairs: {share(judge.accuracy)}.")


def given(option: str, value: str | None) -> tuple[str, ...]:
    """Return an option of armap, if it was given."""
    return () if value is None else (option, value)


def armap(*command: object) -> None:
    """Run a command of armap; 1 says that some tasks failed, which the tables count."""
    done = subprocess.run([sys.executable, "-m", "armap.cli", *map(str, command)], stdout=sys.stderr, check=False)
    if done.returncode not in (0, 1):
        sys.exit(done.returncode)


def table(runs: Sequence[Path], experiment: Experiment) -> Iterator[str]:
    """Yield the lines of the table of every seed, and of their mean where there are several."""
    found = []
    for run in runs:
        with RunFolder(run, writable=False) as folder:
            metrics = folder.read_json("metrics", Metrics)
        assert metrics is not None
        found.append(metrics)
        if len(runs) > 1:
            yield f"\n**{run.name}**\n"
        yield from rows(metrics, experiment)
    if len(runs) > 1:
        yield "\n**Mean over seeds**\n"
        yield "| Planner | Success | Lowest | Highest |"
        yield "|---|---|---|---|"
        for name in found[0].planners:
            means = [100 * metrics.planners[name].success.mean for metrics in found if name in metrics.planners]
            yield f"| {name} | {fmean(means):.1f} | {min(means):.1f} | {max(means):.1f} |"


def rows(metrics: Metrics, experiment: Experiment) -> Iterator[str]:
    """Yield the lines of a table."""
    baseline = max(("greedy", "sampling"), key=lambda name: metrics.planners[name].success.mean)
    headings = ["Planner", "Tasks", "Success", f"Over {baseline}", "Over Best-of-N", "Gap closed"]
    headings += ["Trajectories", "Calls", "Tokens", "Seconds", "Paper, 3.8B", "Paper, 70B"]
    yield f"| {' | '.join(headings)} |"
    yield "|---" * len(headings) + "|"
    for name, planner in metrics.planners.items():
        over = planner.difference_to_greedy if baseline == "greedy" else planner.difference_to_sampling
        small, large = (f"{value:.1f}" for value in experiment.paper[name]) if name in experiment.paper else ("", "")
        cells = [
            name,
            str(planner.tasks) + (f" ({planner.failed} failed)" if planner.failed else ""),
            share(planner.success),
            share(over, sign="+"),
            share(planner.difference_to_best_of_n, sign="+"),
            share(planner.gap_closed),
            f"{planner.trajectories:.1f}",
            f"{planner.calls:.1f}",
            f"{planner.prompt_tokens + planner.completion_tokens:,.0f}",
            f"{planner.seconds:.1f}",
            small,
            large,
        ]
        yield f"| {' | '.join(cells)} |"


def share(interval: Interval | None, *, sign: str = "") -> str:
    """Return an interval in percent."""
    if interval is None:
        return ""
    low, high = 100 * interval.low, 100 * interval.high
    return f"{100 * interval.mean:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"


if __name__ == "__main__":
    main()
