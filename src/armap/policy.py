"""Turns a language model into a policy: prompt, model, parser, actions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random

from armap.errors import LLMError, PolicyError
from armap.prompts import load_prompt
from armap.protocols import LLM
from armap.thoughts import CUT_SHORT, without_thought
from armap.types import Action, Completion, History, Message, SamplingParams, Trajectory, Usage

_MARKER = re.compile(r"^[ \t>*#-]*action[ \t*]*:[ \t*]*", re.IGNORECASE | re.MULTILINE)
_THOUGHT = re.compile(r"^[\s>*#-]*thought[ \t*]*:[ \t*]*", re.IGNORECASE)
_FENCE = re.compile(r"[ \t]*```\w*[ \t]*")
_BULLET = re.compile(r"^[ \t]*[->•][ \t]+")
_STRICT = re.compile(r"(?:Thought: (?P<thought>.*)\n)?Action: (?P<action>[^\n]+)\n?", re.DOTALL)
_WRAPPING = " \t`'\"*"
_REFLECTION_TOKENS = 150
"""Longest reflection, unless actions may be longer. Source: ARMAP's released code."""


class PromptedPolicy:
    """A policy that asks a language model.

    Where an observation lists the legal actions, the model chooses among them, but for those that it took before when
    it saw the same: a small model would go round in circles. Where none are listed, or with `choose=False`, the model
    writes freely and its reply is parsed.

    Args:
        llm: the language model.
        rules: what an action is, in words.
        examples: trajectories to show before the task.
        sampling: how to draw; the seed is replaced by one from the planner's generator.
        choose: let the model choose where the legal actions are listed.
        strict: accept nothing but `Action: ...`, with `Thought: ...` before it or not. Otherwise the text after the
            last `Action:`, or else the first line, is the action.
        recall_chars: how much of each observation but the last the model is shown, in characters; None for all. What
            was seen pages ago matters little, and a small model's context is soon full.

    Attributes:
        usage: what this policy has asked for has cost until now, in vain or not.
    """

    def __init__(
        self,
        llm: LLM,
        *,
        rules: str,
        examples: Sequence[Trajectory] = (),
        sampling: SamplingParams,
        choose: bool = True,
        strict: bool = False,
        recall_chars: int | None = None,
    ) -> None:
        self.usage = Usage()
        self._recall_chars = recall_chars
        self._llm = llm
        self._choose = choose
        self._strict = strict
        self._sampling = sampling
        system = rules.strip() + ("\n" + load_prompt("act_strict_format") if strict else "")
        self._opening = [Message(role="system", content=system)]
        for example in examples:
            self._opening += self._turns(
                History(task=example.task, steps=example.steps, observation=example.final_observation)
            )[:-1]

    async def propose(
        self, history: History, *, n: int, rng: Random, greedy: bool = False, reflections: Sequence[str] = ()
    ) -> list[Action]:
        """Draw up to `n` actions; see `armap.protocols.Policy.propose`."""
        temperature = 0.0 if greedy else self._sampling.temperature
        sampling = self._sampling.model_copy(update={"seed": rng.getrandbits(48), "temperature": temperature})
        choices = _untried(history) if self._choose else None
        messages = [*self._opening, *self._turns(history, reflections)]
        completions = await self._ask(messages, n=n, sampling=sampling, choices=choices)
        if choices is not None:
            return [Action(text=completion.text) for completion in completions]
        legal = history.observation.actions or ()
        parsed = [
            parse_action(completion.text, strict=self._strict, legal=legal, cut=self._may_be_thought(completion))
            for completion in completions
        ]
        actions = [action for action in parsed if action is not None]
        if not actions:
            first = completions[0]
            is_thought = without_thought(first.text, cut=self._may_be_thought(first)) is None
            raise PolicyError(
                f"none of {n} replies to task {history.task.id!r} could be read as an action; "
                f"the first was {CUT_SHORT if is_thought else repr(first.text[:80])}"
            )
        return actions

    async def reflect(self, trajectory: Trajectory, *, rng: Random, reflections: Sequence[str] = ()) -> str:
        """Ask the model what to do otherwise; see `armap.protocols.Policy.reflect`.

        Source: Reflexion (Shinn et al., 2023), verbal self-reflection; the wording is ours.
        """
        history = History(task=trajectory.task, steps=trajectory.steps, observation=trajectory.final_observation)
        turns = self._turns(history, reflections)
        turns[-1] = Message(role="user", content=f"{turns[-1].content}\n\n{load_prompt('plan_reflect')}")
        longest = max(_REFLECTION_TOKENS, self._sampling.max_tokens)
        sampling = self._sampling.model_copy(update={"seed": rng.getrandbits(48), "max_tokens": longest, "stop": ()})
        # After all that it was asked with when it acted, which a server's prompt cache then knows.
        (completion,) = await self._ask([*self._opening, *turns], n=1, sampling=sampling)
        said = without_thought(completion.text, cut=self._may_be_thought(completion))
        if said is None:
            raise LLMError(f"the reflection on task {trajectory.task.id!r} was {CUT_SHORT}", cut=True)
        return " ".join(said.split())

    def _may_be_thought(self, completion: Completion) -> bool:
        """Say whether the model had room to think, and might have been at it when it was cut short."""
        return completion.cut and self._sampling.max_tokens > _REFLECTION_TOKENS

    async def _ask(
        self,
        messages: Sequence[Message],
        *,
        n: int,
        sampling: SamplingParams,
        choices: Sequence[str] | None = None,
    ) -> list[Completion]:
        """Ask the model, and count what that costs even if it gives no usable answer."""
        try:
            completions = await self._llm.generate(messages, n=n, sampling=sampling, choices=choices)
        except LLMError as error:
            self.usage += error.usage
            raise
        self.usage = sum((completion.usage for completion in completions), self.usage)
        return completions

    def _turns(self, history: History, reflections: Sequence[str] = ()) -> list[Message]:
        """Return a history as a conversation: observations are the user's turns, actions the assistant's."""
        turns: list[Message] = []
        for step in history.steps:
            turns.append(Message(role="user", content=self._recalled(step.observation.text)))
            turns.append(Message(role="assistant", content=self._said(step.action)))
        turns.append(Message(role="user", content=history.observation.text))
        remembered = "".join(f"\nFrom an earlier attempt: {reflection}" for reflection in reflections)
        turns[0] = Message(role="user", content=f"{history.task.instruction}{remembered}\n{turns[0].content}")
        return turns

    def _recalled(self, text: str) -> str:
        if self._recall_chars is None or len(text) <= self._recall_chars:
            return text
        return f"{text[: self._recall_chars]} ..."

    def _said(self, action: Action) -> str:
        if not self._strict:
            return action.text
        thought = f"Thought: {action.thought}\n" if action.thought else ""
        return f"{thought}Action: {action.text}"


def _untried(history: History) -> Sequence[str] | None:
    """Return the legal actions that were not taken before when the same was seen, or all if all were.

    None if none are listed: nothing to choose from is no choice.
    """
    seen, legal = history.observation.text, history.observation.actions
    tried = {step.action.text for step in history.steps if step.observation.text == seen}
    return tuple(action for action in legal or () if action not in tried) or legal or None


def parse_action(reply: str, *, strict: bool, legal: Sequence[str] = (), cut: bool = False) -> Action | None:
    """Read an action out of a language model's reply.

    What a model that reasons thought before it replied is left out. It is long and never twice the same: whoever shows
    thoughts would show it at every later step, and states that differ in nothing else would be different ones.

    Args:
        reply: what the model wrote.
        strict: see `PromptedPolicy`.
        legal: the legal actions, if they are known: a reply that differs from one of them in letter case or spacing
            only is taken to be it.
        cut: see `armap.thoughts.without_thought`.

    Returns:
        The action, or None if there is none.
    """
    said = without_thought(reply, cut=cut)
    if said is None:
        return None
    if strict:
        match = _STRICT.fullmatch(said)
        if not match or not match["action"].strip():
            return None
        return Action(text=match["action"].strip(), thought=match["thought"] or "")
    markers = list(_MARKER.finditer(said))
    thought = said[: markers[-1].start()] if markers else ""
    rest = said[markers[-1].end() :] if markers else said
    lines = (line for line in rest.splitlines() if not _FENCE.fullmatch(line))
    line, text = next(((line, text) for line in lines if (text := _unwrapped(_BULLET.sub("", line)))), ("", ""))
    if not text:
        return None
    # What looks like wrapping may be a part of an action.
    if line.strip() in legal:
        text = line.strip()
    elif text not in legal:
        squeezed = {_squeezed(action): action for action in legal}
        text = squeezed.get(_squeezed(line), squeezed.get(_squeezed(text), text))
    return Action(text=text, thought=_THOUGHT.sub("", thought).strip())


def _unwrapped(text: str) -> str:
    # Twice, for there is more white space in Unicode than in _WRAPPING, outside quotes as inside.
    return text.strip().strip(_WRAPPING).strip()


def _squeezed(text: str) -> str:
    return "".join(text.split()).casefold()
