"""Mapping files: which column or JSON path of a feed is which part of a product. No I/O here.

Each part is a template: "{Column}" stands for what the feed has there, "{a.b}" for a path in
JSON, and the rest is taken as it is. So "{Id}" is a column, "ESHOP-{Id}" is made of one, and
"Books" is the same for every row.
"""

import re
from collections.abc import Mapping as Named
from importlib.resources import files
from typing import Any, Literal

import msgspec
from msgspec import Struct

from feeds.rows import BadMapping
from feeds.rules import Reject, precision

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_PART = re.compile(r"\{([^{}]*)\}")


class Mapping(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to read one kind of feed. Each row is a product with one variant."""

    format: Literal["csv", "json"]
    currency: str

    header: bool = True  # CSV: the first line names the columns
    columns: list[str] = []  # CSV without header: the names; "" for what is of no use
    delimiter: str = ","

    sku: str
    key: str = ""  # the sku where it is empty
    name: str
    description: str = ""
    brand: str = ""
    barcode: str = ""
    weight_g: str = ""
    tax_class: str = ""
    categories: list[str] = []
    category_separator: str = ""  # between the names of one path
    images: list[str] = []
    price: str = ""
    list_price: str = ""
    stock: str = ""
    attributes: dict[str, str] = {}
    options: dict[str, str] = {}

    def references(self) -> set[str]:
        """The columns or paths that the templates name."""
        return {name for each in self.templates() for name in _PART.findall(each)}

    def templates(self) -> list[str]:
        return [
            *(self.sku, self.key, self.name, self.description, self.brand, self.barcode),
            *(self.weight_g, self.tax_class),
            *(self.price, self.list_price, self.stock),
            *self.categories,
            *self.images,
            *self.attributes.values(),
            *self.options.values(),
        ]


def parse(text: str) -> Mapping:
    """The mapping that a TOML text describes, or BadMapping."""
    try:
        mapping = msgspec.toml.decode(text, type=Mapping)
    except (msgspec.MsgspecError, ValueError) as error:
        raise BadMapping(f"the mapping is not understood: {error}") from error
    _check(mapping)
    return mapping


def named(name: str) -> Mapping:
    """One of the mappings that ship with the project, or BadMapping."""
    return parse(text(name))


def text(name_or_text: str) -> str:
    """The text of the shipped mapping with this name; what is no name is a text already."""
    if not _NAME.fullmatch(name_or_text):
        return name_or_text
    if name_or_text not in names():
        raise BadMapping(f"there is no mapping {name_or_text!r}; there are {', '.join(names())}")
    return (files("feeds") / "mappings" / f"{name_or_text}.toml").read_text("utf-8")


def names() -> list[str]:
    """The mappings that ship with the project."""
    found = (each.name for each in (files("feeds") / "mappings").iterdir())
    return sorted(each.removesuffix(".toml") for each in found if each.endswith(".toml"))


def one(template: str, row: Named[str, Any]) -> str:
    """What a template makes of a row; empty when all it stands on is absent."""
    if whole := _PART.fullmatch(template):
        return _text(_at(whole[1], row))
    parts = {name: _text(_at(name, row)) for name in _PART.findall(template)}
    if parts and not any(parts.values()):
        return ""
    return _PART.sub(lambda part: parts[part[1]], template)


def many(template: str, row: Named[str, Any]) -> list[str]:
    """As `one`, where a list in the feed stands for several."""
    if (whole := _PART.fullmatch(template)) and isinstance(found := _at(whole[1], row), list):
        return [value for each in found if (value := _text(each))]
    return [value] if (value := one(template, row)) else []


def _at(path: str, row: Named[str, Any]) -> Any:
    if path in row:
        return row[path]
    found: Any = row
    for name in path.split("."):
        if not isinstance(found, dict):
            return None
        found = found.get(name)
    return found


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ", ".join(_text(each) for each in value)
    if isinstance(value, dict):
        raise Reject("bad-value", "a value is an object where a text is wanted")
    return str(value).strip()


def _check(mapping: Mapping) -> None:
    if any("{" in _PART.sub("", each) or "{}" in each for each in mapping.templates()):
        raise BadMapping("a template has a '{' that names nothing")
    try:
        precision(mapping.currency)
    except Reject as reject:
        raise BadMapping(reject.reason) from None
    if mapping.format == "csv":
        _check_columns(mapping)


def _check_columns(mapping: Mapping) -> None:
    if len(mapping.delimiter) != 1 or mapping.delimiter in '"\r\n':
        raise BadMapping("the delimiter must be one character, and no quote or line break")
    if mapping.header == bool(mapping.columns):
        raise BadMapping("a CSV feed has either a header or the names of its columns here")
    used = [each for each in mapping.columns if each]
    if len(set(used)) != len(used):
        raise BadMapping("a column is named twice")
    unknown = sorted(mapping.references() - set(used))
    if unknown and not mapping.header:
        raise BadMapping(f"the mapping uses {', '.join(unknown)}, which is no column")
