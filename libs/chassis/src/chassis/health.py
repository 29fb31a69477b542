"""Health: whether this process lives and whether it can work. Knows no store by name."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog

Check = Callable[[], Awaitable[object]]
"""Returns when the dependency answers, raises when it does not."""

SECONDS = 2.0

_log = structlog.stdlib.get_logger(__name__)


async def failing(checks: Sequence[tuple[str, Check]]) -> list[str]:
    """The names of the checks that raise or take longer than 2 seconds; they run all at once."""

    async def passes(name: str, check: Check) -> bool:
        try:
            async with asyncio.timeout(SECONDS):
                await check()
        except Exception as error:  # noqa: BLE001 -- any failure of a dependency is the answer
            _log.warning("not ready", check=name, error=type(error).__name__)
            return False
        return True

    good = await asyncio.gather(*(passes(name, check) for name, check in checks))
    return [name for (name, _), ok in zip(checks, good, strict=True) if not ok]
