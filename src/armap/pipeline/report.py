"""Reports a run: `report.html`, one page that needs nothing but a browser, and a table for the terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from armap.pipeline.charts import element, interval_mark
from armap.pipeline.figures import figures
from armap.pipeline.funnel import ablations, data_sections
from armap.pipeline.judge_report import judge_sections
from armap.pipeline.outcomes import first_of_kind
from armap.pipeline.outline import outlines
from armap.pipeline.page import terms, write_page
from armap.pipeline.readings import readings
from armap.pipeline.tradeoff import tradeoffs
from armap.store import RunFolder
from armap.types import (
    Interval,
    JudgeReport,
    Metrics,
    PlannerMetrics,
    PreferencePair,
    SearchResult,
    Sweeps,
    TrainingPoint,
)

_NONE = "–"
_LABELS = {
    "greedy": "Greedy",
    "sampling": "Sampling",
    "best_of_n": "Best-of-N",
    "reflexion": "Reflexion",
    "beam": "Beam",
    "mcts": "MCTS",
    "reflexion_paper": "Reflexion, paper",
    "mcts_paper": "MCTS, paper",
    "oracle": "Oracle (ceiling)",
}


def write_report(run: RunFolder) -> Path:
    """Write `report.html` from what is in the run folder, `metrics.json` included, and return its path.

    The page has no scripts and loads nothing, and all text from records is escaped. What is missing from the folder
    is left out. A page that is there already is replaced at once.

    Raises:
        DataError: a stored record is malformed.
    """
    metrics = run.read_json("metrics", Metrics)
    searches = run.read("searches", SearchResult)
    training = run.read("training", TrainingPoint)
    judge = run.read_json("judge", JudgeReport)
    sections = [_header(run, metrics)]
    if metrics:
        sections += [_failures(metrics), *_results(metrics)]
    sections += [
        *figures(metrics, training, searches),
        *tradeoffs(run.read_json("sweeps", Sweeps)),
        # Success against N is among the figures already.
        *(judge_sections(judge.model_copy(update={"success_by_n": ()})) if judge else ()),
        *(data_sections(metrics.data, run.read("pairs", PreferencePair)) if metrics else ()),
        *(_details(metrics) if metrics else ()),
        *readings(searches),
        *outlines(searches),
        _settings(run),
    ]
    return write_page(run.path / "report.html", f"{run.path.resolve().name} – armap", sections)


def metrics_table(metrics: Metrics) -> Table:
    """Return what matters most of a run as a table for the terminal, 80 characters wide."""
    baseline = _better_baseline(metrics)
    table = Table(
        title=Text("\n".join([*ablations(metrics.data.labelled_by), *_chooser(metrics), _failure_summary(metrics)])),
        title_justify="left",
        caption="Below estimates: 95 % intervals. Gains are in points, paired by task. Oracle: the ceiling.",
        caption_justify="left",
        box=SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
    gains = {"difference_to_greedy" if baseline == "greedy" else "difference_to_sampling": f"Over {baseline}"}
    if any(_is_further(name) for name in metrics.planners):
        gains["difference_to_best_of_n"] = "Over Best-of-N"
    for number, heading in enumerate(("Planner", "Success", *gains.values(), "Calls\nTokens", "Seconds")):
        table.add_column(heading, justify="right" if number else "left", no_wrap=bool(number))
    most = max((planner.tasks for planner in metrics.planners.values()), default=0)
    for name, planner in metrics.planners.items():
        failed = f"failed: {planner.failed} of {planner.tasks}" if planner.failed else ""
        fewer = f"on {planner.tasks} tasks" if not failed and planner.tasks < most else ""
        table.add_row(
            Text("\n".join(filter(None, (_short(name), failed, fewer)))),
            Text(_share(planner.success)),
            *(Text(_difference(getattr(planner, gain))) for gain in gains),
            Text(f"{planner.calls:,.1f}\n{_tokens(planner)}"),
            Text(f"{planner.seconds:,.1f}"),
        )
    table.add_section()
    table.add_row("Gap closed", _share(metrics.gap_closed))
    if metrics.chosen_by is None:
        table.add_row("Pair accuracy", _share(metrics.reward_model.pairwise_accuracy))
    return table


def _better_baseline(metrics: Metrics) -> str:
    """Return which of greedy and sampling succeeds more often."""
    there = [name for name in ("sampling", "greedy") if name in metrics.planners]
    return max(there, key=lambda name: metrics.planners[name].success.mean, default="sampling")


def _is_further(name: str) -> bool:
    """Say whether a planner is one that Best-of-N is a baseline for."""
    return first_of_kind([name], "best_of_n") is None and name not in ("greedy", "sampling", "oracle")


def _short(name: str) -> str:
    return _label(name).removesuffix(" (ceiling)")


def _tokens(planner: PlannerMetrics) -> str:
    return f"{planner.prompt_tokens + planner.completion_tokens:,.0f}"


def _failure_summary(metrics: Metrics) -> str:
    """Return in one sentence what failed."""
    if not metrics.failures:
        return "No failures."
    counts = (f"{failure.count} × {failure.kind} in {failure.where}" for failure in metrics.failures)
    return f"Failures: {', '.join(counts)}."


_HEADINGS = (
    "Planner",
    "Failed",
    "Success",
    "Over sampling",
    "Over greedy",
    "Over Best-of-N",
    "Trajectories",
    "Calls",
    "Tokens",
    "Seconds",
)


def _cells(planner: PlannerMetrics) -> tuple[str, ...]:
    """Return what stands under `_HEADINGS` after the planner's name."""
    failed = f"{planner.failed} of {planner.tasks}"
    if planner.failed_candidates:
        failed += f"\n{planner.failed_candidates:,} candidates"
    return (
        failed,
        _share(planner.success),
        _difference(planner.difference_to_sampling),
        _difference(planner.difference_to_greedy),
        _difference(planner.difference_to_best_of_n),
        f"{planner.trajectories:,.1f}",
        f"{planner.calls:,.1f}",
        _tokens(planner),
        f"{planner.seconds:,.1f}",
    )


def _share(interval: Interval | None) -> str:
    if interval is None:
        return _NONE
    return f"{_percent(interval.mean)}\n{100 * interval.low:.1f} to {100 * interval.high:.1f}"


def _difference(interval: Interval | None) -> str:
    if interval is None:
        return _NONE
    return f"{100 * interval.mean:+z.1f}\n{100 * interval.low:+z.1f} to {100 * interval.high:+z.1f}"


def _percent(value: float | None) -> str:
    return _NONE if value is None else f"{100 * value:.1f}\N{NO-BREAK SPACE}%"


def _label(planner: str) -> str:
    """Return the name of a planner as it is written, with its settings if it has unusual ones."""
    name, bracket, settings = planner.partition("(")
    return _LABELS.get(name, name) + (f" {bracket}{settings}" if bracket else "")


def _header(run: RunFolder, metrics: Metrics | None) -> Element:
    manifest = run.manifest
    made = f"armap {manifest.armap_version}, {manifest.created_at:%d %B %Y}"
    stages = f"; stages begun: {', '.join(manifest.stages)}" if manifest.stages else ""
    header = element(
        "header", element("h1", f"Run {run.path.resolve().name}"), element("p", made + stages, class_="quiet")
    )
    if metrics is None:
        header.append(element("p", "This run has not been evaluated, so there are no numbers yet.", class_="lead"))
    elif best := first_of_kind(metrics.planners, "best_of_n"):
        header.append(element("p", _headline(metrics, metrics.planners[best]), class_="lead"))
    for remark in (*ablations(metrics.data.labelled_by), *_chooser(metrics)) if metrics else ():
        header.append(element("p", remark, class_="failures"))
    return header


def _chooser(metrics: Metrics) -> list[str]:
    return [f"Chosen by {metrics.chosen_by}."] if metrics.chosen_by else []


def _headline(metrics: Metrics, best: PlannerMetrics) -> str:
    sampled = _percent(metrics.planners["sampling"].success.mean)
    said = (
        f"Over {best.tasks} tasks, one sampled trajectory reaches {sampled} success, and the one that is "
        f"chosen {_percent(best.success.mean)}."
    )
    if metrics.gap_closed:
        said += f" That closes {_percent(metrics.gap_closed.mean)} of the gap to the best trajectory among those drawn."
    return said


def _failures(metrics: Metrics) -> Element:
    if not metrics.failures:
        return element("p", "No failures: every trajectory and every search came to an end.", class_="quiet")
    rows = [
        element("tr", element("th", failure.where, scope="row"), *_labelled(_FAILURE_HEADINGS[1:], cells))
        for failure in metrics.failures
        for cells in [(str(failure.count), failure.kind, failure.example)]
    ]
    return element(
        "section",
        element("h2", "Failures"),
        element("p", "They count as success 0 below and never enter a preference pair."),
        _table(_FAILURE_HEADINGS, rows),
        class_="failures",
    )


_FAILURE_HEADINGS = ("Where", "How many", "Kind", "For example")


def _table(headings: Sequence[str], rows: Sequence[Element]) -> Element:
    head = element("thead", element("tr", *(element("th", heading, scope="col") for heading in headings)))
    return element("div", element("table", head, element("tbody", *rows), class_="stacked"), class_="scroll")


def _labelled(headings: Sequence[str], cells: Sequence[str | Element]) -> list[Element]:
    """Return table cells that know their heading, for narrow screens where a row becomes a list."""
    return [
        element("td", element("span", cell), data_label=heading) for heading, cell in zip(headings, cells, strict=True)
    ]


def _results(metrics: Metrics) -> Iterator[Element]:
    figures = [
        ("Gap closed", metrics.gap_closed, "of the way from sampling to oracle, by Best-of-N"),
        (
            "Pairwise accuracy",
            metrics.reward_model.pairwise_accuracy,
            f"of the run's own reward model alone, on {metrics.reward_model.pairs} held-out pairs",
        ),
        (
            "Separation",
            metrics.reward_model.candidate_auc,
            "chance that a solved candidate outscores an unsolved one of its task",
        ),
    ]
    shown = [_figure(name, interval, meaning) for name, interval, meaning in figures if interval]
    if shown:
        yield element("ul", *shown, class_="figures")
    if not metrics.planners:
        return
    headings = (_HEADINGS[0], "0 to 100 %", *_HEADINGS[1:])
    rows = [
        element(
            "tr",
            element("th", _label(name), scope="row"),
            *_labelled(headings[1:], (interval_mark(planner.success), *_cells(planner))),
            class_="ceiling" if name == "oracle" else "planner",
        )
        for name, planner in metrics.planners.items()
    ]
    yield element(
        "section",
        element("h2", "Results"),
        _table(headings, rows),
        element("p", _RESULTS_NOTE, class_="note"),
    )


_RESULTS_NOTE = (
    "Success is what the environment pays for the answer, averaged over tasks; differences are in points, paired by "
    "task. Below each estimate: its 95 % percentile bootstrap interval over tasks, 10,000 resamples, or the exact "
    "one of a success of none or all. Trajectories, calls, tokens and seconds are means per task. Sampling and "
    "oracle are read off the candidates of whole searches, so their costs are those of drawing all candidates. "
    "Oracle is the environment's own choice among the candidates: a ceiling, not a planner."
)


def _figure(name: str, interval: Interval, meaning: str) -> Element:
    bounds = f"{100 * interval.low:.1f} to {100 * interval.high:.1f} %"
    return element(
        "li", element("span", name), element("b", _percent(interval.mean)), element("span", bounds, ": ", meaning)
    )


def _details(metrics: Metrics) -> Iterator[Element]:
    policy, spent = metrics.policy, metrics.spent
    known = {}
    if policy.choice_entropy_nats is not None:
        known["entropy of a choice"] = f"{policy.choice_entropy_nats:.2f} nats, mean over {policy.choices:,} answers"
    if policy.choice_mass is not None:
        known["probability that a free reply would be legal"] = _percent(policy.choice_mass)
    if policy.legal_share is not None:
        known["executed actions that were legal"] = f"{_percent(policy.legal_share)} of {policy.listed_steps:,}"
    if known:
        yield element("section", element("h2", "Policy"), terms(known))
    if spent.calls:
        money = {
            "requests": f"{spent.calls:,}",
            "tokens read": f"{spent.prompt_tokens:,}, of which {spent.cached_tokens:,} from a cache",
            "tokens written": f"{spent.completion_tokens:,}",
            "money": f"${spent.cost_usd:,.4f}",
        }
        yield element("section", element("h2", "Spent on language models"), terms(money))


def _settings(run: RunFolder) -> Element:
    manifest = run.manifest
    stages = [
        part
        for name, stage in manifest.stages.items()
        for part in (
            element("h3", name),
            element("p", f"begun {stage.started_at:%Y-%m-%d %H:%M} UTC", class_="note"),
            element("pre", json.dumps({**stage.settings, "versions": stage.versions}, indent=2, ensure_ascii=False)),
        )
    ]
    machine = element("p", f"Python {manifest.python} on {manifest.platform}", class_="note")
    return element(
        "section",
        element("h2", "How it was run"),
        element("details", element("summary", "Settings of every stage"), machine, *stages),
    )
