"""The tree of states that `mcts.py` grows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from armap.types import Action, Failure, History, SearchTree

_DIGITS = 6
"""Significant digits of numbers in a recorded tree, which may have a hundred thousand nodes."""


class Node:
    """A state.

    Attributes:
        history: how it was first reached.
        closed: whether nothing new can be found from here on.
        edges: the actions tried here, in the order of their first trials.
        untried: the other actions proposed here, the most often proposed first, and of equals the earlier one.
        first: the action proposed before all others, while it is untried.
        drawn: how often each was proposed, by its text.
        proposals: proposals made here.
        requests: how often it was asked.
        complete: whether asking it again would bring nothing new.
        visits: simulations that went through and are back.
        total: sum of what those came to.
        waiting: simulations that went through and are not back.
        score: what the reward model says of the state itself.
        best_open: the best score of the states from here on at which something is untried, when last looked for.
    """

    __slots__ = (
        "best_open", "closed", "complete", "drawn", "edges", "first", "history", "proposals", "requests", "score",
        "total", "untried", "visits", "waiting",
    )  # fmt: skip

    def __init__(self, history: History) -> None:
        self.history = history
        self.closed = history.stop_reason is not None
        self.edges: list[Edge] = []
        self.untried: list[Action] = []
        self.first: Action | None = None
        self.drawn: dict[str, int] = {}
        self.proposals = self.requests = self.visits = self.waiting = 0
        self.complete = False
        self.total = 0.0
        self.score: float | None = None
        self.best_open = -math.inf

    @property
    def value(self) -> float | None:
        """What is known of it: the mean of what was found behind it, or else its own score."""
        return self.total / self.visits if self.visits else self.score

    def close_if_done(self) -> None:
        """Close it if everything that can be done here has been tried to the end."""
        if self.complete and not self.untried and all(edge.closed for edge in self.edges):
            self.closed = True

    def look_for_open(self) -> None:
        """Find the best score of the states from here on at which something is untried, its children knowing theirs."""
        going_on = self.untried or not self.complete
        best = self.score if self.score is not None and going_on else -math.inf
        for edge in self.edges:
            if edge.child is not None and not edge.child.closed:
                best = max(best, edge.child.best_open)
        self.best_open = best

    def hear(self, proposed: Sequence[Action]) -> None:
        """Enter what the policy proposed here; nothing, where it failed."""
        known, drawn = len(self.drawn), {action.text: 1 for action in proposed}
        if not known and proposed:
            self.first = proposed[0]
        if not known and len(drawn) == len(proposed):
            self.drawn, self.untried = drawn, [*proposed]
        else:
            self._count(proposed)
            drawn = self.drawn
        self.requests += 1
        self.proposals += len(proposed)
        legal = self.history.observation.actions
        # The policy may propose what is not legal, too.
        every = legal is not None and len(drawn) >= len(legal) and all(text in drawn for text in legal)
        self.complete = len(drawn) == known or every

    def _count(self, proposed: Sequence[Action]) -> None:
        """Count proposals some of which may be the same, or known."""
        drawn = self.drawn
        for action in proposed:
            if action.text in drawn:
                drawn[action.text] += 1
            else:
                drawn[action.text] = 1
                self.untried.append(action)
        self.untried.sort(key=lambda action: -drawn[action.text])
        for edge in self.edges:
            edge.drawn = drawn[edge.action.text]

    def attempt(self, action: Action) -> Edge:
        """Make an untried action a tried one."""
        self.untried.remove(action)
        if action is self.first:
            self.first = None
        edge = Edge(action, self.drawn[action.text])
        self.edges.append(edge)
        return edge


class Edge:
    """An action tried at a state, or about to be.

    Attributes:
        action: the action.
        drawn: how often it was proposed.
        child: where it led.
        broken: what went wrong instead.
        visits: simulations that went this way and are back.
        total: sum of what those came to.
        best: the best of it.
        waiting: simulations that went this way and are not back.
    """

    __slots__ = ("action", "best", "broken", "child", "drawn", "total", "visits", "waiting")

    def __init__(self, action: Action, drawn: int) -> None:
        self.action = action
        self.drawn = drawn
        self.child: Node | None = None
        self.broken: Failure | None = None
        self.visits = self.waiting = 0
        self.total = 0.0
        self.best = -math.inf

    @property
    def closed(self) -> bool:
        """Whether nothing new can be found this way."""
        return self.broken is not None if self.child is None else self.child.closed

    @property
    def ends_task(self) -> bool:
        """Whether it is the last action of an episode."""
        return self.child is not None and self.child.history.stop_reason is not None

    @property
    def taken(self) -> bool:
        """Whether a simulation is about to execute it for the first time."""
        return self.child is None and self.broken is None


def record(root: Node) -> SearchTree:
    """Return a tree as a record, parents before children; what was proposed and never tried is left out."""
    numbers = {root: 0}
    waiting = [root]
    parents: list[int] = [-1]
    edges: list[Edge] = []
    proposals: list[int] = []
    failures: dict[int, Failure] = {}
    for node in waiting:
        parent = numbers[node]
        for edge in node.edges:
            child = edge.child
            if child is None:
                if edge.broken is None:
                    continue
                failures[len(parents)] = edge.broken
            elif child not in numbers:
                numbers[child] = len(parents)
                waiting.append(child)
            parents.append(parent)
            edges.append(edge)
            proposals.append(node.proposals)
    rounded = _Rounded()
    return SearchTree(
        parents=tuple(parents),
        actions=("", *[edge.action.text for edge in edges]),
        priors=(1.0, *[rounded[edge.drawn / made] for edge, made in zip(edges, proposals, strict=True)]),
        visits=(root.visits, *[edge.visits for edge in edges]),
        values=(rounded[root.value], *[rounded[edge.total / edge.visits if edge.visits else None] for edge in edges]),
        scores=(rounded[root.score], *[rounded[edge.child.score if edge.child else None] for edge in edges]),
        failures=failures,
    )


class _Rounded(dict[float | None, Any]):
    """Numbers to `_DIGITS` digits, each rounded once: what is at an end is at every state on the way that led there."""

    def __missing__(self, number: float | None) -> float | None:
        self[number] = rounded = None if number is None else float(f"{number:.{_DIGITS}g}")
        return rounded
