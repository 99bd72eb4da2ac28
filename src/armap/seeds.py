"""Seeds derived from what they are for, so that a run can be repeated in any order and on any machine."""

from __future__ import annotations

import hashlib
import json
from random import Random


def stable_hash(*parts: object) -> int:
    """Return a 64-bit number that depends on nothing but `parts`.

    Python's own `hash` will not do: it salts texts anew in every process, so a resumed run would draw other numbers.

    Args:
        parts: anything JSON can say; equal parts of different types, such as 1 and 1.0, count as different.

    Raises:
        TypeError: a part cannot be written as JSON.
    """
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).digest()
    return int.from_bytes(digest[:8])


def rng_for(*parts: object) -> Random:
    """Return a random generator seeded with `stable_hash` of `parts`."""
    return Random(stable_hash(*parts))
