"""The provider refused the amount."""

from typing import ClassVar

from shop_contracts.events.base import Fact
from shop_contracts.types import Currency, Id, Minor, Text


class PaymentDeclinedV1(Fact, frozen=True, kw_only=True):
    """The provider refused the amount."""

    KEY: ClassVar[str] = "payment.declined.v1"
    SUBJECT: ClassVar[str] = "order_id"

    order_id: Id
    payment_ref: Text | None = None
    amount_minor: Minor
    currency: Currency
    reason: Text
