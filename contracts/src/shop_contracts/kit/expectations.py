"""What a consumer relies on, as a file that a change of a contract is checked against. No broker.

A file under `contracts/consumers/` says for one consumer which types it reads, through which queue
and binding, and the part of the data it touches, as a JSON Schema.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from shop_contracts.events import BY_KEY
from shop_contracts.kit import goldens
from shop_contracts.kit.problems import Problem, Report
from shop_contracts.kit.subschema import exactly, gaps, resolve
from shop_contracts.kit.subscriptions import BadSubscription, Subscription


class Read(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One event type that a consumer reads. `since` is the minor that it was written for."""

    type: str
    queue: str
    binding: str
    order: Literal["by-version", "any"] = "by-version"
    tolerates_unknown: bool = True
    since: str = "1.0"
    needs: dict[str, Any]


class Expectation(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that one consumer relies on."""

    consumer: str
    reads: list[Read]


class BadExpectation(Exception):
    """The file is no expectation."""


def load(path: Path) -> Expectation:
    """Read a file. Raises `BadExpectation`."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Expectation)
    except (OSError, msgspec.MsgspecError) as error:
        raise BadExpectation(f"{path}: {error}") from error


def dump(expectation: Expectation) -> bytes:
    """The file's content."""
    return msgspec.json.format(msgspec.json.encode(expectation), indent=2) + b"\n"


def verify(expectation: Expectation) -> Iterable[Report]:
    """A verdict on each type that the consumer reads."""
    for read in expectation.reads:
        problems = list(_problems(read))
        yield Report(f"{expectation.consumer} reads {read.type} from {read.queue}", problems)
    if not expectation.reads:
        yield Report(f"{expectation.consumer} reads nothing")


def _problems(read: Read) -> Iterable[Problem]:
    if read.type not in BY_KEY:
        yield Problem("type", "/type", f"{read.type} is not sent (any more)")
        return
    try:
        Subscription(name=read.queue, binding=read.binding, order=read.order).check(read.type)
    except BadSubscription as error:
        yield Problem("binding", "/binding", str(error))
    if not read.tolerates_unknown:
        yield Problem(
            "unknown field", "/tolerates_unknown", "a minor may add a field: it must be ignored"
        )
    yield from gaps(goldens.schema(read.type), read.needs)
    for name, event in goldens.examples(read.type).items():
        for gap in gaps(exactly(event["data"]), read.needs):
            yield Problem("golden", f"{name}{gap.where}", f"{gap.rule}: {gap.message}")


def need_of(key: str, pointers: Iterable[str], required: Iterable[str]) -> dict[str, Any]:
    """The schema of just these parts of a type's data, with the bounds that they have now.

    Pointers are as of `subschema.at`: `/lines/0/qty` is the quantity of any line.
    """
    schema = goldens.schema(key)
    need: dict[str, Any] = {}
    wanted, must = set(pointers), set(required)
    for pointer in sorted(wanted | must):
        _grow(need, schema, schema, pointer.split("/")[1:], must, "")
    return need


def _grow(
    need: dict[str, Any], schema: Any, root: Any, words: list[str], must: set[str], here: str
) -> None:
    spec = resolve(root, schema)
    if not words:
        need.update(_leaf(spec, root))
        return
    nullable = False
    if "anyOf" in spec:
        branches = [resolve(root, branch) for branch in spec["anyOf"]]
        nullable = any(branch.get("type") == "null" for branch in branches)
        spec = next(branch for branch in branches if branch.get("type") in ("object", "array"))
    if "items" in spec:
        need.setdefault("type", ["array", "null"] if nullable else "array")
        _grow(need.setdefault("items", {}), spec["items"], root, words[1:], must, f"{here}/0")
        return
    if words[0] not in spec.get("properties", {}):
        need.update(_leaf(spec, root))  # an object of free names is read as a whole
        return
    need.setdefault("type", ["object", "null"] if nullable else "object")
    name, place = words[0], f"{here}/{words[0]}"
    inner = need.setdefault("properties", {}).setdefault(name, {})
    # a part is required where it, or something in it, is
    if any(pointer == place for pointer in must) and name not in need.setdefault("required", []):
        need["required"].append(name)
    _grow(inner, spec["properties"][name], root, words[1:], must, place)


_KEPT = {
    *("type", "enum", "const", "pattern", "format", "minLength", "maxLength"),
    *("minimum", "maximum", "minItems", "maxItems", "minProperties", "maxProperties"),
    *("propertyNames", "x-open-enum"),
}


def _leaf(spec: Any, root: Any) -> dict[str, Any]:
    spec = resolve(root, spec)
    leaf = {key: value for key, value in spec.items() if key in _KEPT}
    if "anyOf" in spec:
        leaf["anyOf"] = [_leaf(branch, root) for branch in spec["anyOf"]]
    if "items" in spec:
        leaf["items"] = _leaf(spec["items"], root)
    if isinstance(spec.get("additionalProperties"), dict):
        leaf["additionalProperties"] = _leaf(spec["additionalProperties"], root)
    return leaf
