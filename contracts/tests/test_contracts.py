"""Code, schemas, examples and topology agree."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from cloudevents.core.bindings.rabbitmq import RabbitMQMessage, from_rabbitmq_event

from shop_contracts import build, schemas
from shop_contracts.envelope import (
    CONTENT_TYPE,
    Malformed,
    Undecodable,
    UnknownType,
    decode,
    decode_binary,
    encode,
)
from shop_contracts.events import BY_KEY, EVENTS, OWNER_OF
from shop_contracts.events.base import major_of, name_of
from shop_contracts.topology import TOPOLOGY, queue

EXAMPLES = build.ROOT / "examples"
GOLDEN = sorted(EXAMPLES.glob("*/*.json"))
INVALID = sorted(EXAMPLES.glob("*/invalid/*.json"))


def name(path: Path) -> str:
    return str(path.relative_to(EXAMPLES))


def validator(key: str) -> jsonschema.Draft202012Validator:
    schema = json.loads(build.schema_path(OWNER_OF[key], BY_KEY[key]).read_bytes())
    return jsonschema.Draft202012Validator(
        schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )


def test_the_committed_files_are_what_the_code_generates() -> None:
    assert [] == build.differing()


def test_a_changed_struct_makes_a_file_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = {path: content + b" " for path, content in build.generated().items()}
    monkeypatch.setattr(build, "generated", lambda: changed)

    assert set(changed) == set(build.differing())


@pytest.mark.parametrize("key", BY_KEY)
def test_an_event_has_a_minimal_a_full_and_two_invalid_examples(key: str) -> None:
    data = {path.stem: json.loads(path.read_bytes())["data"] for path in GOLDEN if in_(path, key)}
    fields = msgspec.structs.fields(BY_KEY[key])

    assert {field.encode_name for field in fields} == set(data["full"])
    assert msgspec.convert(data["minimal"], BY_KEY[key]) == msgspec.convert(
        {field.name: data["minimal"][field.name] for field in fields if field.required}, BY_KEY[key]
    )
    assert 2 <= len([path for path in INVALID if in_(path.parent, key)])


@pytest.mark.parametrize("key", BY_KEY)
def test_every_word_of_an_enum_has_an_example(key: str) -> None:
    schema = schemas.schema(BY_KEY[key])
    sent = b"".join(path.read_bytes() for path in GOLDEN if in_(path, key))
    words = [
        word for node in _nodes(schema) for word in node.get("enum", node.get("x-open-enum", []))
    ]

    assert [] == [word for word in words if f'"{word}"'.encode() not in sent]


def test_no_two_examples_are_one_event() -> None:
    ids = [json.loads(path.read_bytes())["id"] for path in GOLDEN]

    assert len(ids) == len(set(ids))


def in_(path: Path, key: str) -> bool:
    return path.parent.name == key


@pytest.mark.parametrize("path", GOLDEN, ids=name)
def test_a_golden_example_is_read_and_written_alike(path: Path) -> None:
    event = decode(path.read_bytes())

    assert path.parent.name == event.meta.key
    assert json.loads(path.read_bytes()) == {
        **json.loads(encode(event)),
        "data": json.loads(path.read_bytes())["data"],
    }
    assert decode(encode(event)) == event


@pytest.mark.parametrize("path", GOLDEN, ids=name)
def test_a_golden_example_fits_its_schema(path: Path) -> None:
    event: dict[str, Any] = json.loads(path.read_bytes())

    validator(path.parent.name).validate(event["data"])


@pytest.mark.parametrize("path", INVALID, ids=name)
def test_an_invalid_example_is_refused_by_code_and_schema(path: Path) -> None:
    with pytest.raises(Malformed):
        decode(path.read_bytes())

    assert not validator(path.parent.parent.name).is_valid(json.loads(path.read_bytes())["data"])


@pytest.mark.parametrize("path", GOLDEN, ids=name)
def test_the_cloudevents_sdk_reads_what_we_send(path: Path) -> None:
    event = decode(path.read_bytes())
    read = from_rabbitmq_event(RabbitMQMessage({}, CONTENT_TYPE, encode(event)))

    assert event.meta.type == read.get_type()
    assert event.meta.subject == read.get_subject()
    assert event.meta.time == read.get_time()


def test_a_field_of_a_newer_minor_is_ignored() -> None:
    event = json.loads((EXAMPLES / "stock.changed.v1" / "full.json").read_bytes())
    newer = {**event, "later": 1, "data": {**event["data"], "warehouse": "north"}}

    assert decode(json.dumps(event).encode()) == decode(json.dumps(newer).encode())


def test_binary_mode_is_read_with_each_prefix() -> None:
    event = decode((EXAMPLES / "stock.changed.v1" / "full.json").read_bytes())
    flat = json.loads(encode(event))
    data = json.dumps(flat.pop("data")).encode()

    for prefix in ("ce-", "cloudEvents_", "cloudEvents:"):
        headers = {prefix + key: str(value) for key, value in flat.items()}
        assert event == decode_binary(headers, data)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", Malformed),
        (b"{", Malformed),
        (b"\xff\xfe", Malformed),
        (b"[]", Malformed),
        (b'{"specversion":"1.0"}', Malformed),
    ],
)
def test_what_is_no_event_is_malformed(body: bytes, error: type[Undecodable]) -> None:
    with pytest.raises(error):
        decode(body)


def test_a_type_nobody_knows_is_told_apart_from_a_malformed_one() -> None:
    event = json.loads((EXAMPLES / "stock.changed.v1" / "full.json").read_bytes())

    with pytest.raises(UnknownType):
        decode(json.dumps({**event, "type": "shop.stock.changed.v9"}).encode())


def test_an_sku_with_a_line_break_is_refused() -> None:
    event = json.loads((EXAMPLES / "stock.changed.v1" / "full.json").read_bytes())
    event["data"]["sku"] += "\n"

    with pytest.raises(Malformed):
        decode(json.dumps(event).encode())


def test_what_receives_dead_letters_is_declared_before_its_sender() -> None:
    place = {spec.name: index for index, spec in enumerate(TOPOLOGY.queues)}
    for spec in TOPOLOGY.queues:
        target = spec.arguments.get("x-dead-letter-routing-key")
        if target:
            assert place[target] < place[spec.name]


def test_every_binding_key_matches_an_event_of_its_owner() -> None:
    for binding in TOPOLOGY.bindings:
        owner = binding.exchange.removesuffix(".events")
        if owner not in EVENTS or binding.key.endswith("#"):
            continue
        assert binding.key in {fact.KEY for fact in EVENTS[owner]}


def test_topology_names_are_unique() -> None:
    names = [spec.name for spec in TOPOLOGY.queues]

    assert len(names) == len(set(names))
    assert queue("search", "stock") in names


def _nodes(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, dict):
        return [value, *(node for child in value.values() for node in _nodes(child))]
    if isinstance(value, list):
        return [node for child in value for node in _nodes(child)]
    return []


def test_a_schema_names_its_event() -> None:
    for fact in BY_KEY.values():
        assert (
            f"urn:shop:{name_of(fact.KEY)}:{major_of(fact.KEY)}.{fact.MINOR}"
            == (schemas.schema(fact)["$id"])
        )
        assert msgspec.json.encode(schemas.schema(fact))
