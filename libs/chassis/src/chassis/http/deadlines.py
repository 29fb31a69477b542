"""How long requests may take, watched by one timer for all. Knows no route.

`asyncio.timeout` sets and clears a timer for each block, which costs a small request a tenth of its
time. All requests here have the same limit, so the oldest is always the next one to be over.
"""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


class Deadline:
    """One limit, in seconds, for any number of awaitables of one loop."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ends: dict[asyncio.Task[object], float] = {}
        self._over: set[asyncio.Task[object]] = set()
        self._watched = False

    async def of(self, work: Awaitable[T]) -> T:
        """What `work` returns; raises TimeoutError, as `asyncio.timeout` does. Not to be nested."""
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        assert task is not None  # noqa: S101 -- whoever awaits is in one
        before = task.cancelling()
        end = self._ends[task] = loop.time() + self._seconds
        if not self._watched:
            self._watched = True
            loop.call_at(end, self._look, loop)
        try:
            return await work
        except asyncio.CancelledError as error:
            # cancelled from outside as well, it stays cancelled
            if task in self._over and task.cancelling() == before + 1:
                raise TimeoutError from error
            raise
        finally:
            self._ends.pop(task, None)
            if task in self._over:
                self._over.discard(task)
                task.uncancel()

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Cancel what is over, and come again when the next one is."""
        now = loop.time()
        while self._ends:
            task, end = next(iter(self._ends.items()))
            if end > now:
                loop.call_at(end, self._look, loop)
                return
            del self._ends[task]
            self._over.add(task)
            task.cancel()
        self._watched = False
