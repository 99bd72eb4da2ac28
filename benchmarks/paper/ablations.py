"""What each part of the method is worth, on the cheapest environment.

    python benchmarks/paper/ablations.py --run runs/ablations

An agent collects once on the Game of 24. From its trajectories reward models are made with one part of the method
changed each, and all choose among the same candidates of Best-of-N, which are drawn once: what a language model was
asked stands in the ledger of the first run folder and is not asked again. Beside them: the same choice by a language
model that is asked for a score, by chance, and by the environment itself (oracle).

It can be killed and started again. Success is in percent of the evaluation tasks, with 95 % bootstrap intervals over
tasks; differences to the full method are paired by task.
"""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tables import armap, share

from armap.pipeline.intervals import mean
from armap.pipeline.outcomes import answer_reward
from armap.store import LedgerEntry, RunFolder
from armap.types import JudgeReport, Metrics, PreferencePair, SearchResult


class Variant(NamedTuple):
    """The method with one part changed."""

    synthesize: Sequence[str] = ()
    """Options of `armap synthesize`."""
    train: Sequence[str] = ()
    """Options of `armap train`."""
    reward_model: str | None = None
    """One that needs no training."""


FULL = "the full method"
VARIANTS: Mapping[str, Variant] = {
    FULL: Variant(),
    "a fifth of the data": Variant(train=("--train-share", "0.2")),
    "a twenty-fifth of the data": Variant(train=("--train-share", "0.04")),
    "without verification": Variant(synthesize=("--unverified",)),
    "without hard negatives": Variant(synthesize=("--origin", "other_outcome", "--origin", "altered_action")),
    "oracle labels": Variant(synthesize=("--labels", "oracle")),
    "language model asked for a score": Variant(reward_model="prompted"),
    "chance": Variant(reward_model="chance"),
    "classification target": Variant(train=("--target", "classification")),
}
COLLECTED = ("manifest.json", "tasks.jsonl", "trajectories.jsonl")


def main() -> None:
    """Read the options, do what is left to do, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder for one run folder per variant")
    parser.add_argument("--model", default="embedded", help="the policy; default: the embedded model")
    parser.add_argument("--collect-tasks", type=int, default=60)
    parser.add_argument("--tasks", type=int, default=100, help="evaluation tasks")
    parser.add_argument("--n", type=int, default=30, help="trajectories per task")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    base = asked.run / "collected"
    armap(
        "collect", "--run", base, "--env", "game24", "--model", asked.model, "--evaluation", "901-1000",
        "--tasks", asked.collect_tasks, "--temperature", 4, "--seed", asked.seed,
    )  # fmt: skip
    # The candidates are drawn here, and chosen among by chance; at temperature 4 some solve their puzzle.
    candidates = ("--planner", "best_of_n", "--n", asked.n, "--tasks", asked.tasks)
    armap("evaluate", "--run", base, *candidates, "--reward-model", "chance")
    for name, variant in VARIANTS.items():
        do(base, asked.run / name.replace(" ", "-"), variant, candidates)
    print("\n".join(table(asked.run)))


def do(base: Path, run: Path, variant: Variant, candidates: Sequence[object]) -> None:
    """Do whatever of a variant is not done yet."""
    if not run.exists():
        draft = run.with_name(f".{run.name}.draft")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        for name in COLLECTED:
            shutil.copy(base / name, draft / name)
        forget_evaluation(draft)
        draft.rename(run)
    share_answers(base, run)
    if variant.reward_model is None:
        armap("synthesize", "--run", run, *variant.synthesize)
        if too_few(run):
            return
        armap("train", "--run", run, *variant.train)
    judge = () if variant.reward_model is None else ("--reward-model", variant.reward_model)
    armap("evaluate", "--run", run, *candidates, *judge)


def too_few(run: Path) -> bool:
    """Say whether there are too few pairs to learn from: some are held out, by the task they come from."""
    with RunFolder(run, writable=False) as folder:
        return len({pair.source_task_id for pair in folder.read("pairs", PreferencePair)}) < 2


def share_answers(base: Path, run: Path) -> None:
    """Copy what the language model answered in the first run folder, more of it if more tasks are asked for."""
    with RunFolder(base, writable=False) as folder:
        answers = folder.read("completions", LedgerEntry)
    with RunFolder(run) as folder:
        there = {(answer.key, answer.first_index) for answer in folder.read("completions", LedgerEntry)}
        for answer in answers:
            if (answer.key, answer.first_index) not in there:
                folder.append("completions", answer)


def forget_evaluation(run: Path) -> None:
    """Take out of a copied manifest that candidates were drawn already, as another reward model chooses now."""
    with RunFolder(run) as folder:
        stages = {name: stage for name, stage in folder.manifest.stages.items() if name == "collect"}
        folder.write_json("manifest", folder.manifest.model_copy(update={"stages": stages}))


def table(runs: Path) -> Iterator[str]:
    """Yield the lines of the table."""
    yield "| Choice by | Pairs learned from | Held-out accuracy | Success | Against the full method | Gap closed |"
    yield "|---|---|---|---|---|---|"
    of_full = runs / FULL.replace(" ", "-")
    full = rewards(of_full)
    for name in VARIANTS:
        run = runs / name.replace(" ", "-")
        if VARIANTS[name].reward_model is None and too_few(run):
            yield f"| {name} | too few to learn from | | | | |"
            continue
        with RunFolder(run, writable=False) as folder:
            judge = folder.read_json("judge", JudgeReport)
        best, found = measured(run).planners["best_of_n"], rewards(run)
        difference = None if name == FULL else mean(found[task] - full[task] for task in full)
        cells = [
            name,
            learned(run),
            share(judge.accuracy if judge else None),
            share(best.success),
            share(difference, sign="+"),
            share(best.gap_closed),
        ]
        yield f"| {' | '.join(cells)} |"
    for name in ("sampling", "oracle"):
        yield f"| {name} | | | {share(measured(of_full).planners[name].success)} | | |"


def measured(run: Path) -> Metrics:
    """Return what was measured in a run folder."""
    with RunFolder(run, writable=False) as folder:
        metrics = folder.read_json("metrics", Metrics)
    assert metrics is not None
    return metrics


def learned(run: Path) -> str:
    """Return how many pairs a reward model learned from, as its card says; nothing where none was trained."""
    card = run / "reward_model" / "README.md"
    return re.findall(r"(\d+) preference pairs to learn from", card.read_text("utf-8"))[0] if card.exists() else ""


def rewards(run: Path) -> dict[str, float]:
    """Return what the environment pays for the answer of Best-of-N, by task."""
    with RunFolder(run, writable=False) as folder:
        searches = folder.read("searches", SearchResult)
    return {search.task.id: answer_reward(search) for search in sorted(searches, key=lambda search: search.task.id)}


if __name__ == "__main__":
    main()
