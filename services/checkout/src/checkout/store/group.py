"""Group commit: what is asked at one time shares one transaction, or one query. Knows no table.

Asking costs the same for one as for fifty: its flush, its round trips, its statements. While one
runs, the next gathers. Where several came together, more are to come: the next one begins
`patience` later, or as soon as `enough` have come. Who is alone waits for nobody. When the shared
one fails as a whole, each of its members is asked for alone, so that none fails for another's
fault.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from contextvars import Context
from typing import Generic, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from chassis.database import Database

I = TypeVar("I")  # noqa: E741 - the item
R = TypeVar("R")

AT_MOST = 100

Work = Callable[[AsyncConnection, Sequence[I]], Awaitable[Sequence[R | Exception]]]


class Group(Generic[I, R]):
    """One kind of work, whose items are done together.

    `work` returns one result for each item, in their order; an exception among them fails its item
    alone, after the commit, so that item must have left nothing in the connection.
    """

    def __init__(
        self,
        database: Database,
        work: Work[I, R],
        *,
        reads: bool = False,
        patience: float = 0,
        enough: int = AT_MOST,
    ) -> None:
        self._database = database
        self._work = work
        self._reads = reads
        self._patience = patience
        self._enough = enough
        self._full = asyncio.Event()
        self._waiting: deque[tuple[I, asyncio.Future[R]]] = deque()
        self._running: asyncio.Task[None] | None = None

    async def do(self, item: I) -> R:
        """The item's result, once it is committed."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if len(self._waiting) >= self._enough:
            self._full.set()
        if self._running is None:
            # it is nobody's child: the trace of one member is not the others'
            self._running = asyncio.create_task(self._run(), context=Context())
        # who goes away meanwhile leaves the others their transaction
        return await future

    async def _run(self) -> None:
        try:
            while self._waiting:
                count = min(len(self._waiting), AT_MOST)
                await self._together([self._waiting.popleft() for _ in range(count)])
                if 1 < count < AT_MOST:
                    await self._gather()
        finally:
            self._running = None

    async def _gather(self) -> None:
        """Let more come."""
        if len(self._waiting) >= self._enough:
            return
        self._full.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._patience):
                await self._full.wait()

    async def _together(self, members: Sequence[tuple[I, asyncio.Future[R]]]) -> None:
        items = [item for item, _ in members]
        try:
            results = await self._done(items)
        except Exception as error:  # noqa: BLE001 - told to whoever it belongs to
            if len(members) > 1:
                for member in members:
                    await self._together([member])
                return
            results = [error]
        except BaseException:
            for _, future in members:
                future.cancel()
            raise
        for (_, future), result in zip(members, results, strict=True):
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)

    async def _done(self, items: Sequence[I]) -> Sequence[R | Exception]:
        if not self._reads:
            return await self._database.write(lambda connection: self._work(connection, items))
        async with self._database.read() as connection:
            return await self._work(connection, items)
