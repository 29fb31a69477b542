"""The hold was gone and the units could not be taken."""

from typing import ClassVar

from shop_contracts.events.base import Fact
from shop_contracts.types import Id, Shortage


class ReservationCommitFailedV1(Fact, frozen=True, kw_only=True):
    """The hold was gone and the units could not be taken."""

    KEY: ClassVar[str] = "reservation.commit_failed.v1"
    SUBJECT: ClassVar[str] = "order_id"

    order_id: Id
    shortages: list[Shortage] = []
