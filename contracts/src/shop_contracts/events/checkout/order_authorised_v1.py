"""The payment is authorised; the held units are to be sold."""

from typing import ClassVar

from shop_contracts.events.base import Fact
from shop_contracts.types import Currency, Id, Line, Minor


class OrderAuthorisedV1(Fact, frozen=True, kw_only=True):
    """The payment is authorised; the held units are to be sold."""

    KEY: ClassVar[str] = "order.authorised.v1"
    SUBJECT: ClassVar[str] = "order_id"

    order_id: Id
    lines: list[Line]
    total_minor: Minor
    currency: Currency
