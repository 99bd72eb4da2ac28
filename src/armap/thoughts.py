"""Tells what a language model replied from what it thought before."""

from __future__ import annotations

CUT_SHORT = "cut short while the model was thinking; collect with more --reply-tokens"
"""What became of a reply that is none."""
_TAGS = ("think", "thinking")


def without_thought(reply: str) -> str | None:
    """Return a reply without the thought that some servers, and models that reason, leave before it.

    The tag that begins the thought may be missing, as some chat templates write it for the model.

    Returns:
        What comes behind the thought, or all of a reply without one; None if the thought has no end, which is no reply.
    """
    for tag in _TAGS:
        _, ended, said = reply.partition(f"</{tag}>")
        if ended:
            return said.lstrip()
    begun = reply.lstrip().startswith(tuple(f"<{tag}>" for tag in _TAGS))
    return None if begun else reply
