"""aiohttp with nothing in it, on the loop that we use: the ceiling of our own framework."""

import sys

import uvloop
from aiohttp import web


async def hello(_: web.Request) -> web.Response:
    return web.json_response({"ok": True})


async def application() -> web.Application:
    app = web.Application()
    app.router.add_get("/hello", hello)
    return app


if __name__ == "__main__":
    loop = uvloop.new_event_loop()
    web.run_app(
        application(),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        print=None,
        loop=loop,
        access_log=None,
    )
