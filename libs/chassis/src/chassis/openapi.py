"""OpenAPI 3.1 from the routes that are served. Knows nothing that a Route does not say."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from http import HTTPStatus
from typing import Any

import msgspec

from chassis import problems
from chassis.http.replies import JSON, PROBLEM_JSON
from chassis.http.routes import Route

_REF = "#/components/schemas/{name}"
_VARIABLE = re.compile(r"\{(\w+)(?::((?:[^{}]|\{[^{}]*\})*))?\}")
# JSON Schema takes 85.0 for an integer; the services do not.
_NUMBERS = (
    "Integers are written without a fraction: `85.0` is refused where an integer is asked for."
)
# What reading a body can refuse, whatever the route does with it.
_BODY = (
    problems.MalformedJson,
    problems.Invalid,
    problems.UnsupportedMediaType,
    problems.TooLarge,
    problems.RequestTimeout,
)


def document(name: str, version: str, description: str, routes: Sequence[Route]) -> dict[str, Any]:
    """The OpenAPI 3.1 document of these routes. Names of Structs must be unique among them."""
    types = _types(routes)
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    schema_of = {id(t): s for t, s in zip(types, schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    names: Counter[str] = Counter()
    for route in routes:
        operation = _operation(route, schema_of, components)
        handler = getattr(route.handler, "__name__", "handler").strip("_")
        names[handler] += 1
        operation["operationId"] = f"{handler}_{n}" if (n := names[handler]) > 1 else handler
        paths.setdefault(template(route.path), {})[route.method.lower()] = operation
    found: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": name,
            "version": version,
            "description": f"{description or f'The HTTP API of {name}.'} {_NUMBERS}",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        # Relative to this document: the root of a service itself, and /api behind the edge.
        "servers": [{"url": ".."}],
        "paths": paths,
        "components": {
            "schemas": _used(components, paths),
            "securitySchemes": {
                "apiKey": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "k_<id>_<secret>",
                    "description": "An API key with the scope that the operation names.",
                }
            },
        },
    }
    return found


@cache
def template(path: str) -> str:
    """The path without the patterns of its variables: `/p/{id:[0-9]+}` is `/p/{id}`."""
    return _VARIABLE.sub(r"{\1}", path)


def _types(routes: Sequence[Route]) -> list[Any]:
    types: list[Any] = [problems.ProblemBody]
    for route in routes:
        types += [t for t in (route.body, route.query, route.reply) if t is not None]
    return types


def _operation(
    route: Route, schema_of: Mapping[int, Any], components: Mapping[str, Any]
) -> dict[str, Any]:
    operation: dict[str, Any] = {"summary": route.summary}
    if detail := (route.handler.__doc__ or "").strip():
        operation["description"] = detail
    parameters = [*_path_parameters(route), *_headers(route)]
    if route.query is not None:
        parameters += _query_parameters(route.query, schema_of[id(route.query)], components)
    if parameters:
        operation["parameters"] = parameters
    if route.body is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {JSON: {"schema": schema_of[id(route.body)]}},
        }
    if route.scope is not None:
        operation["security"] = [{"apiKey": []}]
        operation["x-scope"] = route.scope
    operation["responses"] = dict(sorted(_responses(route, schema_of)))
    return operation


def _path_parameters(route: Route) -> Iterator[dict[str, Any]]:
    for match in _VARIABLE.finditer(route.path):
        schema: dict[str, Any] = {"type": "string", "minLength": 1}
        if match[2]:
            schema["pattern"] = f"^(?:{match[2]})$"
        yield {"name": match[1], "in": "path", "required": True, "schema": schema}


def _headers(route: Route) -> Iterator[dict[str, Any]]:
    for header, sentence in route.headers.items():
        yield {
            "name": header,
            "in": "header",
            "description": sentence,
            "schema": {"type": "string"},
        }


def _query_parameters(
    type_: Any, schema: Mapping[str, Any], components: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    struct = components[schema["$ref"].rpartition("/")[2]]
    required = struct.get("required", ())
    for field in msgspec.structs.fields(type_):
        parameter = {
            "name": field.encode_name,
            "in": "query",
            "schema": struct["properties"][field.encode_name],
        }
        if field.encode_name in required:
            parameter["required"] = True
        yield parameter


def _responses(route: Route, schema_of: Mapping[int, Any]) -> Iterator[tuple[str, Any]]:
    good: dict[str, Any] = {"description": HTTPStatus(route.status).phrase}
    if route.reply is not None:
        good["content"] = {JSON: {"schema": schema_of[id(route.reply)]}}
    elif route.media != JSON:
        good["content"] = {route.media: {"schema": {"type": "string"}}}
    if route.sends:
        good["headers"] = {
            header: {"description": sentence, "schema": {"type": "string"}}
            for header, sentence in route.sends.items()
        }
    yield str(route.status), good
    by_status: dict[int, list[type[problems.Problem]]] = {}
    for problem in _problems(route):
        by_status.setdefault(problem.status, []).append(problem)
    problem_schema = {"$ref": _REF.format(name="ProblemBody")}
    for status, kinds in by_status.items():
        yield (
            str(status),
            {
                "description": "; ".join(f"`{kind.slug}`: {kind.title}" for kind in kinds),
                "content": {PROBLEM_JSON: {"schema": problem_schema}},
            },
        )


def _problems(route: Route) -> list[type[problems.Problem]]:
    kinds = list(route.problems)
    if route.body is not None:
        kinds += _BODY
    if route.stream_body:
        kinds += [problems.TooLarge, problems.RequestTimeout]
    if route.query is not None:
        kinds.append(problems.BadQuery)
    if route.scope is not None:
        kinds += [problems.Unauthorized, problems.Forbidden]
    kinds += [problems.BadRequest, problems.Internal, problems.Unavailable]
    return list(dict.fromkeys(kinds))


def _used(components: dict[str, Any], paths: Mapping[str, Any]) -> dict[str, Any]:
    """The components without the query Structs, which are spread into parameters."""
    used: dict[str, Any] = {"ProblemBody": components["ProblemBody"]}
    todo: list[Any] = [paths, components["ProblemBody"]]
    while todo:
        node = todo.pop()
        if isinstance(node, list):
            todo += node
        elif isinstance(node, dict):
            todo += node.values()
            name = str(node.get("$ref", "")).rpartition("/")[2]
            if name in components and name not in used:
                used[name] = components[name]
                todo.append(components[name])
    return dict(sorted(used.items()))
