"""A language model that is asked for a score: the reward model one has without training one."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from armap.errors import LLMError, RewardModelError
from armap.prompts import load_prompt
from armap.protocols import LLM
from armap.rewards.rendering import render
from armap.seeds import stable_hash
from armap.together import together
from armap.types import Message, SamplingParams, Trajectory

_GRADES = tuple(map(str, range(11)))
_GRADE_TOKENS = 4
"""Longest answer, unless replies may be longer."""
_ANSWERS = 4
"""Grades drawn for a trajectory, whose mean is its score: one alone leaves many trajectories equal."""


class PromptedRewardModel:
    """Asks a language model how far a task was done, from 0 to 10, a few times, and takes the mean for the score.

    Args:
        llm: the language model.
        seed: decides its draws.
        reply_tokens: longest reply, where that is more than a grade needs: a model that reasons thinks before.

    Source: ARMAP, language model as reward model, an ablation; the wording and the grades are ours.
    """

    def __init__(self, llm: LLM, *, seed: int = 0, reply_tokens: int = 0) -> None:
        self.name = f"prompted {llm.name}"
        self._llm = llm
        self._seed = seed
        self._max_tokens = max(_GRADE_TOKENS, reply_tokens)

    async def score(self, trajectories: Sequence[Trajectory]) -> list[float]:
        """Return one score per trajectory from 0 to 1; see `armap.protocols.RewardModel.score`.

        Raises:
            RewardModelError: the model gave no grade.
        """
        return await together(map(self._score, trajectories))

    def probability(self, score: float) -> float:
        """Return the score, which is a share already; see `armap.protocols.CalibratedRewardModel`."""
        return score

    async def _score(self, trajectory: Trajectory) -> float:
        shown = render(trajectory)
        messages = [
            Message(role="system", content=load_prompt("score_trajectory")),
            Message(role="user", content=f"{shown}\n\nHow far, from 0 to 10?"),
        ]
        sampling = SamplingParams(max_tokens=self._max_tokens, seed=stable_hash(self._seed, shown) >> 16)
        try:
            answers = await self._llm.generate(messages, n=_ANSWERS, sampling=sampling, choices=_GRADES)
        except LLMError as error:
            raise RewardModelError(f"{self.name} gave trajectory {trajectory.id!r} no grade: {error}") from error
        return fmean(int(answer.text) for answer in answers) / (len(_GRADES) - 1)
