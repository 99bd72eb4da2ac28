"""Never buys the same answer twice: a language model whose answers are kept in the ledger of a run."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Sequence

from armap.errors import LLMError, UnavailableError
from armap.protocols import LLM
from armap.store import Ledger
from armap.types import Completion, Message, SamplingParams


class CachedLLM:
    """Answers from the ledger what was bought before, and buys the rest within the budget.

    A request is identified by model, messages, sampling and choices, but not by how many answers it wants. Answers
    are kept by index, so `n` answers stay `n` different ones: asking again gives the same, asking for fewer gives the
    first of them, asking for more buys only the missing ones, from another seed, so that a planner may find other
    answers in a run where something else has asked before. Equal requests made at the same time share one
    purchase, and its failure. What a failed or cancelled request has cost is kept too, with those of its answers that
    can be gone on with as if it had never been cut off. An answer from the ledger carries what it cost when it was
    bought, so that a result does not depend on whether its run was interrupted; `Ledger.spent` counts every purchase
    once.

    Args:
        llm: the language model to buy from.
        ledger: what was bought, and what may be spent.
    """

    def __init__(self, llm: LLM, ledger: Ledger) -> None:
        self._llm = llm
        self._ledger = ledger

    @property
    def name(self) -> str:
        """Name of the language model behind."""
        return self._llm.name

    async def generate(
        self,
        messages: Sequence[Message],
        *,
        n: int,
        sampling: SamplingParams,
        choices: Sequence[str] | None = None,
    ) -> list[Completion]:
        """Draw exactly `n` answers, see `LLM.generate`.

        Raises:
            LLMError: the model failed or gave another number of answers.
            UnavailableError: no request to the model can succeed.
            BudgetError: the run may not spend more.
        """
        key = _request_key(self._llm.name, messages, sampling, choices)
        if len(self._ledger.stored(key)) < n:
            await self._ledger.settled(key)
        stored = self._ledger.stored(key)
        if len(stored) >= n:
            self._ledger.avoided_calls += 1
            return stored[:n]
        missing = n - len(stored)
        with self._ledger.reserve(key):
            started = time.monotonic()
            first = self._ledger.began(key)
            try:
                bought = await self._llm.generate(
                    messages, n=missing, sampling=_sampling_from(sampling, first, len(stored)), choices=choices
                )
            except (LLMError, asyncio.CancelledError) as error:
                failure = error if isinstance(error, LLMError) else error.__cause__
                if isinstance(failure, LLMError) and failure.usage.calls:
                    self._ledger.record(key, failure.answers, time.monotonic() - started, usage=failure.usage)
                if isinstance(error, LLMError) and error.unavailable:
                    raise UnavailableError(f"{error} Start again to go on from here.") from error
                raise
            if len(bought) != missing:
                raise LLMError(
                    f"{self.name} was asked for {missing} answers and gave {len(bought)}; try another model."
                )
            return stored + self._ledger.record(key, bought, time.monotonic() - started)


def _request_key(
    model: str, messages: Sequence[Message], sampling: SamplingParams, choices: Sequence[str] | None
) -> str:
    request = {
        "model": model,
        "messages": [{"role": message.role, "content": message.content} for message in messages],
        "sampling": sampling.model_dump(),
        "choices": None if choices is None else list(choices),
    }
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


def _sampling_from(sampling: SamplingParams, first_index: int, index: int) -> SamplingParams:
    """Give later answers a seed of their own, or the model would repeat the first ones.

    Args:
        sampling: how all of them are drawn.
        first_index: the first answer of the request that is made, or gone on with.
        index: the first answer that it has yet to give: those that come one at a time have a seed more each.
    """
    seed = sampling.seed
    if seed is None:
        return sampling
    if first_index:
        digest = hashlib.sha256(f"{seed}:{first_index}".encode()).digest()
        # 31 bits: servers differ in whether a seed may be negative or long.
        seed = int.from_bytes(digest[:4], "big") >> 1
    return sampling.model_copy(update={"seed": seed + index - first_index})
