"""How many of those who wait may be told that units came back. Pure; no I/O here.

A wave is no larger than what came back, nor than what is there: whoever is told finds a unit, if
those who were told with him take one each. Units that nobody took are offered to the next in line
once more, after a while.
"""

from msgspec import Struct


class Seen(Struct, frozen=True, kw_only=True):
    """What was last heard of a SKU, and for how many units nobody has been told yet."""

    version: int = 0
    available: int = 0
    untold: int = 0


def after(seen: Seen, version: int, available: int) -> Seen:
    """What is known after an event, in whatever order events come; a rise is what came back."""
    if version <= seen.version:
        return seen
    came_back = max(0, available - seen.available)
    return Seen(
        version=version, available=available, untold=min(seen.untold + came_back, available)
    )


def again(seen: Seen) -> Seen:
    """What is known once those who were told had their time: what is left may be offered again."""
    return Seen(version=seen.version, available=seen.available, untold=seen.available)


def told(seen: Seen, people: int) -> Seen:
    """What is known once so many have been told."""
    return Seen(version=seen.version, available=seen.available, untold=max(0, seen.untold - people))
