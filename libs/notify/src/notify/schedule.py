"""When a delivery is tried again, and when a receiver is given up. Pure."""

import random
from datetime import timedelta

MINUTE = 60
HOUR = 60 * MINUTE
WAITS = (5, MINUTE, 5 * MINUTE, 30 * MINUTE, HOUR, 2 * HOUR, 4 * HOUR, 7 * HOUR, 9 * HOUR)
"""Seconds between one try and the next: ten tries within 24 hours."""

TRIES = len(WAITS) + 1
JITTER = 0.2
LONGEST_ASKED = HOUR


def wait(tries: int, asked: float | None = None) -> timedelta | None:
    """How long after its `tries`-th failure a delivery is tried again; None: never more.

    `asked` is the receiver's own wish in seconds (Retry-After), heeded up to an hour. Waits are
    shortened by chance, so that those who failed together do not come back together.
    """
    if tries >= TRIES:
        return None
    chosen = WAITS[tries - 1] * random.uniform(1 - JITTER, 1)  # noqa: S311 -- jitter
    return timedelta(seconds=max(chosen, min(asked or 0, LONGEST_ASKED)))
