"""Requests in: bodies and queries as typed values, or a problem. Knows no route's meaning."""

import asyncio
import re
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar, cast

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
# After these the rest of the body is still to come: the connection is of no more use.
CLOSE = {"Connection": "close"}

_JSON = "application/json"
_MAX_BODY = 64 * KIB
_AT = re.compile(r"(?P<what>.*?)(?: - at (?:`key` in )?`\$(?P<path>.*)`)?", re.DOTALL)
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+)\]")
_FIELD = re.compile(r"Object (?P<how>missing required|contains unknown) field `(?P<name>.*)`")
# msgspec's sentences begin so; those that would repeat input get a sentence of ours.
_CODES = (
    ("Invalid enum value", "not-allowed", "It is not one of the allowed values."),
    ("Invalid value", "not-allowed", "It is not one of the allowed values."),
    ("Expected `str` of length", "wrong-length", ""),
    ("Expected `array` of length", "wrong-length", ""),
    ("Expected `object` of length", "wrong-length", ""),
    ("Expected `str` matching regex", "wrong-form", ""),
    ("Invalid", "wrong-form", "It does not have the form of its type."),
)
_OUT_OF_RANGE = re.compile(r"Expected `\w+`(?: [<>]|.*multiple)|Integer value out of range")
_WRONG_TYPE = re.compile(r"Expected `.*`, got `.*`")


async def read(request: web.Request, type_: type[T]) -> T:
    """The JSON body as a `type_`.

    Raises UnsupportedMediaType, TooLarge, RequestTimeout, MalformedJson and Invalid. Numbers keep
    their kind: 85.0 is no int here, though JSON Schema says so.
    """
    _refuse_other_media(request)
    return decode(await _body(request), type_)


def decode(body: bytes, type_: type[T]) -> T:
    """What `read` makes of these bytes."""
    decoder = _decoder(cast("Any", type_))
    looked = strict.plain(body)
    if not looked:
        _refuse_faults(body)
    try:
        value: T = decoder.decode(body)
    except msgspec.ValidationError as error:
        # msgspec stops at the first wrong value: what follows it may be no JSON at all.
        if looked:
            _refuse_faults(body)
        raise Invalid(errors=[fault(str(error))]) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedJson from error
    return value


def query(request: web.Request, type_: type[T]) -> T:
    """The query string as a `type_`, a Struct whose list fields take repeated parameters.

    Raises BadQuery for what is unknown, repeated, missing or out of range.
    """
    fields = _fields(cast("Any", type_))
    given: dict[str, str | list[str]] = {}
    wrong: list[Fault] = []
    for name, value in request.query.items():
        bad = _query_fault(name, value, fields, given)
        if bad is not None:
            wrong.append({"pointer": _pointer(name), "code": bad[0], "detail": bad[1]})
        elif fields[name]:
            many = given.setdefault(name, [])
            assert isinstance(many, list)  # noqa: S101 -- list fields hold nothing else
            many.append(value)
        else:
            given[name] = value
    if wrong:
        raise BadQuery(errors=wrong[: strict.MAX_FAULTS])
    try:
        return msgspec.convert(given, type_, strict=False)
    except msgspec.ValidationError as error:
        raise BadQuery(errors=[fault(str(error))]) from error


def prefers_html(accept: str) -> bool:
    """Whether `text/html` is named with a higher weight than JSON."""
    weights: dict[str, float] = {}
    for part in accept.split(","):
        media, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality = next((p[2:] for p in parameters if p.startswith("q=")), "1")
        try:
            weights[media] = float(quality)
        except ValueError:
            weights[media] = 0.0
    return weights.get("text/html", 0.0) > weights.get("application/json", 0.0)


def fault(message: str) -> Fault:
    """The fault that msgspec's `message` describes, its path as a JSON pointer."""
    parts = _AT.fullmatch(message)
    assert parts is not None  # noqa: S101 -- the pattern matches every text
    # `[...]` is some member of a map: which one, msgspec does not say.
    what, path = parts["what"], (parts["path"] or "").partition("[...]")[0]
    pointer = "".join(_pointer(name or index) for name, index in _STEP.findall(path))
    if field := _FIELD.fullmatch(what):
        pointer += _pointer(field["name"])
        if field["how"] == "missing required":
            return {"pointer": pointer, "code": "missing", "detail": "It is required."}
        return {"pointer": pointer, "code": "unknown-field", "detail": "There is no such field."}
    for start, code, sentence in _CODES:
        if what.startswith(start):
            return {"pointer": pointer, "code": code, "detail": sentence or f"{what}."}
    if _WRONG_TYPE.match(what):
        return {"pointer": pointer, "code": "wrong-type", "detail": f"{what}."}
    code = "out-of-range" if _OUT_OF_RANGE.match(what) else "invalid"
    return {"pointer": pointer, "code": code, "detail": what}


def refuse_encodings(headers: Mapping[str, str]) -> None:
    """Raise UnsupportedMediaType for a packed body; what cannot be unpacked ends its connection."""
    if headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise UnsupportedMediaType("Send the body without a Content-Encoding.", headers=CLOSE)


def _refuse_other_media(request: web.Request) -> None:
    headers = request.headers
    refuse_encodings(headers)
    sent = headers.get("Content-Type", "")
    if sent != _JSON:
        media, *parameters = (part.strip().lower() for part in sent.split(";"))
        charsets = [value.partition("=")[2] for value in parameters if value.startswith("charset")]
        if media != _JSON or any(c.strip(' "') not in {"utf-8", "utf8"} for c in charsets):
            raise UnsupportedMediaType("Send application/json in UTF-8.", headers={"Accept": _JSON})


async def _body(request: web.Request) -> bytes:
    route = request.get(ROUTE)
    limit = route.max_body if route else _MAX_BODY
    if (request.content_length or 0) > limit:
        raise _too_large(limit)
    content = request.content
    if content.is_eof():  # all of it came with the headers
        body = content.read_nowait(-1)
        if len(body) > limit:
            raise _too_large(limit)
        return body
    chunks = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while chunk := await content.readany():
                chunks += chunk
                if len(chunks) > limit:
                    raise _too_large(limit)
    except TimeoutError as error:
        raise RequestTimeout(headers=CLOSE) from error
    except (web.RequestPayloadError, ValueError) as error:
        raise BadRequest("The body's framing is wrong.", headers=CLOSE) from error
    return bytes(chunks)


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"At most {limit} bytes.", headers=CLOSE)


def _refuse_faults(body: bytes) -> None:
    if found := strict.faults(body):
        raise Invalid(errors=found)


def _query_fault(
    name: str, value: str, fields: dict[str, bool], given: dict[str, str | list[str]]
) -> tuple[str, str] | None:
    if name not in fields:
        return "unknown-parameter", "There is no such parameter."
    if name in given and not fields[name]:
        return "repeated", "It may be given once."
    return strict.text_fault(value)


def _pointer(name: str) -> str:
    safe = name if strict.text_fault(name) is None else ""
    return "/" + strict.pointer_part(safe)


@cache
def _decoder(type_: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(type_)


@cache
def _fields(type_: Any) -> dict[str, bool]:
    """The parameters of a query Struct, and whether each may be repeated."""
    info = msgspec.inspect.type_info(type_)
    assert isinstance(info, msgspec.inspect.StructType)  # noqa: S101 -- a Route says so
    return {field.encode_name: repeats(field.type) for field in info.fields}


def repeats(type_: msgspec.inspect.Type) -> bool:
    """Whether a query parameter of this type may be given more than once."""
    match type_:
        case msgspec.inspect.Metadata():
            return repeats(type_.type)
        case msgspec.inspect.UnionType():
            return any(repeats(member) for member in type_.types)
        case (
            msgspec.inspect.ListType()
            | msgspec.inspect.VarTupleType()
            | msgspec.inspect.SetType()
            | msgspec.inspect.FrozenSetType()
        ):
            return True
    return False
