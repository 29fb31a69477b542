"""The files of a feed as lines and as JSON values, in constant memory. Knows no products.

Bytes that are not UTF-8 come through as lone surrogates, so that the row that holds them can be
named and refused.
"""

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any, NamedTuple, NoReturn, cast

from feeds.rows import BadUpload, File

LONGEST_LINE = 1024 * 1024
CHUNK = 64 * 1024


class Line(NamedTuple):
    """A line of a file, with its end; `text` is None where it is too long."""

    number: int
    text: str | None


class Value(NamedTuple):
    """A JSON value and the line it starts in; `error` says why nothing can be read from there."""

    line: int
    value: Any
    error: str = ""


class Source:
    """The files of a feed, one after the other; `offset` is how many of their bytes are read."""

    def __init__(self, files: Sequence[File]) -> None:
        self.files = files
        self._before = 0
        self._raw: IO[bytes] | None = None

    @property
    def offset(self) -> int:
        return self._before + (self._raw.tell() if self._raw and not self._raw.closed else 0)

    def lines(self, file: File) -> Iterator[Line]:
        """The lines, split at line feeds only: a cell may hold any other separator."""
        with self._opened(file) as stream:
            number = 0
            while line := stream.readline(LONGEST_LINE):
                number += 1
                if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
                    while line and not line.endswith(b"\n"):
                        line = stream.readline(LONGEST_LINE)
                    yield Line(number, None)
                    continue
                yield Line(
                    number, _text(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line)
                )

    def values(self, file: File) -> Iterator[Value]:
        """The items of a JSON array, or one JSON value after another."""
        with self._opened(file) as stream:
            yield from _values(stream)

    @contextmanager
    def _opened(self, file: File) -> Iterator[IO[bytes]]:
        with file.path.open("rb") as raw:
            self._raw = raw
            start = raw.peek(2)[:2]
            if start in {b"\xff\xfe", b"\xfe\xff"}:
                raise BadUpload(f"{file.name} is UTF-16; save it as UTF-8")
            packed = start == b"\x1f\x8b"
            stream = cast("IO[bytes]", gzip.GzipFile(fileobj=raw)) if packed else raw
            try:
                yield stream
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise BadUpload(f"{file.name} is damaged: {error}") from error
            finally:
                self._before += file.path.stat().st_size
                self._raw = None


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


# numbers stay the text they were: exact, and of any length, until a rule judges them
_JSON = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=_no_number)


def value(text: str) -> Any:
    """The one JSON value of a text; ValueError where it is none."""
    try:
        return _JSON.decode(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


class _Buffer:
    """What is read of the stream and not yet used; only whole UTF-8 sequences get in."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._rest = b""
        self.text = ""
        self.line = 1
        self.ended = False

    def more(self) -> bool:
        if self.ended:
            return False
        chunk = self._rest + self._stream.read(CHUNK)
        self.ended = len(chunk) == len(self._rest)
        cut = len(chunk) if self.ended else _whole(chunk)
        self.text += _text(chunk[:cut])
        self._rest = chunk[cut:]
        return True

    def use(self, count: int) -> None:
        self.line += self.text.count("\n", 0, count)
        self.text = self.text[count:]

    def next(self) -> str:
        """The next character that is not white space; empty at the end."""
        while True:
            self.use(len(self.text) - len(self.text.lstrip(" \t\r\n")))
            if self.text or not self.more():
                return self.text[:1]


def _whole(chunk: bytes) -> int:
    """Where the last, perhaps cut, UTF-8 sequence of the chunk starts."""
    for back in range(1, min(4, len(chunk)) + 1):
        if chunk[-back] & 0xC0 != 0x80:  # noqa: PLR2004  the two bits that mark a continuation byte
            return len(chunk) - back
    return len(chunk)


def _values(stream: IO[bytes]) -> Iterator[Value]:
    buffer = _Buffer(stream)
    buffer.more()
    buffer.text = buffer.text.removeprefix("\ufeff")
    if buffer.next() != "[":
        while buffer.next():
            yield (item := _item(buffer))
            if item.error:
                return
        return
    buffer.use(1)
    separator = ""
    while (char := buffer.next()) and char != "]":
        if separator:
            if char != separator:
                yield Value(buffer.line, None, "a ',' or ']' is missing")
                return
            buffer.use(1)
            buffer.next()
        yield (item := _item(buffer))
        if item.error:
            return
        separator = ","
    if not char:
        yield Value(buffer.line, None, "the array has no end")
        return
    buffer.use(1)
    if buffer.next():
        yield Value(buffer.line, None, "something follows the end of the array")


def _item(buffer: _Buffer) -> Value:
    """The value that starts here, however many chunks it takes."""
    line = buffer.line
    while True:
        try:
            found, end = _JSON.raw_decode(buffer.text)
        except (ValueError, RecursionError) as error:
            if len(buffer.text) <= LONGEST_LINE and buffer.more():
                continue
            return Value(line, None, str(error))
        # a number may go on in the next chunk; whatever else ends where it ends
        if end < len(buffer.text) or not buffer.more():
            buffer.use(end)
            return Value(line, found)
