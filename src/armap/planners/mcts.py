"""Monte Carlo tree search over histories."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal, TypeVar

from pydantic import Field

from armap.errors import RunError
from armap.planners.rollouts import FailedRollout, advance, failed, said
from armap.planners.search import Search
from armap.protocols import Policy, RewardModel, World
from armap.seeds import rng_for
from armap.types import Action, Failure, History, Record, SearchBudget, SearchResult, SearchTree, Task, Trajectory

T = TypeVar("T")

_DIGITS = 6
"""Significant digits of numbers in a recorded tree, which may have a hundred thousand nodes."""


class MCTS(Record):
    """Grows a tree of histories where the reward model found it worth while, and returns the best trajectory in it.

    A simulation goes down from the task's start by the best of value and curiosity until it comes to an action that
    was never tried there. From then on it follows the policy: to the end, where the reward model judges the trajectory,
    or one step, where it judges the state as it is. What it sees on the way stays in the tree, so no state is asked for
    actions twice. States reached by different orders of actions are one node where the environment can name its
    states, and what has been tried to the end is closed, so every simulation brings a new trajectory. The simulations
    of a wave go down together; each lowers the value of its way meanwhile (virtual loss), so that they part.

    Source: ARMAP, MCTS (`paper` gives the released constants); PUCT: Silver et al., 2017; progressive widening:
    Couëtoux et al., 2011; normalised values: Schrittwieser et al., 2020.
    """

    name: Literal["mcts"] = "mcts"
    """Name in records and reports."""
    num_simulations: int = Field(default=10, gt=0)
    """Simulations, each of which tries at most one new trajectory."""
    proposals: int = Field(default=10, gt=0)
    """Actions drawn from the policy at a new state; their shares are the priors. Source: ARMAP."""
    selection: Literal["puct", "uct"] = "puct"
    """`puct` weighs curiosity by the prior and brings values to 0..1; `uct` is the paper's rule and does neither."""
    exploration: float = Field(default=1.0, ge=0)
    """Weight of curiosity."""
    backup: Literal["mean", "max"] = "mean"
    """Whether a way is worth the mean or the best of what was found on it."""
    leaf: Literal["rollout", "value", "both"] = "rollout"
    """How a new state is judged: where the policy gets to from there, as it is, or by the mean of the two."""
    greedy_rollouts: bool = False
    """Whether rollouts take the action that was proposed most often instead of the one that was proposed first."""
    discount: float = Field(default=1.0, gt=0, le=1)
    """Factor per step between a state and what was found behind it."""
    widening: float | None = Field(default=2.0, gt=0)
    """Actions open at a state visited v times: this times the square root of v + 1; None for all proposed."""
    wave: int = Field(default=4, gt=0)
    """Simulations under way at once."""
    stop_score: float | None = None
    """A trajectory with at least this score ends the search."""
    budget: SearchBudget = SearchBudget()
    """What one search may spend."""

    @classmethod
    def paper(cls, num_simulations: int = 10) -> MCTS:
        """Return the search with the constants of ARMAP's released code."""
        return cls(
            num_simulations=num_simulations,
            selection="uct",
            exploration=4.5 * math.sqrt(2),
            backup="max",
            greedy_rollouts=True,
            discount=0.9,
            widening=None,
            wave=1,
        )

    async def plan(
        self, task: Task, world: World, policy: Policy, reward_model: RewardModel, rng: Random
    ) -> SearchResult:
        """Search for `task`; see `armap.protocols.Planner`."""
        search = Search(self.name, task, world, policy, reward_model, rng, self.budget)
        tree = _Tree(self, search, await world.start(task))
        await tree.grow()
        if not search.has_answer:
            await tree.finish()
        return await search.best(tree=tree.record())


@dataclass(slots=True, eq=False)
class _Node:
    """A state."""

    history: History
    closed: bool
    """Whether nothing new can be found from here on."""
    edges: list[_Edge] = field(default_factory=list)
    """The actions proposed here, the most often proposed first, and of equals the earlier one."""
    first: _Edge | None = None
    """The action proposed before all others."""
    drawn: int = 0
    """Proposals made here."""
    requests: int = 0
    """How often it was asked."""
    complete: bool = False
    """Whether asking it again would bring nothing new."""
    visits: int = 0
    total: float = 0.0
    """Sum of what its visits came to."""
    waiting: int = 0
    """Simulations that went through and are not back."""
    score: float | None = None
    """What the reward model says of the state itself."""

    @property
    def value(self) -> float | None:
        """What is known of it: the mean of what was found behind it, or else its own score."""
        return self.total / self.visits if self.visits else self.score


@dataclass(slots=True, eq=False)
class _Edge:
    """An action at a state."""

    parent: _Node
    action: Action
    drawn: int = 0
    """How often it was proposed."""
    child: _Node | None = None
    broken: Failure | None = None
    visits: int = 0
    total: float = 0.0
    best: float = -math.inf
    waiting: int = 0

    @property
    def closed(self) -> bool:
        return self.child.closed if self.child is not None else self.broken is not None

    @property
    def ends_task(self) -> bool:
        return self.child is not None and self.child.history.stop_reason is not None

    @property
    def taken(self) -> bool:
        """Whether a simulation is about to execute it for the first time."""
        return self.waiting > 0 and self.child is None and self.broken is None


@dataclass(slots=True, eq=False)
class _Simulation:
    """One simulation on its way."""

    node: _Node
    way: list[_Edge] = field(default_factory=list)
    first_new: int | None = None
    """Place in the way of the first action that nobody had tried."""
    over: bool = False
    end: Trajectory | None = None
    """What it tried, if it came to an end of the task or to a failure."""


class _Tree:
    """The tree while it grows."""

    def __init__(self, settings: MCTS, search: Search, start: History) -> None:
        self._settings = settings
        self._search = search
        self._root = _Node(start, closed=start.stop_reason is not None)
        self._named: dict[tuple[int, str], _Node] = {}
        self._low, self._high = math.inf, -math.inf
        self._good_enough = False

    async def grow(self) -> None:
        """Run simulations until there are enough, the budget is spent or nothing is left to try."""
        left = self._settings.num_simulations
        while not (self._good_enough or self._root.closed or self._search.spent()):
            wave = [_Simulation(self._root) for _ in range(self._search.room(min(left, self._settings.wave)))]
            if not wave:
                return
            while under_way := [one for one in wave if not one.over]:
                await self._go_on(under_way)
            await self._learn(wave)
            # One that found its way closed tried nothing, and closed something.
            left -= sum(one.first_new is not None or one.end is not None for one in wave)

    async def finish(self) -> None:
        """Let the policy bring the most visited way to an end, where no simulation did."""
        node = self._root
        while tried := [edge for edge in node.edges if edge.child is not None and not edge.closed]:
            edge = max(tried, key=lambda edge: (edge.visits, edge.best))
            assert edge.child is not None
            node = edge.child
        drawn = await self._search.try_out(self._search.room(1), purpose=("finish",), start=node.history)
        for trajectory, score in zip(drawn, await self._search.score(drawn), strict=True):
            self._search.keep(trajectory, score)

    # Down

    async def _go_on(self, under_way: Sequence[_Simulation]) -> None:
        """Bring every simulation one request or one action further.

        All ask together and all act together, and what comes of it is entered in their order, so that it does not
        matter whose answer comes first.
        """
        asking: list[_Simulation] = []
        acting: list[_Simulation] = []
        for one in under_way:
            (acting if self._descend(one) else asking).append(one)
        await self._ask([one for one in asking if not one.over])
        states = await _together([advance(one.node.history, one.way[-1].action, self._search.world) for one in acting])
        for one, state in zip(acting, states, strict=True):
            self._enter(one, state)

    def _descend(self, one: _Simulation) -> bool:
        """Go down through what is known. True: to an action to execute. Otherwise to a state to ask about, or over."""
        while not one.node.closed:
            if not one.node.requests:
                return False
            edge = self._choose(one.node)
            if edge is None:
                break
            edge.waiting += 1
            edge.parent.waiting += 1
            one.way.append(edge)
            if edge.child is None:
                return True
            one.node = edge.child
        # Where another one of the wave is about to try the last action, asking for more would be rash.
        one.over = one.node.closed or one.node.complete or any(edge.taken for edge in one.node.edges)
        return False

    def _choose(self, node: _Node) -> _Edge | None:
        """Return the action to try or to follow; None if there is none, for now or for good."""
        open_edges = [edge for edge in node.edges if not edge.closed]
        passed = node.visits + node.waiting
        if not passed and node.first is not None:
            # Here the policy leads.
            led = not (self._settings.greedy_rollouts or node.first.closed)
            return node.first if led else next(iter(open_edges), None)
        if self._settings.widening is not None:
            open_edges = open_edges[: math.ceil(self._settings.widening * math.sqrt(passed + 1))]
        free = [edge for edge in open_edges if not edge.taken]
        return max(free, key=self._promise(node, passed)) if len(free) > 1 else next(iter(free), None)

    def _promise(self, node: _Node, passed: int) -> Callable[[_Edge], float]:
        """Return how promising an action at a state is: its value and how little is known of it."""
        settings = self._settings
        if settings.selection == "uct":
            curiosity = settings.exploration * math.sqrt(math.log(passed + 1))
            return lambda edge: (edge.best if edge.visits else 0.0) + curiosity / (1 + edge.visits + edge.waiting)
        curiosity = settings.exploration * math.sqrt(passed) / node.drawn
        low, span = self._low, self._high - self._low
        best = settings.backup == "max"
        # Nothing is known of an untried one: as good as what was tried beside it.
        usual = (node.total / node.visits - low) / span if node.visits and span > 0 else 0.5

        def promise(edge: _Edge) -> float:
            seen = edge.visits + edge.waiting
            if not seen:
                return usual + curiosity * edge.drawn
            value = 0.0
            if edge.visits:
                # From 0 to 1; simulations under way count as the worst there is.
                found = edge.best if best else edge.total / edge.visits
                value = ((found - low) / span if span > 0 else 0.5) * edge.visits / seen
            return value + curiosity * edge.drawn / (1 + seen)

        return promise

    # There

    async def _ask(self, asking: Sequence[_Simulation]) -> None:
        """Let the policy propose actions at the states where simulations stand, as far as the budget allows."""
        there: dict[_Node, _Simulation] = {}
        for one in asking:
            there.setdefault(one.node, one)
        # In the order of their beginnings, so that a server finds what it computed for the neighbour.
        nodes = sorted(there, key=lambda node: said(node.history)) if len(there) > 1 else list(there)
        nodes = [node for node in nodes if self._search.may_ask()]
        answers = await _together([self._propose(node) for node in nodes])
        for one in asking:
            one.over = one.node not in nodes
        for node, proposed in zip(nodes, answers, strict=True):
            known = len(node.edges)
            node.requests += 1
            if isinstance(proposed, FailedRollout):
                # One trajectory ended here; whoever else stands here may know of another way.
                one = there[node]
                one.over, one.end = True, self._search.trajectory(proposed)
            else:
                _add_proposals(node, proposed)
            legal = node.history.observation.actions
            node.complete = len(node.edges) == known or (legal is not None and len(node.edges) >= len(legal))

    async def _propose(self, node: _Node) -> list[Action] | FailedRollout:
        rng = rng_for(self._search.seed, "propose", node.requests, *said(node.history))
        try:
            return await self._search.policy.propose(node.history, n=self._settings.proposals, rng=rng)
        except RunError as error:
            return failed(node.history, error)

    def _enter(self, one: _Simulation, state: History | FailedRollout) -> None:
        """Enter in the tree what an action led to."""
        edge = one.way[-1]
        if one.first_new is None:
            one.first_new = len(one.way) - 1
        if isinstance(state, FailedRollout):
            edge.broken = state.failure
            one.over, one.end = True, self._search.trajectory(state)
            return
        one.node = edge.child = self._node(state)
        if state.stop_reason is not None:
            one.over, one.end = True, self._search.trajectory(state)
        elif self._settings.leaf == "value":
            one.over = True

    def _node(self, history: History) -> _Node:
        """Return the node of a state: a known one if it was reached before in as many steps."""
        node = _Node(history, closed=history.stop_reason is not None)
        # Ends are all kept apart, since the reward model judges the way too.
        name = None if node.closed else self._search.world.state_of(history)
        # Only in as many steps: a state that can be come back to would make the tree a circle.
        return node if name is None else self._named.setdefault((len(history.steps), name), node)

    # Back up

    async def _learn(self, wave: Sequence[_Simulation]) -> None:
        """Score what was found, all at once, and back it up in the order of the simulations."""
        ends = [one.end for one in wave if one.end is not None]
        states: list[_Node] = []
        if self._settings.leaf != "rollout":
            new = (one.way[one.first_new].child for one in wave if one.first_new is not None)
            states = [node for node in dict.fromkeys(new) if node and node.score is None and not node.closed]
        scores = await self._search.score([*ends, *(self._search.trajectory(node.history) for node in states)])
        for node, score in zip(states, scores[len(ends) :], strict=True):
            node.score = score
        remaining = iter(scores)
        for one in wave:
            score = None
            if one.end is not None:
                score = next(remaining)
                self._search.keep(one.end, score)
                if one.node.history.stop_reason is not None:
                    one.node.score = score
                stop = self._settings.stop_score
                self._good_enough |= score is not None and stop is not None and score >= stop
            self._back_up(one, self._worth(one, score))

    def _worth(self, one: _Simulation, score: float | None) -> float | None:
        """Return what a simulation came to; None if nothing can be said of it."""
        if one.first_new is None:
            return None
        if one.end is None:
            score = one.node.value
        first = one.way[one.first_new].child
        if self._settings.leaf != "both" or first is None or first is one.node or score is None or first.score is None:
            return score
        return (score + first.score) / 2

    def _back_up(self, one: _Simulation, value: float | None) -> None:
        """Enter along its way what a simulation came to, and close what has been tried to the end."""
        one.node.closed |= one.node.complete and all(edge.closed for edge in one.node.edges)
        for place in reversed(range(len(one.way))):
            edge = one.way[place]
            node = edge.parent
            edge.waiting -= 1
            node.waiting -= 1
            if edge.closed and node.complete:
                node.closed = all(other.closed for other in node.edges)
            if value is None or one.first_new is None:
                continue
            # Source: ARMAP's released code discounts every step in the tree but one that ends the task, and a rollout
            # once as a whole.
            if place < one.first_new or (place == one.first_new and not edge.ends_task):
                value *= self._settings.discount
            self._low, self._high = min(self._low, value), max(self._high, value)
            edge.visits += 1
            edge.total += value
            edge.best = max(edge.best, value)
            node.visits += 1
            node.total += value

    def record(self) -> SearchTree:
        """Return the tree as a record, parents before children; what was proposed and never tried is left out."""
        numbers = {self._root: 0}
        edges: list[_Edge] = []
        waiting = [self._root]
        for node in waiting:
            for edge in node.edges:
                if edge.child is None and edge.broken is None:
                    continue
                edges.append(edge)
                if edge.child is not None and edge.child not in numbers:
                    numbers[edge.child] = len(edges)
                    waiting.append(edge.child)
        return SearchTree(
            parents=(-1, *(numbers[edge.parent] for edge in edges)),
            actions=("", *(edge.action.text for edge in edges)),
            priors=(1.0, *(round(edge.drawn / edge.parent.drawn, _DIGITS) for edge in edges)),
            visits=(self._root.visits, *(edge.visits for edge in edges)),
            values=(
                _rounded(self._root.value),
                *(_rounded(edge.total / edge.visits if edge.visits else None) for edge in edges),
            ),
            scores=(
                _rounded(self._root.score),
                *(_rounded(edge.child.score if edge.child else None) for edge in edges),
            ),
            failures={number: edge.broken for number, edge in enumerate(edges, 1) if edge.broken},
        )


def _add_proposals(node: _Node, proposed: Sequence[Action]) -> None:
    """Enter in a node what the policy proposed there, each action once."""
    edges = {edge.action.text: edge for edge in node.edges}
    for action in proposed:
        edge = edges.setdefault(action.text, _Edge(node, action))
        edge.drawn += 1
    node.first = node.first or next(iter(edges.values()))
    node.drawn += len(proposed)
    node.edges = sorted(edges.values(), key=lambda edge: -edge.drawn)


async def _together(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Do everything at the same time; a single thing without the detour of a task, which a free world would feel."""
    return [await work[0]] if len(work) == 1 else await asyncio.gather(*work)


def _rounded(number: float | None) -> float | None:
    return None if number is None else float(f"{number:.{_DIGITS}g}")
