"""`contracts tap`: holds the live traffic of a broker to the contracts. Takes nothing away.

It reads copies through a queue of its own, which ends with the connection.
"""

import argparse
import asyncio
import json
import secrets
import sys
from collections import Counter
from pathlib import Path

import aio_pika
from aio_pika.abc import AbstractIncomingMessage
from aio_pika.exceptions import AMQPException

from shop_contracts import topology
from shop_contracts.events import EVENTS
from shop_contracts.kit.messages import Message, Properties
from shop_contracts.kit.problems import Problem, Report, tell
from shop_contracts.kit.producer import Stream, problems

UNREACHABLE = (AMQPException, OSError, TimeoutError)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--amqp", required=True, metavar="URL", help="amqp://user:pw@host/vhost")
    parser.add_argument(
        "--queue-prefix", default="ext.tap", help="what this user may declare, e.g. ext.acme"
    )
    parser.add_argument("--owner", action="append", choices=sorted(EVENTS), help="default: each")
    parser.add_argument("--count", type=int, help="end after so many events")
    parser.add_argument("--seconds", type=float, help="end after so long; default: on Ctrl-C")
    parser.add_argument("--json", action="store_true", help="verdicts as JSON, at the end")
    parser.add_argument("--junit", type=Path, help="also write a JUnit file here")
    parser.add_argument(
        "--declare", action="store_true", help="on a broker of your own: make the exchanges first"
    )
    parser.add_argument("--ready", action="store_true", help="say when the queue is bound")


def run(options: argparse.Namespace) -> int:
    reports: list[Report] = []
    seen: Counter[str] = Counter()
    try:
        asyncio.run(_tap(options, reports, seen))
    except KeyboardInterrupt:
        pass
    except UNREACHABLE as error:
        sys.stderr.write(f"the broker cannot be tapped: {error!r}\n")
        return 2
    broken = [report for report in reports if not report.holds]
    for key, number in sorted(seen.items()):
        sys.stderr.write(f"{number:7} {key}\n")
    sys.stderr.write(f"{seen.total()} events, {len(broken)} invalid\n")
    return tell(
        reports if options.json or options.junit else broken or reports[:1],
        as_json=options.json,
        junit=options.junit,
    )


async def _tap(options: argparse.Namespace, reports: list[Report], seen: "Counter[str]") -> None:
    stream = Stream()
    done = asyncio.Event()

    async def take(incoming: AbstractIncomingMessage) -> None:
        made = received(incoming)
        report = judged(made, stream)
        # a tap may run for days: what holds is counted, not kept
        if not report.holds or not reports or options.json or options.junit:
            reports.append(report)
        seen[made.routing_key] += 1
        if options.count and seen.total() >= options.count:
            done.set()

    connection = await aio_pika.connect(options.amqp)
    async with connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(
            f"{options.queue_prefix}.tap.{secrets.token_hex(4)}",
            exclusive=True,
            arguments={"x-queue-type": "classic"},
        )
        for owner in options.owner or EVENTS:
            if options.declare:
                await channel.declare_exchange(topology.exchange(owner), "topic", durable=True)
            await queue.bind(topology.exchange(owner), "#")
        await queue.consume(take, no_ack=True)
        channel.close_callbacks.add(lambda *_: done.set())
        if options.ready:
            sys.stderr.write("tapping\n")
            sys.stderr.flush()
        try:
            async with asyncio.timeout(options.seconds):
                await done.wait()
        except TimeoutError:
            return
    if not (options.count and seen.total() >= options.count):
        raise ConnectionError("the broker closed the channel")


def judged(made: Message, stream: Stream) -> Report:
    """The verdict on one message in the light of those before it."""
    found: list[Problem] = [*problems(made), *stream.problems(made.body)]
    return Report(f"{made.routing_key} {made.properties.message_id}", found)


def received(incoming: AbstractIncomingMessage) -> Message:
    """The message as the kit sees it."""
    return Message(
        incoming.body,
        exchange=incoming.exchange or "",
        routing_key=incoming.routing_key or "",
        redelivered=bool(incoming.redelivered),
        properties=Properties(
            content_type=incoming.content_type or "",
            delivery_mode=int(incoming.delivery_mode or 1),
            message_id=incoming.message_id,
            correlation_id=incoming.correlation_id,
            type=incoming.type,
            app_id=incoming.app_id,
            timestamp=int(incoming.timestamp.timestamp()) if incoming.timestamp else None,
            headers={name: _plain(value) for name, value in incoming.headers.items()},
        ),
    )


def _plain(value: object) -> object:
    return value if isinstance(value, str | int | bool | None) else json.dumps(value, default=str)
