"""What a call to a server has bought: the answers of its requests, and what was spent in vain."""

from __future__ import annotations

from itertools import takewhile
from typing import NamedTuple

from armap.types import Completion, Usage


class Answers(NamedTuple):
    """The usable answers of one request, out of how many the server gave, and what was spent on them."""

    answers: list[Completion]
    """Without what they cost."""
    num_choices: int
    usage: Usage


class Bought:
    """What one call of `generate` has bought until now.

    Attributes:
        joint: what came of asking for all answers at once.
        separate: what came of asking for one answer each; None where it is still to come.
        unusable: what was spent on replies without a usable answer.
    """

    def __init__(self) -> None:
        self.joint = Answers([], 0, Usage())
        self.separate: list[Answers | None] = []
        self.unusable = Usage()

    @property
    def replies(self) -> list[Answers]:
        """The replies with usable answers, in their order."""
        return [reply for reply in (self.joint, *self.separate) if reply and reply.answers]

    @property
    def usage(self) -> Usage:
        """What all of it has cost."""
        return sum((reply.usage for reply in self.replies), self.unusable)

    @property
    def beginning(self) -> tuple[Completion, ...]:
        """The first answers without a gap, each with its cost; none where several came together.

        Whoever asks for the rest with the next seed gets what would have come: together, they have seeds of their own.
        """
        if self.joint.num_choices > 1:
            return ()
        there = takewhile(lambda reply: reply is not None, self.separate)
        one_each = [reply for reply in (self.joint, *there) if reply and reply.answers]
        return tuple(reply.answers[0].model_copy(update={"usage": reply.usage}) for reply in one_each)
