"""The hold ran out and its units are available again."""

from typing import ClassVar

from shop_contracts.events.base import Fact
from shop_contracts.types import Id, Line


class ReservationExpiredV1(Fact, frozen=True, kw_only=True):
    """The hold ran out and its units are available again."""

    KEY: ClassVar[str] = "reservation.expired.v1"
    SUBJECT: ClassVar[str] = "order_id"

    order_id: Id
    lines: list[Line]
