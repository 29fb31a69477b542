"""Whether a reader can read all that a writer sends: is one schema a subschema of another? Pure.

`gaps(writer, need)` walks the part of JSON Schema that the contracts use. The writer is closed: it
sends no field that its schema does not list. The need is open: it says what the reader touches.
What the need says in a keyword that this walk does not know is a gap: it fails closed.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from shop_contracts.kit.problems import Problem

Schema = Mapping[str, Any]

_SILENT = {
    *("$schema", "$id", "$defs", "title", "description", "default", "examples", "deprecated"),
    *("$comment", "readOnly", "writeOnly"),
}
_BOUNDS = {
    "minimum": lambda writer, need: writer >= need,
    "exclusiveMinimum": lambda writer, need: writer >= need,
    "minLength": lambda writer, need: writer >= need,
    "minItems": lambda writer, need: writer >= need,
    "maximum": lambda writer, need: writer <= need,
    "exclusiveMaximum": lambda writer, need: writer <= need,
    "maxLength": lambda writer, need: writer <= need,
    "maxItems": lambda writer, need: writer <= need,
    "minProperties": lambda writer, need: writer >= need,
    "maxProperties": lambda writer, need: writer <= need,
}
_KIND_OF_BOUND = {
    "minimum": ("integer", "number"),
    "exclusiveMinimum": ("integer", "number"),
    "maximum": ("integer", "number"),
    "exclusiveMaximum": ("integer", "number"),
    "minLength": ("string",),
    "maxLength": ("string",),
    "pattern": ("string",),
    "format": ("string",),
    "minItems": ("array",),
    "maxItems": ("array",),
    "items": ("array",),
    "properties": ("object",),
    "required": ("object",),
    "additionalProperties": ("object",),
    "propertyNames": ("object",),
    "minProperties": ("object",),
    "maxProperties": ("object",),
}
_KNOWN = {"type", "enum", "const", "anyOf", "$ref", *_KIND_OF_BOUND}


def gaps(writer: Schema, need: Schema) -> list[Problem]:
    """What the writer may send that the need does not allow; empty when it can all be read."""
    return _gaps(writer, need, (writer, need), "")


def accepts(schema: Schema, value: Any) -> bool:
    """Whether a value is valid, by the same walk: it is what a writer of just this value sends."""
    return not gaps(exactly(value), schema)


def at(schema: Schema, pointer: str) -> Schema:
    """The part of a schema that a pointer into its instances means; `0` is any item.

    Raises KeyError where the schema says nothing about it.
    """
    node = resolve(schema, schema)
    for word in pointer.split("/")[1:]:
        node = _object_or_array(schema, node)
        if "items" in node:
            node = resolve(schema, node["items"])
        elif word in node.get("properties", {}):
            node = resolve(schema, node["properties"][word])
        else:
            node = resolve(schema, node["additionalProperties"])
    return node


def resolve(root: Schema, schema: Schema) -> Schema:
    """The schema without a `$ref` at its top."""
    while "$ref" in schema:
        reference = str(schema["$ref"])
        if not reference.startswith("#/$defs/"):
            raise KeyError(f"a reference out of the document: {reference}")
        schema = root["$defs"][reference.removeprefix("#/$defs/")]
    return schema


def _object_or_array(root: Schema, node: Schema) -> Schema:
    for branch in node.get("anyOf", ()):
        found = resolve(root, branch)
        if found.get("type") in ("object", "array"):
            return found
    return node


def _gaps(writer: Schema, need: Schema, roots: tuple[Schema, Schema], where: str) -> list[Problem]:
    writer, need = resolve(roots[0], writer), resolve(roots[1], need)
    if "anyOf" in writer:
        # each branch with what stands beside it
        beside = {key: value for key, value in writer.items() if key != "anyOf"}
        found = [_gaps(_both(branch, beside), need, roots, where) for branch in writer["anyOf"]]
        return [problem for branch in found for problem in branch]
    if "enum" in writer:
        return [
            problem
            for value in writer["enum"]
            for problem in _gaps(exactly(value), need, roots, where)
        ]
    unknown = {key for key in need if key not in _KNOWN | _SILENT and not key.startswith("x-")}
    if unknown:
        return [Problem("unknown keyword", where, f"cannot judge {', '.join(sorted(unknown))}")]
    problems: list[Problem] = []
    if "anyOf" in need:
        branches = [_gaps(writer, branch, roots, where) for branch in need["anyOf"]]
        if all(branches):
            fewest: list[Problem] = min(branches, key=len)
            problems += fewest
    problems.extend(_values(writer, need, where))
    kinds = _kinds(writer)
    if "type" in need:
        extra = [kind for kind in kinds if not _is(kind, _kinds(need))]
        if extra:
            wanted = "/".join(_kinds(need))
            return [
                *problems,
                Problem("type", where, f"the writer sends {'/'.join(extra)}, read as {wanted}"),
            ]
    for keyword, of_kinds in _KIND_OF_BOUND.items():
        if keyword in need and any(kind in of_kinds for kind in kinds):
            problems.extend(_RULES.get(keyword, _bound)(keyword, writer, need, roots, where))
    return problems


def _values(writer: Schema, need: Schema, where: str) -> list[Problem]:
    allowed = [need["const"]] if "const" in need else need.get("enum")
    if allowed is None:
        return []
    if "const" not in writer:
        return [Problem("enum", where, f"the writer is not bound to {_short(allowed)}")]
    if any(_same(writer["const"], value) for value in allowed):
        return []
    return [Problem("enum", where, f"{writer['const']!r} is sent, {_short(allowed)} are read")]


Roots = tuple[Schema, Schema]


def _bound(keyword: str, writer: Schema, need: Schema, _roots: Roots, where: str) -> list[Problem]:
    limit = need[keyword]
    if "const" in writer:
        size = (
            len(writer["const"])
            if keyword.endswith(("Length", "Items", "Properties"))
            else writer["const"]
        )
        strict = keyword.startswith("exclusive") and size == limit
        held = _BOUNDS[keyword](size, limit) and not strict
        sent: Any = writer["const"]
    else:
        sent = writer.get(keyword)
        held = sent is not None and _BOUNDS[keyword](sent, limit)
        if not held and sent is None:
            held, sent = _by_pattern(keyword, writer, limit)
    if held:
        return []
    return [Problem(keyword, where, f"read as {keyword} {limit}, sent with {sent or 'none'}")]


def _by_pattern(keyword: str, writer: Schema, limit: int) -> tuple[bool, Any]:
    """Lengths that a pattern of the house's form, `^[first][rest]{m,n}$`, implies."""
    form = r"\^(\[[^\]]+\])(?:\{(\d+)\}|(\[[^\]]+\])\{(\d+),(\d+)\})?\$"
    parts = re.fullmatch(form, str(writer.get("pattern", "")))
    if parts is None or keyword not in ("minLength", "maxLength"):
        return False, None
    exact = int(parts[2] or 1)
    low, high = (1 + int(parts[4]), 1 + int(parts[5])) if parts[3] else (exact, exact)
    length = low if keyword == "minLength" else high
    return _BOUNDS[keyword](length, limit), length


def _text(keyword: str, writer: Schema, need: Schema, _roots: Roots, where: str) -> list[Problem]:
    if "const" in writer and keyword == "pattern":
        held = re.search(need[keyword].replace("$", r"\Z"), writer["const"]) is not None
    elif "const" in writer:
        held = FORMATS[need[keyword]](writer["const"]) if need[keyword] in FORMATS else False
    else:
        held = writer.get(keyword) == need[keyword]
    if held:
        return []
    sent = writer.get("const", writer.get(keyword))
    return [Problem(keyword, where, f"read as {keyword} {need[keyword]}, sent with {sent}")]


def _items(_keyword: str, writer: Schema, need: Schema, roots: Roots, where: str) -> list[Problem]:
    if "const" in writer:
        found = [
            _gaps(exactly(item), need["items"], roots, f"{where}/{place}")
            for place, item in enumerate(writer["const"])
        ]
        return [problem for item in found for problem in item]
    return _gaps(writer.get("items", {}), need["items"], roots, f"{where}/0")


def _properties(
    _keyword: str, writer: Schema, need: Schema, roots: Roots, where: str
) -> list[Problem]:
    sent = writer.get("properties", {})
    problems: list[Problem] = []
    for name, wanted in need["properties"].items():
        place = f"{where}/{name}"
        if name in sent:
            problems += _gaps(sent[name], wanted, roots, place)
        elif "const" in writer:
            continue
        elif isinstance(writer.get("additionalProperties"), Mapping):
            problems += _gaps(writer["additionalProperties"], wanted, roots, place)
        else:
            problems.append(
                Problem("never sent", place, "is read, and the writer has no such field")
            )
    return problems


def _required(
    _keyword: str, writer: Schema, need: Schema, _roots: Roots, where: str
) -> list[Problem]:
    always = writer.get("required", ())
    known = writer.get("properties", {})
    return [
        Problem("required", f"{where}/{name}", "is needed, and the writer may leave it out")
        for name in need["required"]
        if name not in always and (name in known or "const" in writer)
    ] + [
        Problem("never sent", f"{where}/{name}", "is needed, and the writer has no such field")
        for name in need["required"]
        if name not in always and name not in known and "const" not in writer
    ]


def _additional(
    _keyword: str, writer: Schema, need: Schema, roots: Roots, where: str
) -> list[Problem]:
    wanted = need["additionalProperties"]
    listed = need.get("properties", {})
    problems: list[Problem] = []
    for name, sent in writer.get("properties", {}).items():
        if name in listed:
            continue
        if wanted is False:
            problems.append(Problem("unknown field", f"{where}/{name}", "is sent, not tolerated"))
        elif wanted is not True:
            problems += _gaps(sent, wanted, roots, f"{where}/{name}")
    free = writer.get("additionalProperties")
    if isinstance(free, Mapping):
        if wanted is False:
            problems.append(Problem("unknown field", where, "any name is sent, not tolerated"))
        elif wanted is not True:
            problems += _gaps(free, wanted, roots, f"{where}/*")
    return problems


def _names(_keyword: str, writer: Schema, need: Schema, roots: Roots, where: str) -> list[Problem]:
    wanted = need["propertyNames"]
    listed = [exactly(name) for name in writer.get("properties", {})]
    free = {"type": "string", **writer.get("propertyNames", {})}
    sent = [*listed, *([free] if writer.get("additionalProperties", True) is not False else [])]
    return [
        Problem("property name", where, f"{problem.rule}: {problem.message}")
        for name in sent
        for problem in _gaps(name, wanted, roots, where)
    ]


def _both(branch: Schema, beside: Schema) -> Schema:
    kept = {key: value for key, value in beside.items() if key not in _SILENT}
    return {**kept, **branch}


def exactly(value: Any) -> dict[str, Any]:
    """The schema that just one value fits."""
    if isinstance(value, Mapping):
        return {
            "type": "object",
            "const": value,
            "properties": {name: exactly(item) for name, item in value.items()},
            "required": list(value),
            "additionalProperties": False,
        }
    return {"type": _kind(value), "const": value}


def _kinds(schema: Schema) -> list[str]:
    kind = schema.get("type")
    if kind is None and "const" in schema:
        return [_kind(schema["const"])]
    if kind is None and "enum" in schema:
        return sorted({_kind(value) for value in schema["enum"]})
    if kind is None:
        return ["null", "boolean", "integer", "number", "string", "array", "object"]
    return [kind] if isinstance(kind, str) else list(kind)


def _is(kind: str, allowed: Sequence[str]) -> bool:
    return kind in allowed or (kind == "integer" and "number" in allowed)


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "integer" if value.is_integer() else "number"
    if isinstance(value, str):
        return "string"
    return "object" if isinstance(value, Mapping) else "array"


def _same(one: Any, other: Any) -> bool:
    # True == 1 in Python, not in JSON
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _short(values: Sequence[Any]) -> str:
    shown = ", ".join(repr(value) for value in values[:8])
    return f"{shown} ..." if len(values) > 8 else shown  # noqa: PLR2004 - a line's worth


def _fits(pattern: str) -> Any:
    return lambda value: re.fullmatch(pattern, value) is not None


FORMATS = {
    "uuid": _fits(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"),
    "date-time": _fits(
        r"\d{4}-(0\d|1[0-2])-([0-2]\d|3[01])[Tt]([01]\d|2[0-3]):[0-5]\d:([0-5]\d|60)(\.\d+)?"
        r"([Zz]|[+-]([01]\d|2[0-3]):[0-5]\d)"
    ),
    "date": _fits(r"\d{4}-(0\d|1[0-2])-([0-2]\d|3[01])"),
}
_RULES = {
    "pattern": _text,
    "format": _text,
    "items": _items,
    "properties": _properties,
    "required": _required,
    "additionalProperties": _additional,
    "propertyNames": _names,
}
