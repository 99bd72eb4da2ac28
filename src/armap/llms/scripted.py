"""A language model that is a function: for tests, demonstrations and debugging, without a model or a server."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from random import Random
from typing import Self

from armap.errors import LLMError
from armap.seeds import rng_for
from armap.types import Completion, Message, SamplingParams, Usage

Reply = Callable[[Sequence[Message], Random], str]
"""Answers a conversation; whatever it draws at random comes from the generator it is given."""


class ScriptedLLM:
    """Answers with a function of the request: the same name, messages, seed and sample index give the same answer.

    Of the sampling parameters only the seed has an effect. One word counts as one token.

    Args:
        reply: called once per answer. Without it only requests that offer choices can be answered, by a uniform draw.
        name: recorded with every answer; two models of different names draw differently.
    """

    def __init__(self, reply: Reply | None = None, *, name: str = "scripted") -> None:
        self.name = name
        self._reply = reply

    @classmethod
    def replaying(cls, replies: Sequence[str], *, name: str = "replay") -> Self:
        """Return a model that gives recorded replies in their order, whatever it is asked, and then raises LLMError."""
        remaining = iter(replies)

        def reply(messages: Sequence[Message], rng: Random) -> str:
            text = next(remaining, None)
            if text is None:
                raise LLMError(f"{name} has given all of its {len(replies)} recorded replies; record more or ask less.")
            return text

        return cls(reply, name=name)

    async def generate(
        self,
        messages: Sequence[Message],
        *,
        n: int,
        sampling: SamplingParams,
        choices: Sequence[str] | None = None,
    ) -> list[Completion]:
        """Draw exactly `n` answers; see `protocols.LLM`.

        Raises:
            LLMError: a reply is none of the offered choices, or there is nothing to answer with.
        """
        conversation = [(message.role, message.content) for message in messages]
        rngs = (rng_for(self.name, conversation, sampling.seed, index) for index in range(n))
        texts = [self._answer(messages, choices, rng) for rng in rngs]
        usage = Usage(
            calls=1,
            prompt_tokens=sum(len(content.split()) for _, content in conversation),
            completion_tokens=sum(len(text.split()) for text in texts),
        )
        entropy = math.log(len(choices)) if choices and self._reply is None else None
        return [
            Completion(text=text, usage=Usage() if index else usage, choice_entropy_nats=entropy)
            for index, text in enumerate(texts)
        ]

    def _answer(self, messages: Sequence[Message], choices: Sequence[str] | None, rng: Random) -> str:
        if self._reply is None:
            if not choices:
                raise LLMError(f"{self.name} has no reply function, so it can only answer requests that offer choices.")
            return rng.choice(choices)
        text = self._reply(messages, rng)
        if choices is not None and text not in choices:
            raise LLMError(f"{self.name} replied {text[:80]!r}, which is none of the {len(choices)} offered choices.")
        return text
