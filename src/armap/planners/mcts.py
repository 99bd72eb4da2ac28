"""Monte Carlo tree search over histories."""

from __future__ import annotations

import math
from collections.abc import Coroutine, Sequence
from random import Random
from typing import Any, Literal, Self, TypeVar

from pydantic import Field, model_validator

from armap.errors import RunError
from armap.planners.rollouts import FailedRollout, failed, proposals, said
from armap.planners.search import Search
from armap.planners.tree import Edge, Node, record
from armap.protocols import Policy, RewardModel, World
from armap.seeds import LateRandom
from armap.together import together
from armap.types import Action, History, Record, SearchBudget, SearchResult, Task

T = TypeVar("T")


class MCTS(Record):
    """Grows a tree of histories where the reward model found it worth while, and returns the best trajectory in it.

    A simulation goes down from the task's start by the best of value and curiosity until it comes to an action that
    was never tried there. From then on it follows the policy: to the end, where the reward model judges the trajectory,
    or one step, where it judges the state as it is. What it sees on the way stays in the tree, so no state is asked for
    actions twice. States reached by different orders of actions are one node where the environment can name its
    states, and what has been tried to the end is closed, so every simulation brings a new trajectory. Several
    simulations are under way at a time; each lowers the value of its way meanwhile (virtual loss), so that they part.

    Source: ARMAP, MCTS (`paper` gives the released constants); PUCT: Silver et al., 2017; progressive widening:
    Couëtoux et al., 2011; normalised values: Schrittwieser et al., 2020.
    """

    name: Literal["mcts"] = "mcts"
    """Name in records and reports."""
    num_simulations: int = Field(default=10, gt=0)
    """Simulations that try something, each at most one new trajectory."""
    proposals: int = Field(default=10, gt=0)
    """Actions drawn from the policy at a new state; their shares are the priors. Source: ARMAP."""
    selection: Literal["puct", "uct"] = "puct"
    """`puct` weighs curiosity by the prior and brings values to 0..1; `uct`, the paper's, does neither."""
    exploration: float = Field(default=1.0, ge=0)
    """Weight of curiosity."""
    backup: Literal["mean", "max", "open"] = "mean"
    """Whether a way is worth the mean or the best of what was found on it, or, for `leaf="value"` alone, the best state
    on it that can still be gone on from. `open` looks wide before it goes deep: it tries all open actions of a state
    before it goes on from any, and what was tried to the end attracts it no more."""
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

    @model_validator(mode="after")
    def _check_backup(self) -> Self:
        if self.backup == "open" and self.leaf != "value":
            raise ValueError("backup=open needs leaf=value: it compares what states are worth as they are")
        return self

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
        tree = _Growth(self, search, await world.start(task))
        await tree.grow()
        if not search.has_answer and len(search.candidates) < self.num_simulations:
            await tree.finish()
        return await search.best(tree=record(tree.root))


class _Simulation:
    """One simulation on its way.

    Attributes:
        node: the state it has come to.
        way: the actions that led there, and the one it is about to execute, if any.
        states: those at which they were chosen.
        first_new: place in the way of the first action that nobody had tried.
        over: whether it goes no further.
        end: where it ended, if that is an end of the task or a failure.
    """

    __slots__ = ("end", "first_new", "node", "over", "states", "way")

    def __init__(self, node: Node) -> None:
        self.node = node
        self.way: list[Edge] = []
        self.states: list[Node] = []
        self.first_new: int | None = None
        self.over = False
        self.end: History | FailedRollout | None = None


class _Growth:
    """The tree while it grows."""

    def __init__(self, settings: MCTS, search: Search, start: History) -> None:
        self._search = search
        self.root = Node(start)
        self._puct = settings.selection == "puct"
        self._by_best, self._by_open = settings.backup == "max", settings.backup == "open"
        # Read at every step, and a record answers more slowly.
        self._exploration, self._widening, self._discount = settings.exploration, settings.widening, settings.discount
        self._proposals, self._greedy_rollouts = settings.proposals, settings.greedy_rollouts
        self._leaf, self._stop_score = settings.leaf, settings.stop_score
        self._wave, self._num_simulations = settings.wave, settings.num_simulations
        self._named: dict[tuple[int, str], Node] = {}
        self._low, self._high = math.inf, -math.inf
        self._good_enough = False
        # Of a simulation that goes alone, which draws for one state at a time.
        self._rng = LateRandom()

    async def grow(self) -> None:
        """Run simulations until there are enough, the budget is spent or nothing is left to try."""
        left = self._num_simulations
        under_way: list[_Simulation] = []
        in_vain = False
        while True:
            free = min(left, self._wave) - len(under_way)
            # Where one found nothing to do, another would not either before the others have come further.
            sets_out = free > 0 and not (in_vain and under_way)
            if sets_out and not (self._good_enough or self.root.closed or self._search.spent()):
                room = self._search.room(len(under_way) + free) - len(under_way)
                under_way += [_Simulation(self.root) for _ in range(room)]
            if not under_way:
                return
            if len(under_way) == 1:
                await self._go_alone(under_way[0])
                back, under_way = under_way, []
            else:
                await self._go_on(under_way)
                back = [one for one in under_way if one.over]
                under_way = [one for one in under_way if not one.over]
            in_vain = False
            if back:
                # One that found its way closed tried nothing, and closed something: where it was, no other will go.
                tried = sum(one.end is not None or (one.first_new is not None and not one.node.closed) for one in back)
                await self._learn(back)
                in_vain = any(one.end is None and one.first_new is None and not one.node.closed for one in back)
                left -= tried
                if not (tried or under_way or any(one.node.closed for one in back)):
                    return  # Scores beyond all measure tell no way from another, and will not.

    async def finish(self) -> None:
        """Let the policy bring the most visited way to an end, where no simulation did."""
        node = self.root
        while tried := [edge for edge in node.edges if edge.child is not None and not edge.closed]:
            edge = max(tried, key=lambda edge: (edge.visits, edge.best))
            assert edge.child is not None
            node = edge.child
        drawn = await self._search.try_out(self._search.room(1), purpose=("finish",), start=node.history)
        for trajectory, score in zip(drawn, await self._search.score(drawn), strict=True):
            self._search.keep(trajectory, score)

    # Down

    async def _go_on(self, under_way: Sequence[_Simulation]) -> None:
        """Bring simulations further: those that can act, all together, or else all by a request.

        Nobody asks before everybody must, so that as many requests as possible are on their way at once. What comes of
        it is entered in their order, so that it does not matter whose answer comes first.
        """
        asking: list[_Simulation] = []
        acting: list[_Simulation] = []
        for one in under_way:
            if self._descend(one):
                acting.append(one)
            elif not one.over:
                asking.append(one)
        if acting:
            advance = self._search.world.advance
            outcomes = await together(_outcome(advance(one.node.history, one.way[-1].action)) for one in acting)
            for one, outcome in zip(acting, outcomes, strict=True):
                if isinstance(outcome, RunError):
                    self._break(one, outcome)
                else:
                    self._enter(one, outcome)
        elif len(asking) == len(under_way):
            await self._ask(asking)

    async def _go_alone(self, one: _Simulation) -> None:
        """Bring a simulation to its end, where no other is under way.

        It does what `_go_on` does, without the detours that several need and a free world would feel.
        """
        advance, may_ask = self._search.world.advance, self._search.may_ask
        while not one.over:
            if one.node.requests and self._descend(one):
                try:
                    self._enter(one, await advance(one.node.history, one.way[-1].action))
                except RunError as error:
                    self._break(one, error)
            elif not one.over and may_ask():
                try:
                    one.node.hear(await self._proposed(one.node, self._rng))
                except RunError as error:
                    self._fall_silent(one, error)
            else:
                one.over = True

    def _descend(self, one: _Simulation) -> bool:
        """Go down through what is known. True: to an action to execute. Otherwise to a state to ask about, or over."""
        node, several = one.node, self._wave > 1
        while not node.closed:
            if not node.requests:
                return False
            if node.untried and not node.visits and not node.waiting:
                # Where nobody was, the policy leads.
                edge = node.attempt(node.untried[0] if self._greedy_rollouts or node.first is None else node.first)
            elif (chosen := self._choose(node)) is not None:
                edge = chosen
            else:
                break
            if several:
                edge.waiting += 1
                node.waiting += 1
            one.way.append(edge)
            one.states.append(node)
            child = edge.child
            if child is None:
                if one.first_new is None:
                    one.first_new = len(one.way) - 1
                return True
            one.node = node = child
        # Where another one is about to try the last action, asking for more would be rash.
        one.over = node.closed or node.complete or any(edge.taken for edge in node.edges)
        return False

    def _choose(self, node: Node) -> Edge | None:
        """Return the action to try or to follow; None if there is none, for now or for good."""
        passed = node.visits + node.waiting
        curiosity = self._curiosity(node, passed)
        best, promise, num_open = self._most_promising(node, curiosity)
        widening = self._widening
        if not node.untried or (widening is not None and num_open >= widening * math.sqrt(passed + 1)):
            return best
        return node.attempt(node.untried[0]) if self._promise_of_untried(node, curiosity) >= promise else best

    def _curiosity(self, node: Node, passed: int) -> float:
        """Return what it is worth at a state to try something new: at once, or per proposal of it."""
        if self._puct:
            return self._exploration * math.sqrt(passed) / node.proposals
        return self._exploration * math.sqrt(math.log(passed + 1))

    def _most_promising(self, node: Node, curiosity: float) -> tuple[Edge | None, float, int]:
        """Return the tried action that promises most, how much that is, and how many are open.

        An action promises its value, and the more besides the less is known of it. A search in a free world does little
        else, so it is one pass without a call for each.
        """
        puct, by_best, by_open = self._puct, self._by_best, self._by_open
        # Values from 0 to 1; all the same are 0.5.
        low, span = (self._low, self._high - self._low) if self._low < self._high else (self._low - 0.5, 1.0)
        best, most, num_open = None, -math.inf, 0
        for edge in node.edges:
            child = edge.child
            if child is None:
                num_open += edge.taken
            elif not child.closed:
                num_open += 1
                visits = edge.visits
                seen = visits + edge.waiting
                promise = curiosity * (edge.drawn if puct else 1) / (1 + seen)
                if visits:
                    found = child.best_open if by_open else edge.best if by_best else edge.total / visits
                    # Simulations under way count as the worst there is.
                    promise += (found - low) * visits / (span * seen) if puct else found
                if promise > most:
                    best, most = edge, promise
        return best, most, num_open

    def _promise_of_untried(self, node: Node, curiosity: float) -> float:
        """Return how promising the next untried action at a state is."""
        if self._by_open:
            return math.inf
        if not self._puct:
            return curiosity
        span = self._high - self._low
        # Nothing is known of it: as good as what was tried beside it.
        usual = (node.total / node.visits - self._low) / span if node.visits and span > 0 else 0.5
        return usual + curiosity * node.drawn[node.untried[0].text]

    # There

    async def _ask(self, asking: Sequence[_Simulation]) -> None:
        """Let the policy propose actions at the states where simulations stand, as far as the budget allows."""
        there: dict[Node, _Simulation] = {}
        for one in asking:
            there.setdefault(one.node, one)
        # In the order of their beginnings, so that a server finds what it computed for the neighbour.
        nodes = sorted(there, key=lambda node: said(node.history)) if len(there) > 1 else [asking[0].node]
        nodes = [node for node in nodes if self._search.may_ask()]
        if len(nodes) < len(there):
            for one in asking:
                one.over = one.node not in nodes
            if not nodes:
                return
        answers = await together(_outcome(self._proposed(node, LateRandom())) for node in nodes)
        for node, answer in zip(nodes, answers, strict=True):
            if isinstance(answer, RunError):
                # One trajectory ended; whoever else stands here may know of another way.
                self._fall_silent(there[node], answer)
            else:
                node.hear(answer)

    def _fall_silent(self, one: _Simulation, error: RunError) -> None:
        """Enter in the tree that the policy failed where a simulation stands."""
        one.over, one.end = True, failed(one.node.history, error)
        one.node.hear([])

    def _proposed(self, node: Node, rng: LateRandom) -> Coroutine[Any, Any, list[Action]]:
        seed, requests, history = self._search.seed, node.requests, node.history
        rng.start_over(lambda: (seed, "propose", requests, *said(history)))
        return proposals(self._search.policy, history, n=self._proposals, rng=rng)

    def _enter(self, one: _Simulation, history: History) -> None:
        """Enter in the tree what an action led to."""
        node = Node(history)
        if node.closed:
            # Ends are all kept apart, since the reward model judges the way too.
            one.over, one.end = True, history
        elif (name := history.state_name) is not None:
            # Only in as many steps: a state that can be come back to would make the tree a circle.
            node = self._named.setdefault((len(history.steps), name), node)
        one.node = one.way[-1].child = node
        if self._leaf == "value":
            one.over = True

    def _break(self, one: _Simulation, error: RunError) -> None:
        """Enter in the tree that an action broke something."""
        one.over, one.end = True, failed(one.node.history, error)
        one.way[-1].broken = one.end.failure

    # Back up

    async def _learn(self, back: Sequence[_Simulation]) -> None:
        """Score what was found, all at once, and back it up in the order of the simulations."""
        ended = [one.end for one in back if one.end is not None]
        ends = [self._search.trajectory(state, place) for place, state in enumerate(ended)]
        states: list[Node] = []
        if self._leaf != "rollout":
            new = (one.way[one.first_new].child for one in back if one.first_new is not None)
            states = [node for node in dict.fromkeys(new) if node and node.score is None and not node.closed]
        scores = await self._search.score([*ends, *(self._search.trajectory(node.history) for node in states)])
        for node, score in zip(states, scores[len(ends) :], strict=True):
            node.score = score
        found = zip(ends, scores, strict=False)
        for one in back:
            score = None
            if one.end is not None:
                trajectory, score = next(found)
                self._search.keep(trajectory, score)
                if one.node.history.stop_reason is not None:
                    one.node.score = score
                stop = self._stop_score
                self._good_enough |= score is not None and stop is not None and score >= stop
            self._close(one)
            value = self._worth(one, score)
            if value is not None:
                self._back_up(one, value)

    def _worth(self, one: _Simulation, score: float | None) -> float | None:
        """Return what a simulation came to; None if nothing can be said of it."""
        if one.first_new is None:
            return None
        if one.end is None:
            score = one.node.value
        first = one.way[one.first_new].child
        if self._leaf != "both" or first is None or first is one.node or score is None or first.score is None:
            return score
        return (score + first.score) / 2

    def _close(self, one: _Simulation) -> None:
        """Close what has been tried to the end on the way of a simulation, which is no longer under way."""
        if self._wave > 1:
            for edge, node in zip(one.way, one.states, strict=True):
                edge.waiting -= 1
                node.waiting -= 1
        one.node.close_if_done()
        closed = bool(one.way) and one.way[-1].closed
        if self._by_open:
            one.node.look_for_open()
        for node in reversed(one.states):
            if closed:
                node.close_if_done()
                closed = node.closed
            if self._by_open:
                node.look_for_open()
            elif not closed:
                return

    def _back_up(self, one: _Simulation, value: float) -> None:
        """Enter along its way what a simulation came to that tried something new."""
        assert one.first_new is not None
        low, high, first_new, discount = self._low, self._high, one.first_new, self._discount
        place = len(one.way)
        for edge, node in zip(reversed(one.way), reversed(one.states), strict=True):
            place -= 1
            # Source: ARMAP's released code discounts every step in the tree but one that ends the task, and a rollout
            # once as a whole.
            if place < first_new or (place == first_new and not edge.ends_task):
                value *= discount
            if value < low:
                low = value
            if value > high:
                high = value
            if value > edge.best:
                edge.best = value
            edge.visits += 1
            edge.total += value
            node.visits += 1
            node.total += value
        self._low, self._high = low, high


async def _outcome(work: Coroutine[Any, Any, T]) -> T | RunError:
    """Return what comes of something, or what went wrong with it."""
    try:
        return await work
    except RunError as error:
        return error
