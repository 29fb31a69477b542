"""The provider put the amount aside."""

from typing import ClassVar

from shop_contracts.events.base import Fact
from shop_contracts.types import Currency, Id, Minor, Text


class PaymentAuthorisedV1(Fact, frozen=True, kw_only=True):
    """The provider put the amount aside."""

    KEY: ClassVar[str] = "payment.authorised.v1"
    SUBJECT: ClassVar[str] = "order_id"

    order_id: Id
    payment_ref: Text
    amount_minor: Minor
    currency: Currency
