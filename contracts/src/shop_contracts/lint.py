"""The rules that every event Struct keeps, because readers in other languages rely on them. No I/O.

A rule has a name, which a finding carries; `RULES` tells what each is for. What no rule allows is
refused: a type that the compatibility check cannot compare may not be released.
"""

import argparse
import enum
import re
import sys
from collections.abc import Iterator
from typing import Any

from msgspec import Struct, inspect

from shop_contracts.events import EVENTS
from shop_contracts.events.base import Fact
from shop_contracts.types import MAX_SAFE, OpenEnum

KEY = re.compile(r"([a-z][a-z0-9]*)\.([a-z][a-z0-9_]*)\.v([1-9][0-9]*)")
MONEY = re.compile(r"(^|_)(amount|price|total|cost|fee|tax|discount|refund|refunded)$")

RULES = {
    "frozen": "a fact does not change, and its fields are named where it is made",
    "key": "the routing key is <aggregate>.<past tense>.v<major>, and the class is named after it",
    "subject": "the subject is a required field with an id",
    "sentence": "what happened is said in one sentence",
    "reader": "a reader ignores fields of later minors, and sees each by its own name",
    "reserved": "the name of a removed field is never used again",
    "float": "no two languages agree about floats",
    "tuple": "arrays with a type for each place exist in no other language",
    "union": "a reader cannot tell the members of a union apart; `X | None` it can",
    "time": "a time without a zone is another time elsewhere",
    "integer": "an integer has bounds that every JSON reader keeps exactly",
    "text": "a string has a length, a pattern or a format",
    "pattern": r"a pattern starts with ^ and ends with \Z: $ lets a line break pass",
    "enum": "a word of an enum is text, and an enum is open only where it says so",
    "money": "money is an integer of minor units, named *_minor, with its currency",
    "type": "the compatibility check knows no such type",
    "recursive": "a fact has an end",
}


class Finding(Struct, frozen=True):
    """A rule that a Struct breaks, and where: `order.placed.v1 lines[].qty`."""

    where: str
    rule: str
    message: str


def findings(fact: type[Fact]) -> list[Finding]:
    """What is wrong with an event; nothing when it may be released."""
    return [
        Finding(f"{fact.KEY} {where}".rstrip(), rule, message)
        for where, rule, message in _event(fact)
    ]


_Found = Iterator[tuple[str, str, str]]


def _event(fact: type[Fact]) -> _Found:
    named = KEY.fullmatch(fact.KEY)
    if named is None:
        yield "", "key", f"{fact.KEY!r} is not of the form"
    else:
        words = f"{named[1]}_{named[2]}".split("_")
        name = "".join(word.capitalize() for word in words) + f"V{named[3]}"
        if fact.__name__ != name:
            yield "", "key", f"the class is {fact.__name__}, not {name}"
    info = inspect.type_info(fact)
    if not isinstance(info, inspect.StructType):
        raise TypeError(f"{fact} is no Struct")
    fields = {field.name: field for field in info.fields}
    subject = fields.get(fact.SUBJECT)
    kind = subject and _bare(subject.type)
    if subject is None or not subject.required:
        yield "", "subject", f"{fact.SUBJECT!r} is no required field"
    elif not isinstance(kind, inspect.StrType | inspect.UUIDType):
        yield fact.SUBJECT, "subject", "its type is no id"
    for name in sorted(fields.keys() & set(fact.RESERVED)):
        yield name, "reserved", "this name was used before, for a field that was removed"
    yield from _struct(info, "", (), has_currency="currency" in fields)


def _struct(
    info: inspect.StructType, where: str, within: tuple[type, ...], *, has_currency: bool
) -> _Found:
    cls: Any = info.cls
    if cls in within:
        yield where, "recursive", f"{cls.__name__} is inside itself"
        return
    if not cls.__struct_config__.frozen or cls.__match_args__:
        yield where, "frozen", f"{cls.__name__} is not frozen and kw_only"
    if not re.match(r"[A-Z].+[.:;]", (cls.__doc__ or "").split("\n")[0]):
        yield where, "sentence", f"{cls.__name__} has no docstring that is a sentence"
    if info.forbid_unknown_fields or info.array_like or info.tag is not None:
        yield where, "reader", f"{cls.__name__} has a tag, is an array or forbids unknown fields"
    has_currency = has_currency or any(field.name == "currency" for field in info.fields)
    for field in info.fields:
        place = f"{where}.{field.name}".lstrip(".")
        if field.encode_name != field.name:
            yield place, "reader", f"it is sent as {field.encode_name!r}"
        yield from _money(field, place, has_currency=has_currency)
        yield from _type(field.type, place, (*within, cls), has_currency=has_currency)


def _money(field: inspect.Field, place: str, *, has_currency: bool) -> _Found:
    if field.name.endswith("_minor"):
        if not isinstance(_bare(field.type), inspect.IntType):
            yield place, "money", "minor units are an integer"
        if not has_currency:
            yield place, "money", "no field beside or above it is the `currency`"
    elif MONEY.search(field.name):
        yield place, "money", f"name it {field.name}_minor and make it minor units"


def _type(  # noqa: C901, PLR0912 -- one case for each type there is
    kind: inspect.Type, place: str, within: tuple[type, ...], *, has_currency: bool
) -> _Found:
    match kind:
        case inspect.Metadata():
            yield from _type(kind.type, place, within, has_currency=has_currency)
        case inspect.StructType():
            yield from _struct(kind, place, within, has_currency=has_currency)
        case inspect.ListType():
            yield from _type(kind.item_type, f"{place}[]", within, has_currency=has_currency)
        case inspect.DictType():
            yield from _type(kind.key_type, f"{place}{{key}}", within, has_currency=has_currency)
            yield from _type(kind.value_type, f"{place}{{}}", within, has_currency=has_currency)
        case inspect.UnionType():
            members = [each for each in kind.types if not isinstance(each, inspect.NoneType)]
            if len(members) > 1:
                yield place, "union", "a union of more than `X | None`"
            for each in members:
                yield from _type(each, place, within, has_currency=has_currency)
        case inspect.IntType():
            low = kind.ge if kind.ge is not None else kind.gt
            high = kind.le if kind.le is not None else kind.lt
            if low is None or high is None or low < -MAX_SAFE or high > MAX_SAFE:
                yield place, "integer", f"its bounds are {low} and {high}"
        case inspect.StrType():
            yield from _text(kind, place)
        case inspect.DateTimeType():
            if kind.tz is not True:
                yield place, "time", "use shop_contracts.types.Time"
        case inspect.EnumType():
            yield from _enum(kind.cls, place)
        case inspect.FloatType() | inspect.DecimalType():
            yield place, "float", "use an integer of a smaller unit"
        case inspect.TupleType() | inspect.VarTupleType():
            yield place, "tuple", "use a list, or a Struct"
        case inspect.BoolType() | inspect.UUIDType():
            pass
        case _:
            yield place, "type", f"{type(kind).__name__.removesuffix('Type')} is not known"


def _text(kind: inspect.StrType, place: str) -> _Found:
    if kind.pattern is None:
        if kind.max_length is None:
            yield place, "text", "it may be of any length"
        return
    if not kind.pattern.startswith("^") or not kind.pattern.endswith(r"\Z"):
        yield place, "pattern", f"{kind.pattern!r} is not anchored"
    elif re.search(r"(?<!\\)\$", re.sub(r"\[[^]]*\]", "", kind.pattern)):
        yield place, "pattern", f"{kind.pattern!r} holds a bare $"


def _enum(cls: type[enum.Enum], place: str) -> _Found:
    if not all(isinstance(word.value, str) for word in cls):
        yield place, "enum", f"a word of {cls.__name__} is not text"
    if issubclass(cls, OpenEnum):
        if getattr(cls, "UNKNOWN", None) != "unknown":
            yield place, "enum", f'{cls.__name__} has no UNKNOWN = "unknown"'
    elif "_missing_" in vars(cls):
        yield place, "enum", f"{cls.__name__} is open, but no OpenEnum"


def _bare(kind: inspect.Type) -> inspect.Type:
    while isinstance(kind, inspect.Metadata):
        kind = kind.type
    if isinstance(kind, inspect.UnionType):
        members = [each for each in kind.types if not isinstance(each, inspect.NoneType)]
        return _bare(members[0]) if len(members) == 1 else kind
    return kind


def arguments(_: argparse.ArgumentParser) -> None:
    """No argument: all events are held to all rules."""


def run(_: argparse.Namespace) -> int:
    """Say what is wrong with the events of the shop."""
    facts = [fact for owned in EVENTS.values() for fact in owned]
    found = [finding for fact in facts for finding in findings(fact)]
    for finding in found:
        law = RULES[finding.rule]
        sys.stdout.write(f"{finding.where}: {finding.message}\n    {finding.rule}: {law}\n")
    sys.stdout.write(f"{len(facts)} events, {len(found)} findings\n")
    return 1 if found else 0
