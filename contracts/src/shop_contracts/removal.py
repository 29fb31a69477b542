"""Whether a major may go: its last day, and who still reads it. Reads the consumers' files.

`contracts can-remove stock.changed.v1`
"""

import argparse
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any

import msgspec

from shop_contracts import build, topology
from shop_contracts.events import BY_KEY, OWNER_OF
from shop_contracts.events.base import major_of, name_of


def hindrances(key: str, sunset: str | None, today: date) -> list[str]:
    """Why an event may not be removed; nothing when it may."""
    found = []
    if sunset is None:
        found.append("no last day was announced: set SUNSET and release it")
    elif today.isoformat() <= sunset:
        found.append(f"its last day, {sunset}, is not over")
    return found + [f"{reader} reads it" for reader in readers(key)]


def readers(key: str) -> list[str]:
    """Who reads the event: as its file in `consumers/` says, or as the topology does."""
    listed = dict(consumers())
    found = {name for name, document in listed.items() if key in set(_words(document))}
    for name, owners in topology.READS.items():
        bindings = owners.get(OWNER_OF.get(key, ""), ())
        if key in bindings:
            found.add(f"{name} (bound by {key})")
        elif name not in listed:
            # a service without a file may read whatever its pattern brings
            found |= {f"{name} (bound by {b})" for b in bindings if topology.matches(b, key)}
    return sorted(found)


def consumers() -> Iterator[tuple[str, Any]]:
    """The consumers' files by name."""
    for path in sorted((build.ROOT / "consumers").glob("*.json")):
        yield path.stem, msgspec.json.decode(path.read_bytes())


def _words(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value.removeprefix("shop.")
    elif isinstance(value, dict):
        for name, each in value.items():
            yield name.removeprefix("shop.")
            yield from _words(each)
    elif isinstance(value, list):
        for each in value:
            yield from _words(each)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("event", help="a routing key, such as stock.changed.v1")


def run(options: argparse.Namespace) -> int:
    """Say who and what stands in the way."""
    fact = BY_KEY.get(options.event)
    if fact is None:
        sys.stderr.write(f"{options.event} is no event of these contracts\n")
        return 2
    sunset = fact.SUNSET.isoformat() if fact.SUNSET else None
    found = hindrances(options.event, sunset, datetime.now(UTC).date())
    newer = [
        key
        for key in BY_KEY
        if name_of(key) == name_of(fact.KEY) and major_of(key) > major_of(fact.KEY)
    ]
    if not newer:
        found.append("there is no newer major to move to")
    for reason in found:
        sys.stdout.write(f"no: {reason}\n")
    if not found:
        sys.stdout.write(f"yes: {options.event} may be removed\n")
    return 1 if found else 0
