"""Exchange: preference pairs in the form of everyone else's data sets, out of a run folder and into one.

A row has `chosen` and `rejected`, each a list of messages or a plain text, with what both begin with in `prompt` or in
both of them, and the pictures that are shown in `images`, or the only one in `image`. What else is known about a pair
stands in further columns.
`armap.rewards.conversation` alone says how a trajectory is written as messages and read from them, so what goes out and
comes in again is rendered, shortened and scored as before. What comes in is read by `armap.pipeline.dataset_rows`.

Source: TRL's documentation, "Dataset formats and types", for the columns; Hugging Face's `datasets`, for pictures.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable, Iterator, Sequence
from hashlib import file_digest
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from pydantic import JsonValue

from armap.errors import ConfigError, DataError, first_line
from armap.images import ImageFolder
from armap.pipeline.dataset_rows import BadRowError, Row, as_pair
from armap.rewards.conversation import Turn, as_turns
from armap.store import RunFolder
from armap.types import DiscardedPair, PreferencePair

_ABOUT = ("source_task_id", "env", "origin", "instruction_writer", "verified_by")
"""Columns beside the pair itself; each is a text."""
_SOMETIMES = ("judge", "margin")
"""Further columns, which are there if some pair has such a thing."""
_ROWS_AT_ONCE = 100
"""Rows of a Parquet file that are in memory together: some have many pictures."""


class Imported(NamedTuple):
    """What an import brought."""

    pairs: int
    """Pairs it made."""
    discarded: int
    """Rows whose two sides are the same, which teach nothing."""


def export_pairs(run: RunFolder, place: Path) -> int:
    """Write `pairs.jsonl` as a data set that `datasets` loads and TRL trains on.

    Args:
        run: the run folder.
        place: a `.jsonl` file, for pairs without pictures, or a `.parquet` file.

    Returns:
        How many pairs there are.

    Raises:
        ConfigError: there are no pairs, or the file cannot hold them.
        DataError: a picture is missing.
    """
    kind = _kind(place)
    if place.resolve().parent == run.path.resolve():
        raise ConfigError(f"{place} would lie among the records of {run.path}; name a file outside of it.")
    pairs = run.read("pairs", PreferencePair)
    if not pairs:
        raise ConfigError(f"There are no preference pairs in {run.path}; make some with `armap synthesize`.")
    sides = [as_turns(side) for pair in pairs for side in (pair.chosen, pair.rejected)]
    pictured = any(turn.images for turns in sides for turn in turns)
    if pictured and kind == ".jsonl":
        raise ConfigError(f"The pairs in {run.path} show pictures, which JSON lines cannot hold; name a .parquet file.")
    sometimes = [name for name in _SOMETIMES if any(getattr(pair, name) for pair in pairs)]
    rows = (_row(pair, run.images if pictured else None, sometimes) for pair in pairs)
    # Whole or not at all.
    draft = place.with_name(f".{place.name}.draft")
    try:
        if kind == ".jsonl":
            _write_json_lines(draft, rows)
        else:
            _write_parquet(draft, rows, pictured, sometimes)
        draft.replace(place)
    finally:
        draft.unlink(missing_ok=True)
    return len(pairs)


def import_pairs(run: RunFolder, files: Sequence[Path], *, seed: int) -> Imported:
    """Append the rows of data sets to `pairs.jsonl`, or to `discarded.jsonl` those whose sides are the same.

    Nothing is appended unless every row can be read.

    Args:
        run: the run folder.
        files: `.jsonl` and `.parquet` files.
        seed: decides the draws of what comes after, where nobody collected in the run.

    Raises:
        ConfigError: a file is missing, empty or of another kind, or an import began with other files.
        DataError: a row is no preference pair; the message names file and row.
    """
    found: dict[str, PreferencePair | DiscardedPair] = {}
    digests: dict[str, JsonValue] = {}
    for file in files:
        before = len(found)
        for place, row in _rows(file):
            try:
                pair = as_pair(row, name=f"{file.stem}/{place.rpartition(' ')[2]}", file=file, images=run.images)
            except BadRowError as error:
                raise DataError(f"{file}, {place}: {error}.") from error
            if pair.id in found:
                raise DataError(
                    f"{file}, {place}: there is another pair {pair.id!r}; import every row once, and no two files of "
                    "one name."
                )
            found[pair.id] = pair
        if len(found) == before:
            raise ConfigError(f"There are no rows in {file}.")
        with file.open("rb") as content:
            digests[file.name] = file_digest(content, "sha256").hexdigest()
    run.begin_stage("import", {"files": digests, "seed": seed})
    there = {pair.id for pair in run.read("pairs", PreferencePair)}
    there |= {pair.id for pair in run.read("discarded", DiscardedPair)}
    for pair in found.values():
        if pair.id not in there:
            run.append("pairs" if isinstance(pair, PreferencePair) else "discarded", pair)
    pairs = sum(isinstance(pair, PreferencePair) for pair in found.values())
    return Imported(pairs, len(found) - pairs)


# Out


def _row(pair: PreferencePair, images: ImageFolder | None, sometimes: Sequence[str]) -> Row:
    """Return a pair as a row; messages have parts, and the row pictures, where `images` is given."""
    chosen, rejected = as_turns(pair.chosen), as_turns(pair.rejected)
    common = _asked(chosen[:-1], rejected[:-1])
    columns = {"prompt": chosen[:common], "chosen": chosen[common:], "rejected": rejected[common:]}
    row: Row = {name: [_message(turn, images is not None) for turn in turns] for name, turns in columns.items()}
    if images:
        shown = [image for turns in columns.values() for turn in turns for image in turn.images]
        row["images"] = [{"bytes": images.read(image), "path": f"{image.sha256}.png"} for image in shown]
    row["pair_id"] = pair.id
    row |= {name: pair.task.env if name == "env" else getattr(pair, name) for name in _ABOUT}
    return row | {name: getattr(pair, name) for name in sometimes}


def _asked(chosen: Sequence[Turn], rejected: Sequence[Turn]) -> int:
    """Return how many turns both sides have before the first action: the task, and what is seen first."""
    both = takewhile(lambda turns: turns[0] == turns[1], zip(chosen, rejected, strict=False))
    return sum(1 for _ in takewhile(lambda turns: turns[0].role != "assistant", both))


def _message(turn: Turn, in_parts: bool) -> Row:
    if not in_parts:
        return {"role": turn.role, "content": "\n".join(turn.texts)}
    texts = [{"type": "text", "text": text} for text in turn.texts]
    return {"role": turn.role, "content": [*({"type": "image", "text": None} for _ in turn.images), *texts]}


def _write_json_lines(file: Path, rows: Iterable[Row]) -> None:
    with file.open("w", encoding="utf-8") as lines:
        lines.writelines(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)


def _write_parquet(file: Path, rows: Iterable[Row], pictured: bool, sometimes: Sequence[str]) -> None:
    _require_pyarrow()
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    text = pa.string()
    content = pa.list_(pa.struct([("type", text), ("text", text)])) if pictured else text
    messages = pa.list_(pa.struct([("role", text), ("content", content)]))
    fields = [(name, messages) for name in ("prompt", "chosen", "rejected")]
    fields += [("images", pa.list_(pa.struct([("bytes", pa.binary()), ("path", text)])))] if pictured else []
    fields += [(name, text) for name in ("pair_id", *_ABOUT)]
    fields += [(name, pa.float64() if name == "margin" else text) for name in sometimes]
    # How `datasets` knows what are pictures.
    features = {"images": {"feature": {"_type": "Image"}, "_type": "List"}} if pictured else {}
    about = {"huggingface": json.dumps({"info": {"features": features}})}
    schema = pa.schema(fields, metadata=about)
    with ParquetWriter(file, schema) as writer:
        for some in _in_batches(rows):
            writer.write_table(pa.Table.from_pylist(some, schema))


def _in_batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    some: list[Row] = []
    for row in rows:
        some.append(row)
        if len(some) == _ROWS_AT_ONCE:
            yield some
            some = []
    if some:
        yield some


# In


def _rows(file: Path) -> Iterator[tuple[str, Row]]:
    """Yield the rows of a file, each with its place in it."""
    kind = _kind(file)
    if not file.is_file():
        raise ConfigError(f"There is no file {file}.")
    for place, row in (_parquet_rows if kind == ".parquet" else _json_rows)(file):
        if not isinstance(row, dict):
            raise DataError(f"{file}, {place}: this is no JSON object.")
        yield place, row


def _json_rows(file: Path) -> Iterator[tuple[str, object]]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    yield f"line {number}", json.loads(line)
                except (ValueError, RecursionError):
                    raise DataError(f"{file}, line {number}: this is not JSON.") from None


def _parquet_rows(file: Path) -> Iterator[tuple[str, object]]:
    _require_pyarrow()
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        with ParquetFile(file) as table:
            for some in table.iter_batches(_ROWS_AT_ONCE):
                for row in some.to_pylist():
                    number += 1
                    yield f"row {number}", row
    except ArrowException as error:
        raise DataError(f"{file}, after row {number}: {first_line(error)}") from error


def _kind(file: Path) -> str:
    if file.suffix not in (".jsonl", ".parquet"):
        raise ConfigError(f"{file} should end in .jsonl or .parquet; `datasets` converts to either.")
    return file.suffix


def _require_pyarrow() -> None:
    if importlib.util.find_spec("pyarrow") is None:
        raise ConfigError("Parquet files need pyarrow; type: pip install pyarrow")
