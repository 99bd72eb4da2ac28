"""Beam search: step by step, with the states the reward model likes best."""

from __future__ import annotations

from itertools import chain
from random import Random
from typing import Literal

from pydantic import Field

from armap.errors import RunError
from armap.planners.rollouts import FailedRollout, advance, failed, proposals, said
from armap.planners.search import Search
from armap.protocols import Policy, RewardModel, World
from armap.seeds import rng_for
from armap.together import together
from armap.types import History, Record, SearchBudget, SearchResult, Task


class Beam(Record):
    """Goes on from the best few states at a time, judged by the reward model as they are.

    Every state in the beam is asked for several actions; what they lead to is scored, ends become candidates, and the
    best of the rest are the next beam. States that the environment calls the same are gone on from once.
    """

    name: Literal["beam"] = "beam"
    """Name in records and reports."""
    width: int = Field(default=5, gt=0)
    """States gone on from at a time."""
    proposals: int = Field(default=5, gt=0)
    """Actions drawn from the policy at each."""
    budget: SearchBudget = SearchBudget()
    """What one search may spend."""

    async def plan(
        self, task: Task, world: World, policy: Policy, reward_model: RewardModel, rng: Random
    ) -> SearchResult:
        """Search for `task`; see `armap.protocols.Planner`."""
        search = Search(self.name, task, world, policy, reward_model, rng, self.budget)
        beam, best = [await world.start(task)], None
        while beam and search.room(1):
            best = beam[0]
            ends, beam = await self._advance(search, beam)
            ends = ends[: search.room(len(ends))]
            judged = [*map(search.trajectory, ends), *map(search.trajectory, beam)]
            scores = await search.score(judged)
            for trajectory, score in zip(judged[: len(ends)], scores, strict=False):
                search.keep(trajectory, score)
            scored = [pair for pair in zip(beam, scores[len(ends) :], strict=True) if pair[1] is not None]
            beam = [state for state, _ in sorted(scored, key=_by_score)[: self.width]]
        if best is not None and not search.has_answer:
            # The budget ended it halfway: the policy brings the best state to an end, as far as it may.
            drawn = await search.try_out(search.room(1), purpose=("finish",), start=best)
            for trajectory, score in zip(drawn, await search.score(drawn), strict=True):
                search.keep(trajectory, score)
        return await search.best()

    async def _advance(
        self, search: Search, beam: list[History]
    ) -> tuple[list[History | FailedRollout], list[History]]:
        """Return what the policy's actions lead to from the states of a beam: ends, and states that go on."""
        allowed = [state for state in beam if search.may_ask()]
        expanded = await together(self._expand(search, state) for state in allowed)
        ends: list[History | FailedRollout] = []
        going_on: dict[object, History] = {}
        for state in chain.from_iterable(expanded):
            if isinstance(state, FailedRollout) or state.stop_reason is not None:
                ends.append(state)
            else:
                going_on.setdefault(state.state_name or state.actions, state)
        return ends, list(going_on.values())

    async def _expand(self, search: Search, state: History) -> list[History | FailedRollout]:
        try:
            rng = rng_for(search.seed, "propose", *said(state))
            actions = await proposals(search.policy, state, n=self.proposals, rng=rng)
        except RunError as error:
            return [failed(state, error)]
        distinct = {action.text: action for action in actions}.values()
        return await together(advance(state, action, search.world) for action in distinct)


def _by_score(entry: tuple[History, float | None]) -> float:
    score = entry[1]
    assert score is not None
    return -score
