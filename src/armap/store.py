"""The run folder: where every stage appends its records, finds them again after a kill, and counts what it spent.

A run folder holds `manifest.json`, one `NAME.jsonl` per kind of record, and whatever else a stage writes. A record is
one line, and a line is only ever appended, so the one thing a killed process can leave behind is a torn last line.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import mmap
import os
import platform
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from queue import SimpleQueue
from typing import Self, TypeVar

from pydantic import JsonValue, ValidationError
from pydantic_core import PydanticSerializationError, from_json

from armap.errors import ArmapError, BudgetError, ConfigError, DataError
from armap.images import ImageFolder
from armap.types import SCHEMA_VERSION, Budget, Completion, Record, Usage

R = TypeVar("R", bound=Record)

ANY_RECORDS = ("*.jsonl",)
"""Patterns of all files of records in a run folder."""
_RECORDED_PACKAGES = ("pydantic", "httpx", "numpy", "torch", "transformers", "peft")
_NO_LIMITS = Budget()


class StageManifest(Record):
    """How one stage of a run was started for the first time."""

    settings: dict[str, JsonValue]
    """Everything that decides its results, the seed and the identity of its models included."""
    started_at: datetime
    """When, in UTC."""
    versions: dict[str, str]
    """Versions of the installed packages that may change results."""


class Manifest(Record):
    """What made the run folder."""

    schema_version: int
    """Version of the records in the folder."""
    armap_version: str
    """Version of this package."""
    python: str
    """Version of Python."""
    platform: str
    """Operating system and processor."""
    created_at: datetime
    """When, in UTC."""
    stages: dict[str, StageManifest]
    """The stages begun so far, by name."""


class RunFolder:
    """An open run folder; use it as a context manager, from one thread.

    A writable folder is locked against everyone else for as long as it is open. The lock dies with its process, so a
    killed run needs no cleaning; but a process forked while the folder is open shares the lock, so workers are to be
    started by `spawn` or `forkserver`.

    Args:
        path: the folder; a writable one is created where it is missing.
        writable: False takes no lock and changes nothing, and works beside a process that writes.

    Attributes:
        path: the folder.
        images: the pictures its records name.
        manifest: what made the folder.
        repairs: one sentence for every last line that was mended on opening.

    Raises:
        ConfigError: the folder is in use, cannot be made, is no run folder (read-only) or has another schema version.
        DataError: its manifest is malformed.
    """

    def __init__(self, path: Path, *, writable: bool = True) -> None:
        self.path = path
        self.images = ImageFolder(path / "images")
        self.repairs: list[str] = []
        self._appender: _Appender | None = None
        with ExitStack() as resources:
            if writable:
                resources.callback(os.close, _lock(path))
            self.manifest = _open_manifest(path, create=writable)
            if writable:
                for file in sorted(path.glob("*.jsonl")):
                    self.repairs += _mend_last_line(file)
                self._appender = _Appender()
                resources.callback(self._appender.close)
            self._resources = resources.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def begin_stage(
        self,
        stage: str,
        settings: Mapping[str, JsonValue],
        *,
        movable: Collection[str] = (),
        stored: Collection[str] = ANY_RECORDS,
    ) -> None:
        """Record the settings of a stage, or check that it goes on with those it began with.

        Where nothing is stored yet, it begins anew.

        Args:
            stage: name of the stage.
            settings: everything that decides its results, the seed and the identity of its models included.
            movable: those that decide nothing, such as where a server is; the new ones are kept.
            stored: patterns of the files and folders that must not come of two settings; anything but the manifest if
                nothing is said.

        Raises:
            ConfigError: the stage began with other settings, or they are not finite JSON values.
        """
        try:
            new: dict[str, JsonValue] = json.loads(json.dumps(dict(settings), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"The settings of stage {stage!r} must be finite JSON values: {error}.") from error
        begun = self.manifest.stages.get(stage)
        differences = {} if begun is None else dict(_differences(begun.settings, new))
        refused = ", ".join(said for place, said in differences.items() if place not in movable)
        if refused and any(any(self.path.glob(pattern)) for pattern in stored):
            raise ConfigError(
                f"Stage {stage!r} of {self.path} began with other settings ({refused}); "
                "use the old ones or another run folder."
            )
        if begun is None or refused:
            begun = StageManifest(settings=new, started_at=datetime.now(UTC), versions=_installed_versions())
        elif differences:
            begun = begun.model_copy(update={"settings": new})
        else:
            return
        manifest = self.manifest.model_copy(update={"stages": {**self.manifest.stages, stage: begun}})
        self.write_json("manifest", manifest)
        self.manifest = manifest

    def append(self, name: str, record: R) -> R:
        """Add `record` to `NAME.jsonl`; once this returns it survives a kill of the process.

        A crash of the machine may still lose the last moments; `close` waits until nothing can be lost.

        Returns:
            The record as `read` will give it. It equals `record` but for lone surrogates, which a language model may
            emit and UTF-8 cannot hold: each becomes U+FFFD, so that it costs one character and not the run.

        Raises:
            DataError: the record would not read back as it is, for example because a number is not finite.
            OSError: the disk is full or broken; every record appended before stays readable.
        """
        appender, path = self._writing(), self.path / f"{name}.jsonl"
        line, stored = _encode(record, path)
        appender.append(path, line)
        return stored

    def read(self, name: str, kind: type[R]) -> list[R]:
        """Return the records of `NAME.jsonl` in the order they were appended; none if there is no such file.

        Raises:
            DataError: a line is not a `kind`; the message names file, line and field.
        """
        path = self.path / f"{name}.jsonl"
        if not path.exists():
            return []
        records = []
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                # Torn: its writer was killed, or is at work beside this reader.
                if not line.endswith(b"\n") and not _is_json_object(line):
                    break
                records.append(_decode(kind, line, f"{path}, line {number}"))
        return records

    def write_json(self, name: str, value: Record) -> None:
        """Write `NAME.json`, replacing an older one at once: no reader and no kill ever meets half a file."""
        self._writing()
        _replace_json(self.path, name, value)

    def read_json(self, name: str, kind: type[R]) -> R | None:
        """Return the record in `NAME.json`, or None if there is no such file.

        Raises:
            DataError: the file is not a `kind`; the message names file and field.
        """
        path = self.path / f"{name}.json"
        return _decode(kind, path.read_bytes(), str(path)) if path.exists() else None

    def close(self) -> None:
        """Wait until every record is on the disk and release the folder; closing twice is fine.

        Raises:
            OSError: a record may not have reached the disk.
        """
        self._appender = None
        self._resources.close()

    def _writing(self) -> _Appender:
        if self._appender is None:
            raise ValueError(f"run folder {self.path} is closed or was opened for reading only")
        return self._appender


class LedgerEntry(Record):
    """One purchase: the answers to one request to a language model, or what it cost although it failed."""

    key: str
    """Identifies what was asked."""
    first_index: int
    """Number of answers to `key` that were bought before these."""
    completions: tuple[Completion, ...]
    """The answers, with what they cost; the first of them, or none, if it failed or was cut off."""
    seconds: float
    """How long the request took."""
    usage: Usage | None = None
    """What it cost in all, if it failed or was cut off."""


class Ledger:
    """What a run spent on language models, and every answer it bought. For one asyncio event loop.

    Args:
        run: the run folder, whose `completions.jsonl` holds the purchases.
        budget: what may be spent over the whole life of the run; `max_seconds` counts from this construction.
        clock: seconds from any origin.

    Attributes:
        avoided_calls: requests since it was opened that were answered without a purchase of their own.

    Raises:
        DataError: `completions.jsonl` is malformed.
    """

    def __init__(
        self, run: RunFolder, budget: Budget = _NO_LIMITS, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.avoided_calls = 0
        self._run = run
        self._budget = budget
        self._clock = clock
        self._started = clock()
        self._spent = Usage()
        self._answers: dict[str, list[Completion]] = {}
        self._cut_off: dict[str, int] = {}
        self._under_way: dict[str, asyncio.Future[ArmapError | None]] = {}
        for entry in run.read("completions", LedgerEntry):
            if entry.first_index != len(self._answers.get(entry.key, ())):
                raise DataError(
                    f"{run.path / 'completions.jsonl'}, field first_index: the answers to request {entry.key} do not "
                    f"go on at {entry.first_index}; restore the missing lines or use another run folder."
                )
            self._count(entry)

    @property
    def spent(self) -> Usage:
        """What was spent over the whole life of the run, on requests that failed too."""
        return self._spent

    def stored(self, key: str) -> list[Completion]:
        """Return every answer to `key` in the order they were bought, each with what it cost then."""
        return list(self._answers.get(key, ()))

    def began(self, key: str) -> int:
        """Return the index of the first answer of the request to go on with, for one that was cut off is gone on with.

        It is the number of stored answers if the last request was not.
        """
        return self._cut_off.get(key, len(self._answers.get(key, ())))

    async def settled(self, key: str) -> None:
        """Wait until no purchase of `key` is under way.

        Raises:
            ArmapError: the purchase failed; whoever waits for it fails with it instead of asking once more.
        """
        # A purchase that was cancelled has no error; the first waiter to wake makes its own, the others wait for that.
        while (purchase := self._under_way.get(key)) is not None:
            await asyncio.wait([purchase])
            if (error := purchase.result()) is not None:
                raise error

    @contextmanager
    def reserve(self, key: str) -> Iterator[None]:
        """Make one request for `key` inside this context; `settled` says when it may be entered.

        Every call under way counts as one request, so `max_calls` holds exactly under concurrency, but where a server
        gives one answer a request and several were asked for, or one that cannot be used. What a call costs in tokens
        and money is known only afterwards, so calls under way may still go beyond those limits.

        Raises:
            BudgetError: one more call would exceed the budget.
        """
        self._refuse_beyond_budget()
        purchase: asyncio.Future[ArmapError | None] = asyncio.get_running_loop().create_future()
        self._under_way[key] = purchase
        failure: ArmapError | None = None
        try:
            yield
        except ArmapError as error:
            failure = error
            raise
        finally:
            del self._under_way[key]
            purchase.set_result(failure)

    def record(
        self, key: str, completions: Sequence[Completion], seconds: float, *, usage: Usage | None = None
    ) -> list[Completion]:
        """Store the answers that one request for `key` bought.

        Args:
            key: what was asked.
            completions: the answers, with what they cost.
            seconds: how long the request took.
            usage: what it cost in all, if it failed or was cut off; None if these are all the answers it was to buy.

        Returns:
            The answers as they were stored, see `RunFolder.append`.

        Raises:
            ConfigError: tokens or money are limited, and it is not known how many tokens the answers took. What no
                answer came of says nothing of that: a reply that is no answer may lack its count as well.
        """
        first_index = len(self._answers.get(key, ()))
        entry = LedgerEntry(
            key=key, first_index=first_index, completions=tuple(completions), seconds=seconds, usage=usage
        )
        stored = self._run.append("completions", entry)
        self._count(stored)
        uncounted = stored.completions and not any(answer.usage.tokens for answer in stored.completions)
        for name, limit in (("max_tokens", self._budget.max_tokens), ("max_cost_usd", self._budget.max_cost_usd)):
            if limit is not None and uncounted:
                raise ConfigError(
                    f"The model's server does not say how many tokens it takes, so {name}={limit:g} could never stop "
                    "it; set max_calls instead."
                )
        return list(stored.completions)

    def _count(self, entry: LedgerEntry) -> None:
        """Take an entry into account."""
        if entry.usage is None:
            usage = sum((completion.usage for completion in entry.completions), Usage())
            self._cut_off.pop(entry.key, None)
        else:
            usage = entry.usage
            self._cut_off.setdefault(entry.key, entry.first_index)
        # A model that counts no requests still made one, or max_calls would not hold for it.
        self._spent += usage if usage.calls else usage.model_copy(update={"calls": 1})
        self._answers.setdefault(entry.key, []).extend(entry.completions)

    def _refuse_beyond_budget(self) -> None:
        budget, spent = self._budget, self._spent
        for limit_name, limit, used in (
            ("max_calls", budget.max_calls, spent.calls + len(self._under_way)),
            ("max_tokens", budget.max_tokens, spent.tokens),
            ("max_seconds", budget.max_seconds, self._clock() - self._started),
            ("max_cost_usd", budget.max_cost_usd, spent.cost_usd),
        ):
            if limit is not None and used >= limit:
                raise BudgetError(
                    f"One more call to a language model would exceed {limit_name}={limit} "
                    f"(used: {round(used, 4)}); raise {limit_name} and start again to go on from here."
                )


class _Appender:
    """Appends lines to files and has a thread bring them to the disk, as many at once as have come together."""

    def __init__(self) -> None:
        self._descriptors: dict[Path, int] = {}
        self._unsynced: set[int] = set()
        self._to_sync: SimpleQueue[int | None] = SimpleQueue()
        self._sync_error: OSError | None = None
        self._thread = threading.Thread(target=self._sync, name="armap-store", daemon=True)
        self._thread.start()

    def append(self, path: Path, line: bytes) -> None:
        if self._sync_error is not None:
            raise self._sync_error
        try:
            descriptor = self._open(path)
            _write_whole(descriptor, line)
        except OSError as error:
            reason = f"{error.strerror}; this record was not stored, every record before it was"
            raise OSError(error.errno, reason, str(path)) from error
        if descriptor not in self._unsynced:
            self._unsynced.add(descriptor)
            self._to_sync.put(descriptor)

    def close(self) -> None:
        self._to_sync.put(None)
        self._thread.join()
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        if self._sync_error is not None:
            raise self._sync_error

    def _open(self, path: Path) -> int:
        if path not in self._descriptors:
            self._descriptors[path] = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            _sync_folder(path.parent)
        return self._descriptors[path]

    def _sync(self) -> None:
        for descriptor in iter(self._to_sync.get, None):
            # Before the sync, so that a line which comes during it asks for another one.
            self._unsynced.discard(descriptor)
            try:
                os.fsync(descriptor)
            except OSError as error:
                self._sync_error = OSError(error.errno, f"{error.strerror}; the last records may not be on the disk")


def _write_whole(descriptor: int, line: bytes) -> None:
    written = 0
    try:
        # One write, unless the disk is full: then the second one says why.
        while written < len(line):
            written += os.write(descriptor, line[written:])
    finally:
        if 0 < written < len(line):
            os.ftruncate(descriptor, os.fstat(descriptor).st_size - written)


def _encode(record: R, path: Path) -> tuple[bytes, R]:
    """Return the line for `record` and what it reads back as; a line that cannot be read is never written."""
    try:
        text, record = _dump(record)
        stored = type(record).model_validate_json(text)
    except ValidationError as error:
        raise DataError(f"{path} cannot hold this {type(record).__name__}, {_reason(error)}.") from error
    # Numbers that are not finite are written as null; comparing every record costs more than storing it.
    if "null" in text and stored != record:
        raise DataError(
            f"{path} cannot hold this {type(record).__name__}, for it would not read back the same; "
            "look for numbers that are not finite."
        )
    return text.encode() + b"\n", stored


def _dump(record: R) -> tuple[str, R]:
    # Fields that have their default are left out: most completions and steps are little else. A changed default
    # therefore changes what older files say, so it needs a new SCHEMA_VERSION.
    try:
        return record.model_dump_json(exclude_defaults=True), record
    except PydanticSerializationError:
        content = json.dumps(record.model_dump(mode="json"), ensure_ascii=False)
        # UTF-16 joins the two halves of a surrogate pair, and its decoder replaces a lone one.
        well_formed = content.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        record = type(record).model_validate_json(well_formed)
        return record.model_dump_json(exclude_defaults=True), record


def _decode(kind: type[R], content: bytes, where: str, remedy: str = "correct or remove it") -> R:
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise DataError(f"{where}, {_reason(error)}; {remedy}.") from error


def _reason(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    return (f"field {field}: " if field else "") + first["msg"].replace(" at line 1 column ", " at column ")


def _is_json_object(line: bytes) -> bool:
    try:
        return isinstance(from_json(line), dict)
    except ValueError:
        return False


def _mend_last_line(path: Path) -> list[str]:
    """Make the file end with a newline; return one sentence if it did not."""
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        if size == 0:
            return []
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            last_line = content[content.rfind(b"\n") + 1 :]
        if not last_line:
            return []
        # No beginning of a JSON object is itself one, so only the newline is missing; an editor may have left it out.
        if _is_json_object(last_line):
            file.write(b"\n")
            repair = f"{path.name}: added the missing newline after the last line"
        else:
            file.truncate(size - len(last_line))
            repair = f"{path.name}: dropped a torn last line of {len(last_line)} bytes"
        file.flush()
        os.fsync(file.fileno())
    return [repair]


def _lock(path: Path) -> int:
    """Create the folder if needed, lock it against everyone else and return the descriptor that holds the lock."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise ConfigError(f"Cannot write to run folder {path}: {error.strerror}; choose another folder.") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.read(lock, 32).decode() or "that is just starting"
        os.close(lock)
        raise ConfigError(
            f"Run folder {path} is in use by process {holder}; wait until it ends or choose another folder."
        ) from error
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
    return lock


def _open_manifest(path: Path, *, create: bool) -> Manifest:
    file = path / "manifest.json"
    if not file.exists():
        if not create:
            raise ConfigError(f"{path} is not a run folder, for it has no manifest.json; name a folder that is one.")
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            armap_version=version("armap"),
            python=platform.python_version(),
            platform=platform.platform(),
            created_at=datetime.now(UTC),
            stages={},
        )
        _replace_json(path, "manifest", manifest)
        return manifest
    content = file.read_bytes()
    # Looked at first, because a manifest of another version need not have the fields of this one.
    with suppress(ValueError):
        found = from_json(content)
        if isinstance(found, dict) and found.get("schema_version", SCHEMA_VERSION) != SCHEMA_VERSION:
            raise ConfigError(
                f"Run folder {path} was written under schema version {found['schema_version']} by armap "
                f"{found.get('armap_version')}, and this armap reads version {SCHEMA_VERSION}; "
                "use that armap or another run folder."
            )
    return _decode(Manifest, content, str(file), "restore it, or use another run folder")


def _replace_json(folder: Path, name: str, value: Record) -> None:
    draft = folder / f".{name}.json.draft"
    with draft.open("wb") as file:
        file.write(value.model_dump_json(indent=2).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(folder / f"{name}.json")
    _sync_folder(folder)


def _sync_folder(path: Path) -> None:
    """Bring the names in a folder to the disk; syncing a file does not do that."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _installed_versions() -> dict[str, str]:
    versions = {}
    for package in _RECORDED_PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def _differences(
    old: Mapping[str, JsonValue], new: Mapping[str, JsonValue], prefix: str = ""
) -> Iterator[tuple[str, str]]:
    """Yield the place of every setting that differs, and how it does."""
    for name in sorted(old.keys() | new.keys()):
        before, now = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(now, dict):
            yield from _differences(before, now, f"{prefix}{name}.")
        elif before != now:
            place = f"{prefix}{name}"
            yield place, f"{place} was {json.dumps(before)} and is now {json.dumps(now)}"
