"""`mock` and `tap` on a real RabbitMQ: what one plays, the other finds valid."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aio_pika
import pytest

from shop_contracts.events import BY_KEY, EVENTS
from shop_contracts.kit import goldens
from shop_contracts.kit.verbs import mock

pytestmark = pytest.mark.connected

CONTRACTS = [sys.executable, "-m", "shop_contracts"]
GOLDENS = sum(len(goldens.examples(key)) for key in BY_KEY)


@asynccontextmanager
async def exchanges(url: str) -> AsyncIterator[Any]:
    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel()
        yield {
            owner: await channel.declare_exchange(f"{owner}.events", "topic", durable=True)
            for owner in EVENTS
        }


def tap(url: str, *arguments: str) -> subprocess.Popen[str]:
    """A tap that is bound."""
    process = subprocess.Popen(
        [*CONTRACTS, "tap", "--amqp", url, "--ready", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert "tapping\n" == process.stderr.readline()
    return process


def test_what_is_played_into_an_empty_broker_is_found_valid(broker: Any) -> None:
    words = ["--queue-prefix", "ext.acme", "--declare", "--count", str(2 * GOLDENS)]
    listening = tap(broker.url, *words)
    played = subprocess.run(
        [*CONTRACTS, "mock", "--amqp", broker.url, "--rounds", "2"],
        capture_output=True,
        text=True,
        check=False,
    )
    _, said = listening.communicate(timeout=60)

    assert (0, "") == (played.returncode, played.stderr)
    assert f"{2 * GOLDENS} events, 0 invalid" in said
    assert 0 == listening.returncode


async def test_an_invalid_message_is_told_with_its_rule(broker: Any) -> None:
    async with exchanges(broker.url) as declared:
        listening = await asyncio.to_thread(tap, broker.url, "--count", "2")
        made = next(mock.messages(["stock.changed.v1"], 1))
        good = aio_pika.Message(made.body, content_type="application/cloudevents+json")
        await declared["stock"].publish(good, "stock.changed.v1")
        await declared["stock"].publish(aio_pika.Message(b"hello"), "stock.changed.v1")
        said, counted = await asyncio.to_thread(listening.communicate, timeout=60)

    assert 1 == listening.returncode
    assert "2 events, 2 invalid" in counted
    assert "properties at message_id" in said
    assert "envelope at /: no JSON" in said


def test_who_plays_to_nobody_is_told(broker: Any) -> None:
    played = subprocess.run(
        [*CONTRACTS, "mock", "--amqp", broker.url, "--type", "stock.changed.v1"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert 1 == played.returncode
    assert "nobody is bound to stock.changed.v1 on stock.events" in played.stderr


@pytest.mark.parametrize("verb", ["mock", "tap"])
def test_a_broker_that_is_not_there_is_no_traceback(verb: str) -> None:
    said = subprocess.run(
        [*CONTRACTS, verb, "--amqp", "amqp://guest:guest@127.0.0.1:9/"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert 2 == said.returncode
    assert "Traceback" not in said.stderr
