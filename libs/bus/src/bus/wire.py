"""An event as the message that carries it. No I/O."""

from bus.frames import Message
from shop_contracts.envelope import CONTENT_TYPE, Meta


def message(
    meta: Meta,
    body: bytes,
    *,
    key: str | None = None,
    headers: dict[str, str] | None = None,
) -> Message:
    """The message of an event; its properties repeat what the body says.

    `key` is where it goes, by default the event's own routing key.
    """
    told = {"partitionkey": meta.subject, **(headers or {})}
    if meta.traceparent:
        told["traceparent"] = meta.traceparent
    return Message(
        key=meta.key if key is None else key,
        body=body,
        content_type=CONTENT_TYPE,
        message_id=str(meta.id),
        correlation_id=meta.correlationid,
        type=meta.type,
        app_id=meta.source,
        timestamp=int(meta.time.timestamp()),
        headers=told,
    )
