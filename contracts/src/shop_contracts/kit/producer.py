"""What a publisher must do: exchange, key, properties, envelope, payload, subject, versions. Pure.

`problems` looks at one message; `Stream` at what only several messages show. `assert_publishes` is
for a test.
"""

import json
import re
from collections.abc import Iterable
from typing import Any
from uuid import UUID

import msgspec

from shop_contracts import topology
from shop_contracts.envelope import CONTENT_TYPE, TYPE_PREFIX, Undecodable, UnknownType, decode
from shop_contracts.events import BY_KEY, OWNER_OF
from shop_contracts.events.base import dataschema
from shop_contracts.kit import goldens
from shop_contracts.kit.messages import Message, Properties
from shop_contracts.kit.problems import Problem
from shop_contracts.kit.subschema import accepts, exactly, gaps
from shop_contracts.schemas import closed

Json = dict[str, Any]

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_ATTRIBUTES = {
    *("specversion", "id", "source", "type", "subject", "time", "entityversion", "data"),
    *("datacontenttype", "dataschema", "partitionkey", "correlationid", "causationid"),
    *("traceparent", "tracestate"),
}
MAX_INT32 = 2**31 - 1
REMEMBERED = 100_000
"""Ids of the latest events that a stream still knows."""


def problems(message: Message) -> list[Problem]:
    """Every rule that a published message breaks."""
    event, found = _read(message.body)
    if event is None:
        return found
    key = str(event["type"]).removeprefix(TYPE_PREFIX)
    owner = OWNER_OF[key]
    if message.exchange != topology.exchange(owner):
        expected = topology.exchange(owner)
        found.append(Problem("exchange", "exchange", f"{message.exchange!r}, not {expected!r}"))
    if message.routing_key != key:
        found.append(Problem("routing key", "routing_key", f"{message.routing_key!r}, not {key!r}"))
    return found + _properties(message.properties, event) + _event(event, key)


def event_problems(body: bytes) -> list[Problem]:
    """As `problems`, of a bare event: what is known of how it was sent is nothing."""
    event, found = _read(body)
    if event is None:
        return found
    return found + _event(event, str(event["type"]).removeprefix(TYPE_PREFIX))


class Stream:
    """Messages in the order in which they were published: versions grow, ids are not used twice."""

    def __init__(self) -> None:
        self._versions: dict[tuple[str, str], int] = {}
        self._bodies: dict[str, int] = {}

    def problems(self, body: bytes) -> list[Problem]:
        """What is wrong with the next message in the light of those before it."""
        try:
            event = json.loads(body)
            name, version = (event["type"], event["subject"]), int(event["entityversion"])
            event_id = str(event["id"])
        except (ValueError, KeyError, TypeError):
            return []
        if event_id in self._bodies:
            # at least once: the same event may be sent again, but only the same
            if self._bodies[event_id] == hash(body):
                return []
            return [Problem("id", "/id", f"{event_id} was another event before")]
        self._bodies[event_id] = hash(body)
        if len(self._bodies) > REMEMBERED:
            del self._bodies[next(iter(self._bodies))]
        known = self._versions.get(name)
        self._versions[name] = max(version, known or version)
        if known is not None and version <= known:
            told = f"version {version} of {event['subject']} after version {known}"
            return [Problem("entityversion", "/entityversion", f"{told}: it grows with each event")]
        return []


def assert_publishes(messages: Iterable[Message], *keys: str) -> None:
    """Assert that the messages are valid events of just these types, each type at least once."""
    stream, seen, found = Stream(), set(), []
    for number, message in enumerate(messages):
        told = [*problems(message), *stream.problems(message.body)]
        found += [f"message {number} ({message.routing_key}): {problem}" for problem in told]
        seen.add(message.routing_key)
        if message.routing_key not in keys:
            found.append(f"message {number}: {message.routing_key} is not announced")
    found += [f"{key} was never published" for key in keys if key not in seen]
    if found:
        raise AssertionError("\n".join(found))


def is_newer(event: Json) -> bool:
    """Whether a later minor than these contracts' wrote it: it may hold more than they know."""
    minor = _minor(event)
    fact = BY_KEY[str(event["type"]).removeprefix(TYPE_PREFIX)]
    return minor is not None and int(minor[1]) > fact.MINOR


def _minor(event: Json) -> re.Match[str] | None:
    fact = BY_KEY[str(event["type"]).removeprefix(TYPE_PREFIX)]
    name, _, _ = dataschema(fact).rpartition(".")
    return re.fullmatch(rf"{re.escape(name)}\.(\d+)", str(event.get("dataschema")))


def _read(body: bytes) -> tuple[Json | None, list[Problem]]:
    """The event where it is one of ours at all."""
    try:
        event = json.loads(body, object_pairs_hook=_once)
    except (ValueError, UnicodeDecodeError) as error:
        return None, [Problem("envelope", "", f"no JSON: {error}")]
    if not isinstance(event, dict) or not isinstance(event.get("type"), str):
        return None, [Problem("envelope", "/type", "not a CloudEvent: no type")]
    key = event["type"].removeprefix(TYPE_PREFIX)
    if key not in BY_KEY or not event["type"].startswith(TYPE_PREFIX):
        return None, [Problem("type", "/type", f"{event['type']!r} is no event of the shop")]
    return event, []


def _event(event: Json, key: str) -> list[Problem]:
    found = [*_envelope(event, key), *_payload(event.get("data"), key, newer=is_newer(event))]
    if not found:
        try:
            decode(msgspec.json.encode(event))
        except UnknownType:
            raise
        except Undecodable as error:
            # the walk above is ours; what the services read with has the last word
            found.append(Problem("payload", "/data", str(error)))
    return found


def _envelope(event: Json, key: str) -> list[Problem]:
    fact = BY_KEY[key]
    data = event.get("data")
    subject = data.get(fact.SUBJECT) if isinstance(data, dict) else None
    expected = {
        "specversion": "1.0",
        "source": f"/{OWNER_OF[key]}",
        "datacontenttype": "application/json",
        "partitionkey": event.get("subject"),
    }
    found = [
        Problem("envelope", f"/{name}", f"{event.get(name)!r}, not {value!r}")
        for name, value in expected.items()
        if event.get(name) != value
    ]
    if not _minor(event):
        told = f"{event.get('dataschema')!r}, not {dataschema(fact)!r}"
        found.append(Problem("envelope", "/dataschema", told))
    if event.get("subject") != subject:
        told = f"{event.get('subject')!r}, but data.{fact.SUBJECT} is {subject!r}"
        found.append(Problem("subject", "/subject", told))
    version = event.get("entityversion")
    if not isinstance(version, int) or isinstance(version, bool) or not 0 <= version <= MAX_INT32:
        found.append(Problem("entityversion", "/entityversion", f"{version!r} is no version"))
    time = event.get("time")
    if not isinstance(time, str) or not accepts({"format": "date-time"}, time):
        found.append(Problem("envelope", "/time", f"{time!r} is no RFC 3339 time with a zone"))
    elif not time.endswith(("Z", "z", "+00:00")):
        found.append(Problem("envelope", "/time", f"{time!r} is not UTC"))
    found += [
        Problem("envelope", f"/{name}", f"{event[name]!r} is no UUID")
        for name in ("id", "correlationid", "causationid")
        if name in event and not _is_uuid(event[name])
    ]
    if "id" not in event:
        found.append(Problem("envelope", "/id", "is missing"))
    if "traceparent" in event and not _TRACEPARENT.fullmatch(str(event["traceparent"])):
        found.append(Problem("envelope", "/traceparent", "is no W3C trace context"))
    found += [
        Problem("envelope", f"/{name}", "is no attribute of these contracts")
        for name in sorted(set(event) - _ATTRIBUTES)
    ]
    return found


def _payload(data: Any, key: str, *, newer: bool) -> list[Problem]:
    schema = goldens.schema(key)
    return [
        Problem("payload", f"/data{gap.where}", f"{gap.rule}: {gap.message}")
        for gap in gaps(exactly(data), schema if newer else closed(schema))
    ]


def _properties(properties: Properties, event: Json) -> list[Problem]:
    expected = {
        "delivery_mode": 2,
        "message_id": event.get("id"),
        "type": event["type"],
        "app_id": event.get("source"),
        "correlation_id": event.get("correlationid"),
    }
    found = [
        Problem("properties", name, f"{getattr(properties, name)!r}, not {value!r}")
        for name, value in expected.items()
        if getattr(properties, name) != value
    ]
    if (properties.content_type or "").partition(";")[0].strip() != CONTENT_TYPE:
        told = f"{properties.content_type!r}, not {CONTENT_TYPE!r}"
        found.append(Problem("properties", "content_type", told))
    if properties.timestamp is None:
        found.append(Problem("properties", "timestamp", "is missing"))
    for name in ("partitionkey", "traceparent"):
        if properties.headers.get(name) != event.get(name):
            told = f"{properties.headers.get(name)!r}, not {event.get(name)!r}"
            found.append(Problem("properties", f"headers.{name}", told))
    return found


def _once(pairs: list[tuple[str, Any]]) -> Json:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name that stands twice in one object")
    return made


def _is_uuid(value: Any) -> bool:
    try:
        return str(UUID(value)) == str(value).lower()
    except (ValueError, TypeError, AttributeError):
        return False
