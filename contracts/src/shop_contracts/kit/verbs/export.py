"""`contracts export pact FILE`: an expectation as Pact V4 messages, one file for each publisher."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from shop_contracts import topology
from shop_contracts.envelope import CONTENT_TYPE
from shop_contracts.events import OWNER_OF
from shop_contracts.kit import goldens
from shop_contracts.kit.expectations import BadExpectation, Expectation, Read, load


def arguments(parser: argparse.ArgumentParser) -> None:
    forms = parser.add_subparsers(metavar="FORM", required=True)
    pact = forms.add_parser("pact", help="Pact V4, asynchronous messages")
    pact.add_argument("file", type=Path, help="an expectation file")
    pact.add_argument("-o", "--output", type=Path, default=Path("pacts"), help="a folder")


def run(options: argparse.Namespace) -> int:
    try:
        pacts = pacts_of(load(options.file))
    except BadExpectation as error:
        sys.stderr.write(f"{error}\n")
        return 2
    options.output.mkdir(parents=True, exist_ok=True)
    for name, pact in pacts.items():
        path = options.output / f"{name}.json"
        path.write_text(json.dumps(pact, indent=2) + "\n", encoding="utf-8")
        sys.stdout.write(f"wrote {path}\n")
    return 0


def pacts_of(expectation: Expectation) -> dict[str, dict[str, Any]]:
    """The pacts by file name. Raises `BadExpectation` where nothing is needed.

    A message without contents would be held by any message at all.
    """
    pacts: dict[str, dict[str, Any]] = {}
    for read in expectation.reads:
        if not read.needs.get("properties"):
            raise BadExpectation(f"{expectation.consumer} needs nothing of {read.type}")
        owner = OWNER_OF[read.type]
        pact = pacts.setdefault(
            f"{expectation.consumer}-{owner}",
            {
                "consumer": {"name": expectation.consumer},
                "provider": {"name": owner},
                "interactions": [],
                "metadata": {"pactSpecification": {"version": "4.0"}},
            },
        )
        pact["interactions"].append(_interaction(read, owner))
    return pacts


def _interaction(read: Read, owner: str) -> dict[str, Any]:
    event = goldens.golden(read.type)
    data = _touched(event["data"], read.needs)
    kept = ("specversion", "id", "source", "type", "subject", "time", "entityversion")
    rules: dict[str, Any] = {
        "$.id": _rule("type"),
        "$.subject": _rule("type"),
        "$.time": _rule("type"),
        "$.entityversion": _rule("integer"),
    }
    _rules(data, "$.data", rules)
    return {
        "type": "Asynchronous/Messages",
        "description": f"{read.type} from {owner}",
        "pending": False,
        "contents": {
            "content": {**{name: event[name] for name in kept}, "data": data},
            "contentType": CONTENT_TYPE,
            "encoded": False,
        },
        "matchingRules": {"body": rules},
        "metadata": {
            "contentType": CONTENT_TYPE,
            "exchange": topology.exchange(owner),
            "routingKey": read.type,
        },
    }


def _touched(value: Any, need: Any) -> Any:
    if isinstance(value, dict) and "properties" in need:
        return {
            name: _touched(value[name], inner)
            for name, inner in need["properties"].items()
            if name in value
        }
    if isinstance(value, list) and "items" in need:
        return [_touched(item, need["items"]) for item in value[:1]]
    return value


def _rules(value: Any, at: str, rules: dict[str, Any]) -> None:
    if isinstance(value, dict):
        for name, inner in value.items():
            _rules(inner, f"{at}.{name}", rules)
    elif isinstance(value, list):
        rules[at] = {"combine": "AND", "matchers": [{"match": "type", "min": 0}]}
        for inner in value:
            _rules(inner, f"{at}[*]", rules)
    elif isinstance(value, int) and not isinstance(value, bool):
        rules[at] = _rule("integer")
    elif value is not None:
        rules[at] = _rule("type")


def _rule(match: str) -> dict[str, Any]:
    return {"combine": "AND", "matchers": [{"match": match}]}
