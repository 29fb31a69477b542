"""A route and all that is said about it. The one table that serving, tests and OpenAPI read."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal

import msgspec
from aiohttp import web

from chassis.problems import Problem

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

KIB = 1024


class Route(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What a handler answers, reads, sends and may refuse.

    `body`, `query` and `reply` are msgspec types; body Structs forbid unknown fields.
    `scope` asks for an API key that has it. `problems` are those of the handler's own; the ones
    that follow from the other fields (a scope, a body, a query) need not be listed.
    `headers` are request headers the handler reads, each with a sentence; `sends` the same for the
    reply. With `stream_body` the handler reads the upload itself. `timeout` is in seconds.
    """

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    path: str
    handler: Handler
    summary: str
    body: Any = None
    query: Any = None
    reply: Any = None
    status: int = 200
    problems: tuple[type[Problem], ...] = ()
    scope: str | None = None
    max_body: int = 64 * KIB
    headers: Mapping[str, str] = {}
    sends: Mapping[str, str] = {}
    media: Literal["application/json", "text/html", "text/event-stream"] = "application/json"
    stream_body: bool = False
    timeout: float | None = 30.0


def get(path: str, handler: Handler, *, summary: str, **rest: Any) -> Route:
    """A route that reads; it answers HEAD as well."""
    return Route(method="GET", path=path, handler=handler, summary=summary, **rest)


def post(path: str, handler: Handler, *, summary: str, **rest: Any) -> Route:
    """A route that makes something."""
    return Route(method="POST", path=path, handler=handler, summary=summary, **rest)


def put(path: str, handler: Handler, *, summary: str, **rest: Any) -> Route:
    """A route whose repetition changes nothing."""
    return Route(method="PUT", path=path, handler=handler, summary=summary, **rest)


def patch(path: str, handler: Handler, *, summary: str, **rest: Any) -> Route:
    """A route that changes a part."""
    return Route(method="PATCH", path=path, handler=handler, summary=summary, **rest)


def delete(path: str, handler: Handler, *, summary: str, **rest: Any) -> Route:
    """A route that takes something away."""
    return Route(method="DELETE", path=path, handler=handler, summary=summary, **rest)
