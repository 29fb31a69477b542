"""What a relay needs of an outbox. The stores keep theirs in `sql`, `redis_stream`, `documents`."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Protocol, Self

from msgspec import Struct

from shop_contracts.envelope import Event, Meta, decode, encode, meta_of
from shop_contracts.events.base import Fact


class Entry(Struct, frozen=True):
    """One event that waits to be published; `ref` is how its outbox finds it again."""

    ref: Any
    meta: Meta
    body: bytes

    @classmethod
    def of(cls, ref: Any, event: Event[Fact]) -> Self:
        """The entry of an event."""
        return cls(ref, event.meta, encode(event))

    @classmethod
    def read(cls, ref: Any, body: bytes) -> Self:
        """The entry of an event that was encoded already: its data is carried along unread."""
        return cls(ref, meta_of(body), body)

    @property
    def event(self) -> Event[Fact]:
        """The whole event. Raises `Undecodable` where these contracts do not know its type."""
        return decode(self.body)


class Outbox(Protocol):
    """Pending events in the order in which they are to leave.

    Only the relay that holds the lease calls `pending` and `settle`.
    """

    async def pending(self, limit: int, behind: Sequence[Entry] = ()) -> Sequence[Entry]:
        """The oldest entries, about `limit`; when there are none it may wait for a second.

        `behind` is what was given out last and is not settled yet: then the oldest of all others,
        at once. None of them may have to leave before one of `behind`.
        """

    async def settle(self, entries: Sequence[Entry]) -> None:
        """Forget entries that the broker has confirmed."""

    async def waiting(self) -> tuple[int, datetime | None]:
        """How many entries wait, and since when the oldest of them does. Anybody may call it."""
