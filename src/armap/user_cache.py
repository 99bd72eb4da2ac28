"""Where things are kept that take long to make and can be made again."""

from __future__ import annotations

import os
from pathlib import Path


def user_cache(name: str) -> Path:
    """Return the folder in the user's cache (`$XDG_CACHE_HOME` or `~/.cache`) for things of one sort.

    Args:
        name: the sort.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "armap" / name
