"""Values as bytes: the same bytes whenever the values are equal, whatever led to them and in whichever process."""

from __future__ import annotations

import pickle
from io import BytesIO


def pickled(value: object) -> bytes:
    """Return a value, of anything that pickle can write, as bytes that say nothing of how it came about.

    A plain pickle also tells which of its parts are one object, and has sets in the order of this process.
    """
    try:
        return _Pickler.dumps(value, alike=True)
    except ValueError:
        # Something contains itself.
        return _Pickler.dumps(value, alike=False)


def unpickled(written: bytes) -> object:
    """Return a value of bytes that `pickled` wrote, in this run."""
    return _Unpickler(BytesIO(written)).load()


class _Pickler(pickle.Pickler):
    """Writes sets in an order of their own."""

    @classmethod
    def dumps(cls, value: object, *, alike: bool) -> bytes:
        """Return a value as bytes; parts that are one object as if they were only alike, if so wanted."""
        written = BytesIO()
        pickler = cls(written, pickle.HIGHEST_PROTOCOL)
        pickler.fast = alike
        pickler.dump(value)
        return written.getvalue()

    def persistent_id(self, value: object) -> object:
        """Return what is written in place of a set; None for everything else."""
        if type(value) is set or type(value) is frozenset:
            return type(value), sorted(map(pickled, value))
        return None


class _Unpickler(pickle.Unpickler):
    """Reads what `_Pickler` writes."""

    def persistent_load(self, written: tuple[type[set[object]] | type[frozenset[object]], list[bytes]]) -> object:
        """Return a set."""
        kind, members = written
        return kind(map(unpickled, members))
