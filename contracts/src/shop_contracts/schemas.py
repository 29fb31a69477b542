"""JSON Schemas of events, from their Structs. Writes no file and compares nothing.

A schema tells a reader what may come: other fields may be there too, and a word of an open enum may
be one that is not listed. `closed` is the same contract as its writer must keep it.
"""

import enum
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec import inspect

from shop_contracts.envelope import TYPE_PREFIX, Wire
from shop_contracts.events import OWNER_OF
from shop_contracts.events.base import Fact, dataschema
from shop_contracts.types import OPEN_WORD, OpenEnum

DIALECT = "https://json-schema.org/draft/2020-12/schema"
OPEN_ENUM = "x-open-enum"
"""Keyword: the words of an open enum that are known by now."""
SUNSET = "x-sunset"
"""Keyword: the day after which an event of this major is no longer sent."""
RESERVED = "x-reserved"
"""Keyword: names of fields that were removed."""


def schema(fact: type[Fact]) -> dict[str, Any]:
    """The JSON Schema 2020-12 of the event's data."""
    generated = msgspec.json.schema(fact)
    return {
        "$schema": DIALECT,
        "$id": dataschema(fact),
        **({SUNSET: fact.SUNSET.isoformat()} if fact.SUNSET else {}),
        **({RESERVED: sorted(fact.RESERVED)} if fact.RESERVED else {}),
        **portable({**generated, "$defs": opened(generated["$defs"], fact)}),
    }


def envelope() -> dict[str, Any]:
    """The JSON Schema of what every event has around its data."""
    return {
        "$schema": DIALECT,
        "$id": "urn:shop:envelope:1.0",
        **portable(msgspec.json.schema(Wire)),
    }


def event(fact: type[Fact], data: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of the whole event: the envelope with the fact's own values, and `data` in it."""
    wire = portable(msgspec.json.schema(Wire))["$defs"]["Wire"]
    fixed = {"type": TYPE_PREFIX + fact.KEY, "source": f"/{OWNER_OF[fact.KEY]}"}
    properties = {
        name: {"type": "string", "const": fixed[name]} if name in fixed else spec
        for name, spec in wire["properties"].items()
    }
    return {**wire, "title": fact.KEY, "properties": {**properties, "data": dict(data)}}


def summary(fact: type[Fact]) -> str:
    """What happened, in one sentence."""
    return (fact.__doc__ or "").partition("\n")[0]


def opened(definitions: Mapping[str, Any], *facts: type[Fact]) -> dict[str, Any]:
    """The definitions with each open enum as the words a reader must be ready for."""
    found = {
        cls.__name__: cls
        for fact in facts
        for cls in _enums(inspect.type_info(fact))
        if issubclass(cls, OpenEnum)
    }
    return {
        name: _open(spec, found[name]) if name in found else spec
        for name, spec in definitions.items()
    }


def portable(value: Any) -> Any:
    r"""The schema with Python's end anchor `\Z` as ECMA-262's `$`, which means the same there."""
    if isinstance(value, dict):
        return {
            key: item.replace(r"\Z", "$")
            if key == "pattern" and isinstance(item, str)
            else portable(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [portable(item) for item in value]
    return value


def closed(value: Any) -> Any:
    """The schema of what a writer of this very version sends: no other field, no other word."""
    if isinstance(value, list):
        return [closed(item) for item in value]
    if not isinstance(value, dict):
        return value
    if OPEN_ENUM in value:
        kept = {key: item for key, item in value.items() if key in {"title", "description"}}
        return {**kept, "enum": value[OPEN_ENUM]}
    inner = {key: closed(item) for key, item in value.items()}
    return {**inner, "additionalProperties": False} if "properties" in value else inner


def _open(spec: Mapping[str, Any], cls: type[OpenEnum]) -> dict[str, Any]:
    words = sorted(word.value for word in cls if word.name != "UNKNOWN")
    kept = {key: item for key, item in spec.items() if key != "enum"}
    return {**kept, "type": "string", "pattern": OPEN_WORD, OPEN_ENUM: words}


def _enums(kind: inspect.Type) -> Iterator[type[enum.Enum]]:
    match kind:
        case inspect.EnumType():
            yield kind.cls
        case inspect.Metadata():
            yield from _enums(kind.type)
        case inspect.StructType():
            for field in kind.fields:
                yield from _enums(field.type)
        case inspect.ListType():
            yield from _enums(kind.item_type)
        case inspect.DictType():
            yield from _enums(kind.value_type)
        case inspect.UnionType():
            for member in kind.types:
                yield from _enums(member)
