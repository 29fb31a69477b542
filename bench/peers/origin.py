"""Serves one page from memory as cacheable: the origin behind the stock Varnish."""

import sys
from pathlib import Path

from aiohttp import web

PAGE = Path(sys.argv[2]).read_bytes()


async def page(_: web.Request) -> web.Response:
    return web.Response(
        body=PAGE, content_type="text/html", headers={"Cache-Control": "public, max-age=3600"}
    )


if __name__ == "__main__":
    app = web.Application()
    app.router.add_get("/{path:.*}", page)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None)
