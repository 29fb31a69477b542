"""An order is durable, not yet confirmed; its lines are to be held."""

from typing import ClassVar

from shop_contracts.events.base import Fact
from shop_contracts.types import Currency, Id, Minor, PricedLine, Time


class OrderPlacedV1(Fact, frozen=True, kw_only=True):
    """An order is durable, not yet confirmed; its lines are to be held.

    With a `reservation_id` the order takes over what that reservation holds, if it still does.
    """

    KEY: ClassVar[str] = "order.placed.v1"
    SUBJECT: ClassVar[str] = "order_id"
    MINOR: ClassVar[int] = 1

    order_id: Id
    lines: list[PricedLine]
    total_minor: Minor
    currency: Currency
    placed_at: Time
    reservation_id: Id | None = None
