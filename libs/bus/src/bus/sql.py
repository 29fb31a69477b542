"""Outbox and inbox in SQL, written in the transaction that changes the state. Opens no engine.

Rows leave the outbox when the broker has confirmed them. A late, lower `seq` is found all the
same: the relay reads what is there, never "what is above the last one".
"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from bus import failpoints
from bus.outbox import Entry
from shop_contracts.envelope import Event, encode, meta_of
from shop_contracts.events.base import Fact

POLL_SECONDS = 0.02
IDLE_POLL_SECONDS = 0.1
CALMER = 1.25
PATIENCE_SECONDS = 1.0
REMEMBERED = timedelta(days=30)
"""How long a mark of the inbox is kept: longer than a log keeps events that may be replayed."""
_BIG = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def outbox_table(metadata: sa.MetaData) -> sa.Table:
    """Events that wait to be published, in the order of their transactions per subject."""
    return sa.Table(
        "outbox",
        metadata,
        sa.Column("seq", _BIG, primary_key=True, autoincrement=True),
        sa.Column("event_id", sa.String(36), nullable=False, unique=True),
        sa.Column("body", sa.LargeBinary(1_000_000), nullable=False),
        sqlite_autoincrement=True,
    )


def inbox_table(metadata: sa.MetaData) -> sa.Table:
    """Events whose effect stands, by consumer."""
    return sa.Table(
        "inbox",
        metadata,
        sa.Column("consumer", sa.String(64), primary_key=True),
        sa.Column("source", sa.String(64), primary_key=True),
        sa.Column("event_id", sa.String(36), primary_key=True),
        sa.Column("received_at", sa.DateTime, nullable=False, index=True),
    )


async def add(connection: AsyncConnection, outbox: sa.Table, *events: Event[Fact]) -> None:
    """Put events into the outbox, in the caller's transaction."""
    if events:
        await connection.execute(
            sa.insert(outbox),
            [{"event_id": str(event.meta.id), "body": encode(event)} for event in events],
        )


async def first_time(
    connection: AsyncConnection, inbox: sa.Table, consumer: str, event: Event[Any]
) -> bool:
    """Mark the event as seen, in the caller's transaction; False if it was seen before."""
    try:
        async with connection.begin_nested():
            await connection.execute(
                sa.insert(inbox).values(
                    consumer=consumer,
                    source=event.meta.source,
                    event_id=str(event.meta.id),
                    received_at=datetime.now(UTC).replace(tzinfo=None),
                )
            )
    except IntegrityError:
        return False
    return True


async def unseen(
    connection: AsyncConnection, inbox: sa.Table, consumer: str, events: Sequence[Event[Any]]
) -> list[Event[Any]]:
    """As `first_time` for many at once: mark them as seen, and return those that were not.

    Raises `IntegrityError` when another transaction marks one of them meanwhile.
    """
    fresh: dict[tuple[str, str], Event[Any]] = {}
    for event in events:
        fresh.setdefault((event.meta.source, str(event.meta.id)), event)
    known = sa.select(inbox.c.source, inbox.c.event_id).where(
        inbox.c.consumer == consumer,
        # the key's columns from the first on: without its source, each look reads the whole inbox
        inbox.c.source.in_({source for source, _ in fresh}),
        inbox.c.event_id.in_([id_ for _, id_ in fresh]),
    )
    for row in await connection.execute(known):
        fresh.pop((row.source, row.event_id), None)
    if fresh:
        now = datetime.now(UTC).replace(tzinfo=None)
        await connection.execute(
            sa.insert(inbox),
            [
                {"consumer": consumer, "source": source, "event_id": id_, "received_at": now}
                for source, id_ in fresh
            ],
        )
    return list(fresh.values())


async def forget_seen(connection: AsyncConnection, inbox: sa.Table, limit: int) -> bool:
    """Drop the oldest marks, some `limit`, if older than `REMEMBERED`; whether more are to go."""
    made = inbox.c.received_at
    end = datetime.now(UTC).replace(tzinfo=None) - REMEMBERED
    ahead = sa.select(made).where(made < end).order_by(made).offset(limit).limit(1)
    until = await connection.scalar(ahead)
    # with all of its moment, so that each call drops some
    await connection.execute(sa.delete(inbox).where(made < end if until is None else made <= until))
    return until is not None


class SqlOutbox:
    """The rows of an outbox table; they are looked at by `reader`, where that is another engine."""

    def __init__(
        self, engine: AsyncEngine, table: sa.Table, reader: AsyncEngine | None = None
    ) -> None:
        self._engine = engine
        self._reader = reader or engine
        self._pause = POLL_SECONDS
        # built once: to build a query and its key anew costs as much as to send it
        refs: sa.BindParameter[int] = sa.bindparam("refs", expanding=True)
        self._oldest = (
            sa.select(table.c.seq, table.c.body)
            .order_by(table.c.seq)
            .limit(sa.bindparam("most", type_=sa.Integer))
        )
        # not "above the last of them": a late one may be lower
        self._others = self._oldest.where(table.c.seq.not_in(refs))
        self._forget = sa.delete(table).where(table.c.seq.in_(refs))
        self._count = sa.select(sa.func.count()).select_from(table)

    async def pending(self, limit: int, behind: Sequence[Entry] = ()) -> Sequence[Entry]:
        query, given = self._oldest, dict[str, Any](most=limit)
        if behind:
            query, given["refs"] = self._others, [entry.ref for entry in behind]
        waited = 0.0
        async with self._reader.connect() as connection:
            while True:
                rows = (await connection.execute(query, given)).all()
                # the next look is to see what was committed meanwhile
                await connection.rollback()
                if rows:
                    self._pause = POLL_SECONDS
                if rows or behind or waited >= PATIENCE_SECONDS:
                    return [Entry.read(seq, body) for seq, body in rows]
                await asyncio.sleep(self._pause)
                waited += self._pause
                # a look costs CPU: a shop at rest is not to spend a core on looking
                self._pause = min(self._pause * CALMER, IDLE_POLL_SECONDS)

    async def settle(self, entries: Sequence[Entry]) -> None:
        async with self._engine.begin() as connection:
            await connection.execute(self._forget, {"refs": [entry.ref for entry in entries]})
            failpoints.reach("outbox.sql.settling")

    async def waiting(self) -> tuple[int, datetime | None]:
        async with self._reader.connect() as connection:
            count = await connection.scalar(self._count)
            oldest = (await connection.execute(self._oldest, {"most": 1})).first()
        return int(count or 0), None if oldest is None else meta_of(oldest.body).time
