"""Makes the broker hold the topology of the contracts. Run at deploy time, by the deploy user.

`python -m bus.topology apply --url amqp://deploy:...@127.0.0.1:17120/shop`
"""

import argparse
import asyncio
import os
import sys
from pathlib import Path

from aio_pika import ExchangeType
from aio_pika.exceptions import ChannelPreconditionFailed

from bus.broker import BROKER_ERRORS, connected
from shop_contracts.topology import TOPOLOGY, Topology


async def apply(url: str, topology: Topology = TOPOLOGY) -> None:
    """Declare every exchange, queue and binding; what stands already is left as it is.

    Raises `ChannelPreconditionFailed` where something stands with other arguments.
    """
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
            await queues[spec.queue].bind(exchanges[spec.exchange], spec.key)


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
        asyncio.run(apply(arguments.url))
    except ChannelPreconditionFailed as error:
        sys.exit(
            f"a queue stands with other arguments: {error}\nDelete it or rename it, then retry."
        )
    except BROKER_ERRORS as error:
        sys.exit(f"the broker does not answer: {error!r}")


if __name__ == "__main__":
    main()
