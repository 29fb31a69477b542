"""Searching over HTTP. Knows no index and no query language."""

from aiohttp import web

from chassis.http import get, query, reply
from chassis.problems import Unavailable
from search.domain import Found, Query
from search.store import STORE


async def search(request: web.Request) -> web.Response:
    """One page of hits, the counts of every filter's values, and the prices of the whole."""
    found = await request.app[STORE].search(query(request, Query))
    return reply(found, headers={"Cache-Control": "no-store"})


ROUTES = [
    get(
        "/search",
        search,
        summary="Find products",
        query=Query,
        reply=Found,
        problems=(Unavailable,),
    ),
]
