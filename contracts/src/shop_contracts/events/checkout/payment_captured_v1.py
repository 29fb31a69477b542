"""The provider took the amount."""

from typing import ClassVar

from shop_contracts.events.base import Fact
from shop_contracts.types import Currency, Id, Minor, Text


class PaymentCapturedV1(Fact, frozen=True, kw_only=True):
    """The provider took the amount."""

    KEY: ClassVar[str] = "payment.captured.v1"
    SUBJECT: ClassVar[str] = "order_id"

    order_id: Id
    payment_ref: Text
    amount_minor: Minor
    currency: Currency
