"""Processes start by name, say how they are, stop when asked and never live on half dead."""

import asyncio
import json
import os
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

PROGRAM = '''
import asyncio, os
import aiohttp
import msgspec
import structlog
from chassis import http, process, settings, telemetry

PORT = int(os.environ["PORT"])
log = structlog.stdlib.get_logger("program")


async def slow(request):
    log.info("slow began")
    await asyncio.sleep(0.5)
    return http.reply({"stopping": process.stopping().is_set()})


async def relayed(request):
    """Calls the worker, as one process of the shop calls another: with its traceparent."""
    async with aiohttp.ClientSession() as session:
        sent = {"traceparent": telemetry.inject()}
        async with session.get(os.environ["NEXT"] + "/healthz", headers=sent) as answer:
            return http.reply(await answer.json())


async def api():
    routes = [
        http.get("/slow", slow, summary="Takes its time"),
        http.get("/relayed", relayed, summary="Asks another process"),
    ]
    await process.serve(http.application(name="program", routes=routes), "127.0.0.1", PORT)


async def forever():
    try:
        await asyncio.Event().wait()
    finally:
        log.info("put away what was in hand")


async def dies():
    await asyncio.sleep(0.05)
    raise ValueError("line one\\nline two")


async def ends():
    pass


async def worker():
    await process.run_until_stopped(forever(), health=("127.0.0.1", PORT))


async def dying():
    await process.run_until_stopped(forever(), dies())


async def ending():
    await process.run_until_stopped(forever(), ends())


class Settings(msgspec.Struct):
    url: str
    size: int


async def unset():
    settings.load(Settings, "UNSET_")


process.main("program", {
    "api": api, "worker": worker, "dying": dying, "ending": ending, "unset": unset,
})
'''


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


Started = Callable[..., Any]


@pytest.fixture
def started(tmp_path: Path) -> Started:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)

    @asynccontextmanager
    async def start(name: str, **env: str) -> AsyncIterator[Process]:
        running = await asyncio.create_subprocess_exec(
            sys.executable, str(program), name, stdout=PIPE, stderr=PIPE, env=os.environ | env
        )
        try:
            yield running
        finally:
            if running.returncode is None:
                running.kill()
                await running.communicate()

    return start


async def logged(process: Process, event: str) -> dict[str, Any]:
    """The first log line with that event."""
    assert process.stdout is not None
    async with asyncio.timeout(30):
        while line := await process.stdout.readline():
            entry: dict[str, Any] = json.loads(line)
            if entry["event"] == event:
                return entry
    raise AssertionError(f"no {event} was logged")


async def test_a_stop_lets_the_request_in_flight_finish(started: Started, client: Any) -> None:
    port = free_port()
    async with started("api", PORT=str(port)) as process:
        await logged(process, "listening")
        answer = asyncio.create_task(type(client)(port)("GET", "/slow"))
        await logged(process, "slow began")
        process.send_signal(signal.SIGTERM)

        assert {"stopping": True} == (await answer).json()
        assert 0 == await process.wait()


async def test_an_interrupt_from_the_keyboard_is_a_stop_too(started: Started) -> None:
    async with started("api", PORT=str(free_port())) as process:
        await logged(process, "listening")
        process.send_signal(signal.SIGINT)

        assert 0 == await process.wait()


async def test_a_worker_answers_health_and_metrics_and_puts_its_work_away(
    started: Started, client: Any
) -> None:
    port = free_port()
    async with started("worker", PORT=str(port)) as process:
        await logged(process, "listening")
        for path in ("/healthz", "/readyz", "/metrics"):
            assert 200 == (await type(client)(port)("GET", path)).status
        process.send_signal(signal.SIGTERM)

        assert await logged(process, "put away what was in hand")
        assert 0 == await process.wait()


async def test_a_part_that_dies_takes_the_process_with_it(started: Started) -> None:
    async with started("dying", PORT="0") as process:
        entry = await logged(process, "died")

        assert 1 == await process.wait()
    assert ("critical", "program.dying") == (entry["level"], entry["service"])
    assert "ValueError: line one\nline two" in entry["exception"]


async def test_a_part_that_just_ends_does_so_too(started: Started) -> None:
    async with started("ending", PORT="0") as process:
        entry = await logged(process, "died")

        assert 1 == await process.wait()
    assert "ends ended by itself" in entry["exception"]


async def test_wrong_settings_are_told_in_one_line_without_a_traceback(started: Started) -> None:
    async with started("unset", PORT="0", UNSET_SIZE="big") as process:
        entry = await logged(process, "bad settings")

        assert 1 == await process.wait()
    assert 2 == len(entry["problems"])
    assert "exception" not in entry


async def test_the_command_line_lists_the_processes(started: Started) -> None:
    async with started("--help", PORT="0") as process:
        out, _ = await process.communicate()

    assert 0 == process.returncode
    assert b"{api,worker,dying,ending,unset}" in out


async def test_one_trace_runs_through_two_processes(
    started: Started, client: Any, tmp_path: Path
) -> None:
    spans = tmp_path / "spans.jsonl"
    first, second = free_port(), free_port()
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    async with (
        started("worker", PORT=str(second), SHOP_TRACE_FILE=str(spans)) as worker,
        started(
            "api",
            PORT=str(first),
            SHOP_TRACE_FILE=str(spans),
            NEXT=f"http://127.0.0.1:{second}",
        ) as api,
    ):
        await logged(worker, "listening")
        await logged(api, "listening")
        await type(client)(first)(
            "GET", "/relayed", traceparent=f"00-{trace_id}-b7ad6b7169203331-01"
        )
        for process in (api, worker):
            process.send_signal(signal.SIGTERM)
            assert 0 == await process.wait()
    written = [json.loads(line) for line in spans.read_text().splitlines()]
    by_service = {span["service"]: span for span in written}

    assert {trace_id} == {span["trace_id"] for span in written}
    assert "b7ad6b7169203331" == by_service["program.api"]["parent_id"]
    assert by_service["program.api"]["span_id"] == by_service["program.worker"]["parent_id"]
    assert "GET /relayed" == by_service["program.api"]["name"]
    assert 200 == by_service["program.api"]["attributes"]["http.response.status_code"]


async def test_of_traces_that_begin_here_only_the_wanted_part_is_recorded(
    started: Started, client: Any, tmp_path: Path
) -> None:
    spans = tmp_path / "spans.jsonl"
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    port = free_port()
    async with started(
        "api",
        PORT=str(port),
        SHOP_TRACE_FILE=str(spans),
        OTEL_TRACES_SAMPLER="parentbased_traceidratio",
        OTEL_TRACES_SAMPLER_ARG="0",
    ) as process:
        await logged(process, "listening")
        call = type(client)(port)
        await call("GET", "/healthz")
        await call("GET", "/healthz", traceparent=f"00-{trace_id}-b7ad6b7169203331-01")
        await call("GET", "/healthz")
        process.send_signal(signal.SIGTERM)
        assert 0 == await process.wait()

    assert [trace_id] == [json.loads(line)["trace_id"] for line in spans.read_text().splitlines()]


async def test_a_traceparent_flows_on_even_when_nobody_records_spans(
    started: Started, client: Any
) -> None:
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    port = free_port()
    async with started("api", PORT=str(port)) as process:
        await logged(process, "listening")
        answer = asyncio.create_task(
            type(client)(port)("GET", "/slow", traceparent=f"00-{trace_id}-b7ad6b7169203331-01")
        )
        entry = await logged(process, "slow began")

        assert 200 == (await answer).status
    assert trace_id == entry["trace_id"]
    assert {"time", "level", "logger", "event", "trace_id", "span_id", "service"} == set(entry)
