"""Full-text search that ranks as Lucene does: BM25 over one text per document.

The index is a handful of numpy arrays in a folder, opened memory-mapped. What a term adds to the score of a document
depends on the document only through how often the term occurs and how long the text is, of which few combinations
exist: a posting holds a document and the number of its combination.

Source: Lucene 9.5, `BM25Similarity` and `SmallFloat`; the two parameters are Pyserini's defaults.
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from armap.envs.webshop.analysis import terms

K1 = 0.9
"""How soon further occurrences of a term stop counting. Source: Pyserini, `LuceneSearcher`."""
B = 0.4
"""How much a long text counts less. Source: Pyserini, `LuceneSearcher`."""

_SLACK = 1e-6
"""Relative distance from the threshold at which a document is still kept; scores are compared in single precision."""
_MAPPED_BYTES = 1 << 26
Documents = NDArray[np.int32]
"""Numbers of documents."""


def term_hashes(words: Iterable[str]) -> NDArray[np.uint64]:
    """Return what stands for each term in the index.

    Two of ten million terms share a hash with a probability of three in a million, and would be one term then.
    """
    digests = [blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest() for word in words]
    return np.frombuffer(b"".join(digests), np.uint64)


def values_of(counts: NDArray[np.int64], lengths: NDArray[np.int64], mean_length: np.float32) -> NDArray[np.float32]:
    """Return all that `score` needs to know of documents that have a term `counts` times among `lengths` terms."""
    k1, b, one = np.float32(K1), np.float32(B), np.float32(1)
    inverse = one / (k1 * ((one - b) + b * lengths.astype(np.float32) / mean_length))
    return counts.astype(np.float32) * inverse


def score(weight: np.float32, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what a term of this weight adds to a score: BM25 in single precision, operation by operation as Lucene."""
    return weight - weight / (np.float32(1) + values)


def array_path(folder: Path, name: str) -> Path:
    """Return the file of one of the arrays of an index."""
    return folder / f"search_{name}.npy"


class MappedFile:
    """A file that is read as if it were in memory, of which only a part stays there.

    The system keeps what was read of a file as long as it has memory to spare. That is welcome, but counts as memory of
    this process while it is mapped here.
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self.content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._used_bytes = 0

    def note_use(self, used_bytes: int) -> None:
        """Say how much was read, so that the mapping can be given back when it was much; to read on is no mistake."""
        self._used_bytes += used_bytes
        if self._used_bytes > _MAPPED_BYTES:
            self.content.madvise(mmap.MADV_DONTNEED)
            self._used_bytes = 0


class _MappedArray:
    """A numpy file of one dimension as a `MappedFile`."""

    def __init__(self, path: Path) -> None:
        header = np.load(path, mmap_mode="r")
        self._file = MappedFile(path)
        self._elements = np.frombuffer(self._file.content, header.dtype, offset=header.offset)

    def part(self, start: int, end: int) -> NDArray[Any]:
        self._file.note_use((end - start) * self._elements.itemsize)
        return self._elements[start:end]


def opened(path: Path) -> NDArray[Any]:
    """Return an array that stays on disk."""
    # Slices of numpy's own class for this are several times slower.
    return np.asarray(np.load(path, mmap_mode="r"))


class _Term(NamedTuple):
    """A term of a query."""

    weight: np.float32
    """The most a document could get for it if it occurred forever."""
    best: float
    """The most any document gets for it."""
    start: int
    """Where its postings start."""
    end: int
    """Where they end."""


class SearchIndex:
    """An index that a `SearchIndexWriter` wrote, opened for searching.

    Args:
        folder: where it was written.
        ranks: for every document its place among all; of documents with equal scores, lower ranks come first.
    """

    def __init__(self, folder: Path, ranks: Documents) -> None:
        self._ranks = ranks
        self._hashes: NDArray[np.uint64] = opened(array_path(folder, "hashes"))
        self._ends: NDArray[np.int64] = opened(array_path(folder, "ends"))
        self._idfs: NDArray[np.float32] = opened(array_path(folder, "idfs"))
        self._best: Documents = opened(array_path(folder, "best"))
        self._documents = _MappedArray(array_path(folder, "documents"))
        self._kinds = _MappedArray(array_path(folder, "kinds"))
        self._values: NDArray[np.float32] = np.array(opened(array_path(folder, "values")))

    def search(self, words: str, *, k: int) -> list[int]:
        """Return the numbers of the at most `k` best documents for a text, best first.

        Terms are taken by how much they can add, most first. Once the score of the k-th best document so far exceeds
        what all remaining terms can add, the search is between the documents found, and soon few of them.
        """
        query = self._terms(words)
        left = sum(term.best for term in query)
        scores = np.zeros(len(self._ranks))
        found: NDArray[np.integer] | None = None
        threshold = 0.0
        for term in query:
            lowest = threshold * (1 - _SLACK) - left
            if found is not None:
                found = found[scores[found] >= lowest]
            elif lowest > 0:
                found = np.flatnonzero(scores >= lowest)
            touched = self._add(term, scores, found)
            left -= term.best
            pool = touched if found is None else found
            if len(pool) >= k:
                threshold = max(threshold, float(np.partition(scores[pool], len(pool) - k)[len(pool) - k]))
        return self._best_of(scores, np.flatnonzero(scores) if found is None else found, k)

    def _terms(self, words: str) -> list[_Term]:
        """Return the terms of a text that some document has, those that can add most first."""
        counts = Counter(terms(words))
        hashes = term_hashes(counts)
        places = np.searchsorted(self._hashes, hashes)
        query = []
        for place, wanted, count in zip(places.tolist(), hashes, counts.values(), strict=True):
            if place == len(self._hashes) or self._hashes[place] != wanted:
                continue
            weight = np.float32(count) * self._idfs[place]
            best = float(score(weight, self._values[self._best[place]]))
            start = int(self._ends[place - 1]) if place else 0
            query.append(_Term(weight, best, start, int(self._ends[place])))
        return sorted(query, key=lambda term: -term.best)

    def _add(self, term: _Term, scores: NDArray[np.float64], found: NDArray[np.integer] | None) -> Documents:
        """Add to `scores` what a term gives to every document that has it, or only to those `found` if they are few.

        Returns:
            All documents that have the term.
        """
        documents: Documents = self._documents.part(term.start, term.end)
        kinds = self._kinds.part(term.start, term.end)
        if found is None or len(found) * 16 > len(documents):
            if len(kinds) < len(self._values):
                scores[documents] += score(term.weight, self._values[kinds])
            else:
                scores[documents] += score(term.weight, self._values)[kinds]
        else:
            places = np.searchsorted(documents, found.astype(np.int32))
            places[places == len(documents)] = 0
            has = documents[places] == found
            scores[found[has]] += score(term.weight, self._values[kinds[places[has]]])
        return documents

    def _best_of(self, scores: NDArray[np.float64], pool: NDArray[np.integer], k: int) -> list[int]:
        final = scores[pool].astype(np.float32)
        if len(pool) > k:
            good = final >= np.partition(final, len(pool) - k)[len(pool) - k]
            pool, final = pool[good], final[good]
        order = np.lexsort((self._ranks[pool], -final))[:k]
        return [int(number) for number in pool[order]]
