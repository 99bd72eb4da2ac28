"""Writes the index of `armap.envs.webshop.search`, of any number of documents in bounded memory."""

from __future__ import annotations

import os
from array import array
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from armap.envs.webshop.analysis import terms
from armap.envs.webshop.search import Documents, array_path, opened, term_hashes, values_of


def _known_lengths() -> NDArray[np.int64]:
    """Return the 256 lengths, in terms, that Lucene tells apart: it keeps one byte per text, rounding down.

    The first 24 are exact, the others have four significant bits above 24.
    """
    above = [m if e < 0 else (m | 8) << e for e, m in (divmod(i, 8) for i in range(232)) for e in (e - 1,)]
    return np.array([*range(24), *(24 + length for length in above)])


_LENGTHS = _known_lengths()


class SearchIndexWriter:
    """Writes an index of any size in bounded memory: sorted runs on disk, merged at the end.

    Args:
        folder: where to write; the runs are kept there too until `finish`.
        held: how many words or postings are held in memory at a time, at about 100 bytes each.
    """

    def __init__(self, folder: Path, *, held: int = 6_000_000) -> None:
        self._folder = folder
        self._held = held
        self._runs: list[_Run] = []
        self._written = 0
        self._begin_run()

    def _begin_run(self) -> None:
        self._pieces = _Pieces()
        self._text = array("i")
        self._sizes = array("i")

    def add(self, text: str) -> None:
        """Add the next document; documents are numbered from 0 in the order in which they come."""
        # No word extends over a space, and most of what stands between spaces was seen before.
        pieces = text.split(" ")
        self._text.extend(map(self._pieces.__getitem__, pieces))
        self._sizes.append(len(pieces))
        if len(self._text) >= self._held:
            self._end_run()

    def finish(self) -> None:
        """Write the index."""
        self._end_run()
        _Merge(self._runs).write(self._folder, self._held)
        for run in self._runs:
            run.remove()

    def _end_run(self) -> None:
        run = _Run(self._folder, len(self._runs))
        run.write(self._pieces, np.array(self._text, np.int64), np.array(self._sizes, np.int64), self._written)
        self._runs.append(run)
        self._written += len(self._sizes)
        self._begin_run()


class _Pieces(dict[str, int]):
    """Numbers what stands between spaces, and keeps the terms of each."""

    def __init__(self) -> None:
        super().__init__()
        self.term_numbers: dict[str, int] = {}
        self.terms = array("i")
        self.ends = array("i", [0])

    def __missing__(self, piece: str) -> int:
        numbers = self.term_numbers
        self.terms.extend(numbers.setdefault(found, len(numbers)) for found in terms(piece))
        self.ends.append(len(self.terms))
        self[piece] = number = len(self)
        return number


class _Run:
    """The postings of some consecutive documents, on disk, sorted by the hash of the term and then by document.

    A kind, here, is how often the term occurs times 256, plus the length of the document as a byte.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self._folder = folder
        self._number = number

    def write(self, pieces: _Pieces, text: NDArray[np.int64], sizes: NDArray[np.int64], first_document: int) -> None:
        starts = np.array(pieces.ends, np.int64)
        term_counts = np.diff(starts)[text]
        documents = np.repeat(np.repeat(np.arange(len(sizes)), sizes), term_counts)
        term_numbers = np.array(pieces.terms, np.int64)[_ranges(starts[text], term_counts)]
        lengths = np.bincount(documents, minlength=len(sizes))

        hashes = term_hashes(pieces.term_numbers)
        self.hashes, places = np.unique(hashes, return_inverse=True)
        keys, counts = np.unique(places[term_numbers] * len(sizes) + documents, return_counts=True)
        places, documents = np.divmod(keys, max(len(sizes), 1))
        self.ends = np.cumsum(np.bincount(places, minlength=len(self.hashes)))
        kinds = counts << 8 | np.searchsorted(_LENGTHS, lengths, side="right")[documents] - 1
        self.kinds = np.unique(kinds)
        self.documents_with_terms = int(np.count_nonzero(lengths))
        self.total_length = int(lengths.sum())
        np.save(self._path("documents"), (documents + first_document).astype(np.int32))
        np.save(self._path("kinds"), kinds.astype(np.int32))

    def postings(self, first: int, last: int) -> tuple[NDArray[np.int64], Documents, Documents]:
        """Return the number of postings of every term from `first` to before `last`, their documents and kinds."""
        bounds = np.concatenate(([0], self.ends))[first : last + 1]
        documents, kinds = opened(self._path("documents")), opened(self._path("kinds"))
        return np.diff(bounds), documents[bounds[0] : bounds[-1]], kinds[bounds[0] : bounds[-1]]

    def remove(self) -> None:
        for name in ("documents", "kinds"):
            self._path(name).unlink()

    def _path(self, name: str) -> Path:
        return self._folder / f"run_{self._number}_{name}.npy"


class _Merge:
    """All runs together, in the order of their documents."""

    def __init__(self, runs: list[_Run]) -> None:
        self._runs = runs
        self._hashes = np.unique(np.concatenate([run.hashes for run in runs]))
        # For every run the numbers that its terms have among all, ascending.
        self._places = [np.searchsorted(self._hashes, run.hashes) for run in runs]
        self._frequencies = np.zeros(len(self._hashes), np.int64)
        for run, places in zip(runs, self._places, strict=True):
            self._frequencies[places] += np.diff(run.ends, prepend=0)
        self._kinds = np.unique(np.concatenate([run.kinds for run in runs]))

    def write(self, folder: Path, held: int) -> None:
        """Write the index."""
        documents = sum(run.documents_with_terms for run in self._runs)
        mean_length = np.float32(sum(run.total_length for run in self._runs) / max(documents, 1))
        values = values_of(self._kinds >> 8, _LENGTHS[self._kinds & 255], mean_length)
        by_value = np.argsort(values, kind="stable")
        # In the index, kinds are numbered by value: the best posting of a term is the one with the highest number.
        numbers = np.argsort(by_value, kind="stable").astype(np.min_scalar_type(len(values)))

        np.save(array_path(folder, "hashes"), self._hashes)
        np.save(array_path(folder, "ends"), np.cumsum(self._frequencies))
        np.save(array_path(folder, "idfs"), _idf(self._frequencies, documents))
        np.save(array_path(folder, "values"), values[by_value])
        np.save(array_path(folder, "best"), self._write_postings(folder, numbers, held))

    def _write_postings(
        self, folder: Path, numbers: NDArray[np.unsignedinteger], held: int
    ) -> NDArray[np.unsignedinteger]:
        """Write the postings, a block of terms at a time, and return the highest kind of each term.

        Args:
            folder: where to.
            numbers: the numbers of `self._kinds` in the index.
            held: postings in a block.
        """
        ends = np.cumsum(self._frequencies)
        starts = ends - self._frequencies
        total = int(self._frequencies.sum())
        all_documents = _on_disk(array_path(folder, "documents"), np.dtype(np.int32), total)
        all_kinds = _on_disk(array_path(folder, "kinds"), numbers.dtype, total)
        best = np.zeros(len(ends), numbers.dtype)
        free = starts.copy()
        first = 0
        while first < len(ends):
            last = max(int(np.searchsorted(ends, starts[first] + held, side="right")), first + 1)
            block = slice(int(starts[first]), int(ends[last - 1]))
            documents = np.empty(block.stop - block.start, np.int32)
            kinds = np.empty(block.stop - block.start, numbers.dtype)
            for run, places in zip(self._runs, self._places, strict=True):
                low, high = (int(bound) for bound in np.searchsorted(places, (first, last)))
                sizes, run_documents, run_kinds = run.postings(low, high)
                to = _ranges(free[places[low:high]] - block.start, sizes)
                free[places[low:high]] += sizes
                documents[to] = run_documents
                kinds[to] = numbers[np.searchsorted(self._kinds, run_kinds)]
            all_documents[block], all_kinds[block] = documents, kinds
            best[first:last] = np.maximum.reduceat(kinds, starts[first:last] - block.start)
            first = last
        return best


def _idf(frequencies: NDArray[np.int64], documents: int) -> NDArray[np.float32]:
    """Return how rare each term is. Source: Lucene, `BM25Similarity.idf`."""
    idfs: NDArray[np.float64] = np.log(1 + (documents - frequencies + 0.5) / (frequencies + 0.5))
    return idfs.astype(np.float32)


def _ranges(starts: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the numbers from each start on, as many as its size says, one range after the other."""
    before: NDArray[np.int64] = np.cumsum(sizes) - sizes
    return np.arange(sizes.sum()) + np.repeat(starts - before, sizes)


def _on_disk(path: Path, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
    """Make a file of an array to be filled.

    Raises:
        OSError: the disk is full.
    """
    made = open_memmap(path, "w+", dtype, (count,))
    # Without room for it, filling the array would end the process instead of raising an error.
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return made
