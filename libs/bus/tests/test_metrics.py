"""What an operator sees of outboxes, relays and consumers on /metrics, with its numbers."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from bus.broker import connected
from shop_contracts import topology

pytestmark = pytest.mark.connected

PROGRAM = Path(__file__).parent / "programs" / "observed.py"
DEADLINE = 60
AGE = 60.0
QUEUE = "search.stock"

Seen = Callable[..., float | None]
"""The value of a metric with these labels; None where there is none."""


@asynccontextmanager
async def observed(broker_url: str) -> AsyncIterator[Callable[[], Awaitable[Seen]]]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(PROGRAM)),
        env={**os.environ, "BROKER_URL": broker_url},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(DEADLINE), aiohttp.ClientSession() as http:
            address = f"http://127.0.0.1:{int(await process.stdout.readline())}/metrics"

            async def look() -> Seen:
                async with http.get(address) as answer:
                    families = list(text_string_to_metric_families(await answer.text()))
                samples = [sample for family in families for sample in family.samples]

                def seen(name: str, **labels: str) -> float | None:
                    for sample in samples:
                        if sample.name == name and labels.items() <= sample.labels.items():
                            return sample.value
                    return None

                return seen

            yield look
    finally:
        process.kill()
        await process.wait()


async def until(look: Callable[[], Awaitable[Seen]], holds: Callable[[Seen], bool]) -> Seen:
    while True:
        seen = await look()
        if holds(seen):
            return seen
        await asyncio.sleep(0.1)


async def test_what_waits_leaves_fails_and_is_parked_is_told(new_broker_url: str) -> None:
    async with connected(new_broker_url, "test") as other:
        # while another relay has the lease, this one's events wait
        lease = await (await other.channel()).declare_queue(
            topology.relay_lease("stock"), exclusive=True
        )
        async with observed(new_broker_url) as look:
            waits = await until(look, lambda seen: seen("shop_outbox_depth", owner="stock") == 3)
            assert (waits("shop_outbox_age_seconds", owner="stock") or 0) >= AGE
            assert waits("shop_events_published_total") is None
            await lease.delete()

            seen = await until(
                look,
                lambda seen: (
                    seen("shop_outbox_depth", owner="stock") == 0
                    and seen("shop_queue_ready", queue=QUEUE) == 0
                    and seen("shop_queue_parked", queue=QUEUE) == 1
                    and seen("shop_events_consumed_total", queue=QUEUE, outcome="ack") == 2
                ),
            )
            assert 0 == seen("shop_outbox_age_seconds", owner="stock")
            assert 3 == seen("shop_events_published_total", type="stock.changed.v1")
            assert 1 == seen("shop_event_publish_seconds_count", owner="stock")
            assert 1 == seen("shop_events_consumed_total", queue=QUEUE, outcome="retry")
            assert 1 == seen("shop_events_consumed_total", queue=QUEUE, outcome="parked")
            # GOOD and BAD once, LATE twice
            kind = {"queue": QUEUE, "type": "stock.changed.v1"}
            assert 4 == seen("shop_event_process_seconds_count", **kind)
            assert 2 == seen("shop_event_lag_seconds_count", queue=QUEUE)
            assert (seen("shop_event_lag_seconds_sum", queue=QUEUE) or 0) >= 2 * AGE
