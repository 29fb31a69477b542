"""Sees orders move, for any number who wait: one look at the database serves them all.

Other processes move orders, so there is nothing here to be woken by. The place in the queue is the
number of unfinished orders that were placed before; how long it takes follows from how many of them
have ended lately.
"""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from contextvars import Context
from time import monotonic
from uuid import UUID

import sqlalchemy as sa
from msgspec import Struct

from chassis.database import Database
from checkout.domain import Status
from checkout.store import tables
from shop_contracts.events.checkout.order_cancelled_v1 import CancelReason

LOOK_SECONDS = 0.05
COUNT_SECONDS = 1.0
RATE_SECONDS = 10.0
OPEN = [status.value for status in Status if not status.terminal]


class Standing(Struct, frozen=True, kw_only=True):
    """How far an order is."""

    version: int
    status: Status
    reason: CancelReason | None


class Place(Struct, frozen=True, kw_only=True):
    """How many unfinished orders were placed before, and when its turn may be over."""

    position: int
    eta_s: int | None


class Watch:
    """The orders of one database, looked at for those who wait."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: dict[UUID, list[tuple[int, asyncio.Future[Standing]]]] = defaultdict(list)
        self._looking: asyncio.Task[None] | None = None
        self._open: Sequence[UUID] = []
        self._counted = -COUNT_SECONDS
        self._backlog = 0
        self._backlog_at = -COUNT_SECONDS
        self._counting = asyncio.Lock()
        self._left: list[tuple[float, int]] = []

    async def newer(self, order_id: UUID, version: int, seconds: float) -> Standing | None:
        """How the order stands once it is newer than `version`; None when that takes longer."""
        future: asyncio.Future[Standing] = asyncio.get_running_loop().create_future()
        waiter = (version, future)
        self._waiting[order_id].append(waiter)
        if self._looking is None:
            self._looking = asyncio.create_task(self._look(), context=Context())
        try:
            async with asyncio.timeout(seconds):
                return await future
        except TimeoutError:
            return None
        finally:
            self._waiting[order_id].remove(waiter)
            if not self._waiting[order_id]:
                del self._waiting[order_id]

    async def place(self, order_id: UUID) -> Place | None:
        """Where the order stands in the queue; None when it is in no queue any more."""
        await self._count()
        if order_id not in self._open:
            return None
        position = self._open.index(order_id)
        return Place(position=position, eta_s=self._eta(position + 1))

    async def backlog(self) -> int:
        """How many orders have not come to their end; a second old at most."""
        if monotonic() < self._backlog_at + COUNT_SECONDS:
            return self._backlog
        async with self._counting:
            if monotonic() >= self._backlog_at + COUNT_SECONDS:
                # who places an order needs no list of those before it
                query = sa.select(sa.func.count()).where(tables.orders.c.status.in_(OPEN))
                async with self._database.read() as connection:
                    self._backlog = await connection.scalar(query) or 0
                self._backlog_at = monotonic()
            return self._backlog

    async def relief(self) -> int:
        """In how many seconds a tenth of the queue may be gone."""
        await self._count()
        return min(self._eta(len(self._open) // 10 + 1) or 5, 60)

    def _eta(self, orders: int) -> int | None:
        since = monotonic() - RATE_SECONDS
        self._left = [(at, count) for at, count in self._left if at >= since]
        ended = sum(count for _, count in self._left)
        return max(1, round(orders * RATE_SECONDS / ended)) if ended else None

    async def _count(self) -> None:
        async with self._counting:
            if monotonic() < self._counted + COUNT_SECONDS:
                return
            table = tables.orders.c
            # ids are made in the order of time
            query = sa.select(table.id).where(table.status.in_(OPEN)).order_by(table.id)
            async with self._database.read() as connection:
                now_open = (await connection.scalars(query)).all()
            gone = len(set(self._open) - set(now_open))
            self._left.append((monotonic(), gone))
            self._open = now_open
            self._counted = monotonic()

    async def _look(self) -> None:
        try:
            while self._waiting:
                for order_id, standing in (await self._standings(list(self._waiting))).items():
                    for version, future in self._waiting.get(order_id, []):
                        if standing.version > version and not future.done():
                            future.set_result(standing)
                await asyncio.sleep(LOOK_SECONDS)
        except Exception as error:  # noqa: BLE001 - told to whoever waits
            for waiters in self._waiting.values():
                for _, future in waiters:
                    if not future.done():
                        future.set_exception(error)
        finally:
            self._looking = None

    async def _standings(self, ids: Sequence[UUID]) -> dict[UUID, Standing]:
        table = tables.orders.c
        query = sa.select(table.id, table.version, table.status, table.reason).where(
            table.id.in_(ids)
        )
        async with self._database.read() as connection:
            return {
                row.id: Standing(
                    version=row.version,
                    status=Status(row.status),
                    reason=CancelReason(row.reason) if row.reason else None,
                )
                for row in await connection.execute(query)
            }
