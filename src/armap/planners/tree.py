"""The tree of states that `mcts.py` grows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

from armap.planners.rollouts import said, words
from armap.types import Action, Failure, History, SearchTree

_DIGITS = 6
"""Significant digits of numbers in a recorded tree, which may have a hundred thousand nodes."""


class Node:
    """A state.

    Attributes:
        history: how it was first reached.
        said: what the agent said on that way, which tells states apart that the environment does not name.
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
    """

    __slots__ = (
        "closed", "complete", "drawn", "edges", "first", "history", "proposals", "requests", "said", "score", "total",
        "untried", "visits", "waiting",
    )  # fmt: skip

    def __init__(self, history: History, reached_by: Edge | None = None) -> None:
        self.history = history
        self.said: tuple[str, ...] = (
            (*reached_by.parent.said, words(reached_by.action)) if reached_by else said(history)
        )
        self.closed = history.stop_reason is not None
        self.edges: list[Edge] = []
        self.untried: list[Action] = []
        self.first: Action | None = None
        self.drawn: dict[str, int] = {}
        self.proposals = self.requests = self.visits = self.waiting = 0
        self.complete = False
        self.total = 0.0
        self.score: float | None = None

    @property
    def value(self) -> float | None:
        """What is known of it: the mean of what was found behind it, or else its own score."""
        return self.total / self.visits if self.visits else self.score

    def close_if_done(self) -> None:
        """Close it if everything that can be done here has been tried to the end."""
        if self.complete and not self.untried and all(edge.closed for edge in self.edges):
            self.closed = True

    def hear(self, proposed: Sequence[Action]) -> None:
        """Enter what the policy proposed here; nothing, where it failed."""
        drawn, known = self.drawn, len(self.drawn)
        for action in proposed:
            if action.text in drawn:
                drawn[action.text] += 1
            else:
                drawn[action.text] = 1
                self.untried.append(action)
        if proposed and not self.proposals:
            self.first = proposed[0]
        self.requests += 1
        self.proposals += len(proposed)
        if len(drawn) < self.proposals:
            self.untried.sort(key=lambda action: -drawn[action.text])
            for edge in self.edges:
                edge.drawn = drawn[edge.action.text]
        legal = self.history.observation.actions
        self.complete = len(drawn) == known or (legal is not None and len(drawn) >= len(legal))

    def attempt(self, action: Action) -> Edge:
        """Make an untried action a tried one."""
        self.untried.remove(action)
        if action is self.first:
            self.first = None
        edge = Edge(self, action)
        self.edges.append(edge)
        return edge


class Edge:
    """An action tried at a state, or about to be.

    Attributes:
        parent: the state.
        action: the action.
        drawn: how often it was proposed.
        child: where it led.
        broken: what went wrong instead.
        visits: simulations that went this way and are back.
        total: sum of what those came to.
        best: the best of it.
        waiting: simulations that went this way and are not back.
    """

    __slots__ = ("action", "best", "broken", "child", "drawn", "parent", "total", "visits", "waiting")

    def __init__(self, parent: Node, action: Action) -> None:
        self.parent = parent
        self.action = action
        self.drawn = parent.drawn[action.text]
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
    rows = [(-1, "", 1.0, root.visits, _rounded(root.value), _rounded(root.score))]
    failures: dict[int, Failure] = {}
    for node in waiting:
        parent, proposals = numbers[node], node.proposals
        for edge in node.edges:
            child, visits = edge.child, edge.visits
            if child is None:
                if edge.broken is None:
                    continue
                failures[len(rows)] = edge.broken
            elif child not in numbers:
                numbers[child] = len(rows)
                waiting.append(child)
            prior = round(edge.drawn / proposals, _DIGITS)
            value = _rounded(edge.total / visits) if visits else None
            rows.append((parent, edge.action.text, prior, visits, value, _rounded(child.score) if child else None))
    parents, actions, priors, visits_, values, scores = zip(*rows, strict=True)
    return SearchTree(
        parents=parents, actions=actions, priors=priors, visits=visits_, values=values, scores=scores, failures=failures
    )


@lru_cache(1024)
def _rounded(number: float | None) -> float | None:
    return None if number is None else float(f"{number:.{_DIGITS}g}")
