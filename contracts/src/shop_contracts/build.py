"""Writes what is generated from the Structs: JSON Schemas, topology.json. Reads no schema back.

`python -m shop_contracts.build` writes, `--check` says what differs and exits with 1.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import msgspec

from shop_contracts.events import EVENTS
from shop_contracts.events.base import Fact
from shop_contracts.topology import TOPOLOGY

ROOT = Path(__file__).parent / "data"


def portable(schema: Any) -> Any:
    r"""The schema with Python's end anchor `\Z` as ECMA-262's `$`, which means the same there."""
    if isinstance(schema, dict):
        return {
            key: value.replace(r"\Z", "$")
            if key == "pattern" and isinstance(value, str)
            else portable(value)
            for key, value in schema.items()
        }
    if isinstance(schema, list):
        return [portable(item) for item in schema]
    return schema


def schema(fact: type[Fact]) -> dict[str, Any]:
    """The JSON Schema 2020-12 of the event's data."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:shop:{fact.KEY}",
        **portable(msgspec.json.schema(fact)),
    }


def schema_path(owner: str, fact: type[Fact]) -> Path:
    """Where the schema stands: `schemas/stock/stock.changed.v1.json`."""
    return ROOT / "schemas" / owner / f"{fact.KEY}.json"


def generated() -> dict[Path, bytes]:
    """Every generated file with its content."""
    files = {
        schema_path(owner, fact): _pretty(schema(fact))
        for owner, facts in EVENTS.items()
        for fact in facts
    }
    files[ROOT / "topology.json"] = _pretty(TOPOLOGY)
    return files


def _pretty(value: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value, order="sorted"), indent=2) + b"\n"


def differing() -> list[Path]:
    """The generated files that are missing, different, or no longer generated."""
    files = generated()
    stale = [path for path in (ROOT / "schemas").rglob("*.json") if path not in files]
    return stale + [
        path for path, content in files.items() if not path.exists() or path.read_bytes() != content
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m shop_contracts.build")
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 if stale")
    if parser.parse_args().check:
        stale = differing()
        for path in stale:
            sys.stderr.write(f"stale: {path.relative_to(ROOT)}\n")
        if stale:
            sys.stderr.write("run: python -m shop_contracts.build\n")
        sys.exit(1 if stale else 0)
    for path in differing():
        if path not in generated():
            path.unlink()
    for path, content in generated().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


if __name__ == "__main__":
    main()
