"""The stock Redis: units, holds and prices on one client. Knows no HTTP, no broker.

Every step writes counters, ledger, inbox marker and outbox entry in its script or nothing at all;
time is Redis's own.
"""

from typing import Any

from redis.asyncio import Redis

from stock.install import Install
from stock.parts import Parts
from stock.slots import Slots, answering
from stock.store.carts import Carts
from stock.store.holds import Holds
from stock.store.offers import Offers
from stock.store.price_plans import PricePlans
from stock.store.quantities import Quantities


class StockStore:
    """The one way to the stock Redis; `redis` decodes responses and never retries by itself."""

    def __init__(
        self, redis: Redis, key_prefix: str = "", hold_ms: int = 900_000, partitions: int = 1
    ) -> None:
        # redis-py types every reply for bytes and text, sync and async at once.
        self._redis: Any = redis
        self.slots = Slots.of(key_prefix, partitions)
        self.install = Install(redis, self.slots)
        parts = Parts(redis, self.slots)
        self.quantities = Quantities(redis, self.slots, self.install, parts)
        self.carts = Carts(redis, self.slots, self.install, parts, hold_ms)
        self.holds = Holds(redis, self.slots, parts, self.carts, hold_ms)
        self.prices = PricePlans(redis, self.slots, self.install)
        self.offers = Offers(redis, self.slots, self.install, self.quantities, self.prices)

    async def ping(self) -> None:
        with answering:
            await self._redis.ping()
