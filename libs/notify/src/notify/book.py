"""Who is to be told what, and what became of it: receivers, deliveries, tries. Sends nothing.

A delivery is claimed under a lease, so any number of processes may send. Of one receiver and
subject only the oldest unfinished delivery is ever claimed: a receiver hears of it in order.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID, uuid4

import sqlalchemy as sa
import uuid_utils.compat as uuids
from msgspec import Struct, structs
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis.database import Database
from chassis.problems import Conflict, NotFound
from notify import schedule
from notify.signing import new_secret
from notify.tables import MAX_BODY, Tables

LEASE = timedelta(seconds=90)
OLD_SECRET = timedelta(hours=24)
FAILING = timedelta(days=5)
KEPT = timedelta(days=30)
SWEPT = 1_000

State = Literal["waiting", "delivered", "failed"]


class NoSuchWebhook(NotFound):
    """There is no such receiver."""


class NoSuchDelivery(NotFound):
    """There is no such delivery, or it has been forgotten."""


class Disabled(Conflict):
    """The receiver is switched off: enable it first."""

    slug = "webhook-disabled"
    title = "This webhook is disabled"


class StillWaiting(Conflict):
    """The delivery has not ended yet: it is tried without being asked for."""

    slug = "delivery-waiting"
    title = "This delivery is still being tried"


class Webhook(Struct, frozen=True, kw_only=True):
    """A receiver: `types` are those it asked for; `reason` says why it is disabled."""

    id: UUID
    url: str
    types: list[str]
    state: Literal["active", "disabled"]
    reason: str | None = None
    failing_since: datetime | None = None
    created_at: datetime


class Try(Struct, frozen=True, kw_only=True):
    """One attempt: the receiver's status, and what it meant."""

    number: int
    at: datetime
    milliseconds: int
    status: int | None
    outcome: str


class Delivery(Struct, frozen=True, kw_only=True):
    """One message to one receiver; `id` is the `webhook-id` that the receiver sees."""

    id: UUID
    type: str
    subject: str
    state: State
    tries: int
    next_at: datetime | None
    created_at: datetime
    done_at: datetime | None = None
    log: list[Try] = []


class Message(Struct, frozen=True, kw_only=True):
    """What is to be told, to a receiver or to a mail address; in order by subject."""

    type: str
    subject: str
    body: bytes
    webhook_id: UUID | None = None
    address: str | None = None
    id: UUID | None = None


class Due(Struct, frozen=True, kw_only=True):
    """A claimed delivery with all that sending it takes; `keys` are the receiver's secrets."""

    id: UUID
    body: bytes
    tries: int
    failures: int
    webhook_id: UUID | None
    url: str | None
    keys: tuple[str, ...]
    address: str | None


class Result(Struct, frozen=True, kw_only=True):
    """What became of a try. `final`: it will not be otherwise next time; `gone`: nor ever."""

    outcome: str
    delivered: bool = False
    status: int | None = None
    final: bool = False
    gone: bool = False
    asked_wait: float | None = None
    milliseconds: int = 0


async def put(connection: AsyncConnection, table: sa.Table, messages: Iterable[Message]) -> None:
    """Put messages among the deliveries, in the caller's transaction."""
    now = _now()
    rows = [_row(message, now) for message in messages]
    if rows:
        await connection.execute(sa.insert(table), rows)


async def announce(
    connection: AsyncConnection, tables: Tables, messages: Sequence[Message]
) -> None:
    """Each message to each active receiver that asked for its type, in the same transaction."""
    table = tables.webhooks.c
    found = await connection.execute(
        sa.select(table.id, table.types).where(table.state == "active")
    )
    receivers = found.all()
    await put(
        connection,
        tables.deliveries,
        [
            structs.replace(message, webhook_id=id_)
            for message in messages
            for id_, types in receivers
            if message.type in types
        ],
    )


class Book:
    """Receivers and deliveries of one service's database."""

    def __init__(self, database: Database, tables: Tables) -> None:
        self._database = database
        self._tables = tables
        self._webhooks = tables.webhooks
        self._deliveries = tables.deliveries
        self._tries = tables.tries

    async def register(self, url: str, types: Sequence[str]) -> tuple[Webhook, str | None]:
        """The receiver at `url`, which may be called, and its secret if it is new."""
        digest = hashlib.sha256(url.encode()).hexdigest()
        secret = new_secret()
        row = {
            "id": uuid4(),
            "url": url,
            "digest": digest,
            "types": sorted(set(types)),
            "secret": secret,
            "state": "active",
            "created_at": _now(),
        }

        async def add(connection: AsyncConnection) -> Webhook:
            await connection.execute(sa.insert(self._webhooks).values(row))
            return await self._webhook(connection, self._webhooks.c.digest == digest)

        async def change(connection: AsyncConnection) -> Webhook:
            here = self._webhooks.c.digest == digest
            await connection.execute(
                sa.update(self._webhooks).where(here).values(types=row["types"])
            )
            return await self._webhook(connection, here)

        try:
            return await self._database.write(add), secret
        except IntegrityError:
            return await self._database.write(change), None

    async def webhooks(self) -> list[Webhook]:
        """All receivers, oldest first."""
        async with self._database.read() as connection:
            query = sa.select(self._webhooks).order_by(self._webhooks.c.created_at)
            return [_webhook(row) for row in await connection.execute(query)]

    async def webhook(self, id_: UUID) -> Webhook:
        """One receiver. Raises NoSuchWebhook."""
        async with self._database.read() as connection:
            return await self._webhook(connection, self._webhooks.c.id == id_)

    async def rotate(self, id_: UUID) -> str:
        """A new secret; the old one signs too for a day. Raises NoSuchWebhook."""
        table = self._webhooks
        secret = new_secret()

        async def work(connection: AsyncConnection) -> None:
            # read first: MariaDB assigns one column after the other, and would keep the new one
            query = sa.select(table.c.secret).where(table.c.id == id_).with_for_update()
            old = await connection.scalar(query)
            if old is None:
                raise NoSuchWebhook
            await connection.execute(
                sa.update(table)
                .where(table.c.id == id_)
                .values(secret=secret, old_secret=old, old_until=_now() + OLD_SECRET)
            )

        await self._database.write(work)
        return secret

    async def enable(self, id_: UUID) -> Webhook:
        """Send to it again, from what still waits on. Raises NoSuchWebhook."""
        return await self._change(id_, state="active", reason=None, failing_since=None)

    async def disable(self, id_: UUID, reason: str = "asked") -> Webhook:
        """Send it nothing until it is enabled. Raises NoSuchWebhook."""
        return await self._change(id_, state="disabled", reason=reason)

    async def remove(self, id_: UUID) -> None:
        """Forget the receiver and all that was for it. Raises NoSuchWebhook."""

        async def work(connection: AsyncConnection) -> None:
            await self._webhook(connection, self._webhooks.c.id == id_)
            await connection.execute(sa.delete(self._webhooks).where(self._webhooks.c.id == id_))

        await self._database.write(work)

    async def add(self, connection: AsyncConnection, messages: Iterable[Message]) -> None:
        """Put messages into the book, in the caller's transaction."""
        await put(connection, self._deliveries, messages)

    async def announce(
        self, connection: AsyncConnection, type_: str, subject: str, body: bytes
    ) -> None:
        """A message for each active receiver that asked for its type, in the same transaction."""
        await announce(connection, self._tables, [Message(type=type_, subject=subject, body=body)])

    async def send(self, message: Message) -> UUID:
        """Put one message into the book by itself. Raises NoSuchWebhook, Disabled."""
        chosen = message.id or uuids.uuid7()
        webhook_id = message.webhook_id

        async def work(connection: AsyncConnection) -> None:
            if webhook_id is not None:
                await self._active(connection, webhook_id)
            await connection.execute(
                sa.insert(self._deliveries).values(_row(message, _now()) | {"id": chosen})
            )

        await self._database.write(work)
        return chosen

    async def deliveries(
        self, webhook_id: UUID, *, before: UUID | None = None, limit: int = 50
    ) -> list[Delivery]:
        """What was for a receiver, newest first, each with its tries. Raises NoSuchWebhook."""
        await self.webhook(webhook_id)
        query = sa.select(self._deliveries).where(self._deliveries.c.webhook_id == webhook_id)
        return await self._newest(query, before, limit)

    async def given_up(self, *, before: UUID | None = None, limit: int = 50) -> list[Delivery]:
        """Mails that never went, newest first, with their tries; whose they were is forgotten."""
        table = self._deliveries
        query = sa.select(table).where(table.c.webhook_id.is_(None), table.c.state == "failed")
        return await self._newest(query, before, limit)

    async def redeliver(self, webhook_id: UUID, id_: UUID) -> None:
        """Try an ended delivery again from the start, under its own id.

        Raises NoSuchDelivery, Disabled, StillWaiting.
        """
        table = self._deliveries

        async def work(connection: AsyncConnection) -> None:
            mine = (table.c.id == id_) & (table.c.webhook_id == webhook_id)
            state = await connection.scalar(sa.select(table.c.state).where(mine).with_for_update())
            if state is None:
                raise NoSuchDelivery
            if state == "waiting":
                raise StillWaiting
            await self._active(connection, webhook_id)
            await connection.execute(
                sa.update(table)
                .where(mine)
                .values(
                    state="waiting", failures=0, next_at=_now(), leased_until=None, done_at=None
                )
            )

        await self._database.write(work)

    async def claim(self, limit: int, busy: Collection[UUID], *, each: int) -> list[Due]:
        """At most `limit` deliveries that are due, `each` for one receiver and none for the busy.

        Nobody else gets them for as long as the lease lasts.
        """
        query = self._due(limit * 4, busy)
        async with self._database.read() as connection:
            if (await connection.execute(query.limit(1))).first() is None:
                return []

        async def work(connection: AsyncConnection) -> list[Due]:
            shares: Counter[UUID] = Counter()
            claimed: list[Due] = []
            for row in (await connection.execute(query)).all():
                if row.webhook_id is not None:
                    shares[row.webhook_id] += 1
                    if shares[row.webhook_id] > each:
                        continue
                if await self._lease(connection, row):
                    claimed.append(_due(row))
                if len(claimed) == limit:
                    break
            return claimed

        return await self._database.write(work)

    async def record(self, due: Due, result: Result) -> bool:
        """Log a try and decide what follows from it; whether this was the last one, in vain.

        A try whose lease was lost changes nothing.
        """
        now = _now()
        table = self._deliveries
        mine = (table.c.id == due.id) & (table.c.tries == due.tries)
        after = _ended(due, result, now)

        async def work(connection: AsyncConnection) -> bool:
            changed = await connection.execute(sa.update(table).where(mine).values(after))
            if changed.rowcount == 0:
                return False  # somebody else has tried it meanwhile, or it is forgotten
            await connection.execute(
                sa.insert(self._tries).values(
                    delivery_id=due.id,
                    number=due.tries + 1,
                    at=now,
                    milliseconds=result.milliseconds,
                    status=result.status,
                    outcome=result.outcome,
                )
            )
            if due.webhook_id is not None:
                await self._judge(connection, due.webhook_id, result, now)
            return after.get("state") == "failed"

        return await self._database.write(work)

    async def sweep(self) -> int:
        """Forget ended deliveries that are older than they are kept; says how many."""
        table = self._deliveries
        query = sa.select(table.c.id).where(table.c.done_at < _now() - KEPT).limit(SWEPT)

        async def work(connection: AsyncConnection) -> int:
            old = list(await connection.scalars(query))
            await connection.execute(sa.delete(table).where(table.c.id.in_(old)))
            return len(old)

        return await self._database.write(work)

    async def waiting(self) -> int:
        """How many deliveries have not ended."""
        table = self._deliveries
        query = sa.select(sa.func.count()).select_from(table).where(table.c.state == "waiting")
        async with self._database.read() as connection:
            return int(await connection.scalar(query) or 0)

    def _due(self, limit: int, busy: Collection[UUID]) -> sa.Select[Any]:
        table, webhooks = self._deliveries, self._webhooks
        now = _now()
        older = table.alias()
        first = ~(
            sa.exists()
            .where(older.c.webhook_id == table.c.webhook_id)
            .where(older.c.subject == table.c.subject)
            .where(older.c.state == "waiting")
            .where(older.c.seq < table.c.seq)
        )
        return (
            sa.select(
                table,
                webhooks.c.url,
                webhooks.c.secret,
                sa.case((webhooks.c.old_until > now, webhooks.c.old_secret)).label("old_secret"),
            )
            .select_from(table.outerjoin(webhooks, webhooks.c.id == table.c.webhook_id))
            .where(table.c.state == "waiting", table.c.next_at <= now, first)
            .where(sa.or_(table.c.leased_until.is_(None), table.c.leased_until <= now))
            .where(sa.or_(table.c.webhook_id.is_(None), webhooks.c.state == "active"))
            .where(sa.or_(table.c.webhook_id.is_(None), table.c.webhook_id.not_in(busy)))
            .order_by(table.c.next_at, table.c.seq)
            .limit(limit)
        )

    async def _lease(self, connection: AsyncConnection, row: Any) -> bool:
        table = self._deliveries
        now = _now()
        # by its tries: who has claimed it since it was read may have ended already
        mine = (table.c.seq == row.seq) & (table.c.tries == row.tries)
        free = sa.or_(table.c.leased_until.is_(None), table.c.leased_until <= now)
        changed = await connection.execute(
            sa.update(table)
            .where(mine, free, table.c.state == "waiting")
            .values(leased_until=now + LEASE)
        )
        return changed.rowcount == 1

    async def _judge(
        self, connection: AsyncConnection, id_: UUID, result: Result, now: datetime
    ) -> None:
        """Disable a receiver that is gone, or that has answered nothing well for days."""
        table = self._webhooks
        here = table.c.id == id_
        if result.delivered:
            await connection.execute(
                sa.update(table)
                .where(here, table.c.failing_since.is_not(None))
                .values(failing_since=None)
            )
            return
        disabled = {"state": "disabled", "reason": "gone" if result.gone else "failing"}
        overdue = here if result.gone else here & (table.c.failing_since <= now - FAILING)
        await connection.execute(sa.update(table).where(overdue).values(disabled))
        await connection.execute(
            sa.update(table).where(here, table.c.failing_since.is_(None)).values(failing_since=now)
        )

    async def _change(self, id_: UUID, **values: object) -> Webhook:
        here = self._webhooks.c.id == id_

        async def work(connection: AsyncConnection) -> Webhook:
            await connection.execute(sa.update(self._webhooks).where(here).values(values))
            return await self._webhook(connection, here)

        return await self._database.write(work)

    async def _active(self, connection: AsyncConnection, id_: UUID) -> None:
        if (await self._webhook(connection, self._webhooks.c.id == id_)).state != "active":
            raise Disabled

    async def _webhook(self, connection: AsyncConnection, here: sa.ColumnElement[bool]) -> Webhook:
        row = (await connection.execute(sa.select(self._webhooks).where(here))).first()
        if row is None:
            raise NoSuchWebhook
        return _webhook(row)

    async def _newest(
        self, query: sa.Select[Any], before: UUID | None, limit: int
    ) -> list[Delivery]:
        table = self._deliveries
        if before is not None:
            seq = sa.select(table.c.seq).where(table.c.id == before).scalar_subquery()
            query = query.where(table.c.seq < seq)
        async with self._database.read() as connection:
            rows = (await connection.execute(query.order_by(table.c.seq.desc()).limit(limit))).all()
            log = await self._log(connection, [row.id for row in rows])
        return [_delivery(row, log.get(row.id, [])) for row in rows]

    async def _log(
        self, connection: AsyncConnection, ids: Collection[UUID]
    ) -> dict[UUID, list[Try]]:
        table = self._tries
        query = sa.select(table).where(table.c.delivery_id.in_(ids)).order_by(table.c.number)
        log: dict[UUID, list[Try]] = {}
        for row in await connection.execute(query):
            log.setdefault(row.delivery_id, []).append(
                Try(
                    number=row.number,
                    at=row.at,
                    milliseconds=row.milliseconds,
                    status=row.status,
                    outcome=row.outcome,
                )
            )
        return log


def _now() -> datetime:
    return datetime.now(UTC)


def _row(message: Message, now: datetime) -> dict[str, Any]:
    if len(message.body) > MAX_BODY:
        raise ValueError(f"a message of {len(message.body)} bytes, {MAX_BODY} at most")
    return {
        "id": message.id or uuids.uuid7(),
        "webhook_id": message.webhook_id,
        "address": message.address,
        "subject": message.subject,
        "type": message.type,
        "body": message.body,
        "state": "waiting",
        "tries": 0,
        "failures": 0,
        "next_at": now,
        "created_at": now,
    }


def _ended(due: Due, result: Result, now: datetime) -> dict[str, Any]:
    """The columns of a delivery after a try."""
    after: dict[str, Any] = {"tries": due.tries + 1, "leased_until": None}
    if result.delivered:
        return after | {"state": "delivered", "done_at": now} | _without_person(due)
    failures = due.failures + 1
    wait = None if result.final or result.gone else schedule.wait(failures, result.asked_wait)
    if wait is None:
        return after | {"state": "failed", "done_at": now} | _without_person(due)
    return after | {"failures": failures, "next_at": now + wait}


def _without_person(due: Due) -> dict[str, Any]:
    # nothing is told by mail again, so nobody needs to know who it was
    return {} if due.webhook_id is not None else {"address": None, "body": b""}


def _due(row: Any) -> Due:
    return Due(
        id=row.id,
        body=row.body,
        tries=row.tries,
        failures=row.failures,
        webhook_id=row.webhook_id,
        url=row.url,
        keys=tuple(key for key in (row.secret, row.old_secret) if key),
        address=row.address,
    )


def _webhook(row: Any) -> Webhook:
    return Webhook(
        id=row.id,
        url=row.url,
        types=row.types,
        state=row.state,
        reason=row.reason,
        failing_since=row.failing_since,
        created_at=row.created_at,
    )


def _delivery(row: Any, log: list[Try]) -> Delivery:
    return Delivery(
        id=row.id,
        type=row.type,
        subject=row.subject,
        state=row.state,
        tries=row.tries,
        next_at=row.next_at if row.state == "waiting" else None,
        created_at=row.created_at,
        done_at=row.done_at,
        log=log,
    )
