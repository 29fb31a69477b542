"""The golden messages: whole CloudEvents that the shop would send, and some that it never does."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from shop_contracts.events import BY_KEY, OWNER_OF

DATA = Path(__file__).parents[1] / "data"
Json = dict[str, Any]


class NoSuchType(Exception):
    """The contracts hold no event of this type."""

    def __init__(self, key: str) -> None:
        aggregate = key.partition(".")[0]
        near = [known for known in sorted(BY_KEY) if known.startswith(f"{aggregate}.")]
        super().__init__(f"{key} is no event of the shop; there are {', '.join(near or BY_KEY)}")


def examples(key: str) -> dict[str, Json]:
    """The golden events of a type by name: `full`, mostly `minimal`, one per enum value."""
    return _read(_known(key), "*.json")


def golden(key: str, name: str = "full") -> Json:
    """One golden event, yours to change."""
    return examples(key)[name]


def invalid(key: str) -> dict[str, Json]:
    """Events of the type that break its schema, by the rule they break."""
    return _read(_known(key), "invalid/*.json")


@cache
def _schema_text(key: str) -> str:
    return (DATA / "schemas" / OWNER_OF[_known(key)] / f"{key}.json").read_text(encoding="utf-8")


def schema(key: str) -> Json:
    """The JSON Schema of the type's data."""
    read: Json = json.loads(_schema_text(key))
    return read


def _known(key: str) -> str:
    if key not in BY_KEY:
        raise NoSuchType(key)
    return key


def _read(key: str, pattern: str) -> dict[str, Json]:
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted((DATA / "examples" / key).glob(pattern))
    }
