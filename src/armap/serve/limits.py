"""What the service takes on, and what it refuses."""

from __future__ import annotations

from pydantic import Field

from armap.types import Record


class Limits(Record):
    """How much of everything; what is beyond is refused with one sentence."""

    waiting: int = Field(default=256, ge=1)
    """Trajectories that wait or are being scored; with more to come, requests are told to come back later."""
    batch: int = Field(default=32, ge=1)
    """Trajectories scored together."""
    inputs: int = Field(default=128, ge=1)
    """Texts in one request."""
    body_bytes: int = Field(default=32 * 2**20, ge=1)
    """Length of a request's body."""
    held_bytes: int = Field(default=256 * 2**20, ge=1)
    """Length of all bodies that are being received or answered; with more to come, as with `waiting`."""
    messages: int = Field(default=1000, ge=1)
    """Messages in a conversation."""
    images: int = Field(default=64, ge=0)
    """Pictures in a conversation."""
    image_bytes: int = Field(default=8 * 2**20, ge=1)
    """Length of a picture's file."""
    image_px: int = Field(default=2**24, ge=1)
    """Pixels of a picture: its width times its height."""
    idle_s: float = Field(default=30.0, gt=0)
    """Time without a request on a connection, within which the next one's first line and headers must arrive."""
    body_s: float = Field(default=60.0, gt=0)
    """Time for the body of a request."""
    fetch_s: float = Field(default=10.0, gt=0)
    """Time for fetching a picture from elsewhere, where that is allowed."""
    drain_s: int = Field(default=60, ge=0)
    """Time for requests under way when the service is told to stop."""
    connections: int = Field(default=1000, ge=1)
    """Open connections; more are closed at once."""
