"""`contracts verify consumer FILE` and `contracts verify producer FILE`: whether a side holds."""

import argparse
import base64
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from shop_contracts.kit.expectations import BadExpectation, load, verify
from shop_contracts.kit.messages import Message, Properties
from shop_contracts.kit.problems import Report, tell
from shop_contracts.kit.producer import Stream, event_problems, problems
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
    for side in (consumer, producer):
        side.add_argument("--json", action="store_true", help="verdicts as JSON")
        side.add_argument("--junit", type=Path, help="also write a JUnit file here")


def run(options: argparse.Namespace) -> int:
    try:
        reports = list(options.side(options.files))
    except (BadExpectation, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return tell(reports, as_json=options.json, junit=options.junit)


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
