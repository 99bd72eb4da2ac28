"""A row of anybody's data set as a preference pair, in every form in which such sets are published.

Source: TRL's documentation, "Dataset formats and types", for the columns; Hugging Face's `datasets`, for pictures.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from base64 import b64decode
from collections.abc import Iterable, Sequence
from hashlib import sha256
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from armap.errors import ConfigError
from armap.images import ImageFolder, as_png
from armap.rewards.conversation import REASONING_FIELDS, Turn, as_trajectory, with_reasoning
from armap.types import DiscardedPair, ImageRef, PreferencePair, Trajectory

IMPORTED = "imported"
"""How pairs were made and verified about which a data set says nothing more."""

_UNREAD = ("tools", "chat_template_kwargs")
"""Columns from which TRL writes more into a conversation than its messages say."""
_IMAGE_PX = 2**26
"""Most pixels of a picture that is taken in."""
_QUOTED_CHARS = 80
"""Most of a row that a message about it repeats."""

Row = dict[str, Any]


class BadRowError(Exception):
    """A row is no preference pair; the message says why, without the row's place, which whoever reads the file adds."""


class _Message(NamedTuple):
    """A message as a row has it."""

    role: str
    parts: tuple[str | None, ...]
    """Its texts, and None where a picture is shown."""

    @property
    def pictures(self) -> int:
        return self.parts.count(None)


def as_pair(row: Row, *, name: str, file: Path, images: ImageFolder) -> PreferencePair | DiscardedPair:
    """Return the pair that a row tells of, or the discarded one if its sides are the same.

    Args:
        row: what it has in each column.
        name: id of the pair if the row has none.
        file: where the row is from; paths of pictures are from its folder.
        images: takes the pictures in.

    Raises:
        BadRowError: it is no preference pair.
        ConfigError: it has pictures, and there is nothing to read them with.
    """
    name = _text(row, "pair_id", name)
    origin = _text(row, "origin", IMPORTED)
    for column in _UNREAD:
        if _says_something(row.get(column)):
            raise BadRowError(
                f"it has `{column}`, which nothing here reads; write what matters of it into the first message, and "
                "leave the column out"
            )
    turns = _both_sides(row, _pictures(row, file, images))
    roles = {turn.role for side in turns.values() for turn in side}
    if "assistant" not in roles:
        raise BadRowError(
            "none of its messages is the assistant's, whose messages are the actions; give the role `assistant` to "
            f"whoever acts among {_quoted(', '.join(sorted(roles)))}"
        )
    sides = [_trajectory(turns[side], f"{name}/{side}", row) for side in ("chosen", "rejected")]
    chosen, rejected = sides
    if chosen.task != rejected.task:
        raise BadRowError("`chosen` and `rejected` begin with different messages, so they have no task in common")
    if (chosen.steps, chosen.final_observation) == (rejected.steps, rejected.final_observation):
        return DiscardedPair(id=name, origin=origin, check="outcome", reason="both sides are the same")
    asked = json.dumps([(turn.texts, str(turn.images)) for turn in takewhile(_is_world, turns["chosen"])])
    return PreferencePair(
        id=name,
        task=chosen.task,
        chosen=chosen,
        rejected=rejected,
        source_task_id=_text(row, "source_task_id", sha256(asked.encode()).hexdigest()[:16]),
        origin=origin,
        instruction_writer=_text(row, "instruction_writer", IMPORTED),
        verified_by=_text(row, "verified_by", IMPORTED),
        judge=_text(row, "judge", "") or None,
        margin=_margin(row),
    )


def _says_something(value: object) -> bool:
    """Say whether a value is more than an empty one, in a text or a struct of a Parquet file too."""
    if isinstance(value, dict):
        return any(part is not None for part in value.values())
    return bool(value) and value not in ("[]", "{}", "null")


def _is_world(turn: Turn) -> bool:
    return turn.role != "assistant"


def _trajectory(turns: Sequence[Turn], name: str, row: Row) -> Trajectory:
    try:
        trajectory = as_trajectory(turns, name=name)
    except ValueError as error:
        raise BadRowError(f"`{name.rpartition('/')[2]}` is no trajectory: {error}") from error
    task = trajectory.task.model_copy(update={"env": _text(row, "env", trajectory.task.env)})
    return trajectory.model_copy(update={"task": task})


def _both_sides(row: Row, pictures: Sequence[ImageRef]) -> dict[str, list[Turn]]:
    """Return the conversations of a row: what it has in `prompt`, and then what it has in `chosen` and `rejected`."""
    prompt, chosen, rejected = (row.get(column) for column in ("prompt", "chosen", "rejected"))
    if prompt is None and isinstance(chosen, str) and isinstance(rejected, str):
        prompt, chosen, rejected = _split(chosen, rejected)
    begun = [] if prompt is None else _messages(prompt, "prompt", "user")
    chosen, rejected = _messages(chosen, "chosen", "assistant"), _messages(rejected, "rejected", "assistant")
    if isinstance(prompt, str) and _asks(chosen, prompt) and _asks(rejected, prompt):
        # Both sides are whole, perhaps with rules before what is asked.
        begun = []
    if chosen[: len(begun)] != begun or rejected[: len(begun)] != begun:
        chosen, rejected = begun + chosen, begun + rejected
    if not chosen or not rejected:
        raise BadRowError("one of its conversations is empty")
    shown = [sum(message.pictures for message in side) for side in (chosen, rejected)]
    if pictures and not any(shown):
        chosen, rejected = (_show_first(side, len(pictures)) for side in (chosen, rejected))
        shown = [len(pictures)] * 2
    in_prompt = sum(message.pictures for message in begun)
    if shown[0] == shown[1] == len(pictures):
        of_rejected = pictures
    elif sum(shown) - in_prompt == len(pictures):
        of_rejected = [*pictures[:in_prompt], *pictures[shown[0] :]]
    else:
        raise BadRowError(
            f"it has {len(pictures)} pictures, but its messages show {shown[0]} in `chosen` and {shown[1]} in "
            "`rejected`"
        )
    return {"chosen": _turns(chosen, pictures), "rejected": _turns(rejected, of_rejected)}


def _asks(messages: Sequence[_Message], prompt: str) -> bool:
    """Say whether the user says a prompt before the assistant says anything."""
    begun = takewhile(lambda message: message.role != "assistant", messages)
    said = ("\n".join(part or "" for part in message.parts) for message in begun if message.role == "user")
    return prompt.strip() in (text.strip() for text in said)


def _split(chosen: str, rejected: str) -> tuple[str, str, str]:
    """Return what two texts have in common at the start, in whole words, and what is left of each."""
    common = sum(1 for _ in takewhile(lambda chars: chars[0] == chars[1], zip(chosen, rejected, strict=False)))
    while common and not chosen[common - 1].isspace():
        common -= 1
    return chosen[:common], chosen[common:], rejected[common:]


def _messages(value: object, column: str, role: str) -> list[_Message]:
    """Return the messages of a column, of which a plain text is one."""
    if isinstance(value, str):
        return [_Message(role, (value.strip(),))]
    if not isinstance(value, list):
        raise BadRowError(f"`{column}` should be a text or a list of messages")
    return [_read_message(message, f"message {number} of `{column}`") for number, message in enumerate(value, 1)]


def _read_message(message: object, where: str) -> _Message:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise BadRowError(f"{where} has no role")
    content = message.get("content")
    if message.get("tool_calls"):
        raise BadRowError(f"{where} calls tools in a field of its own; write the calls into its content")
    read = _Message(message["role"], (content,) if isinstance(content, str) else _parts(content, where))
    reasoning = next((message[name] for name in REASONING_FIELDS if message.get(name)), None)
    if reasoning is None:
        return read
    if not isinstance(reasoning, str) or read.role != "assistant":
        raise BadRowError(f"{where} has reasoning that is not a text of the assistant's")
    texts = [part for part in read.parts if part is not None]
    return read._replace(parts=(*[None] * read.pictures, *with_reasoning(reasoning, texts)))


def _parts(content: object, where: str) -> tuple[str | None, ...]:
    if not isinstance(content, list):
        raise BadRowError(f"{where} has no content")
    parts: list[str | None] = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "image":
            parts.append(None)
        elif kind == "text" and isinstance(part.get("text"), str):
            parts.append(part["text"])
        else:
            raise BadRowError(f"{where} has a part that is neither a text nor an image")
    return tuple(parts)


def _show_first(messages: Sequence[_Message], count: int) -> list[_Message]:
    """Return messages with pictures in the first of the user's, where they belong if no message says where."""
    at = next((i for i, message in enumerate(messages) if message.role == "user"), 0)
    first = messages[at]
    return [*messages[:at], first._replace(parts=(*[None] * count, *first.parts)), *messages[at + 1 :]]


def _turns(messages: Iterable[_Message], pictures: Iterable[ImageRef]) -> list[Turn]:
    left = iter(pictures)
    turns = []
    for message in messages:
        texts = tuple(part for part in message.parts if part is not None)
        turns.append(Turn(message.role, texts, tuple(next(left) for _ in range(message.pictures))))
    return turns


def _pictures(row: Row, file: Path, images: ImageFolder) -> list[ImageRef]:
    """Put the pictures of a row into the folder."""
    shown = row.get("images") or []
    if _says_something(row.get("image")):
        if shown:
            raise BadRowError("it has both `image` and `images`; leave one of the columns out")
        shown = [row["image"]]
    if not isinstance(shown, list):
        raise BadRowError("`images` should be a list")
    if shown and importlib.util.find_spec("PIL") is None:
        raise ConfigError("The data set has pictures, which need Pillow; type: pip install pillow")
    return [_picture(image, number, file, images) for number, image in enumerate(shown, 1)]


def _picture(image: object, number: int, file: Path, images: ImageFolder) -> ImageRef:
    """Put a picture into the folder, given by its bytes, its path from the file or a data URI."""
    stored, path = (image.get("bytes"), image.get("path")) if isinstance(image, dict) else (None, image)
    if not isinstance(stored, bytes):
        if not isinstance(path, str) or "://" in path:
            raise BadRowError(f"image {number} is neither the bytes nor the path of a file")
        try:
            stored = _from_uri(path) if path[:5].lower() == "data:" else (file.parent / path).read_bytes()
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise BadRowError(f"image {number} cannot be read from {_quoted(path)} ({why})") from error
    try:
        return images.add(as_png(stored, limit_px=_IMAGE_PX))
    except ValueError as error:
        raise BadRowError(f"image {number} {error}") from error


def _from_uri(uri: str) -> bytes:
    about, _, content = uri.partition(",")
    if not about.lower().endswith(";base64"):
        raise ValueError("a data URI has to be in base64")
    return b64decode(content, validate=True)


def _quoted(text: str) -> str:
    return text if len(text) <= _QUOTED_CHARS else f"{text[:_QUOTED_CHARS]}..."


def _text(row: Row, column: str, default: str) -> str:
    value = row.get(column)
    return default if value is None else str(value)


def _margin(row: Row) -> float:
    margin = row.get("margin") or 0.0
    # In JSON a number may have any number of digits.
    if not isinstance(margin, int | float) or not -sys.float_info.max <= margin <= sys.float_info.max:
        raise BadRowError("`margin` should be a number, and no larger than a float can be")
    return float(margin)
