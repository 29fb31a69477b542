"""Keeps the stock of Shopstream in a table of its own: a subscriber in one file.

`STOCK_BROKER_URL=amqp://... python stock_worker.py levels.db` runs it.
"""

import asyncio
import json
import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

EXCHANGE, KEY, TEAM = "stock.events", "stock.changed.v1", "ext.acme"
QUEUE, PARKING = f"{TEAM}.stock", f"{TEAM}.stock.parking"


class StockWorker:
    """One handler, one table. The newest version of an SKU wins, however often it arrives."""

    def __init__(self, path: Path, retry_pause: float = 5.0) -> None:
        self._path = path
        self._retry_pause = retry_pause
        with self._open() as database:
            database.execute(
                "CREATE TABLE IF NOT EXISTS levels"
                " (sku TEXT PRIMARY KEY, available INT, version INT)"
            )

    async def on_message(self, message: Any) -> None:
        """Commit, then ack. Not an event: park. The database is away: let it come again."""
        try:
            event = json.loads(message.body)
            sku, available = event["data"]["sku"], int(event["data"]["available"])
            version = int(event["entityversion"])
        except (ValueError, KeyError, TypeError):
            await message.reject(requeue=False)
            return
        try:
            with self._open() as database:
                database.execute(
                    "INSERT INTO levels VALUES (?1, ?2, ?3) ON CONFLICT (sku) DO UPDATE"
                    " SET available = ?2, version = ?3 WHERE version < ?3",
                    (sku, available, version),
                )
        except sqlite3.OperationalError:
            await asyncio.sleep(self._retry_pause)  # else it comes back at once, for ever
            await message.nack(requeue=True)
            return
        await message.ack()

    def levels(self) -> dict[str, int]:
        """What is available, by SKU."""
        with self._open() as database:
            return dict(database.execute("SELECT sku, available FROM levels ORDER BY sku"))

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._path, timeout=0.2)) as database, database:
            yield database  # committed when the block ends


async def main(url: str, path: Path) -> None:
    """Declare the queue, bind it, and handle what arrives until the process ends."""
    import aio_pika  # noqa: PLC0415 - the contract test needs no broker and no client

    connection = await aio_pika.connect_robust(url)
    channel = await connection.channel()
    await channel.set_qos(prefetch_count=50)
    await channel.declare_queue(PARKING, durable=True, arguments={"x-queue-type": "quorum"})
    queue = await channel.declare_queue(
        QUEUE,
        durable=True,
        arguments={
            "x-queue-type": "quorum",
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": PARKING,
            "x-delivery-limit": 20,
        },
    )
    await queue.bind(EXCHANGE, KEY)
    await queue.consume(StockWorker(path).on_message)
    await asyncio.Future()


if __name__ == "__main__":
    asyncio.run(main(os.environ["STOCK_BROKER_URL"], Path(sys.argv[1])))
