"""The `events` verbs: reading the owners' streams, and sending them again to one consumer."""

import asyncio
import re
from collections.abc import Callable
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec
from msgspec import Struct

from bus import replay
from bus.broker import BROKER_ERRORS
from bus.replay import Logged, Since
from shop import audit
from shop.profiles import Profile
from shop.servers import amqp
from shop_contracts import topology
from shop_contracts.envelope import Event
from shop_contracts.events import EVENTS
from shop_contracts.events.base import Fact

OWNERS = tuple(EVENTS)

Show = Callable[[str, Logged], None]
Tell = Callable[[int, int], None]


class NoEvents(Exception):
    """The streams cannot be read: no such owner, or the broker does not answer."""


class Progress(Struct, frozen=True, kw_only=True):
    """How far a replay has come; kept until it is done."""

    next: int
    types: list[str]


def place(text: str) -> Since:
    """Where to begin: `first`, `next`, an offset, or a time such as 2026-11-01T12:00Z.

    A time without a zone is UTC. Raises NoEvents.
    """
    if text in {"first", "next"}:
        return text
    if re.fullmatch(r"\d{1,18}", text):
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise NoEvents(f"{text!r} is no place: say first, next, an offset or a time") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


async def tail(url: str, owner: str | None, since: Since, show: Show) -> None:
    """Show the events of one owner, or of all; never ends by itself, not even with the broker.

    Raises NoEvents when there is no such owner.
    """

    async def read(name: str) -> None:
        async for logged in replay.resume(url, name, since):
            show(name, logged)

    async with asyncio.TaskGroup() as group:
        for name in [_owner(owner)] if owner else OWNERS:
            group.create_task(read(name))


async def send(
    profile: Profile, owner: str, consumer: str, since: Since | None, types: list[str], tell: Tell
) -> int:
    """Send the owner's events again, to that consumer's queue alone; how many.

    Without `since` it goes on where the last one stopped. `types` are patterns such as
    `stock.changed.*`; without them the consumer gets what it is bound to. Raises NoEvents.
    """
    if _owner(owner) not in topology.READS.get(consumer, {}):
        raise NoEvents(f"{consumer} reads nothing of {owner}: {_readers()}")
    kept = profile.folder("run") / f"replay-{owner}-to-{consumer}.json"
    start, types = _begun(kept, types) if since is None else (since, types)
    audit.note(
        profile, "events replay", owner=owner, consumer=consumer, since=str(start), types=types
    )

    def wanted(event: Event[Fact]) -> bool:
        key = event.meta.key
        if types:
            return any(fnmatchcase(key, pattern) for pattern in types)
        return consumer in topology.readers(owner, key)

    def told(done: int, end: int) -> None:
        fresh = kept.with_suffix(".new")
        fresh.write_bytes(msgspec.json.encode(Progress(next=done, types=types)))
        fresh.replace(kept)
        tell(done, end)

    queue = topology.queue(consumer, owner)
    url = amqp(profile, "admin")
    try:
        count = await replay.send(url, owner, queue, start, wanted, told)
    except BROKER_ERRORS as error:
        raise NoEvents(f"the broker does not answer: {error!r}; go on with --resume") from error
    kept.unlink(missing_ok=True)
    return count


def _owner(name: str) -> str:
    if name not in OWNERS:
        raise NoEvents(f"{name!r} publishes no events; those who do: {', '.join(OWNERS)}")
    return name


def _readers() -> str:
    return "; ".join(f"{name} reads {', '.join(of)}" for name, of in topology.READS.items())


def _begun(kept: Path, types: list[str]) -> tuple[int, list[str]]:
    if not kept.exists():
        raise NoEvents("no replay of that kind was left unfinished: say --from")
    progress = msgspec.json.decode(kept.read_bytes(), type=Progress)
    if types and types != progress.types:
        raise NoEvents(f"the replay that was left unfinished is of {progress.types}")
    return progress.next, progress.types
