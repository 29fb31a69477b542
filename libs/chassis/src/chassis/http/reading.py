"""Requests in: bodies and queries as typed values, or a problem. Knows no route's meaning."""

import asyncio
from functools import cache
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from chassis.http import strict
from chassis.http.routes import KIB, Route
from chassis.problems import (
    BadQuery,
    BadRequest,
    Fault,
    Invalid,
    MalformedJson,
    RequestTimeout,
    TooLarge,
    UnsupportedMediaType,
)

T = TypeVar("T")

ROUTE = web.RequestKey("route", Route)
BODY_SECONDS = 10.0
CLOSE = {"Connection": "close"}
_MAX_BODY = 64 * KIB


async def read(request: web.Request, type_: type[T]) -> T:
    """The JSON body as a `type_`.

    Raises UnsupportedMediaType, TooLarge, RequestTimeout, MalformedJson and Invalid. Numbers keep
    their kind: 85.0 is no int here, though JSON Schema says so.
    """
    raise NotImplementedError


def query(request: web.Request, type_: type[T]) -> T:
    """The query string as a `type_`, a Struct whose list fields take repeated parameters.

    Raises BadQuery for what is unknown, repeated, missing or out of range.
    """
    raise NotImplementedError
