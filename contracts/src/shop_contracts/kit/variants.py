"""What else may arrive: variations of a golden event, each with one cause. No I/O.

Each function returns a new event and leaves its argument as it is.
"""

import re
from collections.abc import Callable
from copy import deepcopy
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

from shop_contracts.events import BY_KEY
from shop_contracts.kit.messages import Message, compact, message
from shop_contracts.kit.subschema import resolve

Json = dict[str, Any]


def with_unknown_fields(event: Json) -> Json:
    """A field that no contract has, in the data, in every object inside it, and beside it."""
    return {**event, "data": _extended(event["data"]), "unknownattribute": "added later"}


def next_minor(event: Json) -> Json:
    """The same fact from the next minor: another `dataschema`, absent fields for null ones."""
    data = {name: value for name, value in event["data"].items() if value is not None}
    return {**event, "data": data, "dataschema": _next(str(event.get("dataschema", "")))}


def with_new_word(event: Json, schema: Json) -> Json | None:
    """The event with a word that an open enum does not have yet; None where no enum is open."""
    data = deepcopy(event["data"])
    return {**event, "data": data} if _renamed(data, schema, schema) else None


def later(event: Json) -> Json:
    """The subject's next event of this type: the version above, another id, other values."""
    key = str(event["type"]).removeprefix("shop.")
    change: Callable[[Json], Json] = CHANGES.get(key, _change)
    data = change(deepcopy(event["data"]))
    data[BY_KEY[key].SUBJECT] = event["subject"]
    version = int(event["entityversion"]) + 1
    return {
        **event,
        "id": str(uuid5(UUID(event["id"]), str(version))),
        "time": _later(event["time"]),
        "entityversion": version,
        "data": data,
    }


def happens_once(key: str) -> bool:
    """Whether a subject sees this event once: a step of an order. Nothing of it can be stale."""
    return BY_KEY[key].SUBJECT == "order_id"


def unreadable(event: Json) -> dict[str, Message]:
    """Messages of the type that are no event at all, by what is wrong."""
    good = compact(event)
    bodies = {
        "an empty body": b"",
        "no JSON": b"not json",
        "a body cut in half": good[: len(good) // 2],
        "bytes that are no UTF-8": b"\xff\xfe" + good,
        "a list": b"[]",
        "null": b"null",
        "data of another type": compact({**event, "data": "text"}),
        "no data": compact({name: value for name, value in event.items() if name != "data"}),
    }
    return {name: _with_body(event, body) for name, body in bodies.items()}


def with_charset(event: Json) -> Message:
    """The message with a charset in its content type, which RFC 2045 allows."""
    made = message(event)
    made.properties = _properties(
        made, content_type=f"{made.properties.content_type}; charset=utf-8"
    )
    return made


def _renamed(value: Any, schema: Any, root: Json) -> bool:
    spec = resolve(root, schema)
    for name, inner in spec.get("properties", {}).items() if isinstance(value, dict) else ():
        if name not in value:
            continue
        if "x-open-enum" in resolve(root, inner):
            value[name] = "a_word_of_a_later_minor"
            return True
        if _renamed(value[name], inner, root):
            return True
    if isinstance(value, list) and value:
        return _renamed(value[0], spec.get("items", {}), root)
    return False


def _with_body(event: Json, body: bytes) -> Message:
    made = message(event)
    made.body = body
    return made


def _properties(made: Message, **changes: Any) -> Any:
    kept = {name: getattr(made.properties, name) for name in made.properties.__struct_fields__}
    return type(made.properties)(**(kept | changes))


def _extended(value: Any) -> Any:
    if isinstance(value, dict):
        inner = {name: _extended(item) for name, item in value.items()}
        # an object of free names (options by name) has no fields to add to
        free = value and all(isinstance(item, str) for item in value.values())
        return inner if free else {**inner, "unknown_field": {"added": ["later"]}}
    if isinstance(value, list):
        return [_extended(item) for item in value]
    return value


def _next(dataschema: str) -> str:
    # urn:shop:stock.changed:1.3 -> urn:shop:stock.changed:1.4; without a minor, the first one
    numbered = re.fullmatch(r"(.+:\d+)\.(\d+)(\.\d+)?", dataschema)
    if numbered:
        return f"{numbered[1]}.{int(numbered[2]) + 1}"
    unnumbered = re.fullmatch(r"(.+)\.v(\d+)", dataschema)
    return f"{unnumbered[1]}:{unnumbered[2]}.1" if unnumbered else f"{dataschema}:1.1"


def _change(value: Any) -> Any:
    """Another value of the same shape: integers by one, times by a minute; ids and names stay."""
    if isinstance(value, dict):
        return {name: _change(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_change(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return value + 1
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\dT.+", value):
        return _later(value)
    if isinstance(value, str) and " " in value:
        return value + " (changed)"
    return value


def _later(time: str) -> str:
    moved = datetime.fromisoformat(time) + timedelta(minutes=1)
    return moved.isoformat().replace("+00:00", "Z")


def _stock_changed(data: Json) -> Json:
    # on_hand = reserved + available holds in every event
    return {**data, "on_hand": data["on_hand"] + 3, "available": data["available"] + 3}


CHANGES: dict[str, Callable[[Json], Json]] = {"stock.changed.v1": _stock_changed}
"""Types whose fields depend on each other, with a change that keeps what holds between them."""
