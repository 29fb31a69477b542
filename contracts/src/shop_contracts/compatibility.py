"""Whether a newer schema may follow an older one inside a major. Pure: reads no file.

Both ways: an old reader reads what the new writer sends (services are deployed one by one), and a
new reader reads what old writers sent (the stream is replayed, parked messages come back). A writer
sends what its schema lists and nothing else; a reader ignores what it does not know. So a minor may
add an optional field, add a word to an open enum, stop sending an optional field, and change texts.
Whatever else differs breaks somebody, and so does whatever this walk does not know.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from msgspec import Struct

from shop_contracts.schemas import OPEN_ENUM, RESERVED, SUNSET

Schema = Mapping[str, Any]
Verdict = Literal["break", "warn", "ok"]

UNIT = "x-unit"
TEXTS = {"title", "description", "examples", "$comment", "deprecated"}
HEAD = {"$schema", "$id", "$defs", SUNSET, RESERVED}
BOUNDS = {
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    *("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"),
}
EQUAL = {"pattern": "pattern", "format": "format", "const": "constant", UNIT: "unit"}
INNER = {"items", "propertyNames", "additionalProperties"}
KNOWN = {
    *("type", "$ref", "properties", "required", "anyOf", "enum", "default", OPEN_ENUM),
    *(TEXTS | BOUNDS | EQUAL.keys() | INNER),
}

RULES: dict[str, tuple[Verdict, str]] = {
    "field-added": ("ok", "readers of older minors ignore a field that they do not know"),
    "field-removed": ("warn", "readers took its absence into account from the start"),
    "word-added": ("ok", "readers of an open enum are ready for words that they do not know"),
    "text": ("ok", "texts bind nobody; see that the meaning did not change with them"),
    "sunset": ("ok", "an end was announced, or put off"),
    "required-added": ("break", "older events do not carry it, and are still replayed and parked"),
    "required-removed": ("break", "readers of older minors rely on it"),
    "required-loosened": ("break", "readers of older minors rely on it being there"),
    "required-tightened": ("break", "older events may be without it"),
    "field-renamed": ("break", "to a reader, the old name is gone"),
    "name-not-reserved": ("break", "its name could be used again for something else"),
    "name-freed": ("break", "a reserved name stays reserved: older events carry it"),
    "type": ("break", "a value of one type is refused where another one is read"),
    "null": ("break", "null is refused where a value is expected"),
    "bound": ("break", "loosened, old readers refuse new events; tightened, replay fails"),
    "pattern": ("break", "loosened, old readers refuse new events; tightened, replay fails"),
    "format": ("break", "loosened, old readers refuse new events; tightened, replay fails"),
    "constant": ("break", "a value that was the only one is another one"),
    "unit": ("break", "one number means another amount"),
    "enum-added": ("break", "readers of a closed enum refuse a word that they do not know"),
    "enum-removed": ("break", "older events carry the word"),
    "enum-opened": ("break", "only an enum that was open in its first minor may be open"),
    "enum-closed": ("break", "readers were told to expect more words"),
    "default": ("break", "an event without the field means something else"),
    "closed": ("break", "readers ignore unknown fields, or no field could ever be added"),
    "dialect": ("break", "the keywords may mean something else"),
    "sunset-earlier": ("break", "readers planned with the day that was announced"),
    "unknown": ("break", "the check does not know this keyword, so it cannot let it pass"),
}
"""The verdict of each rule, and why."""


class Difference(Struct, frozen=True):
    """What changed and where: in the newer file, or in the older one where it is gone.

    `field` is the field that is gone, as `lines[].sku`.
    """

    pointer: str
    rule: str
    message: str
    field: str = ""

    @property
    def verdict(self) -> Verdict:
        return RULES[self.rule][0]


class Place(Struct, frozen=True):
    """A schema inside its document: where it stands, and as which field it is read."""

    root: Schema
    node: Schema
    pointer: str

    def at(self, *words: str) -> "Place":
        node: Any = self.node
        for word in words:
            node = node[word]
        return Place(self.root, node, f"{self.pointer}/{'/'.join(map(_escaped, words))}")

    def resolved(self) -> "Place":
        """The schema behind `$ref`, with the keywords that stand beside the reference."""
        place = self
        while "$ref" in place.node:
            pointer = str(place.node["$ref"]).removeprefix("#")
            node: Any = self.root
            for word in pointer.split("/")[1:]:
                node = node[word]
            beside = {key: value for key, value in place.node.items() if key != "$ref"}
            place = Place(self.root, {**node, **beside}, pointer)
        return place


def differences(old: Schema, new: Schema) -> list[Difference]:
    """Everything that differs between two schemas of one major, breaking or not."""
    found = [*_unknown(old, old, ""), *_unknown(new, new, "")]
    if not found:
        before, after = Place(old, _body(old), ""), Place(new, _body(new), "")
        found = [*_head(old, new), *_compare(before, after, "", frozenset())]
    # a definition that several fields share differs once
    return list({(each.pointer, each.rule): each for each in reversed(found)}.values())[::-1]


def substance(schema: Schema) -> Any:
    """What binds a reader: no texts, no names of inner schemas, no order. A minor counts this."""

    def walk(node: Any) -> Any:
        if isinstance(node, Mapping):
            return {
                key: {name: walk(each) for name, each in value.items()}
                if key == "properties"
                else sorted(value)
                if key in {"required", "enum", OPEN_ENUM}
                else walk(value)
                for key, value in node.items()
                if key not in TEXTS | {"$id", SUNSET, RESERVED}
            }
        return [walk(item) for item in node] if isinstance(node, list) else node

    return walk(flat(schema))


def flat(schema: Schema) -> Schema:
    """The schema with each reference replaced by what it stands for; a fact has an end."""

    def walk(node: Any) -> Any:
        if isinstance(node, Mapping):
            node = Place(schema, node, "").resolved().node
            return {key: walk(value) for key, value in node.items()}
        return [walk(item) for item in node] if isinstance(node, list) else node

    found: Schema = walk({key: value for key, value in schema.items() if key != "$defs"})
    return found


def _body(schema: Schema) -> Schema:
    return {key: value for key, value in schema.items() if key not in HEAD}


def _head(old: Schema, new: Schema) -> Iterator[Difference]:
    if old.get("$schema") != new.get("$schema"):
        yield Difference("/$schema", "dialect", "the dialect of the schema changed")
    for name in sorted(set(old.get(RESERVED, ())) - set(new.get(RESERVED, ()))):
        yield Difference(f"/{RESERVED}", "name-freed", f"`{name}` is no longer reserved")
    was, is_ = old.get(SUNSET), new.get(SUNSET)
    if was != is_:
        earlier = was is not None and is_ is not None and is_ < was
        yield Difference(
            f"/{SUNSET}",
            "sunset-earlier" if earlier else "sunset",
            f"the last day was {was or 'not set'} and is {is_ or 'not set'}",
        )


def _compare(
    before: Place, after: Place, path: str, seen: frozenset[tuple[str, str]]
) -> Iterator[Difference]:
    resolved = before.resolved(), after.resolved()
    pair = resolved[0].pointer, resolved[1].pointer
    if pair in seen:
        return
    (old, was_null), (new, is_null) = map(_value, resolved)
    name = f"`{path}`" if path else "the event"
    if was_null != is_null:
        change = "may be null now" if is_null else "may no longer be null"
        yield Difference(new.pointer, "null", f"{name} {change}")
    yield from _default(resolved[0], resolved[1], after.pointer, name)
    for text in sorted(TEXTS - {"title"}):
        if old.node.get(text) != new.node.get(text):
            yield Difference(new.pointer, "text", f"the {text} of {name} changed")
    if (old.node.get("type"), _kind(old)) != (new.node.get("type"), _kind(new)):
        yield from _kinds(old, new, name)
        return
    yield from _values(old, new, name)
    if "properties" in new.node:
        yield from _fields(old, new, f"{path}." if path else "", seen | {pair})
    for keyword, suffix in (("items", "[]"), ("additionalProperties", "{}"), ("propertyNames", "")):
        yield from _inner(old, new, keyword, f"{path}{suffix}", seen | {pair})


def _default(old: Place, new: Place, pointer: str, name: str) -> Iterator[Difference]:
    absent = object()
    was, is_ = old.node.get("default", absent), new.node.get("default", absent)
    if was != is_:
        shown = ["nothing" if value is absent else repr(value) for value in (was, is_)]
        message = f"an event without {name} meant {shown[0]} and now means {shown[1]}"
        yield Difference(f"{pointer}/default", "default", message)


def _unknown(root: Schema, node: Any, pointer: str) -> Iterator[Difference]:
    """Whatever in the document this walk cannot compare."""
    if not isinstance(node, Mapping):
        if not isinstance(node, bool):
            yield Difference(pointer, "unknown", f"{node!r} is no schema")
        return
    for keyword in node.keys() - (KNOWN if node is not root else KNOWN | HEAD):
        where = f"{pointer}/{_escaped(keyword)}"
        yield Difference(where, "unknown", f"the keyword `{keyword}` is not known")
    if isinstance(node.get("type"), list):
        yield Difference(f"{pointer}/type", "unknown", "a list of types is not known")
    if "anyOf" in node and sorted(each == {"type": "null"} for each in node["anyOf"]) != [0, 1]:
        yield Difference(f"{pointer}/anyOf", "unknown", "a union other than `or null` is not known")
    if "$ref" in node and node["$ref"] not in {f"#/$defs/{name}" for name in root.get("$defs", ())}:
        yield Difference(f"{pointer}/$ref", "unknown", f"{node['$ref']!r} is not in this file")
    for pointer_, each in _below(node, pointer):
        yield from _unknown(root, each, pointer_)


def _below(node: Schema, pointer: str) -> Iterator[tuple[str, Any]]:
    for keyword in ("properties", "$defs"):
        for name, each in node.get(keyword, {}).items():
            yield f"{pointer}/{keyword}/{_escaped(name)}", each
    for keyword in sorted(INNER & node.keys()):
        yield f"{pointer}/{keyword}", node[keyword]
    for at, each in enumerate(node.get("anyOf", ())):
        yield f"{pointer}/anyOf/{at}", each


def _value(place: Place) -> tuple[Place, bool]:
    """The schema of what is not null, and whether null may come."""
    union = place.node.get("anyOf")
    if union is None:
        return place, False
    at = next(at for at, each in enumerate(union) if each != {"type": "null"})
    inner = Place(place.root, union[at], f"{place.pointer}/anyOf/{at}").resolved()
    beside = {key: value for key, value in place.node.items() if key != "anyOf"}
    return Place(place.root, {**inner.node, **beside}, inner.pointer), True


def _kind(place: Place) -> str:
    node = place.node
    if OPEN_ENUM in node:
        return "open enum"
    if "enum" in node:
        return "enum"
    if "properties" in node:
        return "object"
    return "map" if node.get("type") == "object" else str(node.get("type", "any value"))


def _kinds(old: Place, new: Place, name: str) -> Iterator[Difference]:
    match _kind(old), _kind(new):
        case "enum", "open enum":
            yield Difference(new.pointer, "enum-opened", f"{name} was a closed enum and is open")
        case "open enum", "enum":
            yield Difference(new.pointer, "enum-closed", f"{name} was an open enum and is closed")
        case was, is_:
            yield Difference(f"{new.pointer}/type", "type", f"{name} was {was} and is {is_}")


def _values(old: Place, new: Place, name: str) -> Iterator[Difference]:
    for keyword in sorted(BOUNDS):
        was, is_ = old.node.get(keyword), new.node.get(keyword)
        if was != is_:
            message = f"`{keyword}` of {name} was {_shown(was)} and is {_shown(is_)}"
            yield Difference(f"{new.pointer}/{keyword}", "bound", message)
    for keyword, rule in EQUAL.items():
        was, is_ = old.node.get(keyword), new.node.get(keyword)
        if was != is_:
            message = f"the {keyword} of {name} was {_shown(was)} and is {_shown(is_)}"
            yield Difference(f"{new.pointer}/{keyword}", rule, message)
    for keyword, added in (("enum", "enum-added"), (OPEN_ENUM, "word-added")):
        had, has = old.node.get(keyword, ()), new.node.get(keyword, ())
        pointer = f"{new.pointer}/{keyword}"
        for word in has:
            if word not in had:
                yield Difference(pointer, added, f"{name} may be {word!r} now")
        for word in had:
            if word not in has:
                yield Difference(pointer, "enum-removed", f"{name} may no longer be {word!r}")


def _fields(
    old: Place, new: Place, above: str, seen: frozenset[tuple[str, str]]
) -> Iterator[Difference]:
    had, has = old.node.get("properties", {}), new.node["properties"]
    needed, needs = set(old.node.get("required", ())), set(new.node.get("required", ()))
    renamed = dict(_renamed(old, new))
    for name, other in renamed.items():
        pointer = new.at("properties", other).pointer
        yield Difference(pointer, "field-renamed", f"`{above}{name}` is now `{above}{other}`")
    for name in had:
        if name not in has and name not in renamed:
            reserved = name in new.root.get(RESERVED, ())
            rule, what = _GONE[name in needed, reserved]
            pointer = old.at("properties", name).pointer
            yield Difference(pointer, rule, f"`{above}{name}` {what}", f"{above}{name}")
    for name in has:
        field = new.at("properties", name)
        if name in had:
            if (name in needed) != (name in needs):
                rule = "required-tightened" if name in needs else "required-loosened"
                what = "is required now" if name in needs else "is no longer required"
                yield Difference(field.pointer, rule, f"`{above}{name}` {what}")
            yield from _compare(old.at("properties", name), field, f"{above}{name}", seen)
        elif name not in renamed.values():
            rule = "required-added" if name in needs else "field-added"
            what = "required" if name in needs else "optional"
            yield Difference(field.pointer, rule, f"`{above}{name}` is new and {what}")


_GONE = {
    (True, True): ("required-removed", "was required and is gone"),
    (True, False): ("required-removed", "was required and is gone"),
    (False, True): ("field-removed", "is no longer sent"),
    (False, False): ("name-not-reserved", "is gone, and its name is not in RESERVED"),
}
"""What a field that is gone means: (was it required, is its name reserved)."""


def _renamed(old: Place, new: Place) -> Iterator[tuple[str, str]]:
    """Fields that are gone, each with the one new field that is its like under another name."""
    had, has = old.node.get("properties", {}), new.node["properties"]
    for name in had:
        like = [
            other
            for other in has
            if other not in had
            and _substance(old.at("properties", name)) == _substance(new.at("properties", other))
            and (name in old.node.get("required", ())) == (other in new.node.get("required", ()))
        ]
        if name not in has and len(like) == 1 and name not in new.root.get(RESERVED, ()):
            yield name, like[0]


def _inner(
    old: Place, new: Place, keyword: str, path: str, seen: frozenset[tuple[str, str]]
) -> Iterator[Difference]:
    was, is_ = old.node.get(keyword), new.node.get(keyword)
    if isinstance(was, Mapping) and isinstance(is_, Mapping):
        yield from _compare(old.at(keyword), new.at(keyword), path, seen)
    elif was != is_:
        rule = "closed" if keyword == "additionalProperties" else "type"
        message = f"`{keyword}` of `{path}` was {_shown(was)} and is {_shown(is_)}"
        yield Difference(f"{new.pointer}/{keyword}", rule, message)


def _substance(place: Place) -> Any:
    return substance({"$defs": place.root.get("$defs", {}), **place.node})


def _shown(value: Any) -> str:
    return "not set" if value is None else repr(value)


def _escaped(word: str) -> str:
    return str(word).replace("~", "~0").replace("/", "~1")
