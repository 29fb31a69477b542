"""Finds the route of a plain request by the start of its path. Knows no handler and no middleware.

aiohttp finds a route by asking one resource after another, and wraps its handler in middlewares for
each request: a tenth of a small request. What is not plain, or has no route, goes aiohttp's way.
"""

import re
from collections.abc import Awaitable, Callable

from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware
from aiohttp.web_urldispatcher import UrlMappingMatchInfo

GATE = web.AppKey("gate", Middleware)
"""The only middleware of an application, told by it so that it may be called without a search."""

Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def dispatch(app: web.Application, general: Answer) -> Answer:
    """What `general`, aiohttp's own way, answers with; sooner where the application has a GATE."""
    gate = app.get(GATE)
    if gate is None:
        return general
    table = _table(app)

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        assert isinstance(request, web.Request)  # noqa: S101 -- an application makes these
        path = request.rel_url.raw_path
        # what is escaped is to be understood first, and an Expect to be answered
        if "%" not in path and hdrs.EXPECT not in request.headers:
            start = path.partition("/")[2].partition("/")[0]
            for pattern, route in table.get((request.method, start), ()):
                found = pattern.fullmatch(path)
                if found is not None:
                    match = UrlMappingMatchInfo(found.groupdict(), route)
                    match.add_app(app)
                    match.freeze()
                    request._match_info = match  # noqa: SLF001 -- as aiohttp's Application does
                    return await gate(request, route.handler)
        return await general(request)

    return answer


_Table = dict[tuple[str, str], list[tuple[re.Pattern[str], web.AbstractRoute]]]


def _table(app: web.Application) -> _Table:
    """The routes by method and first segment, where that is fixed, in aiohttp's order."""
    table: _Table = {}
    routes = [route for route in app.router.routes() if route.resource is not None]
    # the one with the longest fixed start is asked first, then the one that was added first
    for route in sorted(routes, key=_fixed, reverse=True):
        assert route.resource is not None  # noqa: S101 -- it was looked at above
        info = route.resource.get_info()
        start = route.resource.canonical.split("/")[1]
        if "{" not in start:
            pattern = info.get("pattern") or re.compile(re.escape(info["path"]))
            table.setdefault((route.method, start), []).append((pattern, route))
    return table


def _fixed(route: web.AbstractRoute) -> int:
    """How many segments stand before the first one that is not fixed."""
    assert route.resource is not None  # noqa: S101 -- the table has no other
    start, variable, _ = route.resource.canonical.partition("{")
    return start.count("/") - bool(variable)
