"""Replies: JSON, HTML and problems as aiohttp responses. Knows no request."""

from collections.abc import Mapping
from functools import cache

import jinja2
import msgspec
from aiohttp import HttpVersion11, hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import rfc822_formatted_time
from multidict import CIMultiDict

from chassis.pages import templates
from chassis.problems import Problem

_encode = msgspec.json.Encoder().encode

JSON = "application/json"
PROBLEM_JSON = "application/problem+json"

# Pages bring no script or style of their own; product pictures may come from any https host.
PAGE_POLICY = (
    "default-src 'self'; img-src 'self' https: data:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)


def reply(
    value: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """`value` as JSON, by msgspec; no body at all with status 204."""
    if status == 204:  # noqa: PLR2004 -- its name is No Content
        return web.Response(status=status, headers=headers)
    response = _AtOnce(body=_encode(value), status=status, headers=headers)
    response.headers.setdefault(hdrs.CONTENT_TYPE, JSON)
    return response


class _AtOnce(web.Response):
    """A reply with a body that leaves whole as soon as it is asked for.

    Where HTTP/1.1, a body and a connection that stays are all there is to say, what aiohttp finds
    out for its head is known; that takes a quarter of the time of a small reply.
    """

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        body = self._body
        plain = (
            isinstance(body, bytes)
            and isinstance(request, web.Request)
            and request.version == HttpVersion11
            and request.method != hdrs.METH_HEAD
            and request.keep_alive
            and self._keep_alive is None  # nobody wants it closed
            and not (self._cookies or self._compression or self.prepared)
            and not request.app.on_response_prepare
        )
        if not plain:
            return await super().prepare(request)
        assert isinstance(body, bytes)  # noqa: S101 -- so it is plain
        headers = self._headers
        headers[hdrs.CONTENT_LENGTH] = str(len(body))
        headers[hdrs.DATE] = rfc822_formatted_time()
        self._keep_alive = True
        writer = request.writer
        await writer.write_headers(f"HTTP/1.1 {self._status} {self._reason}", headers)
        await writer.write_eof(body)
        self._eof_sent = True
        return writer


def page(html: str, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A page or fragment, with headers that keep foreign scripts and frames out."""
    sent = CIMultiDict(headers or ())
    sent.setdefault("Content-Type", "text/html; charset=utf-8")
    sent.setdefault("Content-Security-Policy", PAGE_POLICY)
    sent.setdefault("X-Content-Type-Options", "nosniff")
    sent.setdefault("Referrer-Policy", "same-origin")
    return _AtOnce(body=html.encode(), status=status, headers=sent)


def problem(error: Problem, request_id: str) -> web.Response:
    """The reply to an error: never stored by a cache, never with more than the class says."""
    sent = CIMultiDict(error.headers)
    sent["Content-Type"] = PROBLEM_JSON
    sent["Cache-Control"] = "no-store"
    sent["X-Request-Id"] = request_id
    return _AtOnce(body=_encode(error.body(request_id)), status=error.status, headers=sent)


def problem_page(error: Problem, request_id: str) -> web.Response:
    """The same for people, in the shop's frame."""
    html = _problem_page().render(problem=error, request_id=request_id)
    sent = {
        **error.headers,
        "Cache-Control": "private, no-store",
        "Surrogate-Control": 'no-store, content="ESI/1.0"',
        "X-Request-Id": request_id,
    }
    return page(html, status=error.status, headers=sent)


@cache
def _problem_page() -> jinja2.Template:
    return templates("chassis").get_template("problem.html")
