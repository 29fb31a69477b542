"""Whether a major may go: its last day, and who still reads it. Reads the consumers' files.

`contracts can-remove stock.changed.v1`
"""

import argparse
import sys
from collections.abc import Mapping
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
    listed = consumers()
    found = {name for name, reads in listed.items() if key in reads}
    for name, owners in topology.READS.items():
        for binding in owners.get(OWNER_OF.get(key, ""), ()):
            # what a pattern brings to a service without a file, the service may read
            if binding == key or (name not in listed and topology.matches(binding, key)):
                found.add(name)
    return sorted(found)


def consumers() -> dict[str, dict[str, Any]]:
    """What each consumer needs of the events it reads, by its name and by routing key."""
    files = sorted((build.ROOT / "consumers").glob("*.json"))
    documents = [msgspec.json.decode(path.read_bytes()) for path in files]
    return {
        document["consumer"]: {read["type"]: read["needs"] for read in document["reads"]}
        for document in documents
    }


def touching(key: str, field: str) -> list[str]:
    """The consumers whose file reads a field, such as `lines[].sku`."""
    return [name for name, reads in consumers().items() if _touches(reads.get(key, {}), field)]


def _touches(needs: Mapping[str, Any], field: str) -> bool:
    node = needs
    for word in field.replace("[]", ".[]").split("."):
        node = node.get("items", {}) if word == "[]" else node.get("properties", {}).get(word, {})
        node = next((each for each in node.get("anyOf", ()) if "type" in each), node)
    return bool(node)


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
