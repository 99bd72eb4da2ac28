"""Sets out the search tree of one task as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import heappop, heappush
from xml.etree.ElementTree import Element

from armap.pipeline.charts import element
from armap.types import SearchResult, SearchTree

_SHOWN_NODES = 40
_SHOWN_CHARACTERS = 60
"""Of an action."""


def outlines(searches: Sequence[SearchResult]) -> Iterator[Element]:
    """Yield a section with the search tree of one task per planner that records one: the first by task id."""
    first: dict[str, SearchResult] = {}
    for result in sorted(searches, key=lambda result: (result.planner, result.task.id)):
        if result.tree is not None and len(result.tree.parents) > 1:
            first.setdefault(result.planner, result)
    articles = [
        element(
            "article",
            element("h3", planner),
            element("p", result.task.instruction),
            element("pre", outline(result.tree)),
        )
        for planner, result in first.items()
        if result.tree is not None
    ]
    if articles:
        legend = element(
            "p",
            f"The {_SHOWN_NODES} most visited states of one task's tree: visits, mean value, prior, and the action.",
            class_="note",
        )
        yield element("section", element("h2", "Search trees"), legend, *articles)


def outline(tree: SearchTree) -> str:
    """Return the most visited part of a tree, one line per node, the most visited branch first."""
    children: dict[int, list[int]] = {}
    for node, parent in enumerate(tree.parents):
        children.setdefault(parent, []).append(node)
    shown = _most_visited(tree, children)
    lines = [f"{'visits':>7} {'value':>8} {'prior':>6}"]
    waiting = [(0, 0)]
    while waiting:
        node, depth = waiting.pop()
        lines.append(_line(tree, node, depth))
        below = [child for child in children.get(node, ()) if child in shown]
        waiting += [(child, depth + 1) for child in sorted(below, key=lambda child: (tree.visits[child], -child))]
    hidden = len(tree.parents) - len(shown)
    return "\n".join([*lines, f"and {hidden:,} more"] if hidden else lines)


def _most_visited(tree: SearchTree, children: dict[int, list[int]]) -> set[int]:
    """Return the nodes to show, each with its parent."""
    shown: set[int] = set()
    front = [(-tree.visits[0], 0)]
    while front and len(shown) < _SHOWN_NODES:
        _, node = heappop(front)
        shown.add(node)
        for child in children.get(node, ()):
            heappush(front, (-tree.visits[child], child))
    return shown


def _line(tree: SearchTree, node: int, depth: int) -> str:
    value = tree.values[node]
    action = " ".join(tree.actions[node].split()) or "the start"
    if len(action) > _SHOWN_CHARACTERS:
        action = f"{action[:_SHOWN_CHARACTERS]} ..."
    failed = f"  failed: {tree.failures[node].kind}" if node in tree.failures else ""
    told = "–" if value is None else f"{value:.3g}"
    return f"{tree.visits[node]:>7,} {told:>8} {tree.priors[node]:>6.2f}  {'   ' * depth}{action}{failed}"
