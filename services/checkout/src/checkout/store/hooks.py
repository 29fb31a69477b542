"""What subscribed receivers are told of orders, in the transaction of what it tells. Sends nothing.

`checkout notify` sends it, signed, until it is taken or a day has passed.
"""

from collections.abc import Sequence

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from checkout.store import tables
from notify import book
from shop_contracts.envelope import Event
from shop_contracts.events.base import Fact, name_of
from shop_contracts.events.checkout import (
    OrderCancelledV1,
    OrderConfirmedV1,
    OrderDeliveredV1,
    OrderRefundedV1,
    OrderShippedV1,
)

TOLD = (OrderConfirmedV1, OrderCancelledV1, OrderRefundedV1, OrderShippedV1, OrderDeliveredV1)


async def announce(connection: AsyncConnection, events: Sequence[Event[Fact]]) -> None:
    """Put what receivers subscribe to among the deliveries: an order's own in their order."""
    messages = [
        book.Message(type=name_of(event.data.KEY), subject=event.meta.subject, body=_body(event))
        for event in events
        if isinstance(event.data, TOLD)
    ]
    if messages:
        await book.announce(connection, tables.notices, messages)


def _body(event: Event[Fact]) -> bytes:
    return msgspec.json.encode(
        {"type": name_of(event.data.KEY), "timestamp": event.meta.time, "data": event.data}
    )
