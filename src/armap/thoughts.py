"""Tells what a language model replied from what it thought before."""

from __future__ import annotations

CUT_SHORT = "cut short while the model was thinking; collect with more --reply-tokens"
"""What became of a reply that is none."""
_TAGS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("[THINK]", "[/THINK]"),
)


def without_thought(reply: str, *, cut: bool = False) -> str | None:
    """Return a reply without the thoughts that some servers, and models that reason, leave before it.

    The tag that begins a thought may be missing, as some chat templates write it for the model.

    Args:
        reply: what the model wrote.
        cut: whether it had room to think and was cut short, so that what has no end of a thought may be all thought.

    Returns:
        What comes behind the last thought, or all of a reply without one; None if a thought has no end, which is no
        reply.
    """
    ended = False
    for _, end in _TAGS:
        _, found, said = reply.rpartition(end)
        if found:
            reply, ended = said.lstrip(), True
    if reply.lstrip().startswith(tuple(begin for begin, _ in _TAGS)):
        return None
    return None if cut and not ended else reply


def opened_by(prompt: str) -> str:
    """Return the tag with which a prompt begins the thought of who answers it, or nothing."""
    return next((begin for begin, _ in _TAGS if prompt.rstrip().endswith(begin)), "")
