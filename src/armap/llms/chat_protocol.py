"""OpenAI's chat protocol: the requests that a question becomes, and what is read out of replies of any shape."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from armap.replies import decoded, member
from armap.thoughts import without_thought
from armap.types import Completion, Message, SamplingParams

COMPLAINT_ABOUT_N = re.compile(r"(?<![\w\\])n(?!\w)|completion choice", re.IGNORECASE)
"""What a server says that refuses to give several answers at a time."""
TOO_LARGE = re.compile(r"request too large", re.IGNORECASE)
"""What a server says beside a rate limit that one request alone goes beyond, however long it waits.

Source: OpenAI's `Request too large for gpt-4o ... on tokens per min (TPM): Limit 30000, Requested 36278`.
"""
_UNSUPPORTED = re.compile(
    r"support|unknown|unrecognized|unexpected|deprecated|not permitted|not allowed|cannot both|only one", re.IGNORECASE
)
_OTHER_VALUES = re.compile(
    r"\b(range|between|max|maximum|min|minimum|most|least|less|lower|smaller|greater|larger|higher|above|below|exceeds?|"
    r"bounds?)\b",
    re.IGNORECASE,
)
"""What a server says that takes the field, but with another value."""
_DISPENSABLE = ("top_p", "seed", "temperature")
"""Fields that can do without, the first of those that a server does not take together first."""
_MAX_COMPLETION_TOKENS = "max_completion_tokens"
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


@dataclass(frozen=True)
class Question:
    """What one call of `generate` wants: the requests it sends, and how it reads the replies."""

    model: str
    messages: Sequence[Message]
    n: int
    sampling: SamplingParams
    choices: Sequence[str] | None

    def body(self, n: int, *, seed_offset: int, refused: Collection[str] = ()) -> bytes:
        """Return the request for `n` of the answers.

        Args:
            n: how many.
            seed_offset: what is added to the seed.
            refused: fields that the server does not take, of those that `refused_field` names.
        """
        fields: dict[str, object] = {
            "model": self.model,
            "messages": [{"role": message.role, "content": message.content} for message in self.messages],
            "temperature": self.sampling.temperature,
            _MAX_COMPLETION_TOKENS if "max_tokens" in refused else "max_tokens": self.max_tokens,
        }
        if self.sampling.top_p < 1:
            # Some servers take it or the temperature, and 1 means nothing.
            fields["top_p"] = self.sampling.top_p
        if n > 1:
            fields["n"] = n
        if self.sampling.seed is not None:
            # Servers keep seeds in 32 or 64 bits, signed or not; 31 bits fit all of them.
            fields["seed"] = (self.sampling.seed + seed_offset) % 2**31
        if self.choices is not None:
            fields["response_format"] = _one_of(self.choices)
        elif self.sampling.stop:
            fields["stop"] = self.sampling.stop
        return json.dumps({name: value for name, value in fields.items() if name not in refused}).encode()

    def hello(self) -> Question:
        """Return what any model has an answer to, asked for as this is."""
        return replace(
            self,
            messages=[Message(role="user", content="Hello")],
            n=1,
            # Whether a server takes schemas is a matter of the settings, and how long a schema it takes is not.
            choices=self.choices and self.choices[:1],
        )

    @property
    def max_tokens(self) -> int:
        """The longest answer that is asked for."""
        # The schema bounds a choice already, and one that is cut short is lost; a token is at least one byte.
        longest = max((len(json.dumps({"action": choice})) for choice in self.choices or ()), default=0)
        return max(self.sampling.max_tokens, longest)

    def answers(self, choices: Iterable[object]) -> list[Completion]:
        """Return the usable answers among a reply's `choices`, without what they cost."""
        return [answer for answer in map(self._answer, choices) if answer is not None]

    def _answer(self, choice: object) -> Completion | None:
        text = _text(choice)
        reason = member(choice, "finish_reason")
        # An empty text is an answer only if the model chose to stop there.
        if text is None or reason == "error" or not (text or reason == "stop"):
            return None
        if self.choices is not None:
            chosen = _chosen(text, self.choices)
            return None if chosen is None else Completion(text=chosen)
        whole = text
        for stop in self.sampling.stop:
            text = text.partition(stop)[0]
        return Completion(text=_UNSTORABLE.sub("\ufffd", text), cut=reason == "length" and text == whole)


def _one_of(choices: Sequence[str]) -> dict[str, object]:
    """Return the response format of an answer that is one of `choices`."""
    schema = {
        "type": "object",
        "properties": {"action": {"type": "string", "enum": list(choices)}},
        "required": ["action"],
        "additionalProperties": False,
    }
    return {"type": "json_schema", "json_schema": {"name": "action", "strict": True, "schema": schema}}


def refused_field(complaint: str, sent: bytes) -> str | None:
    """Return the field of a request that a server says it does not take and that it can do without, if there is one.

    Args:
        complaint: what the server says.
        sent: the request.
    """
    fields = decoded(sent)
    if "max_tokens" in complaint and _MAX_COMPLETION_TOKENS in complaint:
        return "max_tokens" if member(fields, "max_tokens") is not None else None
    if not _UNSUPPORTED.search(complaint) or _OTHER_VALUES.search(complaint):
        return None
    named = (name for name in _DISPENSABLE if re.search(rf"\b{name}\b", complaint))
    return next((name for name in named if member(fields, name) is not None), None)


def status_within(reply: object) -> int | None:
    """Return the HTTP status of a refusal that came as a success, as OpenRouter's do, or None if it is no refusal."""
    code = str(member(member(reply, "error"), "code"))
    return int(code) if re.fullmatch("[345][0-9]{2}", code) and not member(reply, "choices") else None


def counted(value: object, key: str) -> int:
    """Return a number of tokens that a server reports, or 0 if it is none."""
    count = member(value, key)
    return count if isinstance(count, int) and 0 <= count < 2**53 else 0


def is_thought(choice: object) -> bool:
    """Return whether a choice says nothing but what the model thought, if anything."""
    return not without_thought(_text(choice) or "")


def _text(choice: object) -> str | None:
    """Return what a choice says; a model that reasons may give its thoughts as parts of another type."""
    content = member(member(choice, "message"), "content")
    if not isinstance(content, list):
        return content if isinstance(content, str) else None
    said = [member(part, "text") for part in content if member(part, "type") == "text"]
    texts = [text for text in said if isinstance(text, str)]
    return "".join(texts) if texts else None


def _chosen(text: str, choices: Sequence[str]) -> str | None:
    """Return the choice that `text` names, as the JSON asked for or, where a server knows no schemas, bare."""
    bare = (without_thought(text) or "").strip()
    readings = (member(decoded(bare), "action"), text, bare, bare.strip("\"'`"))
    return next((choice for reading in readings for choice in choices if choice == reading), None)
