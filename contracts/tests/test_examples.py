"""The example subscribers: built, held to the contract, and given a burst on a real RabbitMQ."""

import asyncio
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import aio_pika
import pytest

from shop_contracts import envelope
from shop_contracts.cli import main
from shop_contracts.events.stock.stock_changed_v1 import Cause, StockChangedV1
from shop_contracts.kit import goldens
from shop_contracts.kit.subschema import gaps

pytestmark = pytest.mark.connected

EXAMPLES = Path(__file__).parents[2] / "examples"
KEY = "stock.changed.v1"
SKUS = 200


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.fail(f"{name} is not installed: `./shop test` installs it")
    return found


@pytest.fixture(scope="session")
def go_worker(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    built = tmp_path_factory.mktemp("go") / "go-stock-worker"
    command = [program("go"), "build", "-mod=readonly", "-o", str(built), "."]
    subprocess.run(command, cwd=EXAMPLES / "go-stock-worker", check=True)
    return [str(built)]


@pytest.fixture(scope="session")
def node_worker(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("node") / "node-stock-worker"
    without = shutil.ignore_patterns("node_modules")
    shutil.copytree(EXAMPLES / "node-stock-worker", folder, ignore=without)
    command = [program("npm"), "ci", "--no-audit", "--no-fund", "--prefer-offline"]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return [program("node"), str(folder / "main.js")]


@pytest.fixture(scope="session")
def python_worker() -> list[str]:
    return [sys.executable, str(EXAMPLES / "python-consumer" / "stock_worker.py")]


@pytest.fixture(params=["go", "node", "python"])
def language(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def worker(request: pytest.FixtureRequest, language: str) -> list[str]:
    found: list[str] = request.getfixturevalue(f"{language}_worker")
    return found


def levels(language: str, path: Path) -> dict[str, int]:
    """What a worker has stored."""
    if not path.exists():
        return {}
    if language == "python":
        with sqlite3.connect(path) as database:
            return dict(database.execute("SELECT sku, available FROM levels"))
    return {change["sku"]: change["available"] for change in journal(path)}


def journal(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


@contextmanager
def running(command: list[str], url: str, path: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([*command, str(path)], env={**os.environ, "STOCK_BROKER_URL": url})
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=30)


def until(reached: Callable[[], bool], what: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def burst(number: int) -> list[bytes]:
    """Changes of 200 SKUs, each in its order."""
    dice = random.Random(7)
    versions = dict.fromkeys(range(SKUS), 0)
    bodies = []
    for count in range(number):
        item = dice.randrange(SKUS)
        versions[item] += 1
        fact = StockChangedV1(
            sku=f"BURST-{item:03}",
            on_hand=count,
            reserved=0,
            available=count,
            cause=Cause.ADJUSTED,
        )
        event = envelope.new(fact, id=UUID(int=count + 1), entityversion=versions[item])
        bodies.append(envelope.encode(event))
    return bodies


def newest(bodies: list[bytes]) -> dict[str, int]:
    events = [json.loads(body) for body in bodies]
    return {event["subject"]: event["data"]["available"] for event in events}


async def publish(url: str, bodies: list[bytes]) -> None:
    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel(on_return_raises=True)
        exchange = await channel.get_exchange("stock.events")
        for start in range(0, len(bodies), 500):
            await asyncio.gather(
                *(
                    exchange.publish(
                        aio_pika.Message(
                            body,
                            content_type=envelope.CONTENT_TYPE,
                            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                        ),
                        KEY,
                    )
                    for body in bodies[start : start + 500]
                )
            )


def declare(broker: Any) -> None:
    spec = {"type": "topic", "durable": True}
    broker.call("PUT", f"/exchanges/{broker.vhost}/stock.events", spec)


def bound(broker: Any) -> bool:
    rows = broker.call("GET", f"/bindings/{broker.vhost}")
    return any(row["source"] == "stock.events" for row in rows)


def depth(broker: Any, queue: str) -> int:
    found = broker.call("GET", f"/queues/{broker.vhost}/{queue}")
    return int(found.get("messages", 0))


@pytest.mark.parametrize("folder", ["go-stock-worker", "node-stock-worker"])
def test_the_pinned_schema_still_reads_what_is_sent(folder: str) -> None:
    pinned = json.loads((EXAMPLES / folder / f"{KEY}.json").read_bytes())

    assert [] == gaps(goldens.schema(KEY), pinned)


@pytest.mark.parametrize("name", ["go", "node"])
def test_a_worker_in_another_language_keeps_the_contract(
    name: str, request: pytest.FixtureRequest
) -> None:
    command = request.getfixturevalue(f"{name}_worker")
    words = ["--subscription", f"acme-{name}.stock", "--", *command, "--contract", "{folder}"]

    assert 0 == main(["verify", "handler", KEY, *words])


@pytest.mark.parametrize(
    "number", [1_000, pytest.param(10_000, marks=pytest.mark.long)], ids=["short", "long"]
)
def test_every_change_of_a_burst_arrives(
    broker: Any, worker: list[str], language: str, tmp_path: Path, number: int
) -> None:
    declare(broker)
    path = tmp_path / "levels"
    bodies = burst(number)
    with running(worker, broker.url, path):
        until(lambda: bound(broker), "the worker binds its queue")
        asyncio.run(publish(broker.url, bodies))
        until(lambda: levels(language, path) == newest(bodies), "every SKU is up to date")

    if language != "python":  # it keeps levels, the others every change
        assert number == len(journal(path))


def test_a_worker_that_is_killed_in_a_burst_loses_nothing(
    broker: Any, worker: list[str], language: str, tmp_path: Path
) -> None:
    declare(broker)
    path = tmp_path / "levels"
    bodies = burst(1_000)
    with running(worker, broker.url, path) as process:
        until(lambda: bound(broker), "the worker binds its queue")
        asyncio.run(publish(broker.url, bodies[:600]))
        until(lambda: bool(levels(language, path)), "the worker has begun")
        process.send_signal(signal.SIGKILL)
    asyncio.run(publish(broker.url, bodies[600:]))
    with running(worker, broker.url, path):
        until(lambda: levels(language, path) == newest(bodies), "every SKU is up to date")


def test_what_is_no_event_is_parked_and_the_rest_goes_on(
    broker: Any, worker: list[str], language: str, tmp_path: Path
) -> None:
    declare(broker)
    path = tmp_path / "levels"
    team = "acme" if language == "python" else f"acme-{language}"
    good = burst(3)
    with running(worker, broker.url, path):
        until(lambda: bound(broker), "the worker binds its queue")
        asyncio.run(publish(broker.url, [good[0], b"{", good[1], b"[]", good[2]]))
        until(lambda: levels(language, path) == newest(good), "the events are stored")
        until(lambda: depth(broker, f"ext.{team}.stock.parking") == 2, "the others are parked")
