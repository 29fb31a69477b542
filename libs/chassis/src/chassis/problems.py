"""Errors as RFC 9457 problems: a class says what the caller can do. Knows nothing of HTTP serving.

Problem
+-- BadRequest 400            the request makes no sense as HTTP
|   +-- MalformedJson 400     the body is no JSON that two parsers would read alike
|   +-- BadQuery 400          a parameter is unknown, repeated or out of its range
+-- Unauthorized 401          send a valid API key
+-- Forbidden 403             this key may not do that
+-- NotFound 404              there is no such thing, or it is not yours
+-- MethodNotAllowed 405      `Allow` names the methods there are
+-- RequestTimeout 408        the body came too slowly
+-- Conflict 409              read the present state, then decide again
+-- Gone 410                  it was there and will not come back
+-- PreconditionFailed 412    somebody else changed it: read again
+-- TooLarge 413              send less
+-- UriTooLong 414            send a shorter address
+-- UnsupportedMediaType 415  send the type that the route reads
+-- ExpectationFailed 417     expect nothing but 100-continue
+-- Invalid 422               `errors` points at each value to correct
+-- PreconditionRequired 428  send If-Match
+-- HeadersTooLarge 431       send fewer or shorter headers
+-- Internal 500              our fault; quote `instance` when you report it
+-- Unavailable 503           try again after `Retry-After` seconds
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, TypedDict

import msgspec


class Fault(TypedDict):
    """One wrong value: a JSON pointer to it, a code for programs, a sentence for people."""

    pointer: str
    code: str
    detail: str


class Problem(Exception):
    """An error that the caller sees as `application/problem+json`; subclass it to name a case.

    `detail` is a sentence of ours and never repeats input. `extensions` become members of the body.
    """

    status: ClassVar[int] = 500
    slug: ClassVar[str] = "internal"
    title: ClassVar[str] = "Something went wrong on our side"

    def __init__(
        self,
        detail: str = "",
        *,
        errors: Sequence[Fault] = (),
        headers: Mapping[str, str] | None = None,
        **extensions: object,
    ) -> None:
        super().__init__(detail or self.title)
        self.detail = detail
        self.errors = errors
        self.headers = dict(headers or {})
        self.extensions = extensions

    @classmethod
    def type_uri(cls) -> str:
        """The stable name of this kind of problem."""
        return f"urn:shop:problem:{cls.slug}"

    def body(self, instance: str) -> dict[str, object]:
        """The members of the reply; `instance` is the request id."""
        body: dict[str, object] = {
            "type": self.type_uri(),
            "title": self.title,
            "status": self.status,
        }
        if self.detail:
            body["detail"] = self.detail
        body["instance"] = instance
        if self.errors:
            body["errors"] = list(self.errors)
        return body | self.extensions


class BadRequest(Problem):
    """The request makes no sense as HTTP."""

    status = 400
    slug = "bad-request"
    title = "The request is not valid HTTP"


class MalformedJson(BadRequest):
    """The body is no JSON that two parsers would read alike."""

    slug = "malformed-json"
    title = "The body is not well-formed JSON"


class BadQuery(BadRequest):
    """A query parameter is unknown, repeated or out of its range."""

    slug = "bad-query"
    title = "A query parameter is wrong"


class Unauthorized(Problem):
    """No API key, or not one we know."""

    status = 401
    slug = "unauthorized"
    title = "An API key is needed"

    def __init__(
        self,
        detail: str = "",
        *,
        errors: Sequence[Fault] = (),
        headers: Mapping[str, str] | None = None,
        **extensions: object,
    ) -> None:
        challenge = {"WWW-Authenticate": 'Bearer realm="shop"'}
        super().__init__(
            detail, errors=errors, headers=challenge | dict(headers or {}), **extensions
        )


class Forbidden(Problem):
    """The API key lacks the scope that the route asks for."""

    status = 403
    slug = "forbidden"
    title = "This key may not do that"


class NotFound(Problem):
    """There is no such thing, or it belongs to somebody else."""

    status = 404
    slug = "not-found"
    title = "There is no such thing here"


class MethodNotAllowed(Problem):
    """The path exists, with other methods."""

    status = 405
    slug = "method-not-allowed"
    title = "This path does not know that method"


class RequestTimeout(Problem):
    """The body came too slowly."""

    status = 408
    slug = "request-timeout"
    title = "The body took too long to arrive"


class Conflict(Problem):
    """The request does not fit the present state."""

    status = 409
    slug = "conflict"
    title = "The request does not fit the present state"


class Gone(Problem):
    """It was there and will not come back."""

    status = 410
    slug = "gone"
    title = "This is gone for good"


class PreconditionFailed(Problem):
    """The version in If-Match is not the present one."""

    status = 412
    slug = "precondition-failed"
    title = "It has changed since you read it"


class TooLarge(Problem):
    """The body is over the route's limit."""

    status = 413
    slug = "too-large"
    title = "The body is too large"


class UriTooLong(Problem):
    """The request line is over 8 KiB."""

    status = 414
    slug = "uri-too-long"
    title = "The address is too long"


class UnsupportedMediaType(Problem):
    """The body's media type, charset or encoding is not one that the route reads."""

    status = 415
    slug = "unsupported-media-type"
    title = "The body is not of a type we read"


class ExpectationFailed(Problem):
    """An Expect header other than 100-continue."""

    status = 417
    slug = "expectation-failed"
    title = "We cannot do what Expect asks for"


class Invalid(Problem):
    """The body is JSON of the wrong shape; `errors` points at what to correct."""

    status = 422
    slug = "invalid-body"
    title = "The body does not fit the schema"


class PreconditionRequired(Problem):
    """The route changes a version and needs to be told which."""

    status = 428
    slug = "precondition-required"
    title = "If-Match is needed"


class HeadersTooLarge(Problem):
    """A header is over 8 KiB, or there are too many."""

    status = 431
    slug = "headers-too-large"
    title = "The headers are too large"


class Internal(Problem):
    """Our fault; the log holds the reason under the request id."""


class Unavailable(Problem):
    """Something we depend on does not answer; try again after `Retry-After` seconds."""

    status = 503
    slug = "unavailable"
    title = "Not available just now"
    away: ClassVar[bool] = True
    """To a consumer of events: wait for as long as it takes, the event is not to blame."""

    def __init__(
        self,
        detail: str = "",
        *,
        errors: Sequence[Fault] = (),
        headers: Mapping[str, str] | None = None,
        **extensions: object,
    ) -> None:
        super().__init__(
            detail, errors=errors, headers={"Retry-After": "2"} | dict(headers or {}), **extensions
        )


class ProblemBody(msgspec.Struct, frozen=True, kw_only=True):
    """The wire shape of every problem, for the OpenAPI document."""

    type: str
    title: str
    status: int
    detail: str = ""
    instance: str = ""
    errors: list[Fault] = []
