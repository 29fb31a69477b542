"""AsyncAPI 3.1 documents of the events: one per owner, one for the shop. Writes no file.

An owner's document says what it sends; the shop's says who receives it too. What AsyncAPI has no
words for (retry, parking, the stream, an end of life) stands in `x-` fields.
"""

from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

import msgspec

from shop_contracts import schemas, topology
from shop_contracts.envelope import CONTENT_TYPE, HEADERS, TYPE_PREFIX
from shop_contracts.events import EVENTS, OWNER_OF
from shop_contracts.events.base import Fact, dataschema

VHOST = "shop"
_BINDING = "0.3.0"
_REF = "#/components/schemas/{name}"


def owned(owner: str, examples: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The document of one owner; `examples` are whole events by routing key and name."""
    facts = EVENTS[owner]
    operations = {f"send.{fact.KEY}": _send(fact) for fact in facts}
    text = f"What {owner} tells about what it owns, on the exchange `{topology.exchange(owner)}`."
    return _document(owner, text, facts, operations, examples)


def shop(examples: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The document of all events, their senders and the receivers among our services."""
    facts = [fact for each in EVENTS.values() for fact in each]
    operations: dict[str, Any] = {f"send.{fact.KEY}": _send(fact) for fact in facts}
    for fact in facts:
        for reader in topology.readers(OWNER_OF[fact.KEY], fact.KEY):
            operations[f"{reader}.receive.{fact.KEY}"] = _receive(fact, reader)
    text = "Every event of the shop: who sends it, which services receive it, and by which queue."
    return _document("shop", text, facts, operations, examples)


def _document(
    name: str,
    text: str,
    facts: Iterable[type[Fact]],
    operations: Mapping[str, Any],
    examples: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    facts = list(facts)
    _, components = msgspec.json.schema_components(facts, ref_template=_REF)
    return {
        "asyncapi": "3.1.0",
        "id": f"urn:shop:asyncapi:{name}",
        "info": {
            "title": f"Events of {name}" if name != "shop" else "Events of the shop",
            "version": version("shop-contracts"),
            "description": f"{text}\n\n{_ENVELOPE}",
            "license": {
                "name": "Apache-2.0",
                "url": "https://www.apache.org/licenses/LICENSE-2.0",
            },
        },
        "defaultContentType": CONTENT_TYPE,
        "servers": {
            "broker": {
                "host": "{host}",
                "pathname": f"/{VHOST}",
                "protocol": "amqp",
                "protocolVersion": "0.9.1",
                "description": "RabbitMQ 3.10 or newer.",
                "variables": {"host": {"default": "localhost:17120"}},
            }
        },
        "channels": {fact.KEY: _channel(fact) for fact in facts},
        "operations": dict(operations),
        "components": {
            "messages": {fact.KEY: _message(fact, examples[fact.KEY]) for fact in facts},
            "schemas": {
                **schemas.portable(schemas.opened(components, *facts)),
                **{
                    f"{fact.KEY}.event": schemas.event(
                        fact, {"$ref": _REF.format(name=fact.__name__)}
                    )
                    for fact in facts
                },
                "headers": {
                    "type": "object",
                    "properties": {name: {"type": "string"} for name in HEADERS},
                    "required": ["partitionkey"],
                },
            },
        },
    }


def _channel(fact: type[Fact]) -> dict[str, Any]:
    owner = OWNER_OF[fact.KEY]
    return {
        "address": fact.KEY,
        "title": fact.KEY,
        "messages": {fact.KEY: {"$ref": f"#/components/messages/{fact.KEY}"}},
        "bindings": {
            "amqp": {
                "is": "routingKey",
                "exchange": {
                    "name": topology.exchange(owner),
                    "type": "topic",
                    "durable": True,
                    "autoDelete": False,
                    "vhost": VHOST,
                },
                "bindingVersion": _BINDING,
            }
        },
        "x-stream": topology.log(owner),
    }


def _message(fact: type[Fact], examples: Mapping[str, Any]) -> dict[str, Any]:
    sunset = {schemas.SUNSET: fact.SUNSET.isoformat()} if fact.SUNSET else {}
    return {
        "name": TYPE_PREFIX + fact.KEY,
        "title": fact.KEY,
        "summary": schemas.summary(fact),
        "contentType": CONTENT_TYPE,
        "headers": {"$ref": "#/components/schemas/headers"},
        "payload": {"$ref": f"#/components/schemas/{fact.KEY}.event"},
        "correlationId": {"location": "$message.payload#/correlationid"},
        "bindings": {"amqp": {"messageType": TYPE_PREFIX + fact.KEY, "bindingVersion": _BINDING}},
        "examples": [{"name": name, "payload": event} for name, event in examples.items()],
        "x-dataschema": dataschema(fact),
        "x-subject": fact.SUBJECT,
        **sunset,
    }


def _operation(fact: type[Fact], action: str, amqp: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{fact.KEY}"},
        "messages": [{"$ref": f"#/channels/{fact.KEY}/messages/{fact.KEY}"}],
        "bindings": {"amqp": {**amqp, "bindingVersion": _BINDING}},
    }


def _send(fact: type[Fact]) -> dict[str, Any]:
    return {
        "summary": f"{OWNER_OF[fact.KEY]} sends {fact.KEY}",
        **_operation(fact, "send", {"deliveryMode": 2, "mandatory": True}),
    }


def _receive(fact: type[Fact], reader: str) -> dict[str, Any]:
    work = topology.queue(reader, OWNER_OF[fact.KEY])
    return {
        "summary": f"{reader} receives {fact.KEY}",
        **_operation(fact, "receive", {"ack": True}),
        "x-queue": {
            "name": work,
            "retry": [topology.retry(work, delay) for delay in topology.RETRY_DELAYS],
            "parking": topology.parking(work),
        },
    }


_ENVELOPE = (
    "A message is a CloudEvent 1.0 in structured JSON. Delivery is at least once: tell a repetition"
    " by `source` and `id`. Of two events with one `subject` and one `type`, the one with the"
    " larger `entityversion` is the newer one. Ignore fields that you do not know: a minor may add"
    " some."
)
