"""The journal in SQL: what the ledgers in Redis have told, to the letter and once. Knows no Redis.

A page of a ledger and the cursor behind it are one transaction, so any number of processes may
write the journal: the cursor says who was first.
"""

from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from msgspec import Struct
from msgspec.structs import asdict
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis.database import Database
from stock import tables
from stock.books import (
    COUNTERS,
    Books,
    Entry,
    Fields,
    Units,
    enter,
    lines,
    priced,
    read_id,
    touched,
)
from stock.domain import Movement
from stock.prices import moment

READS = 50
"""How often a reader looks again that the journal overtakes, before it gives up for now."""


class Page(Struct, frozen=True, kw_only=True):
    """What the journal has not got of one partition.

    `first_untold` is the oldest entry of the outbox, "" when all have left.
    """

    behind: str
    entries: Sequence[Entry]
    first_untold: str = ""
    untold: Sequence[Entry] = ()


class Journal:
    """The journal of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def cursors(self) -> dict[int, str]:
        """The last entry that is in the journal, by partition."""
        async with self._database.read() as connection:
            rows = await connection.execute(sa.select(tables.cursors))
            return {row.slot: row.ledger for row in rows}

    async def cursor(self, slot: int) -> str:
        """As `cursors`; "" when there is none."""
        return (await self.cursors()).get(slot, "")

    async def untold(self, slot: int) -> tuple[str, str]:
        """The first and the last entry of the outbox that the journal has; "" for none."""
        table = tables.untold.c
        query = sa.select(table.at_ms, table.seq).where(table.slot == slot).limit(1)
        first = query.order_by(table.at_ms, table.seq)
        last = query.order_by(table.at_ms.desc(), table.seq.desc())
        async with self._database.read() as connection:
            rows = [(await connection.execute(each)).first() for each in (first, last)]
        oldest, newest = (f"{row.at_ms}-{row.seq}" if row else "" for row in rows)
        return oldest, newest

    async def write(self, slot: int, page: Page) -> bool:
        """Take the page in, or nothing when another process has gone on from where it begins."""

        async def work(connection: AsyncConnection) -> bool:
            if not await self._moves_on(connection, slot, page):
                return False
            await _write_untold(connection, slot, page)
            await _write_books(connection, slot, page.entries)
            return True

        try:
            return await self._database.write(work)
        except IntegrityError:
            # two wrote the first page of all
            return False

    async def _moves_on(self, connection: AsyncConnection, slot: int, page: Page) -> bool:
        query = sa.select(tables.cursors.c.ledger).where(tables.cursors.c.slot == slot)
        at = await connection.scalar(query.with_for_update())
        if (at or "") != page.behind:
            return False
        last = page.entries[-1].id if page.entries else page.behind
        if at is None:
            await connection.execute(sa.insert(tables.cursors).values(slot=slot, ledger=last))
        elif last != at:
            await connection.execute(
                sa.update(tables.cursors).where(tables.cursors.c.slot == slot).values(ledger=last)
            )
        return True

    @asynccontextmanager
    async def at_cursor(self, slot: int) -> AsyncIterator["Snapshot"]:
        """Readings of one moment of a partition's journal. Raises Unavailable when it never rests.

        Nothing is locked: `Snapshot.holds` says whether the journal has gone on meanwhile.
        """
        async with self._database.read() as connection:
            yield Snapshot(connection, slot)

    async def movements(self, sku: str, *, before: int | None, limit: int) -> list[Movement]:
        """The newest movements of a SKU first, those older than version `before`."""
        table = tables.movements
        query = (
            sa.select(table).where(table.c.sku == sku).order_by(table.c.version.desc()).limit(limit)
        )
        if before is not None:
            query = query.where(table.c.version < before)
        async with self._database.read() as connection:
            return [_told(row) for row in await connection.execute(query)]

    async def forget(self, slot: int, before_ms: int) -> int:
        """Drop ended holds and answered commands that Redis has dropped too; says how many."""
        hold, command = tables.holds.c, tables.commands.c

        async def work(connection: AsyncConnection) -> int:
            gone = 0
            for table, which in (
                (tables.holds, (hold.state != "held") & (hold.at_ms < before_ms)),
                (tables.commands, command.at_ms < before_ms),
            ):
                done = await connection.execute(sa.delete(table).where(table.c.slot == slot, which))
                gone += done.rowcount
            return gone

        return await self._database.write(work)

    async def mend(self, slot: int, sku: str, seen: Units, right: Units) -> bool:
        """Put a level right, unless it is another by now."""
        level = tables.levels.c

        async def work(connection: AsyncConnection) -> bool:
            done = await connection.execute(
                sa.update(tables.levels)
                .where(
                    *(level.sku == sku, level.slot == slot),
                    *(level[name] == getattr(seen, name) for name in (*COUNTERS, "ver")),
                )
                .values({name: getattr(right, name) for name in (*COUNTERS, "ver")})
            )
            return done.rowcount == 1

        return await self._database.write(work)

    async def note(
        self, slot: int, kind: str, name: str, found: object, expected: object, outcome: str
    ) -> None:
        """Write an audit's finding down; the same one twice in a row is one."""
        audit = tables.audits.c
        says = (str(found), str(expected), outcome)

        async def work(connection: AsyncConnection) -> None:
            last = (
                await connection.execute(
                    sa.select(audit.found, audit.expected, audit.outcome)
                    .where(audit.slot == slot, audit.kind == kind, audit.name == name)
                    .order_by(audit.id.desc())
                    .limit(1)
                )
            ).first()
            if last is None or tuple(last) != says:
                row = dict(zip(("found", "expected", "outcome"), says, strict=True))
                row |= {"kind": kind, "name": name}
                await connection.execute(
                    sa.insert(tables.audits).values(slot=slot, at=datetime.now(UTC), **row)
                )

        await self._database.write(work)


class Snapshot:
    """Readings that belong together while `holds` says the cursor that the first one said."""

    def __init__(self, connection: AsyncConnection, slot: int) -> None:
        self._connection = connection
        self._slot = slot

    async def cursor(self) -> str:
        query = sa.select(tables.cursors.c.ledger).where(tables.cursors.c.slot == self._slot)
        return str(await self._connection.scalar(query) or "")

    async def levels(self, skus: Collection[str]) -> dict[str, Units]:
        """The levels of those SKUs that are known."""
        return await _levels(self._connection, self._slot, skus)

    async def sums(self, skus: Collection[str]) -> dict[str, Units]:
        """What the movements of each SKU add up to."""
        table = tables.movements.c
        # a sum of big integers is a decimal to MariaDB
        columns = [sa.func.sum(table[f"d{name}"]).label(name) for name in COUNTERS]
        query = (
            sa.select(table.sku, *columns, sa.func.max(table.version).label("ver"))
            .where(table.slot == self._slot, table.sku.in_(list(skus)))
            .group_by(table.sku)
        )
        return {
            row.sku: Units(
                **{name: int(getattr(row, name)) for name in COUNTERS},
                ver=int(row.ver),
            )
            for row in await self._connection.execute(query)
        }

    async def held(self, skus: Collection[str]) -> dict[str, int]:
        """The units that open holds keep, by SKU."""
        table = tables.held_lines.c
        query = (
            sa.select(table.sku, sa.func.sum(table.qty).label("qty"))
            .where(table.slot == self._slot, table.sku.in_(list(skus)))
            .group_by(table.sku)
        )
        return {row.sku: int(row.qty) for row in await self._connection.execute(query)}

    async def prices(self, skus: Collection[str]) -> dict[str, Fields]:
        return await self._fields(tables.prices, tables.prices.c.sku, skus)

    async def holds(self, names: Collection[str]) -> dict[str, Fields]:
        return await self._fields(tables.holds, tables.holds.c.name, names)

    async def names(self, kind: str, after: str, limit: int) -> list[str]:
        """The next names of levels, prices or holds, in order."""
        table, column = _NAMED[kind]
        query = (
            sa.select(column)
            .where(table.c.slot == self._slot, column > after)
            .order_by(column)
            .limit(limit)
        )
        return [str(name) for name in await self._connection.scalars(query)]

    async def rows(
        self, table: sa.Table, after: tuple[Any, ...] | None, limit: int
    ) -> list[sa.Row[Any]]:
        """The next rows of a partition, by primary key, behind the key `after`."""
        first, *rest = (column for column in table.primary_key if column.name != "slot")
        query = sa.select(table).where(table.c.slot == self._slot)
        if after is not None:
            # a comparison of tuples would not use MariaDB's index
            behind = first > after[0]
            if rest:
                behind |= rest[0] > after[1]
                query = query.where(first >= after[0])
            query = query.where(behind)
        query = query.order_by(first, *rest).limit(limit)
        return list((await self._connection.execute(query)).all())

    async def _fields(
        self, table: sa.Table, column: sa.Column[Any], names: Collection[str]
    ) -> dict[str, Fields]:
        query = sa.select(column.label("name"), table.c.fields).where(
            table.c.slot == self._slot, column.in_(list(names))
        )
        return {row.name: row.fields for row in await self._connection.execute(query)}


async def _levels(
    connection: AsyncConnection, slot: int, skus: Collection[str]
) -> dict[str, Units]:
    table = tables.levels.c
    query = sa.select(tables.levels).where(table.slot == slot, table.sku.in_(list(skus)))
    return {row.sku: units(row) for row in await connection.execute(query)}


def units(row: sa.Row[Any]) -> Units:
    """A row of `levels`."""
    return Units(
        recv=row.recv, avail=row.avail, resv=row.resv, sold=row.sold, ver=row.ver, low=row.low
    )


async def _write_untold(connection: AsyncConnection, slot: int, page: Page) -> None:
    """Keep of the outbox what has not left by now."""
    table = tables.untold
    left = table.c.slot == slot
    if page.first_untold:
        at, seq = read_id(page.first_untold)
        gone = (table.c.at_ms < at) | ((table.c.at_ms == at) & (table.c.seq < seq))
        left &= gone
    await connection.execute(sa.delete(table).where(left))
    await _insert(
        connection,
        table,
        (
            {"slot": slot, "at_ms": each.at_ms, "seq": each.seq, "fields": dict(each.fields)}
            for each in page.untold
        ),
    )


async def _write_books(connection: AsyncConnection, slot: int, entries: Sequence[Entry]) -> None:
    skus, sold = touched(entries), priced(entries)
    books = Books(
        levels=await _levels(connection, slot, skus) if skus else {},
        prices=await Snapshot(connection, slot).prices(sold) if sold else {},
    )
    enter(books, entries)
    await _insert(connection, tables.plans, ({"slot": slot, **asdict(e)} for e in books.plans))
    await _insert(connection, tables.movements, (_movement(slot, e) for e in entries if e.moves))
    await _replace(
        connection,
        tables.levels,
        slot,
        "sku",
        {sku: asdict(level) for sku, level in books.levels.items()},
    )
    await _replace(
        connection,
        tables.prices,
        slot,
        "sku",
        {sku: {"fields": fields} for sku, fields in books.prices.items()},
    )
    await _replace(
        connection,
        tables.holds,
        slot,
        "name",
        {
            name: {"state": hold["state"], "at_ms": int(hold["at"]), "fields": hold}
            for name, hold in books.holds.items()
        },
    )
    await _replace(
        connection,
        tables.commands,
        slot,
        "key",
        {key: {"at_ms": at, "fields": fields} for key, (at, fields) in books.commands.items()},
    )
    await _write_held(connection, slot, books.holds)


async def _write_held(connection: AsyncConnection, slot: int, holds: Mapping[str, Fields]) -> None:
    if not holds:
        return
    table = tables.held_lines
    await connection.execute(
        sa.delete(table).where(table.c.slot == slot, table.c.name.in_(list(holds)))
    )
    await _insert(
        connection,
        table,
        (
            {"slot": slot, "name": name, "sku": sku, "qty": qty}
            for name, hold in holds.items()
            for sku, qty in lines(hold).items()
        ),
    )


async def _replace(
    connection: AsyncConnection,
    table: sa.Table,
    slot: int,
    key: str,
    rows: Mapping[str, Mapping[str, Any]],
) -> None:
    """Rows in place of those of the same names; no two databases spell an upsert alike."""
    if not rows:
        return
    await connection.execute(
        sa.delete(table).where(table.c.slot == slot, table.c[key].in_(list(rows)))
    )
    await _insert(
        connection, table, ({"slot": slot, key: name, **row} for name, row in rows.items())
    )


async def _insert(
    connection: AsyncConnection, table: sa.Table, rows: Iterable[Mapping[str, Any]]
) -> None:
    if values := list(rows):
        await connection.execute(sa.insert(table), values)


def _movement(slot: int, entry: Entry) -> dict[str, Any]:
    fields = entry.fields
    return {
        "slot": slot,
        "at_ms": entry.at_ms,
        "seq": entry.seq,
        "sku": fields["sku"],
        "version": int(fields["ver"]),
        "op": fields["op"],
        **{f"d{name}": int(fields[f"d{name}"]) for name in COUNTERS},
        "order_id": fields["order"],
        "cause": fields["cause"],
        "event": fields["event"],
        "reason": fields["reason"],
    }


def _told(row: sa.Row[Any]) -> Movement:
    return Movement(
        version=row.version,
        at=moment(row.at_ms),
        op=row.op,
        available=row.davail,
        reserved=row.dresv,
        sold=row.dsold,
        received=row.drecv,
        order_id=UUID(row.order_id) if row.order_id else None,
        cause=row.cause or None,
        event_id=UUID(row.event),
        reason=row.reason,
    )


_NAMED = {
    "level": (tables.levels, tables.levels.c.sku),
    "price": (tables.prices, tables.prices.c.sku),
    "hold": (tables.holds, tables.holds.c.name),
}
