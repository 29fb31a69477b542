"""Whether stock's Redis is the one that was installed, or an empty one in its place. Knows no SQL.

Each partition has a key that says how many there are. It is written once, where the journal knows
nothing of the partition, or by a rebuild that has filled it. Every step looks for it first: an
empty Redis is not taken for a shop that has nothing to sell.
"""

from collections.abc import Container, Sequence
from typing import Any

from redis.asyncio import Redis

from stock.scripts import Script, StoreIsEmpty
from stock.slots import Slots, answering, rebuilding


class OtherPartitions(Exception):
    """The store was installed with another number of partitions: a SKU never changes its own."""


class Install:
    """The mark of each partition."""

    def __init__(self, redis: Redis, slots: Slots) -> None:
        self._redis: Any = redis
        self._slots = slots
        self._install = Script(redis, "install", anywhere=True)

    async def make(self, journalled: Container[int] = ()) -> None:
        """Mark the partitions that are new; a second time changes nothing.

        Raises OtherPartitions, and StoreIsEmpty where the journal knows of a partition that Redis
        has nothing of.
        """
        number, empty = len(self._slots), False
        for slot in self._slots:
            older = number if slot.number else 1
            args = (number, older, int(slot.number in journalled))
            with answering:
                (has,) = await self._install((slot.partitions, slot.ledger, rebuilding(slot)), args)
            self._compare(has)
            empty = empty or not has
        if empty:
            raise StoreIsEmpty

    async def check(self) -> None:
        """Raises StoreIsEmpty, OtherPartitions and Unavailable."""
        with answering:
            pipe = self._redis.pipeline(transaction=False)
            for slot in self._slots:
                pipe.get(slot.partitions)
            marks = await pipe.execute()
        for has in marks:
            self._compare(has)
        if not all(marks):
            raise StoreIsEmpty

    async def refuse_empty(self, names: Sequence[str]) -> None:
        """What is missing is unknown only where Redis has not lost it; raises StoreIsEmpty."""
        with answering:
            for slot in {self._slots.at(name) for name in names}:
                if await self._redis.get(slot.partitions) is None:
                    raise StoreIsEmpty

    def _compare(self, has: str | None) -> None:
        if has and int(has) != len(self._slots):
            raise OtherPartitions(
                f"this store was installed with {has} partitions, not {len(self._slots)}:"
                f" set STOCK_PARTITIONS={has}"
            )
