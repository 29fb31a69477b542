"""A service's HTTP application: its routes, and what every service answers alike."""

from collections.abc import Sequence

from aiohttp import web

from chassis.health import Check
from chassis.http.routes import Route


def application(
    *,
    name: str,
    routes: Sequence[Route],
    api_keys_file: str | None = None,
    checks: Sequence[tuple[str, Check]] = (),
    version: str = "1.0.0",
    description: str = "",
) -> web.Application:
    """An aiohttp application that answers `routes` and the chassis' own paths."""
    raise NotImplementedError
