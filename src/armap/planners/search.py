"""What the planners that decide while they act share: candidates, scores and one budget."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from itertools import chain
from random import Random

from armap.errors import ConfigError, RewardModelError
from armap.planners.rollouts import FailedRollout, as_trajectory, rollouts
from armap.protocols import Policy, RewardModel, World
from armap.seeds import rng_for
from armap.together import together
from armap.types import (
    Action,
    Candidate,
    Failure,
    History,
    SearchBudget,
    SearchResult,
    SearchTree,
    Task,
    Trajectory,
    Usage,
)

_AT_ONCE = 8
"""Rollouts under way at a time where a budget may end them: with more of them, none might come to its end."""


class Search:
    """One search for one task.

    A planner asks `may_ask` before every request to the policy and `room` before every trajectory, and when either
    says no it stops and returns `result`, which then holds the best answer so far.

    Args:
        planner: name of the planner, for the record.
        task: the problem.
        world: where it is tried.
        policy: who acts; used for this search only, so that what it spends is what the search spends. Where tokens or
            money are limited, a proposal raises ConfigError if it is not known how many tokens it took.
        reward_model: who scores.
        rng: decides every draw.
        budget: what may be spent.

    Attributes:
        seed: decides every draw, together with what is drawn.
        candidates: the trajectories found until now.
        setbacks: what went wrong and ended no trajectory.
        merged_proposals: see `armap.types.SearchResult`.
    """

    def __init__(
        self,
        planner: str,
        task: Task,
        world: World,
        policy: Policy,
        reward_model: RewardModel,
        rng: Random,
        budget: SearchBudget,
    ) -> None:
        self.task = task
        self.world = world
        goes_by_tokens = budget.max_tokens is not None or budget.max_cost_usd is not None
        self.policy = _Counted(policy) if goes_by_tokens else policy
        self.seed = rng.getrandbits(48)
        self.candidates: list[Candidate] = []
        self.setbacks: list[Failure] = []
        self.merged_proposals = 0
        self._planner = planner
        self._reward_model = reward_model
        self._budget = budget
        self._is_limited = bool(budget.model_dump(exclude={"max_trajectories"}, exclude_none=True))
        self._started = time.monotonic()
        self._asked = 0
        self._unfinished: Trajectory | None = None

    @property
    def has_answer(self) -> bool:
        """Whether a candidate has a score, so that the search can end."""
        return any(candidate.score is not None for candidate in self.candidates)

    def spent(self) -> bool:
        """Say whether the budget allows no further request to the policy."""
        if not self._is_limited:
            return False
        budget, used = self._budget, self.policy.usage
        # A request that is under way, or failed, is one that was made.
        return any(
            limit is not None and amount >= limit
            for limit, amount in (
                (budget.max_calls, max(self._asked, used.calls)),
                (budget.max_tokens, used.tokens),
                (budget.max_cost_usd, used.cost_usd),
                (budget.max_seconds, time.monotonic() - self._started),
            )
        )

    def may_ask(self) -> bool:
        """Say whether one more request to the policy is within the budget, and count it if it is."""
        if self._is_limited and self.spent():
            return False
        self._asked += 1
        return True

    def room(self, wanted: int) -> int:
        """Return how many of `wanted` further trajectories the budget has room for."""
        limit = self._budget.max_trajectories
        return wanted if limit is None else max(0, min(wanted, limit - len(self.candidates)))

    async def try_out(
        self,
        n: int,
        *,
        purpose: Sequence[str | int],
        start: History | None = None,
        greedy: bool = False,
        reflections: Sequence[str] = (),
    ) -> list[Trajectory]:
        """Draw up to `n` whole trajectories, as far as the budget goes.

        Args:
            n: how many.
            purpose: what they are for; other purposes draw other trajectories.
            start: where to go on from; the beginning of the task if None.
            greedy: take the most likely action at each step.
            reflections: what the policy made of earlier attempts.
        """
        drawn = await rollouts(
            self.task,
            self.world,
            self.policy,
            n=n,
            rng=rng_for(self.seed, *purpose),
            greedy=greedy,
            start=start,
            reflections=reflections,
            may_ask=self.may_ask,
            at_once=_AT_ONCE if self._is_limited else None,
        )
        self.merged_proposals += drawn.merged_proposals
        whole = [drawn.trajectories[i] for i in range(n) if i not in drawn.unfinished]
        if drawn.unfinished and self._unfinished is None:
            self._unfinished = drawn.trajectories[min(drawn.unfinished)]
        return whole

    def keep(self, trajectory: Trajectory, score: float | None) -> int:
        """Make a trajectory a candidate and return its place among them."""
        name = self._name(0)
        if trajectory.id != name:
            trajectory = trajectory.model_copy(update={"id": name})
        self.candidates.append(Candidate(trajectory=trajectory, score=score))
        return len(self.candidates) - 1

    async def score(self, trajectories: Sequence[Trajectory]) -> list[float | None]:
        """Return what the reward model says of each, all asked at once.

        None of those that failed, and of those that it has no score for, which is a setback.
        """
        whole = [i for i, trajectory in enumerate(trajectories) if trajectory.failure is None]
        scores: list[float | None] = [None] * len(trajectories)
        if whole:
            for i, score in zip(whole, await self._scores([trajectories[i] for i in whole]), strict=True):
                scores[i] = score
        return scores

    async def _scores(self, trajectories: Sequence[Trajectory]) -> Sequence[float | None]:
        try:
            said = await self._reward_model.score(trajectories)
            if len(said) != len(trajectories):
                raise RewardModelError(f"The reward model gave {len(said)} scores to {len(trajectories)} trajectories.")
            if not all(map(math.isfinite, said)):
                raise RewardModelError(f"The reward model gave a score that is no finite number, in {said}.")
        except RewardModelError as error:
            if len(trajectories) > 1:
                # One that cannot be scored keeps none of the others from it.
                alone = await together(self._scores([trajectory]) for trajectory in trajectories)
                return [*chain.from_iterable(alone)]
            self.setbacks.append(Failure(kind=type(error).__name__, message=str(error)))
            return [None]
        return said

    def trajectory(self, state: History | FailedRollout, ahead: int = 0) -> Trajectory:
        """Return what has been done so far as a trajectory; one that could go on counts as truncated.

        Args:
            state: where it is.
            ahead: how many will be kept before it, if it is kept.
        """
        return as_trajectory(self._name(ahead), state)

    def _name(self, ahead: int) -> str:
        return f"{self.task.id}#{len(self.candidates) + ahead}"

    def first(self) -> SearchResult:
        """Return what was found, with the first candidate as the answer; asks no reward model."""
        if not self.candidates and self._unfinished:
            self.keep(self._unfinished, None)
        whole = bool(self.candidates) and self.candidates[0].trajectory.failure is None
        return self._result(0 if whole else None, None)

    async def best(self, *, answer: int | None = None, tree: SearchTree | None = None) -> SearchResult:
        """Return what was found.

        Args:
            answer: place of the candidate to return; the one with the highest score, the first of equals, if None.
            tree: the tree that was grown.
        """
        if self._unfinished and all(candidate.trajectory.failure for candidate in self.candidates):
            # Nothing is whole: what the budget cut off is better than nothing.
            (score,) = await self.score([self._unfinished])
            self.keep(self._unfinished, score)
        scores = {i: candidate.score for i, candidate in enumerate(self.candidates) if candidate.score is not None}
        if answer is None:
            answer = max(scores, key=lambda i: (scores[i], -i), default=None)
        return self._result(answer, tree)

    def _result(self, answer: int | None, tree: SearchTree | None) -> SearchResult:
        failures = (candidate.trajectory.failure for candidate in self.candidates)
        # What is whole and yet no answer has no score.
        reasons = chain(filter(None, failures), self.setbacks)
        return SearchResult(
            task=self.task,
            planner=self._planner,
            candidates=tuple(self.candidates),
            answer=answer,
            merged_proposals=self.merged_proposals,
            tree=tree,
            setbacks=tuple(self.setbacks),
            failure=None if answer is not None else next(reasons),
        )


class _Counted:
    """A policy that must count the tokens of what it proposes."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    @property
    def usage(self) -> Usage:
        return self._policy.usage

    async def propose(
        self, history: History, *, n: int, rng: Random, greedy: bool = False, reflections: Sequence[str] = ()
    ) -> list[Action]:
        actions = await self._policy.propose(history, n=n, rng=rng, greedy=greedy, reflections=reflections)
        # Looked at only where something was proposed: a reply that is no answer may lack its count as well.
        if self.usage.calls and not self.usage.tokens:
            raise ConfigError(
                "Nobody says how many tokens the policy takes, so a limit on the tokens or the money of a task could "
                "never stop it; limit its calls instead."
            )
        return actions

    async def reflect(self, trajectory: Trajectory, *, rng: Random, reflections: Sequence[str] = ()) -> str:
        return await self._policy.reflect(trajectory, rng=rng, reflections=reflections)
