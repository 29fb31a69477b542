"""A service's HTTP application: its routes, and what every service answers alike."""

import asyncio
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import msgspec
import structlog
import uuid_utils
from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware
from opentelemetry import context, trace
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client import Histogram

from chassis import openapi, telemetry
from chassis.health import Check, failing
from chassis.http.deadlines import Deadline
from chassis.http.keys import ApiKeys
from chassis.http.reading import CLOSE, ROUTE, prefers_html
from chassis.http.replies import problem, problem_page, reply
from chassis.http.routes import KIB, Handler, Route, get
from chassis.problems import (
    BadRequest,
    ExpectationFailed,
    Forbidden,
    HeadersTooLarge,
    Internal,
    MethodNotAllowed,
    NotFound,
    Problem,
    TooLarge,
    Unavailable,
)

MAX_HEADERS = 16 * KIB
_WELL_FORMED_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SWAGGER = Path(__file__).parent.parent / "static" / "swagger"
# Swagger UI styles elements in place; beyond that the page loads its own files only.
_DOCS_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; frame-ancestors 'none'"
)
# The boundaries that the OpenTelemetry conventions advise for this metric.
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)

# OpenTelemetry's name and labels, counted by Prometheus' client: its own histogram takes a third
# of the time of a small reply.
_DURATION = Histogram(
    "http_server_request_duration_seconds",
    "Duration of HTTP server requests.",
    ("http_request_method", "http_route", "http_response_status_code"),
    buckets=_SECONDS,
)

_log = structlog.stdlib.get_logger(__name__)


def application(
    *,
    name: str,
    routes: Sequence[Route],
    api_keys_file: str | None = None,
    checks: Sequence[tuple[str, Check]] = (),
    version: str = "1.0.0",
    description: str = "",
) -> web.Application:
    """An aiohttp application that answers `routes`, and on its own paths how it fares.

    Those are /healthz, /readyz (runs `checks`), /metrics, /openapi.json and /docs. Every error
    leaves as a problem, which is a page for who would rather read HTML; every request makes a span
    and counts under its route's template.
    """
    document = openapi.document(name, version, description, routes)
    table = [*routes, *_own_routes(checks, msgspec.json.encode(document))]
    by_route: dict[web.AbstractRoute, _Known] = {}
    deadlines = {
        seconds: Deadline(seconds) for seconds in {route.timeout for route in table} if seconds
    }
    app = web.Application(
        middlewares=[_gate(by_route, ApiKeys(api_keys_file))],
        # Bodies are read by `read`, which has the route's own limit; this is for what is not.
        client_max_size=max(route.max_body for route in table),
    )
    for route in table:
        for method in ("GET", "HEAD") if route.method == "GET" else (route.method,):
            added = app.router.add_route(method, route.path, route.handler, expect_handler=_expect)
            name = openapi.template(route.path)
            by_route[added] = _Known(
                route, name, f"{method} {name}", deadlines.get(route.timeout or 0)
            )
    return app


def bare(checks: Sequence[tuple[str, Check]]) -> web.Application:
    """The application of a process without an API: health and metrics."""
    return application(name="health", routes=(), checks=checks)


class _Known(NamedTuple):
    """A route of ours, and what is the same for all its requests."""

    route: Route
    template: str
    span: str
    deadline: Deadline | None


def _gate(by_route: dict[web.AbstractRoute, _Known], keys: ApiKeys) -> Middleware:
    """The one middleware: everything that is the same for all routes, in the order it happens."""
    tracer = trace.get_tracer("chassis")

    @web.middleware
    async def gate(request: web.Request, handler: Handler) -> web.StreamResponse:
        started = perf_counter()
        known = by_route.get(request.match_info.route)
        template = known.template if known else ""
        method = request.method if request.method in _METHODS else "_OTHER"
        request_id = _request_id(request)
        parent = request.headers.get("traceparent")
        span = tracer.start_span(
            known.span if known else method,
            telemetry.extract(parent) if parent else None,
            SpanKind.SERVER,
        )
        token = context.attach(trace.set_span_in_context(span))
        status = 500
        try:
            response = await _answer(request, handler, known, keys, request_id)
            status = response.status
        except web.HTTPException as redirect:  # what is left of them: 1xx to 3xx
            status = redirect.status
            redirect.headers["X-Request-Id"] = request_id
            raise
        except asyncio.CancelledError:
            status = 499  # the client went away; nginx's number for it
            raise
        finally:
            if span.is_recording():
                span.set_attributes(
                    {
                        "http.request.method": method,
                        "http.route": template,
                        "url.path": request.path,
                        "http.response.status_code": status,
                    }
                )
                if status >= 500:  # noqa: PLR2004 -- the class of our own faults
                    span.set_status(StatusCode.ERROR)
            context.detach(token)
            span.end()
            _duration(method, template, status).observe(perf_counter() - started)
        if not response.prepared:
            response.headers["X-Request-Id"] = request_id
        return response

    return gate


async def _answer(
    request: web.Request, handler: Handler, known: _Known | None, keys: ApiKeys, request_id: str
) -> web.StreamResponse:
    """The handler's reply, or the problem that stopped it."""
    try:
        _refuse_unsafe(request)
        if known is None:
            return await handler(request)  # aiohttp's own: raises 404 or 405
        route = known.route
        if route.method != "GET":  # it is asked how large a body may be
            request[ROUTE] = route
        if route.scope is not None:
            keys.check(request, route.scope)
        if known.deadline is None:
            return await handler(request)
        return await known.deadline.of(handler(request))
    except ConnectionResetError:
        raise  # the client is gone: there is nobody to answer
    except Exception as error:
        if isinstance(error, web.HTTPException) and error.status < 400:  # noqa: PLR2004 -- a redirect is no error
            raise
        return _refusal(_as_problem(error, request, request_id), request, request_id)


def _as_problem(error: Exception, request: web.Request, request_id: str) -> Problem:
    match error:
        case Problem():
            if error.status >= 500:  # noqa: PLR2004 -- the class of our own faults
                cause = error.__cause__
                _log.warning(
                    "refused", **_about(request, request_id), slug=error.slug, exc_info=cause
                )
            return error
        case web.HTTPException():
            return _from_aiohttp(error)
        case TimeoutError():
            _log.warning("timed out", **_about(request, request_id), exc_info=error)
            return Unavailable("It took too long.")
    _log.error("failed", **_about(request, request_id), exc_info=error)
    trace.get_current_span().record_exception(error)
    return Internal()


def _refuse_unsafe(request: web.Request) -> None:
    """What two servers in a row could read differently is answered by neither."""
    headers = request.headers
    if not request.raw_path.startswith("/"):
        raise BadRequest("Only the origin form of a target is read here.", headers=CLOSE)
    if len(headers.getall(hdrs.HOST, ())) != 1:
        raise BadRequest("One Host header is needed.", headers=CLOSE)
    if hdrs.UPGRADE in headers and (
        hdrs.CONTENT_LENGTH in headers or hdrs.TRANSFER_ENCODING in headers
    ):
        raise BadRequest("An upgrade has no body.", headers=CLOSE)
    if sum([len(name) + len(value) for name, value in request.raw_headers]) > MAX_HEADERS:
        raise HeadersTooLarge(headers=CLOSE)


@cache
def _duration(method: str, template: str, status: int) -> Histogram:
    return _DURATION.labels(method, template, status)


def _request_id(request: web.Request) -> str:
    given = request.headers.get("X-Request-Id")
    if given is not None and _WELL_FORMED_ID.fullmatch(given):
        return given
    return str(uuid_utils.uuid7())


def _refusal(error: Problem, request: web.Request, request_id: str) -> web.Response:
    if prefers_html(request.headers.get(hdrs.ACCEPT, "")):
        response = problem_page(error, request_id)
    else:
        response = problem(error, request_id)
    if error.headers.get("Connection") == "close":
        response.force_close()
    return response


def _from_aiohttp(error: web.HTTPException) -> Problem:
    match error:
        case web.HTTPNotFound():
            return NotFound()
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(error.allowed_methods))
            return MethodNotAllowed(headers={"Allow": allowed})
        case web.HTTPRequestEntityTooLarge():
            return TooLarge(headers=CLOSE)
        case web.HTTPForbidden():
            return Forbidden()
        case web.HTTPClientError():
            return BadRequest()
    return Internal()


async def _expect(request: web.Request) -> web.StreamResponse | None:
    # aiohttp calls this before any middleware.
    if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
        return None
    return problem(ExpectationFailed(headers=CLOSE), _request_id(request))


def _about(request: web.Request, request_id: str) -> dict[str, str]:
    return {
        "method": request.method,
        "path": request.path,
        "request_id": request_id,
    }


def _own_routes(checks: Sequence[tuple[str, Check]], document: bytes) -> list[Route]:
    """What every process tells about itself."""

    async def healthz(_request: web.Request) -> web.Response:
        return reply({"status": "ok"})

    async def readyz(_request: web.Request) -> web.Response:
        if names := await failing(checks):
            raise Unavailable("Something this process needs does not answer.", failing=names)
        return reply({"status": "ok", "checks": [name for name, _ in checks]})

    async def metrics_page(_request: web.Request) -> web.Response:
        sent = {"Content-Type": telemetry.METRICS_TYPE}
        return web.Response(body=telemetry.exposition(), headers=sent)

    async def openapi_json(_request: web.Request) -> web.Response:
        return web.Response(body=document, content_type="application/json")

    async def docs(_request: web.Request) -> web.StreamResponse:
        return web.FileResponse(
            _SWAGGER / "index.html", headers={"Content-Security-Policy": _DOCS_POLICY}
        )

    async def docs_file(request: web.Request) -> web.StreamResponse:
        return web.FileResponse(
            _SWAGGER / request.match_info["file"],
            headers={"Cache-Control": "public, max-age=3600", "X-Content-Type-Options": "nosniff"},
        )

    return [
        get("/healthz", healthz, summary="Whether the process lives"),
        get("/readyz", readyz, summary="Whether it can work"),
        get("/metrics", metrics_page, summary="Metrics for Prometheus"),
        get("/openapi.json", openapi_json, summary="This API, described"),
        get("/docs", docs, summary="This API, to try out", media="text/html"),
        get(
            "/docs/{file:swagger-ui\\.css|swagger-ui-bundle\\.js|start\\.js}",
            docs_file,
            summary="The files of /docs",
        ),
    ]
