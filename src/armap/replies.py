"""What is read out of the replies of HTTP servers, whatever their shape."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def retry_after_s(header: str) -> float:
    """Return the seconds a Retry-After header asks for, given in seconds or as a date; 0 if it says neither."""
    if re.fullmatch(r"\d+(\.\d+)?", header):
        return float(header)
    try:
        date = parsedate_to_datetime(header)
    except ValueError:
        return 0.0
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return (date - datetime.now(UTC)).total_seconds()


def server_message(content: bytes) -> str | None:
    """Return what an error body says in words, in any of the forms in use."""
    reply = decoded(content)
    error = member(reply, "error")
    places = (member(error, "message"), error, member(reply, "message"), member(reply, "detail"))
    return next((text for text in places if isinstance(text, str)), None)


def decoded(text: str | bytes) -> object:
    """Return what JSON says, or None if it is none; text nested beyond all reason counts as none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def member(value: object, key: str) -> object:
    """Return a member of a decoded JSON value of unknown shape, or None."""
    return value.get(key) if isinstance(value, dict) else None
