"""A trajectory as a conversation, the form in which servers of reward models take it, and back.

The first message is the task. Then what the agent saw (role `user`) and what it did (role `assistant`) take turns, and
what it saw at the end comes last. A trajectory that went there and back is rendered, shortened and scored as before.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import sha256
from typing import NamedTuple

from armap.types import Action, ImageRef, Observation, Step, Task, Trajectory

REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")
"""Where a message has what the assistant reasoned beside its content, in the words of servers and of chat templates."""

_THOUGHT, _ACTION = "Thought: ", "Action: "
# A thought may begin with anything, a line that looks like an action included.
_SAID = re.compile(f"(?:{_THOUGHT}(?P<thought>.+?)\n|{_THOUGHT}\n)?{_ACTION}(?P<action>.*)", re.DOTALL)


class Turn(NamedTuple):
    """One message of a conversation."""

    role: str
    """`assistant` for what the agent did; any other role is the world speaking."""
    texts: tuple[str, ...]
    """What it says, in lines or blocks of lines."""
    images: tuple[ImageRef, ...] = ()
    """What it shows."""


def as_turns(trajectory: Trajectory) -> list[Turn]:
    """Return a trajectory as a conversation, from which `as_trajectory` makes it again."""
    turns = [Turn("system", (trajectory.task.instruction,))]
    for step in trajectory.steps:
        turns += [_seen(step.observation), Turn("assistant", _said(step.action))]
    return [*turns, _seen(trajectory.final_observation)]


def as_trajectory(turns: Sequence[Turn], *, name: str = "conversation") -> Trajectory:
    """Return the trajectory that a conversation tells of.

    The first message is the task, whoever says it but the assistant; a picture that it shows is what is seen first.
    What stands between two of the assistant's messages is one observation, empty if nothing does. What the assistant
    says is an action, with a thought before it if it is written `Thought: ...`, line break, `Action: ...`.

    Args:
        turns: the messages, at least one.
        name: id of the trajectory.

    Raises:
        ValueError: it shows pictures where a trajectory has none, or more than it has.
    """
    rest = list(turns)
    first = rest.pop(0) if rest[0].role != "assistant" else Turn("system", ())
    instruction = "\n".join(first.texts)
    steps: list[Step] = []
    seen = [first._replace(texts=())]
    for turn in rest:
        if turn.role != "assistant":
            seen.append(turn)
            continue
        if turn.images:
            raise ValueError("the assistant's messages are actions, which have no pictures")
        steps.append(Step(observation=_observation(seen), action=_action(turn.texts)))
        seen = []
    identity = sha256(instruction.encode()).hexdigest()[:16]
    return Trajectory(
        id=name,
        task=Task(id=identity, env="conversation", instruction=instruction),
        steps=tuple(steps),
        final_observation=_observation(seen),
        stop_reason="terminated",
    )


def with_reasoning(reasoning: str, texts: Sequence[str]) -> tuple[str, ...]:
    """Return the texts of what the assistant says, with what it reasoned before as their thought, or its beginning."""
    action = _action(texts)
    thought = "\n".join(part for part in (reasoning, action.thought) if part)
    return _said(Action(thought=thought, text=action.text))


def _seen(observation: Observation) -> Turn:
    return Turn("user", (observation.text,), () if observation.image is None else (observation.image,))


def _said(action: Action) -> tuple[str, ...]:
    # Two texts, as a thought may hold anything, lines that look like an action included.
    return (*([_THOUGHT + action.thought] if action.thought else []), _ACTION + action.text)


def _observation(turns: Sequence[Turn]) -> Observation:
    images = [image for turn in turns for image in turn.images]
    if len(images) > 1:
        raise ValueError("there are two pictures between two actions; an observation has one at most")
    return Observation(
        text="\n".join(text for turn in turns for text in turn.texts), image=images[0] if images else None
    )


def _action(texts: Sequence[str]) -> Action:
    if len(texts) == 2 and texts[0].startswith(_THOUGHT) and texts[1].startswith(_ACTION):
        return Action(thought=texts[0].removeprefix(_THOUGHT), text=texts[1].removeprefix(_ACTION))
    text = "\n".join(texts)
    said = _SAID.fullmatch(text)
    return Action(thought=said["thought"] or "", text=said["action"]) if said else Action(text=text)
