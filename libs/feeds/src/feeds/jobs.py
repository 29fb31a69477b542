"""Jobs: a feed is spooled to a directory, then carried in batches by whoever applies its rows.

Knows no web framework and no store: bytes come from an async iterator, rows go to an async function.

A job is a directory of the spool: its files, and `job.json`, which is replaced whole after each batch. So a job that was
killed continues behind the last batch that is written down; at most one batch is applied twice, and `apply` must bear that.
"""

import asyncio
import contextlib
import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from feeds import formats
from feeds.rows import Bad, BadUpload, File, NoSuchJob, Row, TooLarge

LIMIT = 256 * 1024 * 1024
KEPT_ERRORS = 1000
KEPT_NOTES = 100
BATCH = 200

State = Literal["queued", "running", "done", "failed"]


class Outcome(Struct, frozen=True):
    """What became of one row."""

    kind: Literal["created", "updated", "unchanged", "failed"]
    code: str = ""
    reason: str = ""


CREATED = Outcome("created")
UPDATED = Outcome("updated")
UNCHANGED = Outcome("unchanged")


def failed(code: str, reason: str) -> Outcome:
    """The row was refused by the one who applied it."""
    return Outcome("failed", code, reason)


class Source(Struct, frozen=True):
    """A file of the job: the name its sender gave it, the name it has here, its bytes."""

    name: str
    stored: str
    size: int


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
    mapping: str = ""  # the text of the mapping file, so that a job outlives a change of the shipped ones
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
    created: datetime
    started: datetime | None = None
    finished: datetime | None = None


Apply = Callable[[Sequence[Row]], Awaitable[Sequence[Outcome]]]
Part = tuple[str, AsyncIterable[bytes]]


async def spool(
    root: Path,
    parts: AsyncIterable[Part],
    *,
    format: str,
    mapping: str = "",
    currency: str = "",
    limit: int = LIMIT,
) -> Job:
    """Keep the uploaded files and queue a job for them; `mapping` is a shipped name or the text of a mapping file."""
    raise NotImplementedError


def load(job_dir: Path) -> Job:
    """The job as it was last written down."""
    raise NotImplementedError


def find(root: Path, job_id: str) -> Job:
    """The job with this id, or NoSuchJob; the id may come from a stranger."""
    raise NotImplementedError


def listing(root: Path) -> list[Job]:
    """All jobs, newest first."""
    raise NotImplementedError


def next_queued(root: Path) -> Path | None:
    """The directory of the oldest job that waits, or whose worker died; None when there is none."""
    raise NotImplementedError


async def run(job_dir: Path, apply: Apply, *, batch: int = BATCH) -> Job:
    """Carry the job to its end, from where it stands; a job that another worker carries is left alone.

    When `apply` raises, the job stays `running` behind its last batch and the next `run` continues it.
    """
    raise NotImplementedError
