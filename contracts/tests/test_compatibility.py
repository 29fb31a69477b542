"""The compatibility check, held to every one-step change of every schema, and to others' judgement.

`mutants` and OPERATORS say which changes there are and what each deserves.
"""

import json
import re
import warnings
from collections.abc import Callable, Iterator
from copy import deepcopy
from datetime import UTC
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Struct

from shop_contracts import schemas
from shop_contracts.compatibility import RULES, differences, flat
from shop_contracts.events import BY_KEY

pytestmark = pytest.mark.slow

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it is from before Python 3.12
    from jsonsubschema import isSubschema  # type: ignore[import-untyped]

Schema = dict[str, Any]

STRICTER_THAN_A_VALIDATOR = {
    "field-renamed": "of an optional field: what it said is no longer heard",
    "name-not-reserved": "it may be sent again as something else",
    "default": "a validator does not know what absence means",
    "unit": "a validator does not know what a number counts",
    "unknown": "whatever it means, the check does not know it",
    "dialect": "likewise",
    "closed": "a reader that refuses unknown fields refuses the next minor",
    "enum-opened": "older readers refuse the words that may come",
    "enum-closed": "it could never be opened again",
    "enum-removed": "of an open enum: it is read as UNKNOWN where it meant something",
    "format": "not every validator looks at formats",
    "null": "of a field that was never sent",
}
"""Rules that forbid more than two schemas tell, and why."""


class Mutant(Struct, frozen=True):
    """A schema after one change, and the rule that has to name it."""

    operator: str
    place: str
    rule: str
    schema: Schema
    inside: str
    """The definition that changed."""


def mutants(schema: Schema) -> Iterator[Mutant]:
    """All of them, for one schema."""
    for name, definition in schema["$defs"].items():
        for path, node in _nodes(definition, (name,)):
            for applies, operator, rule, change in OPERATORS:
                if applies(node):
                    yield _mutant(schema, path, operator, rule, change)
        for field in definition.get("properties", {}):
            yield from _field_mutants(schema, name, field)
        if "properties" in definition:
            yield from _object_mutants(schema, name)
    yield Mutant("dialect", "", "dialect", {**schema, "$schema": "draft-07"}, "")


def _mutant(
    schema: Schema,
    path: tuple[str, ...],
    operator: str,
    rule: str,
    change: Callable[[Schema], Any],
) -> Mutant:
    new = deepcopy(schema)
    node = new["$defs"]
    for word in path:
        node = node[int(word)] if isinstance(node, list) else node[word]
    change(node)
    return Mutant(operator, "/".join(path), rule, new, path[0])


def _nodes(node: Schema, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Schema]]:
    """The leaves of a definition: what holds a value, not what only refers to one."""
    if "$ref" not in node and "anyOf" not in node and "properties" not in node:
        yield path, node
    for name, each in node.get("properties", {}).items():
        yield from _nodes(each, (*path, "properties", name))
    for keyword in ("items", "additionalProperties", "propertyNames"):
        if isinstance(node.get(keyword), dict):
            yield from _nodes(node[keyword], (*path, keyword))
    for at, each in enumerate(node.get("anyOf", ())):
        if each != {"type": "null"}:
            yield from _nodes(each, (*path, "anyOf", str(at)))


def _field_mutants(schema: Schema, name: str, field: str) -> Iterator[Mutant]:
    required = field in schema["$defs"][name]["required"]

    def made(operator: str, rule: str, change: Callable[[Schema], Any], **head: Any) -> Mutant:
        made = _mutant(schema, (name,), operator, rule, change)
        return Mutant(operator, f"{name}/{field}", rule, {**made.schema, **head}, name)

    def drop(node: Schema) -> None:
        del node["properties"][field]
        node["required"] = [each for each in node["required"] if each != field]

    def rename(node: Schema) -> None:
        node["properties"][f"new_{field}"] = node["properties"].pop(field)
        node["required"] = [f"new_{each}" if each == field else each for each in node["required"]]

    def null(node: Schema) -> None:
        was = node["properties"][field]
        if "anyOf" in was:
            inner = next(each for each in was["anyOf"] if each != {"type": "null"})
            rest = {key: value for key, value in was.items() if key != "anyOf"}
            node["properties"][field] = {**rest, **inner}
        else:
            default = {"default": was["default"]} if "default" in was else {}
            inner = {key: value for key, value in was.items() if key != "default"}
            node["properties"][field] = {"anyOf": [inner, {"type": "null"}], **default}

    def default(value: Any) -> Callable[[Schema], None]:
        return lambda node: node["properties"][field].update(default=value)

    def require(node: Schema) -> None:
        node["required"] = [*node["required"], field]

    def loosen(node: Schema) -> None:
        node["required"] = [each for each in node["required"] if each != field]

    yield made("rename", "field-renamed", rename)
    yield made("null", "null", null)
    yield made("default", "default", default("other"))
    if required:
        yield made("drop", "required-removed", drop)
        yield made("loosen", "required-loosened", loosen)
        yield made("reserve", "required-removed", drop, **{"x-reserved": [field]})
    else:
        yield made("drop", "name-not-reserved", drop)
        yield made("tighten", "required-tightened", require)
        yield made("reserve", "field-removed", drop, **{"x-reserved": [field]})


def _object_mutants(schema: Schema, name: str) -> Iterator[Mutant]:
    text = {"type": "string", "minLength": 1, "maxLength": 7}

    def add(spec: Schema, *required: str) -> Callable[[Schema], None]:
        def change(node: Schema) -> None:
            node["properties"]["brand_new"] = spec
            node["required"] = [*node["required"], *required]

        return change

    for operator, rule, change in (
        ("add optional", "field-added", add({**text, "default": "a"})),
        ("add nullable", "field-added", add({"anyOf": [text, {"type": "null"}], "default": None})),
        ("add required", "required-added", add(text, "brand_new")),
        ("add with unknown keyword", "unknown", add({**text, "contentEncoding": "base64"})),
        ("close", "closed", lambda node: node.update(additionalProperties=False)),
        ("open by pattern", "unknown", lambda node: node.update(patternProperties={"^x": text})),
        ("condition", "unknown", lambda node: node.update({"if": {}, "then": {}})),
    ):
        yield _mutant(schema, (name,), operator, rule, change)


def _type(*kinds: str) -> Callable[[Schema], bool]:
    return lambda node: node.get("type") in kinds


def _has(keyword: str) -> Callable[[Schema], bool]:
    return lambda node: keyword in node


def _any(_: Schema) -> bool:
    return True


def _plain(node: Schema) -> bool:
    return node.get("type") == "string" and "x-open-enum" not in node


def _step(keyword: str, by: int) -> Callable[[Schema], None]:
    return lambda node: node.update({keyword: node[keyword] + by})


def _set(**keywords: Any) -> Callable[[Schema], None]:
    return lambda node: node.update(keywords)


def _drop(keyword: str) -> Callable[[Schema], Any]:
    return lambda node: node.pop(keyword)


def _open(node: Schema) -> None:
    node.update({"x-open-enum": node.pop("enum"), "type": "string", "pattern": "^[a-z_]+$"})


def _close(node: Schema) -> None:
    node["enum"] = node.pop("x-open-enum")
    del node["type"], node["pattern"]


def _retype(node: Schema) -> None:
    kind = "boolean" if node.get("type") != "boolean" else "integer"
    node.clear()
    node["type"] = kind


_BOOL = {"type": "boolean"}

OPERATORS: list[tuple[Callable[[Schema], bool], str, str, Callable[[Schema], Any]]] = [
    (_any, "retype", "type", _retype),
    (_any, "description", "text", _set(description="other words")),
    (_any, "examples", "text", _set(examples=["other"])),
    (_any, "unknown keyword", "unknown", _set(**{"not": {"type": "null"}})),
    (_any, "foreign reference", "unknown", _set(**{"$ref": "other.json#/$defs/X"})),
    (_any, "list of types", "unknown", _set(type=["string", "null"])),
    (_type("integer"), "widen to number", "type", _set(type="number")),
    (_type("integer"), "unit", "unit", _set(**{"x-unit": "gram"})),
    (_type("integer"), "multiple", "bound", _set(multipleOf=2)),
    (_type("integer"), "exclusive", "bound", _set(exclusiveMaximum=5)),
    *(
        (_has(keyword), f"{keyword} {by:+}", "bound", _step(keyword, by))
        for keyword in ("minimum", "maximum", "minLength", "maxLength")
        for by in (-1, 1)
    ),
    *(
        (_has(keyword), f"without {keyword}", "bound", _drop(keyword))
        for keyword in ("minimum", "maximum", "minLength", "maxLength")
    ),
    (_has("format"), "without format", "format", _drop("format")),
    (_has("format"), "other format", "format", _set(format="uri")),
    (_plain, "constant", "constant", _set(const="a")),
    (_plain, "other pattern", "pattern", _set(pattern="^[a-z]{2}$")),
    (
        lambda node: _plain(node) and "pattern" in node,
        "without pattern",
        "pattern",
        _drop("pattern"),
    ),
    (_type("array"), "min items", "bound", _set(minItems=1)),
    (_type("array"), "max items", "bound", _set(maxItems=3)),
    (_type("array"), "other items", "type", _set(items={"type": "boolean"})),
    (_has("additionalProperties"), "other values", "type", _set(additionalProperties=_BOOL)),
    (_has("propertyNames"), "any name", "type", _drop("propertyNames")),
    (_has("enum"), "more words", "enum-added", lambda node: node["enum"].append("brand_new")),
    (_has("enum"), "fewer words", "enum-removed", lambda node: node["enum"].pop()),
    (_has("enum"), "open enum", "enum-opened", _open),
    (
        _has("x-open-enum"),
        "more words",
        "word-added",
        lambda n: n["x-open-enum"].append("brand_new"),
    ),
    (_has("x-open-enum"), "fewer words", "enum-removed", lambda node: node["x-open-enum"].pop()),
    (_has("x-open-enum"), "close enum", "enum-closed", _close),
]


PUBLISHED = {key: schemas.schema(fact) for key, fact in BY_KEY.items()}
MUTANTS = {key: list(mutants(schema)) for key, schema in PUBLISHED.items()}


def unique() -> dict[str, tuple[Schema, Schema, Any]]:
    """One mutant for each kind of change: before, after, both without what did not change."""
    seen: dict[str, tuple[Schema, Schema, Any]] = {}
    for key, made in MUTANTS.items():
        for mutant in made:
            if mutant.rule not in {"unknown", "dialect"}:
                old, new = changed(PUBLISHED[key], mutant.schema, mutant.inside)
                seen.setdefault(json.dumps([mutant.operator, old, new]), (old, new, mutant))
    return seen


def changed(old: Schema, new: Schema, inside: str) -> tuple[Schema, Schema]:
    """One definition of both schemas, flat, and of its fields only those that differ."""
    was, is_ = (dict(flat({**schema, "$ref": f"#/$defs/{inside}"})) for schema in (old, new))
    if "properties" not in was:
        return was, is_
    differing = {
        name
        for name in was["properties"].keys() | is_["properties"].keys()
        if was["properties"].get(name) != is_["properties"].get(name)
        or (name in was["required"]) != (name in is_["required"])
    }
    names = {name: f"field{at}" for at, name in enumerate(sorted(differing))}
    return only(was, names), only(is_, names)


def only(schema: Schema, names: dict[str, str]) -> Schema:
    return {
        **{key: value for key, value in schema.items() if key not in {"title", "description"}},
        "properties": {names[n]: each for n, each in schema["properties"].items() if n in names},
        "required": [names[name] for name in schema["required"] if name in names],
        **({"x-reserved": [*names.values()]} if "x-reserved" in schema else {}),
    }


UNIQUE = list(unique().values())


@pytest.mark.parametrize("key", PUBLISHED)
def test_every_mutation_of_a_schema_is_named_by_its_rule(key: str) -> None:
    missed = [
        (mutant.operator, mutant.place, mutant.rule, found)
        for mutant in MUTANTS[key]
        if mutant.rule
        not in (found := {d.rule for d in differences(PUBLISHED[key], mutant.schema)})
    ]

    assert [] == missed


@pytest.mark.parametrize("key", PUBLISHED)
def test_a_change_that_is_allowed_breaks_nothing_beside_it(key: str) -> None:
    for mutant in MUTANTS[key]:
        if RULES[mutant.rule][0] != "break":
            verdicts = {found.verdict for found in differences(PUBLISHED[key], mutant.schema)}

            assert "break" not in verdicts, mutant


@pytest.mark.parametrize("key", PUBLISHED)
def test_a_pointer_leads_to_what_it_names(key: str) -> None:
    for mutant in MUTANTS[key]:
        for found in differences(PUBLISHED[key], mutant.schema):
            parent = found.pointer.rpartition("/")[0]

            assert resolves(mutant.schema, parent) or resolves(PUBLISHED[key], parent), found


def resolves(schema: Schema, pointer: str) -> bool:
    node: Any = schema
    for escaped in pointer.split("/")[1:]:
        word = escaped.replace("~1", "/").replace("~0", "~")
        try:
            node = node[int(word)] if isinstance(node, list) else node[word]
        except (KeyError, IndexError):
            return False
    return True


def test_the_same_schema_has_no_difference() -> None:
    assert [] == [found for schema in PUBLISHED.values() for found in differences(schema, schema)]


def test_each_rule_of_a_schema_is_reached_by_a_mutation() -> None:
    reached = {mutant.rule for made in MUTANTS.values() for mutant in made}

    assert set(RULES) - reached == {"sunset", "sunset-earlier", "name-freed"}


def test_an_end_may_be_put_off_but_not_brought_forward() -> None:
    plain = PUBLISHED["stock.changed.v1"]
    march, may = {**plain, "x-sunset": "2027-03-31"}, {**plain, "x-sunset": "2027-05-31"}

    assert ["sunset"] == [found.rule for found in differences(plain, march)]
    assert ["sunset"] == [found.rule for found in differences(march, may)]
    assert ["sunset-earlier"] == [found.rule for found in differences(may, march)]


def test_a_reserved_name_stays_reserved() -> None:
    plain = PUBLISHED["stock.changed.v1"]
    reserved = {**plain, "x-reserved": ["colour"]}

    assert ["name-freed"] == [found.rule for found in differences(reserved, plain)]


def test_whoever_uses_the_schemas_alone_agrees_with_the_check() -> None:
    """jsonsubschema on closed writer and open reader, both ways, for each kind of change."""
    wrong = []
    for old, new, mutant in UNIQUE:
        if "propertyNames" in mutant.place or mutant.operator == "any name":
            continue  # a keyword that they do not look at
        found = differences(old, new)
        ours = all(each.verdict != "break" for each in found)
        theirs = reads(old, new) and reads(new, old)
        strict = {each.rule for each in found} & STRICTER_THAN_A_VALIDATOR.keys()
        if ours != theirs and not (theirs and strict):
            wrong.append((mutant.operator, mutant.place, [each.rule for each in found], theirs))

    assert [] == wrong


def reads(reader: Schema, writer: Schema) -> bool:
    return bool(isSubschema(judged(schemas.closed(writer)), judged(reader)))


def judged(value: Any) -> Any:
    """The schema in words that jsonsubschema knows, and small: it makes an automaton of lengths."""
    if isinstance(value, list):
        return [judged(item) for item in value]
    if not isinstance(value, dict):
        return value
    if schemas.OPEN_ENUM in value:
        return {"type": "string"}
    if "const" in value or "enum" in value:
        return {"type": "string", "enum": value.get("enum", [value.get("const")])}
    kept: Schema = {
        key: {name: judged(each) for name, each in item.items()}
        if key == "properties"
        else judged(item)
        for key, item in value.items()
        if key not in NOT_JUDGED and not key.startswith(("x-", "$")) and item != []
    }
    if "exclusiveMaximum" in kept:
        kept["maximum"] = kept.pop("exclusiveMaximum") - 1
    for bound in {"minLength", "maxLength"} & kept.keys():
        length = kept[bound]
        kept[bound] = next(8 + length - near for near in LENGTHS if abs(length - near) < 8)
    if "pattern" in kept:
        letters = re.sub(r"\[[^]]*\]", "[ab]", kept["pattern"])
        kept["pattern"] = re.sub(r",\d+}", ",3}", letters)
    return kept


NOT_JUDGED = {"title", "description", "examples", "default", "format", "propertyNames"}
LENGTHS = (1, 500, 2_000, 20_000)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_no_instance_that_was_made_up_contradicts_a_compatible_verdict(data: st.DataObject) -> None:
    compatible = [(old, new) for old, new, each in UNIQUE if RULES[each.rule][0] != "break"]
    old, new = data.draw(st.sampled_from(compatible))
    for writer, reader in ((old, new), (new, old)):
        sent = data.draw(instances(schemas.closed(writer)))

        jsonschema.Draft202012Validator(reader).validate(sent)


def instances(schema: Schema) -> st.SearchStrategy[Any]:
    """Whatever a closed, flat schema allows."""
    if "anyOf" in schema:
        return st.one_of([instances(each) for each in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "properties" in schema:
        fields = {name: instances(each) for name, each in schema["properties"].items()}
        needed = {name: fields[name] for name in schema["required"]}
        return st.fixed_dictionaries(
            needed, optional={name: each for name, each in fields.items() if name not in needed}
        )
    return SIMPLE[schema["type"]](schema)


def strings(schema: Schema) -> st.SearchStrategy[Any]:
    if "pattern" in schema:
        return st.from_regex(schema["pattern"].replace("$", r"\Z"), fullmatch=True)
    return FORMATS.get(
        schema.get("format", ""),
        st.text(
            st.characters(exclude_categories=["Cs"]),
            min_size=schema.get("minLength", 0),
            max_size=min(schema.get("maxLength", 20), 20),
        ),
    )


FORMATS: dict[str, st.SearchStrategy[Any]] = {
    "uuid": st.uuids().map(str),
    "date-time": st.datetimes(timezones=st.just(UTC)).map(lambda time: time.isoformat()),
}
SIMPLE: dict[str, Callable[[Schema], st.SearchStrategy[Any]]] = {
    "string": strings,
    "integer": lambda schema: st.integers(schema["minimum"], schema["maximum"]),
    "boolean": lambda _: st.booleans(),
    "null": lambda _: st.none(),
    "array": lambda schema: st.lists(instances(schema["items"]), max_size=3),
    "object": lambda schema: st.dictionaries(
        strings(schema["propertyNames"]), instances(schema["additionalProperties"]), max_size=3
    ),
}


@pytest.mark.parametrize("key", PUBLISHED)
def test_code_and_schema_agree_on_whatever_a_writer_may_send(key: str) -> None:
    schema = dict(flat(PUBLISHED[key]))
    check = jsonschema.Draft202012Validator(schema)

    @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
    @given(instances(schemas.closed(schema)))
    def agree(sent: Any) -> None:
        check.validate(sent)
        fact = msgspec.convert(sent, BY_KEY[key])
        check.validate(msgspec.to_builtins(fact))

        assert fact == msgspec.json.decode(msgspec.json.encode(fact), type=BY_KEY[key])

    agree()
