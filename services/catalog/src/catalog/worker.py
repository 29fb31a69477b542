"""What catalog does by itself: imports. It consumes no events and knows no driver."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import msgspec
import structlog

from catalog import domain
from catalog.domain import Draft
from catalog.store import CatalogStore
from chassis.problems import Unavailable
from feeds import jobs
from feeds.jobs import Outcome
from feeds.rows import Row

POLL_SECONDS = 0.5

_log = structlog.stdlib.get_logger(__name__)


async def carry_imports(store: CatalogStore, spool: Path) -> NoReturn:
    """Run the jobs of the spool, one after the other, oldest first."""

    async def apply(rows: Sequence[Row]) -> Sequence[Outcome]:
        return await take(store, rows)

    while True:
        job = jobs.next_queued(spool)
        if job is None:
            await asyncio.sleep(POLL_SECONDS)
            continue
        try:
            done = await jobs.run(job, apply)
            _log.info("import ended", job=done.id, state=done.state, rows=done.rows)
        except Unavailable as error:
            _log.warning("import put off", job=job.name, reason=str(error))
            await asyncio.sleep(POLL_SECONDS)


async def take(store: CatalogStore, rows: Sequence[Row]) -> list[Outcome]:
    """Make the catalogue what the rows say; one outcome for each row."""
    drafts = [_draft(row) for row in rows]
    good = [
        (row.product.key, draft)
        for row, draft in zip(rows, drafts, strict=True)
        if isinstance(draft, Draft)
    ]
    outcomes = iter(await store.take(good))
    return [next(outcomes) if isinstance(draft, Draft) else draft for draft in drafts]


def _draft(row: Row) -> Draft | Outcome:
    try:
        return domain.from_row(row.product)
    except msgspec.ValidationError as error:
        return jobs.failed("bad-product", str(error))
