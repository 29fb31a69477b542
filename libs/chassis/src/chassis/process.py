"""A process of a service: its command line, its loop, its graceful stop. Knows no service."""

import argparse
import asyncio
import gc
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any
from weakref import WeakKeyDictionary

import structlog
import uvloop
from aiohttp import web

from chassis import logs, telemetry
from chassis.health import Check
from chassis.http.application import bare
from chassis.http.server import listening
from chassis.settings import SettingsError

_log = structlog.stdlib.get_logger(__name__)

YOUNG_OBJECTS = 20_000
"""How many objects may come before those that came last are searched for garbage in cycles: what a
request or an event leaves ends without a search, and most of it has ended by then."""

_stops: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Event] = WeakKeyDictionary()


def main(name: str, processes: Mapping[str, Callable[[], Awaitable[None]]]) -> None:
    """Run the process that the command line names; exit 0 when asked to stop, 1 when it dies."""
    parser = argparse.ArgumentParser(prog=f"python -m {name}")
    parser.add_argument("process", choices=list(processes), help="which process to run")
    chosen: str = parser.parse_args().process
    service = f"{name}.{chosen}"
    logs.setup(service, os.environ.get("LOG_LEVEL", "INFO").upper())
    telemetry.setup(service)
    # what was imported stays: no search need walk through it
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_until_done(processes[chosen]))
    except SettingsError as error:
        _log.error("bad settings", problems=error.problems)
        sys.exit(1)
    except BaseException as error:  # noqa: BLE001 -- whatever it was, the exit code tells it
        _log.critical("died", exc_info=error)
        sys.exit(1)
    _log.info("stopped")


def stopping() -> asyncio.Event:
    """The running loop's event that is set when the process was asked to stop."""
    return _stops.setdefault(asyncio.get_running_loop(), asyncio.Event())


async def serve(app: web.Application, host: str, port: int, *, stop_timeout: float = 10) -> None:
    """Answer HTTP until a stop is requested; requests in flight get `stop_timeout` seconds."""
    async with listening(app, host, port, stop_timeout=stop_timeout):
        await stopping().wait()


async def run_until_stopped(
    *coroutines: Coroutine[Any, Any, None],
    health: tuple[str, int] | None = None,
    checks: Sequence[tuple[str, Check]] = (),
    stop_timeout: float = 10,
) -> None:
    """Run all until a stop is requested, with health and metrics on `health` unless its port is 0.

    Then each is cancelled and has `stop_timeout` seconds to finish what it has in hand. One that
    ends before, by an exception or not, stops the others and raises: no process stays up with
    half of its work.
    """
    async with AsyncExitStack() as stack:
        tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
        stop = asyncio.create_task(stopping().wait())
        try:
            if health is not None and health[1]:
                await stack.enter_async_context(listening(bare(checks), *health))
            done, _ = await asyncio.wait([*tasks, stop], return_when=asyncio.FIRST_COMPLETED)
            asked = stop in done
        finally:
            left = await _end([*tasks, stop], stop_timeout)
    for task in left:
        _log.error("did not stop in time", task=_name(task))
    for task in tasks:
        if task.done() and not task.cancelled() and (error := task.exception()):
            raise error
    if not asked:
        raise RuntimeError(f"{_name(next(t for t in tasks if t in done))} ended by itself")


async def _end(tasks: Sequence["asyncio.Task[Any]"], seconds: float) -> set["asyncio.Task[Any]"]:
    for task in tasks:
        task.cancel()
    _, left = await asyncio.wait(tasks, timeout=seconds)
    return left


def _name(task: "asyncio.Task[Any]") -> str:
    return getattr(task.get_coro(), "__qualname__", task.get_name())


async def _until_done(process: Callable[[], Awaitable[None]]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping().set)
    await process()
