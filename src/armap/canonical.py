"""Names of values: the same for equal values, whatever led to them and in whichever process."""

from __future__ import annotations

import hashlib
import pickle
from io import BytesIO


def name_of(value: object) -> str | None:
    """Return a name of a value of anything that pickle can write, or None if some part of it contains itself.

    A plain pickle would not do: it also tells which parts are one object, and has sets in the order of this process.
    Dictionaries that are filled in another order have other names, as whoever goes through them may go on otherwise.
    """
    try:
        return hashlib.sha256(_written(value)).hexdigest()
    except (ValueError, RecursionError):
        return None


def _written(value: object) -> bytes:
    written = BytesIO()
    pickler = _Pickler(written, pickle.HIGHEST_PROTOCOL)
    # Parts that are one object are written as if they were only alike.
    pickler.fast = True
    pickler.dump(value)
    return written.getvalue()


class _Pickler(pickle.Pickler):
    """Writes sets in an order of their own; what it writes is compared and never read."""

    def persistent_id(self, value: object) -> object:
        """Return what is written in place of a set; None for everything else."""
        if type(value) is set or type(value) is frozenset:
            return type(value).__name__, sorted(map(_written, value))
        return None
