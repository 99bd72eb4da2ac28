"""A catalogue on disk: products, the search index over them and the goals made of them.

It is built once, opens in a moment whatever its size, and can be opened by any number of processes.
"""

from __future__ import annotations

import os
import re
import time
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from hashlib import file_digest, sha256
from importlib import resources
from itertools import islice, pairwise, repeat
from pathlib import Path
from shutil import rmtree
from tempfile import NamedTemporaryFile, TemporaryDirectory
from typing import NamedTuple, TypeVar, get_args, overload

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from armap.envs.webshop.catalogue import generate
from armap.envs.webshop.goals import Goal, GoalKind, human_goals, official_order, rng_of_goals, synthetic_goals
from armap.envs.webshop.indexing import SearchIndexWriter
from armap.envs.webshop.products import Product, read_products
from armap.envs.webshop.search import MappedFile, SearchIndex, opened
from armap.errors import ConfigError, DataError
from armap.types import Record
from armap.user_cache import user_cache

FORMAT = 1
"""Version of what is written, goals included; a catalogue of another one is refused."""

_MANIFEST = "catalogue.json"
_REMEMBERED_PRODUCTS = 256
_MAPPED_AROUND_BYTES = 1 << 16
_KEPT_UNUSED_S = 24 * 3600.0
"""How long a catalogue that nobody opens is kept beside a newer one: a run of another version may be reading it."""

_T = TypeVar("_T")


class _Manifest(Record):
    """What a catalogue says about itself; written last."""

    format: int
    """The `FORMAT` it was written in."""
    seed: int
    """Seed of the price limits of its goals."""
    products: int
    """How many products it holds."""
    fingerprint: str
    """Hash of all products and the seed, in hexadecimal."""
    sizes: dict[str, int]
    """Bytes by name of the file, of all files but this one."""


class _Rows(Sequence[_T]):
    """A sequence whose elements are made when they are asked for."""

    def __init__(self, size: int, at: Callable[[int], _T]) -> None:
        self._numbers = range(size)
        self._at = at

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, number: int) -> _T: ...
    @overload
    def __getitem__(self, number: slice) -> list[_T]: ...
    def __getitem__(self, number: int | slice) -> _T | list[_T]:
        if isinstance(number, slice):
            return [self._at(one) for one in self._numbers[number]]
        return self._at(self._numbers[number])


class Catalogue:
    """All products of a shop, opened for reading; they stay on disk.

    Args:
        folder: one that `build` wrote.

    Raises:
        DataError: it holds no catalogue, a damaged one, or one of another version.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._manifest = _manifest(folder)
        self._ids: NDArray[np.bytes_] = opened(folder / "ids.npy")
        self._by_id: NDArray[np.int32] = opened(folder / "by_id.npy")
        self._ends: NDArray[np.int64] = opened(folder / "product_ends.npy")
        self._lines = MappedFile(folder / "products.jsonl")
        self._goals: dict[GoalKind, NDArray[np.int32]] = {
            kind: opened(folder / f"goals_{kind}.npy") for kind in get_args(GoalKind)
        }
        self._search = SearchIndex(folder, opened(folder / "ranks.npy"))
        self._product = lru_cache(_REMEMBERED_PRODUCTS)(self._read_product)

    def __reduce__(self) -> tuple[type[Catalogue], tuple[Path]]:
        # Another process opens the same files.
        return Catalogue, (self._folder.absolute(),)

    @property
    def name(self) -> str:
        """What to call it in a record: how many products, and the beginning of the fingerprint."""
        return f"webshop-{len(self)}-{self.fingerprint[:8]}"

    @property
    def fingerprint(self) -> str:
        """Hash of all products and the seed of the goals, in hexadecimal; equal for equal shops."""
        return self._manifest.fingerprint

    @property
    def seed(self) -> int:
        """The seed that it was built with."""
        return self._manifest.seed

    @property
    def ids(self) -> Sequence[str]:
        """The ids of all products, in their order."""
        return _Rows(len(self), self._id)

    def __len__(self) -> int:
        return self._manifest.products

    def __contains__(self, product_id: object) -> bool:
        return isinstance(product_id, str) and self._number(product_id) is not None

    def product(self, product_id: str) -> Product:
        """Return a product.

        Raises:
            KeyError: there is none with this id.
        """
        number = self._number(product_id)
        if number is None:
            raise KeyError(product_id)
        return self._product(number)

    def search(self, words: str, *, k: int = 50) -> list[str]:
        """Return the ids of the at most `k` products that fit the words best, best first; of equals, by id."""
        return [self._id(number) for number in self._search.search(words, k=k)]

    def goals(self, kind: GoalKind) -> Sequence[Goal]:
        """Return the goals of one kind, in the official order; each is made when it is asked for."""
        rows = self._goals[kind]
        return _Rows(len(rows), lambda number: self._goal(kind, int(rows[number, 0]), int(rows[number, 1])))

    def _goal(self, kind: GoalKind, product_number: int, number: int) -> Goal:
        product = self._product(product_number)
        if kind == "synthetic":
            # A product may have thousands of combinations: make the one asked for.
            product, number = replace(product, options=_combination(product, number)), 0
        return next(islice(_goals(kind, product, self.seed), number, None))

    def _id(self, number: int) -> str:
        return bytes(self._ids[number]).decode("utf-8", "surrogatepass")

    def _number(self, product_id: str) -> int | None:
        wanted = product_id.encode("utf-8", "surrogatepass")
        place = bisect_left(self._by_id, wanted, key=lambda number: bytes(self._ids[number]))
        if place < len(self) and self._ids[self._by_id[place]] == wanted:
            return int(self._by_id[place])
        return None

    def _read_product(self, number: int) -> Product:
        start = int(self._ends[number - 1]) if number else 0
        end = int(self._ends[number])
        # The system maps what lies around along with it.
        self._lines.note_use(end - start + _MAPPED_AROUND_BYTES)
        return Product.from_json(self._lines.content[start:end])


def _manifest(folder: Path) -> _Manifest:
    try:
        manifest = _Manifest.model_validate_json((folder / _MANIFEST).read_bytes())
    except OSError as error:
        raise DataError(f"{folder} holds no catalogue of products: {_MANIFEST} cannot be read") from error
    except ValidationError as error:
        raise DataError(f"{folder / _MANIFEST} does not describe a catalogue of products; delete {folder}") from error
    if manifest.format != FORMAT:
        raise DataError(f"{folder} is in format {manifest.format}, not {FORMAT}; delete it and build it again")
    for name, size in manifest.sizes.items():
        if not (folder / name).is_file() or (folder / name).stat().st_size != size:
            raise DataError(f"{folder} is damaged, as {name} has not its {size} bytes; delete it and build it again")
    return manifest


def _goals(kind: GoalKind, product: Product, seed: int) -> Iterator[Goal]:
    """Make the goals of one product; price limits depend on nothing but the seed and the product."""
    if not (product.human_instructions if kind == "human" else product.instruction):
        return iter(())
    make = human_goals if kind == "human" else synthetic_goals
    return make([product], rng_of_goals(kind, seed, product.id))


def _combination(product: Product, number: int) -> dict[str, tuple[str, ...]]:
    """Return the options of `product` with but the values that its synthetic goal `number` asks for."""
    groups = sorted(product.options)
    places = np.unravel_index(number, [len(product.options[group]) for group in groups]) if groups else ()
    return {group: (product.options[group][int(place)],) for group, place in zip(groups, places, strict=True)}


def build(folder: Path, products: Iterable[Product], *, seed: int = 0) -> None:
    """Write a catalogue, in bounded memory; the folder appears when it is whole.

    Args:
        folder: where to; it must not exist.
        products: in their order, which decides the numbers of the goals.
        seed: decides the price limits of the goals.

    Raises:
        ConfigError: the folder exists, or cannot be written.
        DataError: there are no products, or two have one id.
    """
    if folder.exists():
        raise ConfigError(f"{folder} exists already; name a folder that does not, or delete it")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as unfinished:
            whole = Path(unfinished) / "whole"
            whole.mkdir()
            _write(whole, products, seed)
            whole.rename(folder)
    except OSError as error:
        raise ConfigError(f"{folder} could not be written: {error}") from error


def _write(folder: Path, products: Iterable[Product], seed: int) -> None:
    digest = sha256(f"{FORMAT} {seed}\n".encode())
    ids: list[bytes] = []
    ends = array("q")
    goals: dict[GoalKind, _GoalRows] = {kind: _GoalRows() for kind in get_args(GoalKind)}
    writer = SearchIndexWriter(folder)
    with (folder / "products.jsonl").open("wb") as file:
        for product in products:
            line = product.to_json().encode("utf-8", "surrogatepass") + b"\n"
            digest.update(line)
            file.write(line)
            ends.append(file.tell())
            for kind, rows in goals.items():
                rows.add(len(ids), sum(1 for _ in _goals(kind, product, seed)))
            ids.append(product.id.encode("utf-8", "surrogatepass"))
            writer.add(searched_text(product))
    _write_ids(folder, ids)
    writer.finish()
    np.save(folder / "product_ends.npy", np.array(ends, np.int64))
    for kind, rows in goals.items():
        np.save(folder / f"goals_{kind}.npy", rows.in_official_order())
    manifest = _Manifest(
        format=FORMAT,
        seed=seed,
        products=len(ids),
        fingerprint=digest.hexdigest(),
        sizes={path.name: path.stat().st_size for path in sorted(folder.iterdir())},
    )
    (folder / _MANIFEST).write_text(manifest.model_dump_json(indent=1), "utf-8")


class _GoalRows:
    """For every goal the number of its product, and its own number among the goals of that product."""

    def __init__(self) -> None:
        self._products = array("i")
        self._numbers = array("i")

    def add(self, product_number: int, count: int) -> None:
        self._products.extend(repeat(product_number, count))
        self._numbers.extend(range(count))

    def in_official_order(self) -> NDArray[np.int32]:
        """Return both as the columns of an array [goals, 2]."""
        order = np.array(official_order(range(len(self._products))), np.int64)
        return np.column_stack((np.array(self._products, np.int32), np.array(self._numbers, np.int32)))[order]


def _write_ids(folder: Path, ids: list[bytes]) -> None:
    if not ids:
        raise DataError("a catalogue needs at least one product")
    by_id = sorted(range(len(ids)), key=ids.__getitem__)
    for a, b in pairwise(by_id):
        if ids[a] == ids[b]:
            raise DataError(
                f"two products have the id {ids[a].decode('utf-8', 'replace')!r}: numbers {a} and {b}, counted from 0"
            )
    ranks = np.empty(len(ids), np.int32)
    ranks[by_id] = np.arange(len(ids))
    np.save(folder / "ids.npy", np.array(ids))
    np.save(folder / "by_id.npy", np.array(by_id, np.int32))
    np.save(folder / "ranks.npy", ranks)


def searched_text(product: Product) -> str:
    """Return the text that a search looks at. Source: WebShop, `convert_product_file_format.py`."""
    options = ", and ".join(f"{group}: {', '.join(values)}" for group, values in product.options.items())
    return " ".join((product.title, product.description, *product.features[:1], options)).lower()


def open_or_build(path: Path, *, seed: int = 0) -> Catalogue:
    """Open the catalogue of WebShop's official files, and build it before where that was not done yet.

    What was built is kept in the user's cache folder (`$XDG_CACHE_HOME` or `~/.cache`) by the content of the files, and
    replaces what was built of other content of the same name and not opened for a day.

    Args:
        path: an `items_shuffle*.json`, beside which its `items_ins_v2*.json` and `items_human_ins*.json` lie, or a
            folder with one of each.
        seed: decides prices and price limits.

    Raises:
        ConfigError: the files are not there.
        DataError: a file or the catalogue is malformed.
    """
    files = official_files(path)
    contents = [_content(file) for file in files if file is not None]
    key = sha256(" ".join((str(FORMAT), str(seed), *contents)).encode()).hexdigest()
    return _open_or_build(files.items.stem, key, lambda: read_products(*files, seed=seed), seed)


def open_embedded(*, seed: int = 0) -> Catalogue:
    """Open the catalogue that comes with the package, and build it before where that was not done yet."""
    sources = sorted(resources.files(__package__).iterdir(), key=lambda source: source.name)
    digest = sha256(f"{FORMAT} {seed}\n".encode())
    for source in sources:
        # Any of these may decide what is made; to hash them takes less time than to make it.
        if source.name.endswith((".py", ".toml", ".txt")):
            digest.update(source.read_bytes())
    return _open_or_build("embedded", digest.hexdigest(), lambda: generate(seed), seed)


def _open_or_build(name: str, key: str, products: Callable[[], Iterable[Product]], seed: int) -> Catalogue:
    folder = user_cache("webshop") / f"{name}-{key[:16]}"
    if not folder.exists():
        try:
            build(folder, products(), seed=seed)
        except ConfigError:
            # Another process may have been faster with the same.
            if not folder.exists():
                raise
        _clear_others(folder, name)
    # Where the time cannot be noted, it is that of building.
    with suppress(OSError):
        os.utime(folder / _MANIFEST)
    return Catalogue(folder)


def _clear_others(folder: Path, name: str) -> None:
    """Delete what stands beside `folder` under the same name, built of something else, unless it may be in use."""
    # With a dot before it and more behind it, it was begun and not finished.
    built = re.compile(rf"{re.escape(name)}-[0-9a-f]{{16}}|\.{re.escape(name)}-[0-9a-f]{{16}}-\w+")
    for other in folder.parent.iterdir():
        # Another process may be deleting the same.
        with suppress(OSError):
            if other != folder and built.fullmatch(other.name) and _unused_s(other) > _KEPT_UNUSED_S:
                rmtree(other)


def _unused_s(folder: Path) -> float:
    manifest = folder / _MANIFEST
    return time.time() - (manifest if manifest.exists() else folder).stat().st_mtime


class OfficialFiles(NamedTuple):
    """Where WebShop's files are."""

    items: Path
    """The products."""
    attributes: Path
    """Their attributes and written instructions."""
    human: Path | None
    """Instructions that people wrote, where there are any."""


def official_files(path: Path) -> OfficialFiles:
    """Return the official files at `path`, a folder or the file of the products.

    Raises:
        ConfigError: one is missing, or there are several to choose from.
    """
    if path.is_dir():
        found = sorted(path.glob("items_shuffle*.json"))
        if len(found) != 1:
            names = ", ".join(file.name for file in found) or "no items_shuffle*.json"
            raise ConfigError(f"{path} holds {names}; name the one file of products to use")
        (path,) = found
    if not path.is_file() or not path.name.startswith("items_shuffle"):
        raise ConfigError(f"{path} is no items_shuffle*.json; name WebShop's file of products, or its folder")
    size = path.name.removeprefix("items_shuffle")
    attributes = path.with_name(f"items_ins_v2{size}")
    if not attributes.is_file():
        raise ConfigError(f"{attributes} is missing; put WebShop's file of attributes there")
    human = (path.with_name(f"items_human_ins{size}"), path.with_name("items_human_ins.json"))
    return OfficialFiles(path, attributes, next((file for file in human if file.is_file()), None))


def _content(file: Path) -> str:
    """Return the hash of a file's content, remembered as long as the file is not touched: some have gigabytes."""
    about = file.stat()
    touched = f"{file.resolve()} {about.st_size} {about.st_mtime_ns} {about.st_ino}"
    known = user_cache("webshop") / "contents" / sha256(touched.encode()).hexdigest()
    if known.is_file():
        return known.read_text("utf-8")
    with file.open("rb") as stream:
        digest = file_digest(stream, "sha256").hexdigest()
    # Where nothing can be remembered, it only takes longer the next time.
    with suppress(OSError):
        known.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile("w", dir=known.parent, delete=False) as unfinished:
            unfinished.write(digest)
        Path(unfinished.name).rename(known)
    return digest
