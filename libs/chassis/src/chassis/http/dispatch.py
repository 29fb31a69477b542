"""Finds the route of a plain request by the start of its path. Knows no handler's work.

aiohttp finds a route by asking one resource after another, and wraps its handler in middlewares for
each request: a tenth of a small request. What is not plain, or has no route, goes aiohttp's way.
"""

import re
from collections.abc import Awaitable, Callable
from functools import partial

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from aiohttp.web_urldispatcher import UrlMappingMatchInfo

Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def dispatch(app: web.Application, general: Answer) -> Answer:
    """What `general`, aiohttp's own way, answers with, and sooner; the application has started."""
    table = _table(app)

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        assert isinstance(request, web.Request)  # noqa: S101 -- an application makes these
        path = request.rel_url.raw_path
        # what is escaped is to be understood first, and an Expect to be answered
        if "%" not in path and hdrs.EXPECT not in request.headers:
            start = path.partition("/")[2].partition("/")[0]
            for pattern, route, handler in table.get((request.method, start), ()):
                found = pattern.fullmatch(path)
                if found is not None:
                    match = UrlMappingMatchInfo(found.groupdict(), route)
                    match.add_app(app)
                    match.freeze()
                    request._match_info = match  # noqa: SLF001 -- as aiohttp's Application does
                    return await handler(request)
        return await general(request)

    return answer


_Table = dict[tuple[str, str], list[tuple[re.Pattern[str], web.AbstractRoute, Handler]]]


def _table(app: web.Application) -> _Table:
    """The routes by method and first segment, where that is fixed, in aiohttp's order."""
    table: _Table = {}
    found = [
        (resource, route)
        for resource in app.router.resources()
        if isinstance(resource, web.PlainResource | web.DynamicResource)
        for route in resource
    ]
    # the one with the longest fixed start is asked first, then the one that was added first
    for resource, route in sorted(found, key=lambda each: _fixed(each[0].canonical), reverse=True):
        info, start = resource.get_info(), resource.canonical.split("/")[1]
        if "{" not in start:
            pattern = info.get("pattern") or re.compile(re.escape(info["path"]))
            row = pattern, route, _wrapped(app, route.handler)
            table.setdefault((route.method, start), []).append(row)
    return table


def _wrapped(app: web.Application, handler: Handler) -> Handler:
    """The handler inside all middlewares, of which the first is the outermost."""
    for middleware in reversed(app.middlewares):
        handler = partial(middleware, handler=handler)
    return handler


def _fixed(path: str) -> int:
    """How many segments stand before the first one that is not fixed."""
    start, variable, _ = path.partition("{")
    return start.count("/") - bool(variable)
