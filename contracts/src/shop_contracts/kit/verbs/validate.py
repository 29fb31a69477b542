"""`contracts validate`: are these events what the contracts say? Reads files or standard input."""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shop_contracts.kit.problems import Report, tell
from shop_contracts.kit.producer import event_problems


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="*", type=Path, help="JSON or NDJSON; none: standard input")
    parser.add_argument("--json", action="store_true", help="verdicts as JSON")
    parser.add_argument("--junit", type=Path, help="also write a JUnit file here")


def run(options: argparse.Namespace) -> int:
    sources = [(str(path), path.read_bytes()) for path in options.files] or [
        ("standard input", sys.stdin.buffer.read())
    ]
    reports = [
        Report(f"{name} {place}".strip(), event_problems(body))
        for name, content in sources
        for place, body in events(content)
    ]
    return tell(reports, as_json=options.json, junit=options.junit)


def events(content: bytes) -> Iterator[tuple[str, bytes]]:
    """The events of a file: one JSON object, a list of them, or one on each line."""
    try:
        whole: Any = json.loads(content)
    except ValueError:
        lines = [line for line in content.splitlines() if line.strip()]
        for number, line in enumerate(lines, 1):
            yield (f"line {number}" if len(lines) > 1 else "", line)
        return
    if isinstance(whole, list):
        for number, item in enumerate(whole, 1):
            yield f"item {number}", json.dumps(item).encode()
    else:
        yield "", content
