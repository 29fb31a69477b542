"""Makes the broker hold the topology of the contracts. Run at deploy time, by the deploy user.

`python -m bus.topology apply --url amqp://deploy:...@127.0.0.1:17120/shop`

`SEARCH_QUEUE_PARTITIONS=4` lays every work queue of search out in four partitions, and so on for
each consumer; its processes must be told the same.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from aio_pika import ExchangeType
from aio_pika.exceptions import ChannelPreconditionFailed

from bus.broker import BROKER_ERRORS, connected
from bus.partitions import Busy, arrange
from shop_contracts.topology import READS, TOPOLOGY, Topology, queue

MOST_PARTITIONS = 64


async def apply(
    url: str, topology: Topology = TOPOLOGY, partitions: Mapping[str, int] = MappingProxyType({})
) -> None:
    """Declare every exchange, queue and binding; what stands already is left as it is.

    `partitions` is how many the work queues of a consumer have, by its name. Raises
    `ChannelPreconditionFailed` where something stands with other arguments, and `Busy` where the
    number of partitions cannot change now.
    """
    works = {
        queue(consumer, owner): (owner, keys, partitions.get(consumer, 0))
        for consumer, owners in READS.items()
        for owner, keys in owners.items()
    }
    async with connected(url, "topology") as connection:
        channel = await connection.channel()
        exchanges = {
            spec.name: await channel.declare_exchange(
                spec.name, ExchangeType(spec.type), durable=True
            )
            for spec in topology.exchanges
        }
        queues = {
            spec.name: await channel.declare_queue(
                spec.name, durable=True, arguments=dict(spec.arguments)
            )
            for spec in topology.queues
        }
        for spec in topology.bindings:
            if spec.queue not in works:
                await queues[spec.queue].bind(exchanges[spec.exchange], spec.key)
        for work, (owner, keys, count) in works.items():
            if work in queues:
                await arrange(connection, work, owner, keys, count)


def partitions_in(environment: Mapping[str, str]) -> dict[str, int]:
    """What `<CONSUMER>_QUEUE_PARTITIONS` say. Raises ValueError with the name of a wrong one."""
    found = {}
    for consumer in READS:
        name = f"{consumer.upper()}_QUEUE_PARTITIONS"
        text = environment.get(name) or "0"
        if not text.isdecimal() or int(text) > MOST_PARTITIONS:
            raise ValueError(f"{name} must be a number from 0 to {MOST_PARTITIONS}, not {text!r}")
        found[consumer] = int(text)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m bus.topology")
    parser.add_argument("command", choices=["apply"])
    parser.add_argument("--url", default=os.environ.get("BROKER_URL"), help="or BROKER_URL")
    parser.add_argument("--url-file", type=Path, help="a file with the URL, such as a secret")
    arguments = parser.parse_args()
    if arguments.url_file:
        arguments.url = arguments.url_file.read_text().strip()
    if not arguments.url:
        parser.error("say --url or --url-file, or set BROKER_URL")
    try:
        asyncio.run(apply(arguments.url, partitions=partitions_in(os.environ)))
    except (Busy, ValueError) as error:
        sys.exit(f"the partitions stay as they are: {error}")
    except ChannelPreconditionFailed as error:
        sys.exit(
            f"a queue stands with other arguments: {error}\nDelete it or rename it, then retry."
        )
    except BROKER_ERRORS as error:
        sys.exit(f"the broker does not answer: {error!r}")


if __name__ == "__main__":
    main()
