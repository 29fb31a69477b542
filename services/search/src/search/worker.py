"""Events in: what catalog and stock say becomes what shoppers find. Knows no index."""

from collections.abc import Sequence

from search.store import SearchStore
from shop_contracts.envelope import Event
from shop_contracts.events.base import Fact


async def changed(store: SearchStore, events: Sequence[Event[Fact]]) -> None:
    """The newest of each source wins, in whatever order the events arrive."""
    await store.project(events)


HANDLERS = {"catalog": changed, "stock": changed}
"""By the service whose events they take."""
