"""JSON that any two parsers read alike, told apart from JSON that they would not.

`plain` is the cheap look that nearly every body passes; `faults` reads the rest in full.
"""

import json
import re
from collections import Counter
from typing import Any, NoReturn

from chassis.problems import Fault, MalformedJson

MAX_DEPTH = 20
MAX_INT = 2**53
MAX_FAULTS = 20

# What may hide a duplicate key, a control character or a number that JavaScript cannot hold.
_SUSPECT = re.compile(rb"\\|\d{16}|\x7f|\xc2[\x80-\x9f]")
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{}]', re.DOTALL)
# Text may have lines and columns; everything else below space, DEL and C1 has no place in it.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def plain(body: bytes) -> bool:
    """Whether it shows at a glance that a well-formed `body` has nothing for `faults` to find."""
    if _SUSPECT.search(body) or body.count(b"{") + body.count(b"[") > MAX_DEPTH:
        return False
    # Without escapes the quotes alone tell text from the rest: a text before a colon is a key.
    parts = body.split(b'"')
    keys = [
        text
        for text, after in zip(parts[1::2], parts[2::2], strict=False)
        if after.lstrip()[:1] == b":"
    ]
    return len(keys) == len(set(keys))


def faults(body: bytes) -> list[Fault]:
    """The texts in `body` that hold control characters or lone surrogates.

    Raises MalformedJson when it is no JSON, nests deeper than 20, has one key twice or an integer
    beyond 2^53.
    """
    _refuse_depth(body)
    try:
        value = json.loads(
            body.decode(),
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_constant=_constant,
        )
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are both
        raise MalformedJson from error
    found: list[Fault] = []
    _look_at(value, "", found)
    return found[:MAX_FAULTS]


def text_fault(text: str) -> tuple[str, str] | None:
    """The code and sentence of what is wrong with this text, if anything."""
    if _CONTROL.search(text):
        return "control-character", "Control characters are not allowed here."
    if _SURROGATE.search(text):
        return "lone-surrogate", "Half of a surrogate pair is no character."
    return None


def pointer_part(name: str) -> str:
    """One step of a JSON pointer, escaped as RFC 6901 says, and no longer than it helps."""
    return name[:100].replace("~", "~0").replace("/", "~1")


def _refuse_depth(body: bytes) -> None:
    depth = 0
    for token in _TOKEN.finditer(body):
        match token[0]:
            case b"{" | b"[":
                depth += 1
            case b"}" | b"]":
                depth -= 1
        if depth > MAX_DEPTH:
            raise MalformedJson(f"It nests deeper than {MAX_DEPTH} levels.")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        twice = sum(1 for count in Counter(key for key, _ in pairs).values() if count > 1)
        raise MalformedJson(f"One object holds {twice} key(s) more than once.")
    return value


def _integer(digits: str) -> int:
    # Longer than any allowed number; int() itself would take quadratic time.
    if len(digits) > len(str(MAX_INT)) + 1 or abs(value := int(digits)) > MAX_INT:
        raise MalformedJson("An integer is beyond 2^53.")
    return value


def _constant(_name: str) -> NoReturn:
    raise MalformedJson("NaN and Infinity are no JSON numbers.")


def _look_at(value: Any, pointer: str, found: list[Fault]) -> None:
    match value:
        case str():
            if fault := text_fault(value):
                found.append({"pointer": pointer, "code": fault[0], "detail": fault[1]})
        case list():
            for index, item in enumerate(value):
                _look_at(item, f"{pointer}/{index}", found)
        case dict():
            for key, item in value.items():
                if fault := text_fault(key):
                    # A pointer to such a key could not be sent; its object has to do.
                    found.append({"pointer": pointer, "code": fault[0], "detail": fault[1]})
                else:
                    _look_at(item, f"{pointer}/{pointer_part(key)}", found)
