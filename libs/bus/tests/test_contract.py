"""What the relay publishes keeps every rule that the contracts have for a publisher."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import pytest
from aio_pika.abc import AbstractIncomingMessage

from bus.broker import connected
from bus.outbox import Entry
from bus.relay import relay
from shop_contracts import topology
from shop_contracts.envelope import Event, decode
from shop_contracts.events import EVENTS
from shop_contracts.events.base import Fact
from shop_contracts.kit import goldens
from shop_contracts.kit.messages import Message, compact
from shop_contracts.kit.producer import assert_publishes
from shop_contracts.kit.verbs.tap import received

pytestmark = pytest.mark.connected


class OfGoldens:
    """An outbox with the full golden event of each of an owner's types."""

    def __init__(self, owner: str) -> None:
        events = [decode(compact(goldens.golden(fact.KEY))) for fact in EVENTS[owner]]
        self.left: list[Event[Fact]] = events

    async def pending(self, limit: int, behind: Sequence[Entry] = ()) -> Sequence[Entry]:
        if not self.left:
            await asyncio.sleep(0.05)
        return [Entry.of(event.meta.id, event) for event in self.left[len(behind) :][:limit]]

    async def settle(self, entries: Sequence[Entry]) -> None:
        gone = {entry.ref for entry in entries}
        self.left = [event for event in self.left if event.meta.id not in gone]

    async def waiting(self) -> tuple[int, None]:
        return len(self.left), None


@pytest.mark.parametrize("owner", EVENTS)
async def test_the_relay_keeps_the_rules_of_a_publisher(broker_url: str, owner: str) -> None:
    sent: list[Message] = []

    async def keep(incoming: AbstractIncomingMessage) -> None:
        sent.append(received(incoming))

    async with connected(broker_url, "test") as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(exclusive=True, arguments={"x-queue-type": "classic"})
        await queue.bind(topology.exchange(owner), "#")
        await queue.consume(keep, no_ack=True)
        relaying = asyncio.create_task(relay(broker_url, owner, OfGoldens(owner)))
        try:
            async with asyncio.timeout(30):
                while len(sent) < len(EVENTS[owner]):
                    await asyncio.sleep(0.02)
        finally:
            relaying.cancel()
            with suppress(asyncio.CancelledError):
                await relaying

    assert_publishes(sent, *(fact.KEY for fact in EVENTS[owner]))
