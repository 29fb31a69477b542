"""The kit's own walk over schemas says what libraries that others wrote say."""

import json
import warnings
from copy import deepcopy
from random import Random
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shop_contracts.events import BY_KEY
from shop_contracts.kit import goldens, recording
from shop_contracts.kit.expectations import need_of
from shop_contracts.kit.producer import event_problems
from shop_contracts.kit.sampling import sample, strategy
from shop_contracts.kit.subschema import accepts, gaps, resolve
from shop_contracts.schemas import closed

with warnings.catch_warnings():  # its source has escapes that newer Pythons warn of
    warnings.simplefilter("ignore")
    from jsonsubschema import isSubschema

KEYS = sorted(BY_KEY)
VALUES: list[Any] = [None, True, 0, -1, 2**60, "", "x", "EUR", "a b", "é" * 600, [], [1], {}]
LIMITS = ["maximum", "maxLength", "maxItems", "maxProperties"]


def flat(schema: Any, root: Any) -> Any:
    """The schema without references, formats and words of ours: what the oracle knows."""
    if isinstance(schema, list):
        return [flat(item, root) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: {name: flat(item, root) for name, item in value.items()}
        if key == "properties"
        else flat(value, root)
        for key, value in resolve(root, schema).items()
        if key not in {"$defs", "$id", "$schema", "format", "default", "title", "description"}
        and not key.startswith("x-")
    }


def nodes(schema: Any) -> list[dict[str, Any]]:
    if isinstance(schema, dict):
        return [schema, *(node for item in schema.values() for node in nodes(item))]
    if isinstance(schema, list):
        return [node for item in schema for node in nodes(item)]
    return []


@pytest.mark.parametrize("key", KEYS)
def test_a_schema_is_a_subschema_of_itself(key: str) -> None:
    assert [] == gaps(goldens.schema(key), goldens.schema(key))


@pytest.mark.parametrize("key", KEYS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_sample_is_valid_here_and_elsewhere(key: str, data: st.DataObject) -> None:
    event = data.draw(strategy(key))

    assert [] == event_problems(json.dumps(event).encode())
    assert jsonschema_rs.Draft202012Validator(
        closed(goldens.schema(key)), validate_formats=True
    ).is_valid(event["data"])


def test_samples_repeat_with_their_seed() -> None:
    for key in KEYS:
        assert sample(key, Random(7)) == sample(key, Random(7))


@pytest.mark.parametrize("key", KEYS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_value_is_judged_as_a_validator_judges_it(key: str, data: st.DataObject) -> None:
    schema = goldens.schema(key)
    value = data.draw(strategy(key))["data"]
    for _ in range(data.draw(st.integers(0, 2))):
        holders = [node for node in nodes(value) if node]
        holder = data.draw(st.sampled_from(holders)) if holders else value
        if not holder:
            break
        name = data.draw(st.sampled_from(sorted(holder)))
        if data.draw(st.booleans()):
            del holder[name]
        else:
            holder[name] = data.draw(st.sampled_from(VALUES))
    oracle = jsonschema_rs.Draft202012Validator(schema, validate_formats=True)

    assert oracle.is_valid(value) == accepts(schema, value)


def loosened_and_tightened(  # noqa: C901 - one rule after the other
    node: dict[str, Any],
) -> list[dict[str, Any]]:
    """What else a reader might have written here."""
    found: list[dict[str, Any]] = []
    for limit in LIMITS:
        if limit in node:
            found += [{**node, limit: node[limit] - 1}, {**node, limit: node[limit] + 1}]
            found.append({key: value for key, value in node.items() if key != limit})
    if "minimum" in node:
        found += [{**node, "minimum": node["minimum"] + 1}, {**node, "minimum": -5}]
    if len(node.get("enum", ())) > 1:
        found += [{**node, "enum": node["enum"][1:]}, {**node, "enum": [*node["enum"], "more"]}]
        found.append({"type": "string"})
    if node.get("type") == "string":
        found.append({**node, "type": "integer"})
        if "pattern" not in node:  # the oracle sees no length beside a pattern
            found += [{**node, "maxLength": 3}, {**node, "maxLength": 600}]
        found.append({"anyOf": [node, {"type": "null"}]})
    if node.get("type") == "integer":
        found += [{**node, "type": "string"}, {**node, "type": "boolean"}]
        found.append({"anyOf": [node, {"type": "null"}]})
    if node.get("type") == "array":
        found += [{**node, "minItems": 1}, {**node, "maxItems": 1}]
    if "anyOf" in node:
        found += [dict(branch) for branch in node["anyOf"]]
    if "properties" in node:
        found.append({**node, "required": sorted(node["properties"])})
        found.append({**node, "additionalProperties": False})
        found.append({key: value for key, value in node.items() if key != "required"})
    return found


@pytest.mark.parametrize("key", KEYS)
def test_a_need_is_judged_as_jsonsubschema_judges_it(key: str) -> None:
    schema = goldens.schema(key)
    writer = flat(closed(schema), closed(schema))
    random = Random(key)
    pointers = recording.pointers(key)
    judged = []
    for _ in range(10):
        picked = random.sample(pointers, min(4, len(pointers)))
        need = flat(need_of(key, picked, ()), {})
        node = random.choice(nodes(need))
        others = loosened_and_tightened(deepcopy(node))
        if others:
            changed = random.choice(others)
            node.clear()
            node.update(changed)
        verdict = not gaps(writer, need)
        judged.append(verdict)
        assert isSubschema(deepcopy(writer), deepcopy(need)) == verdict, need


@pytest.mark.parametrize(
    ("limit", "held"), [("minLength", 1), ("maxLength", 64), ("minLength", 2), ("maxLength", 63)]
)
def test_a_pattern_of_the_house_bounds_the_length(limit: str, held: int) -> None:
    sku = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"}

    assert (held in {1, 64}) == (not gaps(sku, {"type": "string", limit: held}))


def test_a_keyword_that_is_not_known_is_a_gap() -> None:
    assert ["unknown keyword"] == [
        gap.rule for gap in gaps({"type": "integer"}, {"multipleOf": 2, "type": "integer"})
    ]
