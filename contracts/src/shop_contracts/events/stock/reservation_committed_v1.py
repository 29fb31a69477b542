"""The held units of the order are sold."""

from typing import ClassVar

from shop_contracts.events.base import Fact
from shop_contracts.types import Id, Line


class ReservationCommittedV1(Fact, frozen=True, kw_only=True):
    """The held units of the order are sold."""

    KEY: ClassVar[str] = "reservation.committed.v1"
    SUBJECT: ClassVar[str] = "order_id"

    order_id: Id
    lines: list[Line]
