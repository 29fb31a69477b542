"""Forms of our pages: read them, refuse another site's, send the browser on. Knows no page."""

from typing import TypeVar
from urllib.parse import parse_qsl, urlsplit

import msgspec
from aiohttp import hdrs, web

from chassis.http.strict import text_fault
from chassis.problems import (
    BadRequest,
    Forbidden,
    Invalid,
    NotFound,
    Unavailable,
    UnsupportedMediaType,
)

PRIVATE = {"Cache-Control": "private, no-store"}
# the edge puts the frame's fragments in; nobody keeps the page
FRAMED = PRIVATE | {"Surrogate-Control": 'no-store, content="ESI/1.0"'}
FORM = "application/x-www-form-urlencoded"
MAX_FORM = 16_384
MAX_FIELDS = 25

T = TypeVar("T")


async def read_form(request: web.Request, type_: type[T]) -> T:
    """The form's fields. Raises Forbidden, UnsupportedMediaType, BadRequest, Invalid."""
    refuse_foreign(request)
    if request.content_type != FORM:
        raise UnsupportedMediaType(f"Send {FORM}.", headers={"Accept": FORM})
    try:
        text = (await request.read()).decode()
        fields = dict(parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FIELDS))
    except ValueError as error:
        raise BadRequest("The form cannot be read.") from error
    if any(text_fault(value) for value in fields.values()):
        raise Invalid("Control characters are not allowed here.")
    try:
        return msgspec.convert(fields, type_, strict=False)
    except msgspec.ValidationError as error:
        raise Invalid("A field of the form is missing or wrong.") from error


def refuse_foreign(request: web.Request) -> None:
    """Another site's form is not the shopper's will; browsers say which site it was."""
    site = request.headers.get("Sec-Fetch-Site")
    origin = request.headers.get(hdrs.ORIGIN)
    if site is not None:
        foreign = site not in {"same-origin", "none"}
    else:
        ours = {request.host, request.headers.get("X-Forwarded-Host")}
        foreign = origin is not None and urlsplit(origin).netloc not in ours
    if foreign:
        raise Forbidden("This form belongs to another site.")


def go(where: str) -> web.Response:
    """See the other page, by GET."""
    return web.Response(status=303, headers={"Location": where, **PRIVATE})


FORM_PROBLEMS = (BadRequest, Forbidden, UnsupportedMediaType, Invalid, NotFound, Unavailable)
