"""A process of a service: its command line, its loop, its graceful stop. Knows no service."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any

from aiohttp import web

from chassis.health import Check


def main(name: str, processes: Mapping[str, Callable[[], Awaitable[None]]]) -> None:
    """Run the process that the command line names; exit 0 when asked to stop, 1 when it dies."""
    raise NotImplementedError


def stopping() -> asyncio.Event:
    """The running loop's event that is set when the process was asked to stop."""
    raise NotImplementedError


async def serve(app: web.Application, host: str, port: int, *, stop_timeout: float = 10) -> None:
    """Answer HTTP until a stop is requested; requests in flight get `stop_timeout` seconds."""
    raise NotImplementedError


async def run_until_stopped(
    *coroutines: Coroutine[Any, Any, None],
    health: tuple[str, int] | None = None,
    checks: Sequence[tuple[str, Check]] = (),
    stop_timeout: float = 10,
) -> None:
    """Run all until a stop is requested; one that ends by an exception ends the process with it."""
    raise NotImplementedError
