"""Random valid events of a type: the same ones for the same seed. Knows no test library.

`strategy` gives them to hypothesis, where that is installed.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from random import Random
from typing import TYPE_CHECKING, Any
from uuid import UUID

from shop_contracts import envelope
from shop_contracts.events import BY_KEY, OWNER_OF
from shop_contracts.events.base import dataschema
from shop_contracts.kit import goldens
from shop_contracts.kit.subschema import resolve

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

Json = dict[str, Any]

_START = datetime(2026, 1, 1, tzinfo=UTC)
_CHARACTERS = "abcdefghijklmnopqrstuvwxyz ABCXYZ 0123456789 -.,äßéł漢字🙂'\"\\/<&"


class CannotSample(Exception):
    """The schema says something that this module cannot make a value for."""


def sample(key: str, random: Random) -> Json:
    """A valid event. Raises `goldens.NoSuchType`."""
    schema = goldens.schema(key)
    data = value(schema, schema, random)
    data = CONSISTENT.get(key, _as_it_is)(data)
    subject = str(data[BY_KEY[key].SUBJECT])
    event = {
        "specversion": "1.0",
        "id": _uuid(random),
        "source": f"/{OWNER_OF[key]}",
        "type": envelope.TYPE_PREFIX + key,
        "subject": subject,
        "time": _time(random),
        "entityversion": random.randint(1, 1000),
        "datacontenttype": "application/json",
        "dataschema": dataschema(BY_KEY[key]),
        "partitionkey": subject,
        "data": data,
    }
    if _coin(random):
        event |= {"correlationid": _uuid(random), "causationid": _uuid(random)}
    if _coin(random):
        # a trace or span of only zeros is none
        event["traceparent"] = (
            f"00-{random.getrandbits(128) | 1:032x}-{random.getrandbits(64) | 1:016x}-01"
        )
    return event


def strategy(key: str) -> "SearchStrategy[Json]":
    """A hypothesis strategy of valid events."""
    from hypothesis import strategies  # noqa: PLC0415 - the kit works without it

    goldens.schema(key)
    return strategies.randoms(use_true_random=False).map(lambda random: sample(key, random))


def value(schema: Mapping[str, Any], root: Mapping[str, Any], random: Random) -> Any:
    """A value that fits the schema; optional fields are there, or not."""
    schema = resolve(root, schema)
    if "const" in schema:
        return schema["const"]
    if "x-open-enum" in schema:
        return random.choice(schema["x-open-enum"])
    if "enum" in schema:
        return random.choice(schema["enum"])
    if "anyOf" in schema:
        return value(random.choice(schema["anyOf"]), root, random)
    kind = schema.get("type")
    if not isinstance(kind, str) or kind not in _MAKERS:
        raise CannotSample(f"type {kind!r}")
    return _MAKERS[kind](schema, root, random)


def _integer(schema: Mapping[str, Any], _root: Mapping[str, Any], random: Random) -> int:
    low, high = int(schema.get("minimum", -(2**31))), int(schema.get("maximum", 2**31))
    # the edges are where readers break, small values are what the shop sends
    return random.choice([low, high, random.randint(low, min(high, low + 100))])


def _string(schema: Mapping[str, Any], _root: Mapping[str, Any], random: Random) -> str:
    if schema.get("format") == "uuid":
        return _uuid(random)
    if schema.get("format") == "date-time":
        return _time(random)
    if "format" in schema:
        raise CannotSample(f"format {schema['format']!r}")
    if "pattern" in schema:
        return _matching(schema["pattern"], random)
    low, high = int(schema.get("minLength", 0)), int(schema.get("maxLength", 40))
    length = random.randint(low, min(high, low + 30))
    return "".join(random.choice(_CHARACTERS) for _ in range(length))


def _array(schema: Mapping[str, Any], root: Mapping[str, Any], random: Random) -> list[Any]:
    low, high = int(schema.get("minItems", 0)), int(schema.get("maxItems", 3))
    items = schema.get("items", {})
    return [value(items, root, random) for _ in range(random.randint(low, min(high, low + 3)))]


def _object(schema: Mapping[str, Any], root: Mapping[str, Any], random: Random) -> Json:
    made = {
        name: value(spec, root, random)
        for name, spec in schema.get("properties", {}).items()
        if name in schema.get("required", ()) or _coin(random)
    }
    free = schema.get("additionalProperties")
    if isinstance(free, Mapping):
        names = {"type": "string", "minLength": 1, **schema.get("propertyNames", {})}
        most = min(2, int(schema.get("maxProperties", 2)))
        made |= {
            value(names, root, random): value(free, root, random)
            for _ in range(random.randint(0, most))
        }
    return made


_PART = re.compile(r"(\[[^\]]+\]|\\.|[^\\\[\](){}?*+.|^$])(?:\{(\d+)(?:,(\d+))?\})?")


def _matching(pattern: str, random: Random) -> str:
    """A string for patterns of the house's form: characters and classes, with counts."""
    inner = pattern.removeprefix("^").removesuffix("$")
    made, place = "", 0
    for part in _PART.finditer(inner):
        if part.start() != place:
            break
        place = part.end()
        low = int(part[2] or 1)
        high = int(part[3] or low)
        letters = [chr(code) for code in range(32, 127) if re.fullmatch(part[1], chr(code))]
        count = random.choice([low, random.randint(low, min(high, low + 12)), high])
        made += "".join(random.choice(letters) for _ in range(count))
    if place != len(inner):
        raise CannotSample(f"pattern {pattern!r}")
    return made


def _uuid(random: Random) -> str:
    moment = int((_START + timedelta(seconds=random.randint(0, 10**7))).timestamp() * 1000)
    bits = moment << 80 | 7 << 76 | random.getrandbits(12) << 64 | 2 << 62 | random.getrandbits(62)
    return str(UUID(int=bits))


def _time(random: Random) -> str:
    moment = _START + timedelta(milliseconds=random.randint(0, 10**10))
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _coin(random: Random) -> bool:
    return random.random() < 0.5  # noqa: PLR2004 - heads or tails


def _as_it_is(data: Json) -> Json:
    return data


def _stock_changed(data: Json) -> Json:
    reserved = min(data["reserved"], data["on_hand"])
    return {**data, "reserved": reserved, "available": data["on_hand"] - reserved}


_MAKERS: dict[str, Callable[[Mapping[str, Any], Mapping[str, Any], Random], Any]] = {
    "integer": _integer,
    "string": _string,
    "array": _array,
    "object": _object,
    "null": lambda *_: None,
    "boolean": lambda _schema, _root, random: _coin(random),
}

CONSISTENT: dict[str, Callable[[Json], Json]] = {"stock.changed.v1": _stock_changed}
"""Types whose fields depend on each other, with what makes them agree."""
