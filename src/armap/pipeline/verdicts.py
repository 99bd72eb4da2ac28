"""Asks a language model which of two trajectories does what their task asks for, in both orders."""

from __future__ import annotations

from typing import NamedTuple

from armap.errors import LLMError
from armap.pipeline.writers import as_log
from armap.prompts import load_prompt
from armap.protocols import LLM
from armap.seeds import stable_hash
from armap.types import Message, SamplingParams, Trajectory, Usage

_LETTERS = ("A", "B")
_VERDICT_TOKENS = 4
"""Longest verdict, unless replies may be longer."""


class Verdict(NamedTuple):
    """What a judge says of two trajectories."""

    preferred: tuple[bool, bool]
    """Whether the first one was preferred: where it was shown first, and where it was shown second."""
    usage: Usage
    """What asking took."""


class PairJudge:
    """A language model that compares.

    Models prefer what they are shown first, or last, so each comparison is made in both orders; whoever asks decides
    what it means if they disagree. A verdict is one of the two letters, or the model's failure: none is guessed.

    Args:
        llm: the language model.
        seed: decides its draws.
        reply_tokens: longest reply, where that is more than a letter needs: a model that reasons thinks before.

    Source: ARMAP lets nobody check; both orders: Zheng et al., Judging LLM-as-a-judge, 2023.
    """

    def __init__(self, llm: LLM, *, seed: int, reply_tokens: int = 0) -> None:
        self.name = llm.name
        self._llm = llm
        self._seed = seed
        self._max_tokens = max(_VERDICT_TOKENS, reply_tokens)

    async def compare(self, first: Trajectory, second: Trajectory) -> Verdict:
        """Ask about two trajectories of one task.

        Raises:
            LLMError: the model gave no verdict; its usage is all that was spent.
        """
        straight, cost = await self._choose(first, second)
        try:
            turned, more = await self._choose(second, first)
        except LLMError as error:
            raise error.after(cost) from error
        return Verdict((straight == "A", turned == "B"), cost + more)

    async def _choose(self, a: Trajectory, b: Trajectory) -> tuple[str, Usage]:
        shown = "\n\n".join(
            f"Attempt {letter}:\n{as_log(trajectory)}" for letter, trajectory in zip(_LETTERS, (a, b), strict=True)
        )
        question = f"Task: {a.task.instruction}\n\n{shown}\n\nWhich attempt does what the task asks for, A or B?"
        messages = [
            Message(role="system", content=load_prompt("synthesize_judge")),
            Message(role="user", content=question),
        ]
        seed = stable_hash(self._seed, a.id, b.id) >> 16
        sampling = SamplingParams(temperature=0.0, max_tokens=self._max_tokens, seed=seed)
        (completion,) = await self._llm.generate(messages, n=1, sampling=sampling, choices=_LETTERS)
        return completion.text, completion.usage
