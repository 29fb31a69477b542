"""Serves a page and its fragments from memory as cacheable: the origin of the stock Varnish."""

import json
import sys
from pathlib import Path

from aiohttp import web

OBJECTS: dict[str, str] = json.loads(Path(sys.argv[2]).read_bytes())


async def page(request: web.Request) -> web.Response:
    text = OBJECTS[request.path]
    headers = {"Cache-Control": "public, max-age=3600"}
    if "<esi:" in text:
        headers["Surrogate-Control"] = 'content="ESI/1.0"'
    return web.Response(text=text, content_type="text/html", headers=headers)


if __name__ == "__main__":
    app = web.Application()
    app.router.add_get("/{path:.*}", page)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None)
