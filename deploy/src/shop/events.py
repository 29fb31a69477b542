"""The `events tail` verb: the owners' streams, for people. Takes nothing from anybody's queue."""

import asyncio
from collections.abc import Callable

from bus.broker import BROKER_ERRORS
from bus.replay import follow
from shop_contracts.envelope import Event
from shop_contracts.events import EVENTS
from shop_contracts.events.base import Fact

OWNERS = tuple(EVENTS)

Show = Callable[[Event[Fact]], None]


class NoEvents(Exception):
    """The streams cannot be read: no such owner, or the broker does not answer."""


async def tail(url: str, owner: str | None, since: str, show: Show) -> None:
    """Show the events of one owner, or of all, from `first` or `next` on; never ends by itself.

    Raises NoEvents.
    """
    if owner is not None and owner not in OWNERS:
        raise NoEvents(f"{owner!r} publishes no events; those who do: {', '.join(OWNERS)}")

    async def read(name: str) -> None:
        async for logged in follow(url, name, since):
            show(logged.event)

    try:
        async with asyncio.TaskGroup() as group:
            for name in [owner] if owner else OWNERS:
                group.create_task(read(name))
    except* BROKER_ERRORS as errors:
        raise NoEvents(f"the streams cannot be read: {errors.exceptions[0]}") from errors
