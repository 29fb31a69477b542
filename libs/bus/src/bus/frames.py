"""What is sent most, in the bytes of AMQP 0-9-1: publishes and acks. No I/O, no event.

pamqp builds frames of every kind; this builds the few shapes that a relay and a consumer send, in a
fraction of the time. A test holds the two together.
"""

from functools import lru_cache
from struct import Struct as Layout

import msgspec

PERSISTENT = 2

_METHOD, _HEADER, _BODY = 1, 2, 3
_END = b"\xce"
_FRAME = Layout(">BHI")
_HEAD = Layout(">HHQH")
_SETTLE = Layout(">HHQ?")
_BASIC, _PUBLISH, _ACK, _REJECT = 60, 40, 80, 90
_MANDATORY = b"\x01"
# the properties a message of ours has, and the one that it may have
_FLAGS = 1 << 15 | 1 << 13 | 1 << 12 | 1 << 7 | 1 << 6 | 1 << 5 | 1 << 3
_CORRELATION_ID = 1 << 10
FRAME_OVERHEAD = _FRAME.size + len(_END)


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A persistent message; `timestamp` is Unix time, texts are at most 255 bytes long."""

    key: str
    body: bytes
    content_type: str
    message_id: str
    correlation_id: str | None
    type: str
    app_id: str
    timestamp: int
    headers: dict[str, str]


def publish(message: Message, exchange: str, channel: int, frame_max: int) -> bytes:
    """The frames of a mandatory publish, ready to be written."""
    properties = [
        _short(message.content_type),
        _table(message.headers),
        bytes([PERSISTENT]),
        _short(message.correlation_id) if message.correlation_id else b"",
        _short(message.message_id),
        message.timestamp.to_bytes(8, "big"),
        _short(message.type),
        _short(message.app_id),
    ]
    flags = _FLAGS | (_CORRELATION_ID if message.correlation_id else 0)
    head = _HEAD.pack(_BASIC, 0, len(message.body), flags) + b"".join(properties)
    most = frame_max - FRAME_OVERHEAD
    parts = [message.body[at : at + most] for at in range(0, len(message.body), most)]
    return b"".join(
        (
            _method(exchange, message.key, channel),
            _frame(_HEADER, channel, head),
            *(_frame(_BODY, channel, part) for part in parts),
        )
    )


@lru_cache(maxsize=256)
def _method(exchange: str, key: str, channel: int) -> bytes:
    ids = _BASIC.to_bytes(2, "big") + _PUBLISH.to_bytes(2, "big")
    return _frame(_METHOD, channel, ids + bytes(2) + _short(exchange) + _short(key) + _MANDATORY)


def _frame(kind: int, channel: int, payload: bytes) -> bytes:
    return _FRAME.pack(kind, channel, len(payload)) + payload + _END


def _short(text: str) -> bytes:
    data = text.encode()
    return bytes([len(data)]) + data


def _table(headers: dict[str, str]) -> bytes:
    fields = b"".join(
        _short(name) + b"S" + len(data := value.encode()).to_bytes(4, "big") + data
        for name, value in headers.items()
    )
    return len(fields).to_bytes(4, "big") + fields


def ack(tag: int, channel: int, *, multiple: bool) -> bytes:
    """The frame that acknowledges a delivery, or all up to it."""
    return _frame(_METHOD, channel, _SETTLE.pack(_BASIC, _ACK, tag, multiple))


def reject(tag: int, channel: int) -> bytes:
    """The frame that refuses a delivery for good: it is dead-lettered."""
    return _frame(_METHOD, channel, _SETTLE.pack(_BASIC, _REJECT, tag, False))
