"""How a trajectory is written out for a reward model and read by it: one way, in training, scoring and serving.

A rendering is a sequence of pieces, texts and pictures in the order in which they are read. Of a trajectory that is too
long the earlier observations are shortened, then the earlier pictures left out, then the last observations shortened;
only where all that is not enough are the earlier steps left out, and a line says how many. The instruction is always
whole.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from armap.errors import RewardModelError
from armap.tokentree import TokenTree
from armap.types import Action, ImageRef, Observation, Trajectory

CLOSING_QUESTION = "Was the task done?"
"""Ends every rendering, so that the score is always read at the same words. Source: ARMAP's released code, where the
wording is another; any fixed one serves a model that is trained with it."""
SAID_ABOVE = "(the task)"
"""Stands for an instruction that an observation repeats, if that is shorter."""
_STEPS_LEFT_OUT = "(steps left out:"
"""Begins the line that says how many."""

_OBSERVATION_CHARS = (None, 1600, 800, 400, 200, 100, 50, 0)
"""How much of an observation is kept, tried in this order until a trajectory fits: of the earlier ones first, then of
the one before the last action too, and of the final one last. Few and fixed steps, so that trajectories of one task
that begin alike are mostly shortened alike."""
_KEPT_STEPS = (64, 32, 16, 8, 4, 2, 1, 0)
"""How many of the last steps are kept where nothing else helps, tried in this order."""

_CUT_TOKENS = 256
"""More than the end of a text can have beyond what the whole text has there: where it begins a word may be cut in two,
and some tokenizers know no word of more than 100 characters, but the letters of a shorter one."""
_FEW_TOKENS_CHARS = 8
"""More characters than a token has in nearly any text."""

PLACE_BITS = 14
"""Bits of an image token's number that say which token of its picture it is."""

Pieces = tuple[str | ImageRef, ...]
"""What is read, in order; no two texts follow each other."""


class ReadTrajectory(NamedTuple):
    """A trajectory as a network reads it."""

    tokens: tuple[int, ...]
    """Token ids, but those of pictures as `numbered`, so that equal beginnings are equal in what they show."""
    images: dict[int, ImageRef]
    """Its pictures by `number_of` them."""
    positions: list[list[int]]
    """`[L, 3]` time, height and width of each token where the network tells them apart; otherwise empty, and a token's
    place in the sequence is its position."""
    shortened: bool = False
    """Whether it was longer than the limit."""
    without_steps: bool = False
    """Whether whole steps of it were left out."""
    unread_images: int = 0
    """How many of its pictures were left out, or ignored for want of eyes."""


class TrajectoryTree(TokenTree):
    """Trajectories merged by their common beginnings, pictures included."""

    def __init__(self) -> None:
        super().__init__()
        self.images: dict[int, ImageRef] = {}
        """The pictures of all its trajectories, as in `ReadTrajectory`."""
        self.positions: list[list[int]] = []
        """`[N, 3]` positions, or nothing, as in `ReadTrajectory`."""

    def add_trajectory(self, trajectory: ReadTrajectory) -> None:
        """Merge one more trajectory in."""
        known = len(trajectory.tokens) - self.new_tokens(trajectory.tokens)
        self.add(trajectory.tokens)
        self.images |= trajectory.images
        # What comes before in the sequence alone decides a position, so shared tokens have theirs already.
        self.positions += trajectory.positions[known:]


class Limits(NamedTuple):
    """How much of a trajectory is written out; None for no limit."""

    earlier: int | None = None
    """Characters of the observations before the last two."""
    last: int | None = None
    """Characters of the observation before the last action."""
    final: int | None = None
    """Characters of the one after it."""
    images: int | None = None
    """Pictures, the last ones."""
    steps: int | None = None
    """Steps, the last ones."""


_WHOLE = Limits()


class Eyes(Protocol):
    """What turns pictures into tokens."""

    def tokens(self, image: ImageRef) -> list[int]:
        """Return the tokens of a picture, with the control tokens around it."""
        ...

    def positions(self, tokens: tuple[int, ...], images: dict[int, ImageRef]) -> list[list[int]]:
        """Return the positions of a sequence, as in `ReadTrajectory`."""
        ...


def number_of(image: ImageRef) -> int:
    """Return a number for what is in a picture."""
    return int(image.sha256[:12], 16)


def numbered(ids: Sequence[int], token_id: int, number: int) -> list[int]:
    """Give each token that stands for a part of a picture a number of its own.

    Args:
        ids: the tokens of a picture, with the control tokens around it, which stay as they are.
        token_id: the token that stands for any part of any picture.
        number: of the picture.

    Returns:
        `-1 - (number << PLACE_BITS | place)` for the picture's tokens, whose places are counted from 0.
    """
    places = itertools.count(number << PLACE_BITS)
    return [-1 - next(places) if token == token_id else token for token in ids]


class Reader:
    """Reads trajectories as tokens within the limits, and counts what it could not read whole.

    Args:
        name: the reward model, for messages.
        tokenizer: a transformers tokenizer.
        max_tokens: longest trajectory, image tokens included.
        max_images: most pictures of a trajectory, the last ones; None for all.
        eyes: reads pictures; None where the reward model cannot.

    Attributes:
        tokenizer: the transformers tokenizer.
        count: trajectories read until now, once per time.
        shortened: those among them that were longer than the limit.
        without_steps: those of the latter of which whole steps were left out, as their actions alone were too long.
        images: pictures read until now.
        images_left_out: pictures beyond the limits, the earlier ones of a trajectory.
        images_ignored: pictures that a reward model without eyes did not read.
    """

    def __init__(
        self,
        name: str,
        tokenizer: Any,  # noqa: ANN401 - transformers is untyped here
        *,
        max_tokens: int,
        max_images: int | None,
        eyes: Eyes | None,
    ) -> None:
        self.count = self.shortened = self.without_steps = 0
        self.images = self.images_left_out = self.images_ignored = 0
        self._name = name
        self.tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._max_images = max_images if eyes else 0
        self._eyes = eyes
        self._before, self._after = _frame(tokenizer)

    def read(self, trajectory: Trajectory | str) -> ReadTrajectory:
        """Return a trajectory, or a text as it stands, as tokens, shortened if it is longer than the limit.

        Raises:
            RewardModelError: it is too long however much is left out.
            ConfigError: it has pictures to read, and there is no folder to read them from.
        """
        rendering: Pieces = ()
        counts: dict[str, int] = {}
        for attempt, rendering in enumerate(renderings(trajectory, max_images=self._max_images)):
            if any(isinstance(piece, str) and self._ends_too_late(piece, counts) for piece in rendering):
                continue
            tokens, images = self._encoded(rendering)
            if len(tokens) <= self._max_tokens:
                shown = sum(isinstance(piece, ImageRef) for piece in rendering)
                read = ReadTrajectory(
                    tokens,
                    images,
                    self._eyes.positions(tokens, images) if self._eyes else [],
                    shortened=attempt > 0,
                    without_steps=_leaves_out_steps(rendering),
                    unread_images=images_in(trajectory) - shown,
                )
                self._note(read, shown)
                return read
        length = len(self._encoded(rendering)[0])
        raise RewardModelError(
            f"a trajectory's instruction alone has {length} tokens, but {self._name} reads at most {self._max_tokens}; "
            "train a reward model with a higher --max-tokens"
        )

    def remarks(self) -> list[str]:
        """Return what was not read as it was, a sentence each."""
        found = {
            f"{self.images_left_out} of {self.images_left_out + self.images} pictures, the earlier ones of their "
            "trajectories, were left out to stay within the limits.": self.images_left_out,
            f"{self.images_ignored} pictures were ignored, as {self._name} reads text only.": self.images_ignored,
        }
        limit = f"{self._max_tokens} tokens"
        return [
            *shortening_remarks(self.shortened, self.without_steps, count=self.count, limit=limit),
            *(sentence for sentence, count in found.items() if count),
        ]

    def _ends_too_late(self, text: str, counts: dict[str, int]) -> bool:
        """Say of a long text whether its end alone is longer than the limit, so that the whole need not be read.

        Args:
            text: a piece of a rendering.
            counts: tokens of ends looked at before; what is shortened first is not at the end, so they come again.
        """
        most = self._max_tokens + _CUT_TOKENS
        chars = _FEW_TOKENS_CHARS * most
        while chars < len(text):
            end = text[-chars:]
            if end not in counts:
                counts[end] = len(self._ids(end))
            if counts[end] > most:
                return True
            chars *= 2
        return False

    def _ids(self, text: str) -> list[int]:
        # What looks like a control token was seen by the agent, and is text like any other.
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        return ids

    def _encoded(self, rendering: Pieces) -> tuple[tuple[int, ...], dict[int, ImageRef]]:
        tokens = list(self._before)
        images: dict[int, ImageRef] = {}
        for piece in rendering:
            if isinstance(piece, str):
                tokens += self._ids(piece)
            elif self._eyes:
                tokens += self._eyes.tokens(piece)
                images[number_of(piece)] = piece
        return (*tokens, *self._after), images

    def _note(self, read: ReadTrajectory, shown: int) -> None:
        self.count += 1
        self.shortened += read.shortened
        self.without_steps += read.without_steps
        self.images += shown
        if self._eyes:
            self.images_left_out += read.unread_images
        else:
            self.images_ignored += read.unread_images


def shortening_remarks(shortened: int, without_steps: int, *, count: int, limit: str) -> list[str]:
    """Return what is to be said about trajectories that were too long, a sentence each.

    Args:
        shortened: how many were.
        without_steps: of how many of these whole steps were left out.
        count: how many were read.
        limit: what they were longer than.
    """
    found = {
        f"{shortened} of {count} trajectories were longer than {limit}; their earlier observations were shortened. "
        "--max-tokens of `armap train` sets the limit.": shortened,
        f"Of {without_steps} of these whole steps were left out, since what the agent did and said alone was too long: "
        "what differs there was not read at all.": without_steps,
    }
    return [sentence for sentence, of_these in found.items() if of_these]


def _leaves_out_steps(rendering: Pieces) -> bool:
    """Say whether a rendering is one of those that begin with how many steps were left out."""
    first = rendering[0]
    return isinstance(first, str) and f"\n{_STEPS_LEFT_OUT} " in first


def render(trajectory: Trajectory) -> str:
    """Return the whole trajectory in words: its rendering without pictures."""
    return "".join(piece for piece in pieces(trajectory, Limits(images=0)) if isinstance(piece, str))


def pieces(trajectory: Trajectory, limits: Limits = _WHOLE) -> Pieces:
    """Return the task, every observation and action in order, and the closing question, one per line.

    Where an observation repeats the instruction, as every page of a shop may, it is not said again. A picture is a line
    of its own before the text of its observation. Trajectories of one task that begin alike are rendered alike up to
    where they part, as far as their steps and pictures are within the limits.
    """
    steps = trajectory.steps
    observations = [*(step.observation for step in steps), trajectory.final_observation]
    shown = _last_with_image(observations, limits.images)
    hidden = 0 if limits.steps is None else max(0, len(steps) - limits.steps)
    said = trajectory.task.instruction
    lines: list[str | ImageRef] = [f"Task: {said}"]
    if hidden:
        lines.append(f"{_STEPS_LEFT_OUT} {hidden})")
    for i, observation in enumerate(observations[hidden:], hidden):
        if i in shown and observation.image is not None:
            lines.append(observation.image)
        to_end = len(steps) - i
        text = observation.text.replace(said, SAID_ABOVE) if len(said) > len(SAID_ABOVE) else observation.text
        lines.append(_cut(text, (limits.final, limits.last, limits.earlier)[min(to_end, 2)]))
        if to_end:
            lines.append(_said(steps[i].action))
    return _joined([*lines, CLOSING_QUESTION])


def renderings(trajectory: Trajectory | str, *, max_images: int | None) -> Iterator[Pieces]:
    """Return the renderings of a trajectory, the whole one first and the shortest last.

    Args:
        trajectory: what is written out; a text is its own and only rendering.
        max_images: most pictures in the first rendering; None for all.
    """
    if isinstance(trajectory, str):
        yield (trajectory,)
        return
    there = images_in(trajectory)
    for limits in _all_limits(len(trajectory.steps), there if max_images is None else min(there, max_images)):
        yield pieces(trajectory, limits)


def _all_limits(steps: int, images: int) -> Iterator[Limits]:
    """Return the limits that are tried on a trajectory of so many steps and pictures to show, in order."""
    for chars in _OBSERVATION_CHARS:
        yield Limits(earlier=chars, images=images)
    for fewer in range(images - 1, 0, -1):
        yield Limits(earlier=0, images=fewer)
    if images:
        yield from _shorter_ends(images=1)
        # Words again, where there was no room for even one picture.
        for chars in _OBSERVATION_CHARS:
            yield Limits(earlier=chars, images=0)
    yield from _shorter_ends(images=0)
    for kept in _KEPT_STEPS:
        if kept < steps:
            yield Limits(earlier=0, last=0, final=0, images=0, steps=kept)


def _shorter_ends(images: int) -> Iterator[Limits]:
    for chars in _OBSERVATION_CHARS[1:]:
        yield Limits(earlier=0, last=chars, images=images)
    for chars in _OBSERVATION_CHARS[1:]:
        yield Limits(earlier=0, last=0, final=chars, images=images)


def merged(
    read: Sequence[ReadTrajectory], tasks: Sequence[str], *, tree_tokens: int
) -> tuple[list[TrajectoryTree], list[tuple[int, int]]]:
    """Merge trajectories of one task into token trees of bounded length; equal ones are one sequence.

    Args:
        read: the trajectories.
        tasks: the task of each.
        tree_tokens: longest tree, but for one whose only sequence is longer; 0 for a tree for every sequence.

    Returns:
        The trees, and for each trajectory its tree and which of that tree's sequences it is.
    """
    trees: list[TrajectoryTree] = []
    current: dict[str, int] = {}
    known: dict[tuple[str, tuple[int, ...]], tuple[int, int]] = {}
    # In this order neighbours share most, so that a split costs least.
    for i in sorted(range(len(read)), key=lambda i: (tasks[i], read[i].tokens)):
        task, tokens = tasks[i], read[i].tokens
        if (task, tokens) not in known:
            tree = current.get(task)
            if tree is None or len(trees[tree]) + trees[tree].new_tokens(tokens) > tree_tokens:
                tree = current[task] = len(trees)
                trees.append(TrajectoryTree())
            trees[tree].add_trajectory(read[i])
            known[task, tokens] = (tree, len(trees[tree].ends) - 1)
    return trees, [known[task, one.tokens] for task, one in zip(tasks, read, strict=True)]


def images_in(trajectory: Trajectory | str) -> int:
    """Return how many pictures a trajectory shows; a text shows none."""
    if isinstance(trajectory, str):
        return 0
    observed = [step.observation.image for step in trajectory.steps]
    return sum(image is not None for image in [*observed, trajectory.final_observation.image])


def _frame(tokenizer: Any) -> tuple[list[int], list[int]]:  # noqa: ANN401
    """Return the tokens that a tokenizer puts before and after every text."""
    bare = tokenizer("a", add_special_tokens=False).input_ids
    framed = tokenizer("a").input_ids
    start = next(i for i in range(len(framed)) if framed[i : i + len(bare)] == bare)
    return framed[:start], framed[start + len(bare) :]


def _last_with_image(observations: list[Observation], count: int | None) -> set[int]:
    places = [i for i, observation in enumerate(observations) if observation.image is not None]
    return set(places if count is None else places[max(0, len(places) - count) :])


def _joined(lines: list[str | ImageRef]) -> Pieces:
    """Put line breaks between lines, and texts that follow each other together."""
    joined: list[str | ImageRef] = []
    for i, line in enumerate(lines):
        for piece in ("\n", line) if i else (line,):
            if isinstance(piece, str) and joined and isinstance(joined[-1], str):
                joined[-1] += piece
            else:
                joined.append(piece)
    return tuple(joined)


def _cut(text: str, chars: int | None) -> str:
    return text if chars is None or len(text) <= chars else f"{text[:chars]}..."


def _said(action: Action) -> str:
    thought = f"Thought: {action.thought}\n" if action.thought else ""
    return f"{thought}Action: {action.text}"
