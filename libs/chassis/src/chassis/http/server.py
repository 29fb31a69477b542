"""An application on a port: limits below the routes, and problems for what is no request at all."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
import uuid_utils
from aiohttp import http_exceptions, web
from aiohttp.web_protocol import RequestHandler

from chassis.http.dispatch import dispatch
from chassis.http.reading import CLOSE
from chassis.http.replies import problem
from chassis.problems import (
    BadRequest,
    HeadersTooLarge,
    Internal,
    Problem,
    UnsupportedMediaType,
    UriTooLong,
)

MAX_LINE = 8190
MAX_HEADER_COUNT = 100

_log = structlog.stdlib.get_logger(__name__)


@asynccontextmanager
async def listening(
    app: web.Application, host: str, port: int, *, stop_timeout: float = 10
) -> AsyncIterator[int]:
    """Answer on `host`:`port` (0 = any free one) inside the block; yields the port.

    At the end no connection is taken any more and requests in flight get `stop_timeout` seconds.
    """
    runner = _Runner(
        app,
        access_log=None,  # spans and metrics tell more; the edge keeps the log of requests
        keepalive_timeout=30,
        lingering_time=2,
        shutdown_timeout=stop_timeout,
        max_line_size=MAX_LINE,
        max_field_size=MAX_LINE,
        max_headers=MAX_HEADER_COUNT,
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, reuse_address=True).start()
        bound = runner.addresses[0][1]
        _log.info("listening", host=host, port=bound)
        yield bound
    finally:
        await runner.cleanup()


class _Connection(RequestHandler):
    """Answers what aiohttp's parser refuses as every other error is answered."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 -- it repeats input
    ) -> web.StreamResponse:
        """The problem for a request that could not be parsed; the connection ends with it."""
        if request.writer.output_size > 0:
            raise ConnectionError("A reply is under way, so no error can be told")
        error = _unparsed(exc) if status < 500 else Internal()  # noqa: PLR2004 -- our own faults
        if error.status == Internal.status:
            _log.error("failed below the routes", exc_info=exc)
        response = problem(error, str(uuid_utils.uuid7()))
        response.force_close()
        return response


def _unparsed(error: BaseException | None) -> Problem:
    match error:
        case http_exceptions.LineTooLong():
            # aiohttp tells the start of the line, and of the lines only a target has a slash there.
            target = bytes(error.args[0]).startswith(b"/")
            return UriTooLong(headers=CLOSE) if target else HeadersTooLarge(headers=CLOSE)
        case http_exceptions.ContentEncodingError():
            return UnsupportedMediaType("Send the body without a Content-Encoding.", headers=CLOSE)
        case http_exceptions.BadHttpMessage() if "Too many headers" in error.message:
            return HeadersTooLarge(headers=CLOSE)
    return BadRequest(headers=CLOSE)


class _Server(web.Server):
    def __call__(self) -> RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class _Runner(web.AppRunner):
    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(
            dispatch(self.app, made.request_handler),
            request_factory=made.request_factory,
            **made._kwargs,  # noqa: SLF001 -- aiohttp has no public way to bring one's own error replies
        )
