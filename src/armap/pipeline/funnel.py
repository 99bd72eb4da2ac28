"""What became of the collected trajectories: counted, and shown on the terminal and in the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import get_args
from xml.etree.ElementTree import Element

from rich.box import SIMPLE_HEAD
from rich.table import Table

from armap.pipeline.charts import count_bar, element
from armap.pipeline.intervals import average
from armap.pipeline.page import terms
from armap.pipeline.selection import length_tells
from armap.types import Check, DataMetrics, DiscardedPair, PreferencePair, Trajectory, Usage

ORACLE = "environment reward"
"""What establishes the chosen side where the environment's own reward is taken for the label, an ablation."""
UNVERIFIED = "nothing"
"""What establishes it where sides may come to the same thing, an ablation."""
CHECKS: tuple[Check, ...] = get_args(Check)
_STAGES = {
    "begun": "to be made",
    "attempt": "of an attempt that came to something, once",
    "instruction": "instruction is fit to use",
    "failure": "nothing broke",
    "outcome": "executed; sides came to different things",
    "judge": "judge agrees in both orders",
    "duplicate": "nothing like it is there",
    "length": "lengths tell nothing",
}
_SHOWN_PAIRS = 2


def data_metrics(
    collected: Sequence[Trajectory], pairs: Sequence[PreferencePair], discarded: Sequence[DiscardedPair]
) -> DataMetrics:
    """Count what became of the collected trajectories."""
    lengths = [(len(pair.chosen.steps), len(pair.rejected.steps)) for pair in pairs]
    both: list[PreferencePair | DiscardedPair] = [*pairs, *discarded]
    return DataMetrics(
        trajectories=len(collected),
        failed_trajectories=sum(trajectory.failure is not None for trajectory in collected),
        pairs=dict(sorted(Counter(pair.origin for pair in pairs).items())),
        discarded=dict(sorted(Counter(pair.reason for pair in discarded).items())),
        funnel={
            origin: _funnel(
                sum(pair.origin == origin for pair in pairs), [pair for pair in discarded if pair.origin == origin]
            )
            for origin in sorted({pair.origin for pair in both})
        },
        labelled_by=tuple(sorted({pair.verified_by for pair in pairs})),
        judges=tuple(sorted({pair.judge for pair in pairs if pair.judge is not None})),
        length_tells=length_tells(pairs),
        spent=sum((pair.usage for pair in both), Usage()),
        chosen_steps=average(chosen for chosen, _ in lengths),
        rejected_steps=average(rejected for _, rejected in lengths),
    )


def _funnel(made: int, discarded: Sequence[DiscardedPair]) -> dict[str, int]:
    lost = Counter(pair.check for pair in discarded)
    left = {"begun": made + len(discarded)}
    for check in CHECKS:
        left[check] = next(reversed(left.values())) - lost[check]
    return left


def funnel_table(data: DataMetrics) -> Table:
    """Return how many pairs were left after each check, by how their rejected side is made."""
    table = Table(box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False, caption=_ledger(data), caption_justify="left")
    table.add_column("Pairs left")
    for origin in data.funnel:
        table.add_column(origin.replace("_", " "), justify="right")
    for stage, meaning in _STAGES.items():
        table.add_row(meaning, *(f"{left[stage]:,}" for left in data.funnel.values()))
    return table


def ablations(labelled_by: Collection[str]) -> list[str]:
    """Return what must be said of whatever comes from pairs labelled in these ways, a sentence each.

    Args:
        labelled_by: what established their chosen sides, see `PreferencePair.verified_by`.
    """
    said = []
    if ORACLE in labelled_by:
        said.append(
            "ORACLE LABELS: the environment's own reward says which side of a pair is the chosen one. This is an "
            "ablation, and no result of the method."
        )
    if UNVERIFIED in labelled_by:
        said.append(
            "UNVERIFIED: nobody checked that the sides of a pair came to different things. This is an ablation."
        )
    return said


def data_remarks(data: DataMetrics) -> list[str]:
    """Return what whoever uses the pairs should know, a sentence each."""
    said = ablations(data.labelled_by)
    if "execution" in data.labelled_by and not data.judges:
        said.append(
            "No judge was asked: that the chosen side does what the instruction asks for, and the other side does not, "
            "rests on what they came to when they were executed. --judge model asks one, in both orders."
        )
    return said


def _ledger(data: DataMetrics) -> str:
    pairs = sum(data.pairs.values())
    told = [f"{share:.1%} by {unit}" for unit, share in data.length_tells.items()]
    spent = data.spent
    lines = [f"Length alone tells the chosen side of {' and of '.join(told)}."] if told else []
    if pairs and spent.calls:
        money = f", ${spent.cost_usd / pairs:.5f}" if spent.cost_usd else ""
        lines.append(f"A pair took {spent.calls / pairs:.1f} calls and {spent.tokens / pairs:,.0f} tokens{money}.")
    return " ".join(lines)


def data_sections(data: DataMetrics, pairs: Sequence[PreferencePair]) -> Iterator[Element]:
    """Yield what the report says of the data: the funnel, what it cost, and pairs to read."""
    if not (data.trajectories or data.pairs or data.discarded):
        return
    counts = {"trajectories collected": data.trajectories}
    counts |= {f"pairs made, {origin.replace('_', ' ')}": count for origin, count in data.pairs.items()}
    counts |= {f"pairs discarded, {reason}": count for reason, count in data.discarded.items()}
    yield element(
        "section",
        element("h2", "Data"),
        *(element("p", remark, class_="note") for remark in data_remarks(data)),
        _bars(counts),
        *(_stages(origin, left) for origin, left in data.funnel.items()),
        *_balance(data),
        *([terms({"making pairs took": _ledger(data)})] if data.spent.calls else []),
    )
    if pairs:
        by_origin = {pair.origin: pair for pair in sorted(pairs, key=lambda pair: pair.id, reverse=True)}
        shown = list(by_origin.values())[-_SHOWN_PAIRS:]
        yield element("section", element("h2", "Preference pairs to read"), *map(_article, shown))


def _stages(origin: str, left: dict[str, int]) -> Element:
    return element(
        "div",
        element("h3", f"Checks passed, {origin.replace('_', ' ')}"),
        _bars({_STAGES[stage]: count for stage, count in left.items()}),
    )


def _bars(counts: dict[str, int]) -> Element:
    most = max(counts.values())
    rows = [
        element(
            "tr", element("th", name, scope="row"), element("td", f"{count:,}"), element("td", count_bar(count, most))
        )
        for name, count in counts.items()
    ]
    return element("table", element("tbody", *rows), class_="counts")


def _balance(data: DataMetrics) -> Iterator[Element]:
    if data.chosen_steps is not None and data.rejected_steps is not None:
        yield element(
            "p",
            f"Chosen trajectories have {data.chosen_steps:.1f} steps on average and rejected ones "
            f"{data.rejected_steps:.1f}. {_ledger(data)}",
        )


def _article(pair: PreferencePair) -> Element:
    return element(
        "article",
        element("h3", f"Rejected side: {pair.origin.replace('_', ' ')}"),
        element("p", pair.task.instruction),
        element("p", f"{pair.id}; written by {pair.instruction_writer}; verified by {pair.verified_by}", class_="note"),
        *(part for name in ("chosen", "rejected") for part in _side(name, getattr(pair, name))),
    )


def _side(name: str, trajectory: Trajectory) -> Iterator[Element]:
    yield element("h4", name.capitalize())
    steps = [
        element("li", element("pre", step.observation.text), element("pre", step.action.text, class_="action"))
        for step in trajectory.steps
    ]
    yield element("ol", *steps)
    yield element("pre", trajectory.final_observation.text)
