"""CloudEvents 1.0 in structured JSON: the one shape in which events leave a service. No I/O here.

`encode` and `decode` are inverse for every event in `BY_KEY`. `decode` reads what any newer minor
of the same major writes: unknown fields are ignored. `meta_of` reads the envelope alone.

Errors: `Undecodable` (never worth a retry) with its two kinds `Malformed` and `UnknownType`.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, TypeVar
from uuid import UUID, uuid5

import msgspec
from msgspec import Raw, Struct

from shop_contracts.events import BY_KEY, OWNER_OF
from shop_contracts.events.base import Fact, dataschema
from shop_contracts.types import Time

CONTENT_TYPE = "application/cloudevents+json"
TYPE_PREFIX = "shop."
_DERIVED = UUID("6f1c2f9e-3c0f-5d0b-9a39-4b1d0c1a7e55")

PROPERTIES = {
    "content_type": CONTENT_TYPE,
    "delivery_mode": "2",
    "message_id": "{id}",
    "correlation_id": "{correlationid}",
    "type": "{type}",
    "app_id": "{source}",
    "timestamp": "{time}",
}
"""AMQP properties of a message, as text with the attributes they repeat."""

HEADERS = {"partitionkey": "{partitionkey}", "traceparent": "{traceparent}"}
"""AMQP headers of a message; the second is there where the event has one."""

Attribute = Annotated[str, msgspec.Meta(min_length=1)]
"""CloudEvents: an attribute that is there is not empty."""

F = TypeVar("F", bound=Fact)
F_co = TypeVar("F_co", bound=Fact, covariant=True)


class Undecodable(Exception):
    """The bytes are no event that this version of the contracts can read."""


class Malformed(Undecodable):
    """Not a CloudEvent, or its data breaks the schema of its type."""


class UnknownType(Undecodable):
    """A CloudEvent of a type that these contracts do not hold."""


class Meta(Struct, frozen=True, kw_only=True):
    """The attributes of an event that its data does not carry.

    `entityversion` grows by one per change of the subject; of two events with one subject and one
    type, the one with the larger version is the newer one.
    """

    id: UUID
    source: str
    type: str
    subject: str
    time: datetime
    entityversion: int
    correlationid: str | None = None
    causationid: str | None = None
    traceparent: str | None = None

    @property
    def key(self) -> str:
        """The routing key: the type without its prefix."""
        return self.type.removeprefix(TYPE_PREFIX)


class Event(Struct, Generic[F_co], frozen=True, kw_only=True):
    """One event: what happened (`data`) and the envelope's attributes (`meta`)."""

    meta: Meta
    data: F_co


class Wire(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The JSON of an event: the attributes of CloudEvents, our own, and the data."""

    specversion: Annotated[str, msgspec.Meta(pattern=r"^1\.0\Z")]
    id: UUID
    source: Attribute
    type: Attribute
    subject: Attribute
    time: Time
    entityversion: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
    data: Raw
    datacontenttype: Attribute | None = None
    dataschema: Attribute | None = None
    partitionkey: Attribute | None = None
    correlationid: Attribute | None = None
    causationid: Attribute | None = None
    traceparent: Attribute | None = None


_encode = msgspec.json.Encoder().encode
_decode_wire = msgspec.json.Decoder(Wire).decode
_decode_meta = msgspec.json.Decoder(Meta).decode
_decode_data = {key: msgspec.json.Decoder(fact).decode for key, fact in BY_KEY.items()}


def new(
    data: F,
    *,
    id: UUID,  # noqa: A002 - the attribute's name in CloudEvents
    entityversion: int,
    time: datetime | None = None,
    correlationid: str | None = None,
    causationid: str | None = None,
    traceparent: str | None = None,
) -> Event[F]:
    """The event of a fact; `time` is now unless given, source and subject come from the fact."""
    key = data.KEY
    return Event(
        meta=Meta(
            id=id,
            source=f"/{OWNER_OF[key]}",
            type=TYPE_PREFIX + key,
            subject=str(getattr(data, data.SUBJECT)),
            time=time or datetime.now(UTC),
            entityversion=entityversion,
            correlationid=correlationid,
            causationid=causationid,
            traceparent=traceparent,
        ),
        data=data,
    )


def derived_id(cause: UUID | str, key: str) -> UUID:
    """The id of the event `key` that follows from `cause`: the same however often it is made."""
    return uuid5(_DERIVED, f"{cause}:{key}")


def encode(event: Event[Fact]) -> bytes:
    """The event as structured CloudEvents JSON."""
    meta = event.meta
    return _encode(
        Wire(
            specversion="1.0",
            id=meta.id,
            source=meta.source,
            type=meta.type,
            subject=meta.subject,
            time=meta.time,
            entityversion=meta.entityversion,
            datacontenttype="application/json",
            dataschema=dataschema(type(event.data)),
            partitionkey=meta.subject,
            correlationid=meta.correlationid,
            causationid=meta.causationid,
            traceparent=meta.traceparent,
            data=Raw(_encode(event.data)),
        )
    )


def decode(body: bytes) -> Event[Fact]:
    """The event in `body`. Raises `Malformed` or `UnknownType`."""
    try:
        wire = _decode_wire(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Malformed(str(error)) from error
    key = wire.type.removeprefix(TYPE_PREFIX)
    read = _decode_data.get(key) if wire.type.startswith(TYPE_PREFIX) else None
    if read is None:
        raise UnknownType(wire.type)
    try:
        data = read(wire.data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Malformed(f"{key}: {error}") from error
    return Event(
        meta=Meta(
            id=wire.id,
            source=wire.source,
            type=wire.type,
            subject=wire.subject,
            time=wire.time,
            entityversion=wire.entityversion,
            correlationid=wire.correlationid,
            causationid=wire.causationid,
            traceparent=wire.traceparent,
        ),
        data=data,
    )


def meta_of(body: bytes) -> Meta:
    """The attributes of what `encode` made; its data is passed over. Raises `Malformed`."""
    try:
        return _decode_meta(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Malformed(str(error)) from error


def decode_binary(headers: Mapping[str, Any], body: bytes) -> Event[Fact]:
    """The event of a binary-mode message: attributes in headers, data in the body."""
    attributes: dict[str, Any] = {}
    for name, value in headers.items():
        for prefix in ("ce-", "cloudEvents_", "cloudEvents:"):
            if name.startswith(prefix):
                attributes[name.removeprefix(prefix)] = value
    try:
        attributes["entityversion"] = int(attributes["entityversion"])
        # the body goes in as it is: it is JSON, or `decode` refuses it
        head = _encode({name: value for name, value in attributes.items() if name != "data"})
    except (KeyError, TypeError, ValueError) as error:
        raise Malformed(f"binary mode: {error!r}") from error
    return decode(head[:-1] + b',"data":' + body + b"}")
