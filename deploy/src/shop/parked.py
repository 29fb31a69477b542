"""The `parked` verbs: messages that no consumer could work. Knows no consumer's code."""

from collections.abc import Iterator

from msgspec import Struct

from bus import parking
from bus.broker import BROKER_ERRORS
from bus.parking import Held, Parked
from shop import audit
from shop.profiles import Profile
from shop.servers import amqp
from shop_contracts import topology

LIMIT = 10_000


class ParkedFailed(Exception):
    """Parking cannot be reached, or nothing there is meant."""


class Which(Struct, frozen=True, kw_only=True):
    """Which parked messages are meant: those that fit everything that is said."""

    consumer: str | None = None
    owner: str | None = None
    reason: str | None = None
    ids: tuple[str, ...] = ()

    def queues(self) -> Iterator[str]:
        """The work queues whose parking is meant. Raises ParkedFailed."""
        found = [
            topology.queue(consumer, owner)
            for consumer, owners in topology.READS.items()
            for owner in owners
            if self.consumer in {None, consumer} and self.owner in {None, owner}
        ]
        if not found:
            raise ParkedFailed(f"nobody is called so; there are {', '.join(topology.READS)}")
        yield from found

    def means(self, message: Parked) -> bool:
        """Whether this message fits."""
        if self.reason is not None and message.reason != self.reason:
            return False
        # a beginning is enough, as long as it is one message's
        return not self.ids or any(message.id.startswith(id_) for id_ in self.ids)


async def look(profile: Profile, which: Which) -> list[Parked]:
    """What is parked, the oldest of each queue first. Raises ParkedFailed."""
    found: list[Parked] = []
    try:
        for queue in which.queues():
            async with parking.opened(amqp(profile, "admin"), queue, LIMIT) as held:
                found += [one.parked for one in held if which.means(one.parked)]
    except BROKER_ERRORS as error:
        raise ParkedFailed(f"the broker does not answer: {error!r}") from error
    return found


async def replay(profile: Profile, which: Which) -> list[Parked]:
    """Send what is meant back to its consumer, and to nobody else. Raises ParkedFailed."""
    return await _do(profile, which, "replay")


async def drop(profile: Profile, which: Which) -> list[Parked]:
    """Forget what is meant for good. Raises ParkedFailed."""
    return await _do(profile, which, "drop")


async def _do(profile: Profile, which: Which, deed: str) -> list[Parked]:
    done: list[Parked] = []
    try:
        for queue in which.queues():
            async with parking.opened(amqp(profile, "admin"), queue, LIMIT) as held:
                for one in held:
                    if which.means(one.parked):
                        _note(profile, deed, one.parked)
                        await (Held.send_back if deed == "replay" else Held.drop)(one)
                        done.append(one.parked)
    except BROKER_ERRORS as error:
        raise ParkedFailed(f"after {len(done)} the broker did not answer: {error!r}") from error
    return done


def _note(profile: Profile, deed: str, parked: Parked) -> None:
    audit.note(
        profile,
        f"parked {deed}",
        queue=parked.queue,
        id=parked.id,
        type=parked.type,
        reason=parked.reason,
        error=parked.error,
    )
