"""What a relay needs of an outbox. The stores keep theirs in `sql`, `redis_stream`, `documents`."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Protocol

from msgspec import Struct

from shop_contracts.envelope import Event
from shop_contracts.events.base import Fact


class Entry(Struct, frozen=True):
    """One event that waits to be published; `ref` is how its outbox finds it again."""

    ref: Any
    event: Event[Fact]


class Outbox(Protocol):
    """Pending events in the order in which they are to leave.

    Only the relay that holds the lease calls `pending` and `settle`.
    """

    async def pending(self, limit: int) -> Sequence[Entry]:
        """The oldest entries, at most `limit`; when there are none it may wait for a second."""

    async def settle(self, entries: Sequence[Entry]) -> None:
        """Forget entries that the broker has confirmed."""

    async def waiting(self) -> tuple[int, datetime | None]:
        """How many entries wait, and since when the oldest of them does. Anybody may call it."""
