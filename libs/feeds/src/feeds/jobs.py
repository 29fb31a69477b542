"""Jobs: a feed is spooled to a directory, then carried in batches by whoever applies its rows.

Knows no web framework and no store: bytes come from an async iterator, rows go to a function.

A job is a directory of the spool: its files, `job.json`, which is replaced whole after each batch,
and what became of each row where that is asked for. So a job that was killed continues behind the
last batch that is written down; at most one batch is applied twice, and `apply` must bear that.
"""

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Generator, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import asdict, replace

from feeds import formats
from feeds import mapping as mappings
from feeds.rows import (
    Bad,
    BadUpload,
    FeedError,
    File,
    KeyTaken,
    NoSuchJob,
    NoSuchPlace,
    Row,
    TooLarge,
)

LIMIT = 256 * 1024 * 1024
KEPT_ERRORS = 1000
KEPT_NOTES = 100
BATCH = 200
MOST_FILES = 100
RESULTS = "results.ndjson"

_ID = re.compile("[0-9a-f]{24}")

State = Literal["queued", "running", "done", "failed"]


class Outcome(Struct, frozen=True):
    """What became of one row; `facts` go into its result as they are."""

    kind: Literal["created", "updated", "unchanged", "failed"]
    code: str = ""
    reason: str = ""
    facts: dict[str, Any] = {}


CREATED = Outcome("created")
UPDATED = Outcome("updated")
UNCHANGED = Outcome("unchanged")


def failed(code: str, reason: str, facts: dict[str, Any] | None = None) -> Outcome:
    """The row was refused by the one who applied it."""
    return Outcome("failed", code, reason, facts or {})


class Source(Struct, frozen=True):
    """A file of the job: the name its sender gave it, the name it has here, its bytes."""

    name: str
    stored: str
    size: int
    sha256: str = ""


class Counts(Struct, frozen=True):
    """Rows by what became of them."""

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    failed: int = 0


class Job(Struct, frozen=True, kw_only=True):
    """A feed on its way in, as its owner may see it."""

    id: str
    state: State = "queued"
    format: str
    mapping: str = ""  # its text, so that a job outlives a change of the shipped ones
    currency: str = ""
    files: list[Source]
    bytes_total: int
    bytes_done: int = 0
    rows: int = 0  # rows taken, good or bad: the place to continue from
    counts: Counts = Counts()
    errors: list[Bad] = []  # the first 1000
    warnings: int = 0
    notes: list[Bad] = []  # the first 100 warnings
    reason: str = ""  # why the job as a whole failed
    results: int = 0  # bytes of its results that count
    created: datetime
    started: datetime | None = None
    finished: datetime | None = None


class Read(Protocol):
    """What every row has, whatever its feed is about."""

    @property
    def source(self) -> str: ...
    @property
    def line(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def warnings(self) -> list[str]: ...


R = TypeVar("R", bound=Read)
Apply = Callable[[Sequence[Row]], Awaitable[Sequence[Outcome]]]
Part = tuple[str, AsyncIterable[bytes]]


async def spool(
    root: Path,
    parts: AsyncIterable[Part],
    *,
    format: str,  # noqa: A002  the word of the HTTP interface
    mapping: str = "",
    currency: str = "",
    limit: int = LIMIT,
) -> Job:
    """Keep the uploaded files and queue a job for them.

    `mapping` is the name of a shipped mapping, or the text of another.
    """
    mapping = mappings.text(mapping)
    formats.check(format, formats.How(formats.mapping_of(mapping), currency))
    job, _ = await keep(root, parts, format=format, mapping=mapping, currency=currency, limit=limit)
    return job


async def keep(
    root: Path,
    parts: AsyncIterable[Part],
    *,
    format: str,  # noqa: A002  as above
    mapping: str = "",
    currency: str = "",
    limit: int = LIMIT,
    key: str = "",
) -> tuple[Job, bool]:
    """Keep uploaded files for a reader of the owner's own; the job, and whether it is an old one.

    What comes again under a `key` is the job that it was; KeyTaken when that was something else.
    """
    job_id = _keyed(format, key) if key else f"{time.time_ns():016x}{secrets.token_hex(4)}"
    coming = root / f".{job_id}-{secrets.token_hex(4)}"
    coming.mkdir(parents=True)
    try:
        sources = await _keep(coming, parts, limit)
        job = Job(
            id=job_id,
            format=format,
            mapping=mapping,
            currency=currency,
            files=sources,
            bytes_total=sum(each.size for each in sources),
            created=datetime.now(UTC),
        )
        _write(coming, job)
        try:
            # only a whole job is ever seen under its own name, and only one of those with its key
            coming.rename(root / job_id)
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
            shutil.rmtree(coming, ignore_errors=True)
            before = load(root / job_id)
            if _content(before) != _content(job):
                raise KeyTaken("something else came under this key") from None
            return before, True
        _sync(root)
    except BaseException:
        shutil.rmtree(coming, ignore_errors=True)
        raise
    return job, False


def _keyed(format: str, key: str) -> str:  # noqa: A002  as above
    return hashlib.sha256(f"{format} {key}".encode()).hexdigest()[:24]


def _content(job: Job) -> tuple[object, ...]:
    return job.mapping, job.currency, [(each.size, each.sha256) for each in job.files]


async def _keep(directory: Path, parts: AsyncIterable[Part], limit: int) -> list[Source]:
    sources: list[Source] = []
    total = 0
    async for given, chunks in parts:
        name = _plain_name(given, len(sources), {each.name for each in sources})
        if len(sources) == MOST_FILES:
            raise TooLarge(f"a job takes at most {MOST_FILES} files")
        stored = f"{len(sources):03}.part"
        size, digest = 0, hashlib.sha256()
        with (directory / stored).open("xb") as file:
            async for chunk in chunks:
                size += len(chunk)
                if total + size > limit:
                    raise TooLarge(f"a job takes at most {limit} bytes")
                file.write(chunk)
                digest.update(chunk)
            file.flush()
            os.fsync(file.fileno())
        total += size
        sources.append(Source(name, stored, size, digest.hexdigest()))
    if not total:
        raise BadUpload("no file was sent, or only empty ones")
    return sources


def _plain_name(given: str, number: int, taken: set[str]) -> str:
    """A stranger's file name, fit to be shown; it never becomes a path."""
    name = re.sub(r"[^A-Za-z0-9._ -]", "_", given.replace("\\", "/").rsplit("/", 1)[-1])[
        :100
    ].strip()
    name = name or f"file-{number + 1}"
    return f"{number + 1}-{name}" if name in taken else name


def load(job_dir: Path) -> Job:
    """The job as it was last written down."""
    try:
        return msgspec.json.decode((job_dir / "job.json").read_bytes(), type=Job)
    except FileNotFoundError:
        raise NoSuchJob(f"there is no job {job_dir.name}") from None


def find(root: Path, job_id: str) -> Job:
    """The job with this id, or NoSuchJob; the id may come from a stranger."""
    if not _ID.fullmatch(job_id):
        raise NoSuchJob("there is no such job")
    return load(root / job_id)


def listing(root: Path) -> list[Job]:
    """All jobs, newest first."""
    return _jobs(root)[::-1]


def next_queued(root: Path) -> Path | None:
    """The directory of the oldest job that waits, or whose worker died; None when there is none."""
    for each in _jobs(root):
        if each.state in {"queued", "running"}:
            with _locked(root / each.id) as mine:
                if mine:
                    return root / each.id
    return None


async def run(job_dir: Path, apply: Apply, *, batch: int = BATCH) -> Job:
    """Carry a feed of products to its end, as `carry` does."""
    return await carry(job_dir, _read_feed, apply, batch=batch)


async def carry(
    job_dir: Path,
    read: Callable[[Job, Sequence[File]], Generator[R | Bad, None, None]],
    apply: Callable[[Sequence[R]], Awaitable[Sequence[Outcome]]],
    *,
    batch: int = BATCH,
    results: bool = False,
) -> Job:
    """Carry the job to its end, from where it stands; another worker's job is left alone.

    `read` gives the same rows whenever it reads the same files. When `apply` raises, the job stays
    `running` behind its last batch: the next run continues. With `results`, what became of each row
    is written down.
    """
    with _locked(job_dir) as mine:
        job = load(job_dir)
        if not mine or job.state not in {"queued", "running"}:
            return job
        job = replace(job, state="running", started=job.started or datetime.now(UTC))
        _write(job_dir, job)
        files = [File(each.name, job_dir / each.stored) for each in job.files]
        try:
            with contextlib.closing(read(job, files)) as rows:
                job = await _carry(job_dir, job, rows, apply, batch, results=results)
            job = replace(job, state="done", bytes_done=job.bytes_total)
        except FeedError as error:
            # _carry wrote down how far it came
            job = replace(load(job_dir), state="failed", reason=f"{error.code}: {error}")
        job = replace(job, finished=datetime.now(UTC))
        _write(job_dir, job)
        for each in job.files:
            (job_dir / each.stored).unlink(missing_ok=True)
        return job


def _read_feed(job: Job, files: Sequence[File]) -> Generator[Row | Bad, None, None]:
    mapping = formats.mapping_of(job.mapping)
    return formats.read(files, job.format, mapping, currency=job.currency)


async def _carry(
    job_dir: Path,
    job: Job,
    rows: Iterator[R | Bad],
    apply: Callable[[Sequence[R]], Awaitable[Sequence[Outcome]]],
    batch: int,
    *,
    results: bool,
) -> Job:
    skip = job.rows
    while taken := list(islice(rows, min(skip, batch) or batch)):
        if skip:
            skip -= len(taken)
            await asyncio.sleep(0)
            continue
        good = [each for each in taken if not isinstance(each, Bad)]
        outcomes = await apply(good) if good else []
        became = dict(zip(map(id, good), outcomes, strict=True))
        job = _counted(job, taken, became)
        if results:
            job = replace(job, results=_append(job_dir, job.results, taken, became))
        _write(job_dir, job)
    return job


def _append(
    job_dir: Path, end: int, taken: Sequence[Read | Bad], outcomes: dict[int, Outcome]
) -> int:
    """Write the results of a batch behind those that count; where they end now."""
    with (job_dir / RESULTS).open("ab") as file:
        # what a worker wrote that died before it wrote down the job
        file.truncate(end)
        for each in taken:
            file.write(_result(each, outcomes.get(id(each))))
        file.flush()
        os.fsync(file.fileno())
        return file.tell()


def _result(row: Read | Bad, outcome: Outcome | None) -> bytes:
    bad = row if isinstance(row, Bad) else outcome
    told: dict[str, Any] = {"line": row.line, "result": outcome.kind if outcome else "failed"}
    told |= outcome.facts if outcome else {}
    if bad and bad.code:
        told |= {"code": bad.code, "reason": bad.reason}
    return msgspec.json.encode(told) + b"\n"


def results(job_dir: Path, after: int, limit: int) -> tuple[list[msgspec.Raw], int]:
    """Up to `limit` results from the place `after` on, and the place behind them.

    Raises NoSuchPlace where no result begins at `after`.
    """
    job = load(job_dir)
    if after == job.results:
        return [], after
    with (job_dir / RESULTS).open("rb") as file:
        if after:
            file.seek(after - 1)
        if after > job.results or (after and file.read(1) != b"\n"):
            raise NoSuchPlace("no result begins there")
        found: list[msgspec.Raw] = []
        while len(found) < limit and file.tell() < job.results:
            found.append(msgspec.Raw(file.readline()))
        return found, file.tell()


def _counted(job: Job, taken: Sequence[Read | Bad], outcomes: dict[int, Outcome]) -> Job:
    """The job behind one more batch."""
    counts = asdict(job.counts)
    errors, notes = list(job.errors), list(job.notes)
    warnings = job.warnings
    for each in taken:
        if isinstance(each, Bad):
            bad = each
        else:
            for text in each.warnings:
                warnings += 1
                notes.append(_note(each, "warning", text))
            outcome = outcomes[id(each)]
            if outcome.kind != "failed":
                counts[outcome.kind] += 1
                continue
            bad = Bad(source=each.source, line=each.line, code=outcome.code, reason=outcome.reason)
        if bad.severity == "warning":
            warnings += 1
            notes.append(bad)
        else:
            counts["failed"] += 1
            errors.append(bad)
    return replace(
        job,
        rows=job.rows + len(taken),
        bytes_done=taken[-1].offset,
        counts=Counts(**counts),
        errors=errors[:KEPT_ERRORS],
        warnings=warnings,
        notes=notes[:KEPT_NOTES],
    )


def _note(row: Read, code: str, text: str) -> Bad:
    return Bad(source=row.source, line=row.line, code=code, reason=text, severity="warning")


def _write(job_dir: Path, job: Job) -> None:
    """Replace job.json whole: a reader sees the old one or the new one."""
    new = job_dir / "job.json.new"
    with new.open("wb") as file:
        file.write(msgspec.json.encode(job))
        file.flush()
        os.fsync(file.fileno())
    new.rename(job_dir / "job.json")
    _sync(job_dir)


def _sync(directory: Path) -> None:
    """A rename lasts once its directory is on disk."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _jobs(root: Path) -> list[Job]:
    """Oldest first."""
    if not root.is_dir():
        return []
    found = [load(each) for each in root.iterdir() if _ID.fullmatch(each.name)]
    return sorted(found, key=lambda job: (job.created, job.id))


@contextlib.contextmanager
def _locked(job_dir: Path) -> Iterator[bool]:
    """Whether this worker alone has the job; the lock of a worker that dies is gone with it."""
    try:
        handle = os.open(job_dir, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        raise NoSuchJob(f"there is no job {job_dir.name}") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)
