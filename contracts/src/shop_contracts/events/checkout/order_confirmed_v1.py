"""The units are sold and the money is captured."""

from typing import ClassVar

from shop_contracts.events.base import Fact
from shop_contracts.types import Currency, Id, Minor, PricedLine, Time


class OrderConfirmedV1(Fact, frozen=True, kw_only=True):
    """The units are sold and the money is captured."""

    KEY: ClassVar[str] = "order.confirmed.v1"
    SUBJECT: ClassVar[str] = "order_id"

    order_id: Id
    lines: list[PricedLine]
    total_minor: Minor
    currency: Currency
    confirmed_at: Time
