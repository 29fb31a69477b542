"""`contracts mock`: plays golden events into a broker, as the shop would publish them."""

import argparse
import asyncio
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import aio_pika
from aio_pika.exceptions import AMQPException, DeliveryError, PublishError

from shop_contracts.events import BY_KEY
from shop_contracts.kit import goldens
from shop_contracts.kit.messages import Message, message

UNREACHABLE = (AMQPException, OSError, TimeoutError)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--amqp", required=True, metavar="URL", help="amqp://user:pw@host/vhost")
    parser.add_argument(
        "--type", action="append", choices=sorted(BY_KEY), metavar="TYPE", help="default: every"
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=1,
        help="times to play them; from the second on with ids and versions of their own",
    )
    parser.add_argument("--rate", type=float, default=0, help="events a second; default: no limit")


def run(options: argparse.Namespace) -> int:
    try:
        return asyncio.run(play(options.amqp, options.type, options.rounds, options.rate))
    except UNREACHABLE as error:
        sys.stderr.write(f"the broker does not take events: {error!r}\n")
        return 2


async def play(url: str, types: list[str] | None, rounds: int, rate: float) -> int:
    """Publish with confirms; 0 when somebody is bound to each event, else 1."""
    sent, lost = 0, 0
    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        exchanges: dict[str, aio_pika.abc.AbstractExchange] = {}
        for made in messages(types or sorted(BY_KEY), rounds):
            if made.exchange not in exchanges:
                exchanges[made.exchange] = await channel.declare_exchange(
                    made.exchange, aio_pika.ExchangeType.TOPIC, durable=True
                )
            try:
                await exchanges[made.exchange].publish(
                    _published(made), made.routing_key, mandatory=True
                )
            except (DeliveryError, PublishError):
                lost += 1
                sys.stderr.write(f"nobody is bound to {made.routing_key} on {made.exchange}\n")
            sent += 1
            if rate:
                await asyncio.sleep(1 / rate)
    sys.stdout.write(f"{sent} events played, {lost} of them to nobody\n")
    return 1 if lost else 0


def messages(types: list[str], rounds: int) -> Iterator[Message]:
    """The golden messages of these types, oldest version first in each round."""
    for number in range(rounds):
        for key in types:
            events = goldens.examples(key).values()
            for event in sorted(events, key=lambda event: int(event["entityversion"])):
                yield message(_again(event, number) if number else event)


def _again(event: dict[str, Any], number: int) -> dict[str, Any]:
    version = int(event["entityversion"]) + 1000 * number
    return {**event, "id": str(uuid4()), "entityversion": version}


def _published(made: Message) -> aio_pika.Message:
    properties = made.properties
    return aio_pika.Message(
        made.body,
        content_type=properties.content_type,
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        message_id=properties.message_id,
        correlation_id=properties.correlation_id,
        type=properties.type,
        app_id=properties.app_id,
        timestamp=datetime.fromtimestamp(properties.timestamp or 0, UTC),
        headers=dict(properties.headers),
    )
