"""Events in: what catalog and stock say becomes what shoppers find. Knows no index."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing

import structlog
from msgspec import Struct

from bus import replay
from search.store import SearchStore
from shop_contracts.envelope import Event
from shop_contracts.events.base import Fact

BATCH = 500

_log = structlog.stdlib.get_logger(__name__)


async def changed(store: SearchStore, events: Sequence[Event[Fact]]) -> None:
    """The newest of each source wins, in whatever order the events arrive."""
    await store.project(events)


class Rebuilt(Struct, frozen=True, kw_only=True):
    """What a rebuild ended with. `carried` documents were in no stream any more."""

    products: int
    offers: int
    carried: int
    checksum: str
    as_before: bool


async def rebuild(broker_url: str, store: SearchStore, name: str) -> Rebuilt:
    """Make the read model again out of the owners' streams, while it is asked and events go on.

    `as_before` tells whether the documents are those that were asked until then. Raises
    Unavailable, or what the broker raises; then nothing has changed for those who ask.
    """
    fresh = await store.beside(name)
    places = dict.fromkeys(HANDLERS, 0)
    await _catch_up(broker_url, fresh, places)
    live, marks = await store.contents()
    # all that the live one knew when it was read is in the streams by now
    await _catch_up(broker_url, fresh, places)
    # but the streams keep a week: what is older only the live one knows
    lacking = live.without((await fresh.contents())[0])
    await fresh.take_over(lacking)
    made, _ = await fresh.contents()
    async with store.frozen():
        # what the worker has written since, searchers may have seen: it must not be gone again
        await fresh.take_over((await store.contents(marks))[0])
        before = await store.give_way_to(fresh)
    await store.forget(before)
    return Rebuilt(
        products=len(made.products),
        offers=len(made.offers),
        carried=len(lacking.products) + len(lacking.offers),
        checksum=made.checksum,
        as_before=made.checksum == live.checksum,
    )


async def _catch_up(broker_url: str, store: SearchStore, places: dict[str, int]) -> None:
    """Project what the streams hold from these places on, and move the places to their ends."""

    async def one(owner: str) -> None:
        stop = await replay.end(broker_url, owner)
        _log.info("replaying", owner=owner, start=places[owner], stop=stop)
        batch: list[Event[Fact]] = []
        async with aclosing(replay.until(broker_url, owner, places[owner], stop)) as stream:
            async for logged in stream:
                batch.append(logged.event)
                if len(batch) == BATCH:
                    await store.project(batch)
                    batch = []
        if batch:
            await store.project(batch)
        places[owner] = max(places[owner], stop)

    async with asyncio.TaskGroup() as group:
        for owner in places:
            group.create_task(one(owner))


HANDLERS = {"catalog": changed, "stock": changed}
"""By the service whose events they take."""
