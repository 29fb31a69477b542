"""Writes what is generated from the Structs, or says what is stale. Reads no schema back.

The files stand in the package, so that the wheel carries them: `schemas/`, `asyncapi/`,
`topology.json` and `reference.html`. `examples/` and `history/` are kept by hand and by releases.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from shop_contracts import asyncapi, reference, schemas, topology
from shop_contracts.envelope import HEADERS, PROPERTIES, TYPE_PREFIX
from shop_contracts.events import EVENTS, OWNER_OF
from shop_contracts.events.base import Fact
from shop_contracts.schemas import schema

ROOT = Path(__file__).parent / "data"
GENERATED = ("schemas/**/*.json", "asyncapi/*.json", "topology.json", "reference.html")


def schema_path(owner: str, fact: type[Fact]) -> Path:
    """Where the schema stands: `schemas/stock/stock.changed.v1.json`."""
    return ROOT / "schemas" / owner / f"{fact.KEY}.json"


def examples(root: Path | None = None) -> dict[str, dict[str, Any]]:
    """The golden events by routing key and name, the full one first."""
    found: dict[str, dict[str, Any]] = {key: {} for key in OWNER_OF}
    for key, named in found.items():
        paths = ((root or ROOT) / "examples" / key).glob("*.json")
        for path in sorted(paths, key=lambda path: (path.stem != "full", path.stem)):
            named[path.stem] = msgspec.json.decode(path.read_bytes())
    return found


def routing(fact: type[Fact]) -> dict[str, Any]:
    """What a subscriber relies on besides the data: where an event goes and what identifies it."""
    owner = OWNER_OF[fact.KEY]
    return {
        "exchange": topology.exchange(owner),
        "key": fact.KEY,
        "type": TYPE_PREFIX + fact.KEY,
        "source": f"/{owner}",
        "subject": fact.SUBJECT,
        "partitionkey": "subject",
        "entityversion": "grows by one per change of the subject",
        "once": ["source", "id"],
        "stream": topology.log(owner),
    }


def topology_document() -> dict[str, Any]:
    """Exchanges, queues and bindings, and what a message tells the broker and its reader."""
    return {
        **msgspec.to_builtins(topology.TOPOLOGY),
        "events": [routing(fact) for facts in EVENTS.values() for fact in facts],
        "message": {"properties": PROPERTIES, "headers": HEADERS},
    }


def generated() -> dict[Path, bytes]:
    """Every generated file with its content."""
    golden = examples()
    files: dict[Path, Any] = {
        schema_path(owner, fact): schema(fact) for owner, facts in EVENTS.items() for fact in facts
    }
    files[ROOT / "schemas" / "envelope.json"] = schemas.envelope()
    files[ROOT / "topology.json"] = topology_document()
    for owner in EVENTS:
        files[ROOT / "asyncapi" / f"{owner}.json"] = asyncapi.owned(owner, golden)
    files[ROOT / "asyncapi" / "shop.json"] = asyncapi.shop(golden)
    return {
        **{path: pretty(value) for path, value in files.items()},
        ROOT / "reference.html": reference.page(golden).encode(),
    }


def pretty(value: Mapping[str, Any]) -> bytes:
    """JSON as it is committed: sorted, so that a change shows as what it is."""
    return msgspec.json.format(msgspec.json.encode(value, order="sorted"), indent=2) + b"\n"


def differing() -> list[Path]:
    """The generated files that are missing, different, or no longer generated."""
    files = generated()
    there = [path for pattern in GENERATED for path in ROOT.glob(pattern)]
    return [path for path in there if path not in files] + [
        path for path, content in files.items() if not path.exists() or path.read_bytes() != content
    ]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 if stale")


def run(options: argparse.Namespace) -> int:
    """Write what is stale, or say it."""
    stale = differing()
    if options.check:
        for path in stale:
            sys.stderr.write(f"stale: {path.relative_to(ROOT)}\n")
        if stale:
            sys.stderr.write("run: contracts build\n")
        return 1 if stale else 0
    files = generated()
    for path in stale:
        if path in files:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(files[path])
        else:
            path.unlink()
    sys.stdout.write(f"{len(files)} files, {len(stale)} written\n")
    return 0
