"""A relay and a consumer as a service's processes have them, with /metrics for a test to look at.

Prints the port that it listens on. Of the events one is fine, one works the second time, and one
never does; all are a minute old.
"""

import asyncio
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import msgspec

from bus import subscription
from bus.consumer import Permanent, consume
from bus.outbox import Entry
from bus.relay import relay
from chassis import logs, telemetry
from chassis.http.application import bare
from chassis.http.server import listening
from shop_contracts.envelope import Event, new
from shop_contracts.events.stock import StockChangedV1
from shop_contracts.events.stock.stock_changed_v1 import Cause

AGE = timedelta(minutes=1)


def change(sku: str) -> Event[StockChangedV1]:
    data = StockChangedV1(sku=sku, on_hand=1, reserved=0, available=1, cause=Cause.ADJUSTED)
    event = new(data, id=uuid4(), entityversion=1)
    meta = msgspec.structs.replace(event.meta, time=datetime.now(UTC) - AGE)
    return msgspec.structs.replace(event, meta=meta)


class Waiting:
    """An outbox in memory."""

    def __init__(self, *skus: str) -> None:
        self._left = [Entry.of(sku, change(sku)) for sku in skus]

    async def pending(self, limit: int, behind: Sequence[Entry] = ()) -> Sequence[Entry]:
        await asyncio.sleep(0.05)
        return self._left[len(behind) :][:limit]

    async def settle(self, entries: Sequence[Entry]) -> None:
        self._left = self._left[len(entries) :]

    async def waiting(self) -> tuple[int, datetime | None]:
        return len(self._left), min((one.meta.time for one in self._left), default=None)


async def handle(seen: set[str], event: Event[StockChangedV1]) -> None:
    subject = event.meta.subject
    if subject == "BAD":
        raise Permanent("this can never work")
    if subject == "LATE" and subject not in seen:
        seen.add(subject)
        raise ConnectionError("not now")


async def main() -> None:
    subscription.WATCH_SECONDS = 0.5
    url = os.environ["BROKER_URL"]
    seen: set[str] = set()
    async with listening(bare(()), "127.0.0.1", 0) as port, asyncio.TaskGroup() as group:
        sys.stdout.write(f"{port}\n")
        sys.stdout.flush()
        group.create_task(relay(url, "stock", Waiting("GOOD", "LATE", "BAD")))
        group.create_task(consume(url, "search", "stock", {StockChangedV1: handle}, seen))


if __name__ == "__main__":
    logs.setup("observed", "WARNING")
    telemetry.setup("observed")
    asyncio.run(main())
