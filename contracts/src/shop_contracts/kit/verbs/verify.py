"""`contracts verify consumer FILE`, `.. producer FILE`, `.. handler TYPE`: whether a side holds."""

import argparse
import asyncio
import base64
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from shop_contracts.events import BY_KEY
from shop_contracts.kit.expectations import BadExpectation, load, verify
from shop_contracts.kit.messages import Message, Properties
from shop_contracts.kit.problems import Report, tell
from shop_contracts.kit.producer import Stream, event_problems, problems
from shop_contracts.kit.programs import check
from shop_contracts.kit.subscriptions import Subscription
from shop_contracts.kit.verbs.validate import events


def arguments(parser: argparse.ArgumentParser) -> None:
    sides = parser.add_subparsers(metavar="SIDE", required=True)
    consumer = sides.add_parser("consumer", help="can it read all that is sent?")
    consumer.add_argument("files", nargs="+", type=Path, help="expectation files")
    consumer.set_defaults(side=consumers)
    producer = sides.add_parser(
        "producer",
        help="are captured messages what the contracts say?",
        description="Each line: an event, or a message as "
        '{"exchange", "routing_key", "properties": {..}, "body" or "body_base64"}.',
    )
    producer.add_argument("files", nargs="+", type=Path, help="captured messages, in their order")
    producer.set_defaults(side=producers)
    handler = sides.add_parser(
        "handler",
        help="does a program in any language keep the contract?",
        description="Starts the program anew for each check and talks to it in lines of JSON; "
        "{folder} in its words is an empty folder for its store. See shop_contracts.kit.programs.",
    )
    handler.add_argument("type", choices=sorted(BY_KEY), metavar="TYPE")
    handler.add_argument("program", nargs="+", help="after --: the program and its words")
    handler.add_argument("--subscription", required=True, help="the queue, e.g. acme.stock")
    handler.add_argument("--binding", help="its binding key; default: the type")
    handler.add_argument("--order", choices=["by-version", "any"], default="by-version")
    handler.set_defaults(side=None)
    for side in (consumer, producer, handler):
        side.add_argument("--json", action="store_true", help="verdicts as JSON")
        side.add_argument("--junit", type=Path, help="also write a JUnit file here")


def run(options: argparse.Namespace) -> int:
    try:
        reports = list(options.side(options.files) if options.side else handlers(options))
    except (BadExpectation, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return tell(reports, as_json=options.json, junit=options.junit)


def handlers(options: argparse.Namespace) -> list[Report]:
    """The verdicts on a program, check by check."""
    subscription = Subscription(
        name=options.subscription, binding=options.binding, order=options.order
    )
    return asyncio.run(check(options.program, options.type, subscription))


def consumers(files: list[Path]) -> Iterator[Report]:
    for path in files:
        yield from verify(load(path))


def producers(files: list[Path]) -> Iterator[Report]:
    stream = Stream()
    for path in files:
        for place, content in events(path.read_bytes()):
            name = f"{path} {place}".strip()
            try:
                captured = json.loads(content)
            except ValueError:
                captured = None
            if isinstance(captured, dict) and "exchange" in captured:
                message = _message(captured)
                found, body = problems(message), message.body
                name = f"{name} {message.routing_key}"
            else:
                found, body = event_problems(content), content
            yield Report(name, [*found, *stream.problems(body)])


def _message(captured: dict[str, Any]) -> Message:
    body = captured.get("body", "")
    if "body_base64" in captured:
        content = base64.b64decode(captured["body_base64"])
    else:
        content = (body if isinstance(body, str) else json.dumps(body)).encode()
    return Message(
        content,
        exchange=str(captured["exchange"]),
        routing_key=str(captured.get("routing_key", "")),
        properties=msgspec.convert(captured.get("properties", {}), Properties),
    )
