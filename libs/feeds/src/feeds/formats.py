"""The formats of a feed, each a reader that finds products in files. What may go in, rules say.

ndjson, our own: each line is one product,
    {"key": "tent-1", "name": "Tarn 2", "description": "", "brand": "Nordhang",
     "categories": [["Outdoor", "Tents"]], "attributes": {"Weight": "1.9 kg"},
     "images": ["/static/images/tents.svg"],
     "variants": [{"sku": "tent-1-green", "options": {"Colour": "Green"},
                   "barcode": "4006381333931", "weight_g": 1900,
                   "tax_class": "standard", "stock": 5,
                   "prices": [{"currency": "EUR", "amount": "249.00", "list": "299.00"}]}]}
where key, name and one variant with its sku are needed and the rest may be left out.
shopify: the product CSV that Shopify exports, with the older or the newer names of its columns; it
needs a currency.
csv, json: anything else, through a mapping.

All read lazily. What stays in memory is where each key and SKU was first seen, so that no feed
names one twice.
"""

import csv
from collections.abc import Callable, Generator, Iterator, Sequence
from html.parser import HTMLParser
from itertools import groupby
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from feeds import mapping as mappings
from feeds.files import Line, Source, value
from feeds.mapping import Mapping, many, one
from feeds.rows import Bad, BadMapping, File, Row, UnknownFormat
from feeds.rules import Found, Reject, Sellable, judged, precision

LONGEST_CELL = 256 * 1024


class Item(NamedTuple):
    """A product as it was found, or why there is none."""

    line: int
    found: Found | Reject
    severe: bool = True


class How(NamedTuple):
    """What the sender says about the feed."""

    mapping: Mapping | None
    currency: str


Reader = Callable[[Source, File, How], Iterator[Item]]


def read(
    files: Sequence[File],
    format: str,  # noqa: A002  the word of the HTTP interface
    mapping: Mapping | None = None,
    *,
    currency: str = "",
) -> Generator[Row | Bad, None, None]:
    """The rows of a feed, in order.

    The same files give the same rows: how many were taken is the place to go on from.
    """
    how = How(mapping, currency)
    check(format, how)
    return _read(files, FORMATS[format], how)


def check(format: str, how: How) -> None:  # noqa: A002  as above
    """Raises UnknownFormat or BadMapping where a feed cannot be read like this."""
    if format not in FORMATS:
        raise UnknownFormat(f"there is no format {format!r}; there are {', '.join(FORMATS)}")
    if (format in MAPPED) != (how.mapping is not None):
        raise BadMapping(
            f"the format {format} {'needs' if format in MAPPED else 'takes no'} mapping"
        )
    if how.mapping and how.mapping.format != format:
        raise BadMapping(f"the mapping is for {how.mapping.format}, the format is {format}")
    if format in PRICED_OUTSIDE:
        try:
            precision(how.currency)
        except Reject as reject:
            raise BadMapping(f"the format {format} needs a currency: {reject.reason}") from None
    elif how.currency:
        raise BadMapping(f"the format {format} takes no currency: it says its own")


def _read(files: Sequence[File], reader: Reader, how: How) -> Generator[Row | Bad, None, None]:
    source = Source(files)
    seen: dict[str, str] = {}
    for file in files:
        for item in reader(source, file, how):
            at = source.offset
            try:
                yield _row(file.name, item, seen, at)
            except Reject as reject:
                yield Bad(
                    source=file.name,
                    line=item.line,
                    code=reject.code,
                    reason=reject.reason,
                    severity="error" if item.severe else "warning",
                    offset=at,
                )


def _row(source: str, item: Item, seen: dict[str, str], offset: int) -> Row:
    if isinstance(item.found, Reject):
        raise item.found
    product, offers, warnings = judged(item.found)
    names = {f"key {product.key}", *(f"SKU {each.sku}" for each in offers)}
    if again := min(names & seen.keys(), default=None):
        raise Reject("duplicate-sku", f"the {again} was first seen in {seen[again]}")
    # only what goes in takes its names: the next try may be the good one
    seen |= dict.fromkeys(names, f"{source} line {item.line}")
    return Row(
        source=source,
        line=item.line,
        product=product,
        offers=offers,
        warnings=warnings,
        offset=offset,
    )


class _NdPrice(Struct, forbid_unknown_fields=True):
    currency: str
    amount: str
    list: str | None = None


class _NdVariant(Struct, forbid_unknown_fields=True):
    sku: str
    options: dict[str, str] = {}
    barcode: str | None = None
    weight_g: str | None = None
    tax_class: str | None = None
    stock: str | None = None
    prices: list[_NdPrice] = []


class _NdProduct(Struct, forbid_unknown_fields=True):
    key: str
    name: str
    variants: list[_NdVariant]
    description: str | None = None
    brand: str | None = None
    categories: list[list[str]] = []
    attributes: dict[str, str] = {}
    images: list[str] = []


def _ndjson(source: Source, file: File, _how: How) -> Iterator[Item]:
    for number, text in source.lines(file):
        if text is None:
            yield Item(number, Reject("line-too-long", "the line is longer than 1 MiB"))
        elif text.strip():
            try:
                yield Item(number, _nd_product(text))
            except Reject as reject:
                yield Item(number, reject)


def _nd_product(text: str) -> Found:
    if _broken(text):
        raise Reject("bad-encoding", "the line is not UTF-8")
    try:
        given = msgspec.convert(value(text), _NdProduct)
    except msgspec.ValidationError as error:
        raise Reject("bad-shape", f"the line is no product: {error}") from None
    except ValueError as error:
        raise Reject("bad-json", f"the line is no JSON: {error}") from None
    return Found(
        key=given.key,
        name=given.name,
        description=given.description or "",
        brand=given.brand or "",
        categories=given.categories,
        attributes=given.attributes,
        images=given.images,
        variants=[
            Sellable(
                sku=each.sku,
                options=each.options,
                barcode=each.barcode or "",
                weight_g=each.weight_g or "",
                tax_class=each.tax_class or "",
                stock=each.stock or "",
                prices=[(it.currency, it.amount, it.list or "") for it in each.prices],
            )
            for each in given.variants
        ],
    )


def _csv_mapped(source: Source, file: File, how: How) -> Iterator[Item]:
    assert how.mapping  # noqa: S101  check() made sure of it
    columns = None if how.mapping.header else how.mapping.columns
    for line, row in _cells(source, file, how.mapping.delimiter, columns, how.mapping.references()):
        try:
            yield Item(line, row if isinstance(row, Reject) else _mapped(row, how.mapping))
        except Reject as reject:
            yield Item(line, reject)


def _json_mapped(source: Source, file: File, how: How) -> Iterator[Item]:
    assert how.mapping  # noqa: S101  check() made sure of it
    for line, given, error in source.values(file):
        try:
            yield Item(line, _json_object(given, error, how.mapping))
        except Reject as reject:
            yield Item(line, reject)


def _json_object(given: object, error: str, how: Mapping) -> Found:
    if error:
        raise Reject("bad-json", f"from here on the file is no JSON: {error}")
    if not isinstance(given, dict):
        raise Reject("bad-shape", "the value is no JSON object")
    return _mapped(given, how)


def _mapped(row: dict[str, Any], how: Mapping) -> Found:
    sku = one(how.sku, row)
    paths = [path for template in how.categories for path in many(template, row)]
    amount = one(how.price, row)
    variant = Sellable(
        sku=sku,
        options={name: one(template, row) for name, template in how.options.items()},
        barcode=one(how.barcode, row),
        weight_g=one(how.weight_g, row),
        tax_class=one(how.tax_class, row),
        stock=one(how.stock, row),
        prices=[(how.currency, amount, one(how.list_price, row))] if amount else [],
    )
    return Found(
        key=one(how.key, row) if how.key else sku,
        name=one(how.name, row),
        description=one(how.description, row),
        brand=one(how.brand, row),
        categories=[
            path.split(how.category_separator) if how.category_separator else [path]
            for path in paths
        ],
        attributes={name: one(template, row) for name, template in how.attributes.items()},
        images=[image for template in how.images for image in many(template, row)],
        variants=[variant],
    )


def _cells(
    source: Source, file: File, delimiter: str, columns: Sequence[str] | None, needed: set[str]
) -> Iterator[tuple[int, dict[str, str] | Reject]]:
    """The rows of a CSV file by the names of their columns, each with the line it starts in."""
    for line, cells in _records(source, file, delimiter):
        if isinstance(cells, Reject):
            yield line, cells
        elif columns is None:
            columns = [each.strip() for each in cells]
            if missing := sorted(needed - set(columns)):
                yield line, Reject("missing-column", f"the header lacks {', '.join(missing)}")
                return
        elif len(cells) != len(columns):
            yield line, Reject("wrong-cells", f"the row has {len(cells)} cells, not {len(columns)}")
        elif any(_broken(each) for each in cells):
            yield line, Reject("bad-encoding", "the row is not UTF-8")
        else:
            yield line, dict(zip(columns, cells, strict=True))


def _records(
    source: Source, file: File, delimiter: str
) -> Iterator[tuple[int, list[str] | Reject]]:
    csv.field_size_limit(LONGEST_CELL)
    last = 0

    def text(line: Line) -> str:
        nonlocal last
        last = line.number
        if line.text is None:
            raise csv.Error("a line is longer than 1 MiB")
        return line.text

    # a map goes on after an error, as the csv reader does: with the next line, in a new row
    rows = csv.reader(map(text, source.lines(file)), delimiter=delimiter, strict=True)
    while True:
        start = last + 1
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield start, Reject("bad-csv", f"the row is no CSV: {error}")
            continue
        if cells:
            yield start, cells


def _broken(text: str) -> bool:
    """Whether bytes that are not UTF-8 came through."""
    return not text.isascii() and any("\udc80" <= each <= "\udcff" for each in text)


# the names of the columns since 2024, where they differ by more than case from the older ones
_NEWER = {
    "url handle": "handle",
    "description": "body (html)",
    "sku": "variant sku",
    "barcode": "variant barcode",
    "weight value (grams)": "variant grams",
    "price": "variant price",
    "compare-at price": "variant compare at price",
    "inventory quantity": "variant inventory qty",
    "product image url": "image src",
}


def _shopify(source: Source, file: File, how: How) -> Iterator[Item]:
    def known() -> Iterator[tuple[int, dict[str, str] | Reject]]:
        for line, row in _cells(source, file, ",", None, set()):
            if isinstance(row, Reject):
                yield line, row
                continue
            lower = {name.lower(): cell.strip() for name, cell in row.items()}
            yield line, {_NEWER.get(name, name): cell for name, cell in lower.items()}

    previous: object = None

    def handle(numbered: tuple[int, dict[str, str] | Reject]) -> object:
        """Rows with one handle belong together; one that cannot be read, to its neighbour."""
        nonlocal previous
        row = numbered[1]
        if not isinstance(row, Reject):
            previous = row.get("handle")
        return previous

    for name, group in groupby(known(), handle):
        rows = list(group)
        line = rows[0][0]
        try:
            yield _shopify_product(str(name or ""), rows, how.currency)
        except Reject as reject:
            yield Item(line, reject)


def _shopify_product(
    handle: str, rows: list[tuple[int, dict[str, str] | Reject]], currency: str
) -> Item:
    line = rows[0][0]
    cells: list[dict[str, str]] = []
    for number, row in rows:
        if isinstance(row, Reject):
            return Item(number, row)
        cells.append(row)
    head = cells[0]
    if "handle" not in head or "variant price" not in head:
        raise Reject(
            "missing-column", "this is no product CSV of Shopify: it lacks Handle or Variant Price"
        )
    status = head.get("status", "").lower()
    if status not in {"", "active"}:
        return Item(
            line,
            Reject("not-active", f"the product {handle} is {status} and stays out"),
            severe=False,
        )
    options = {n: name for n in (1, 2, 3) if (name := head.get(f"option{n} name", ""))}
    variants, pictures = [], []
    for row in cells:
        if row.get("variant price") or row.get("variant sku"):
            variants.append(_shopify_variant(row, options, currency))
        if row.get("image src"):
            pictures.append((_order(row.get("image position", "")), row["image src"]))
    return Item(
        line,
        Found(
            key=handle,
            name=head.get("title", ""),
            description=plain(head.get("body (html)", "")),
            brand=head.get("vendor", ""),
            categories=_shopify_categories(head),
            attributes={"Tags": head["tags"]} if head.get("tags") else {},
            images=[url for _, url in sorted(pictures, key=lambda each: each[0])],
            variants=variants,
        ),
    )


def _shopify_variant(row: dict[str, str], options: dict[int, str], currency: str) -> Sellable:
    chosen = {name: row.get(f"option{n} value", "") for n, name in options.items()}
    amount = row.get("variant price", "")
    stock = row.get("variant inventory qty", "")
    return Sellable(
        # the apostrophe keeps a spreadsheet from taking the code for a number
        sku=row.get("variant sku", "").removeprefix("'"),
        options={} if chosen == {"Title": "Default Title"} else chosen,
        barcode=row.get("variant barcode", "").removeprefix("'"),
        weight_g=row.get("variant grams", ""),
        # Shopify may sell more than there is, and then counts below zero: nothing is left
        stock="0" if stock.startswith("-") and stock[1:].isdecimal() else stock,
        prices=[(currency, amount, row.get("variant compare at price", ""))] if amount else [],
    )


def _shopify_categories(head: dict[str, str]) -> list[list[str]]:
    path = head.get("product category") or head.get("type", "")
    return [[name.strip() for name in path.split(">")]] if path else []


def _order(position: str) -> int:
    return int(position) if position.isdecimal() and len(position) < 10 else 10**9  # noqa: PLR2004


class _Plain(HTMLParser):
    """Collects the text, a new line where a block starts or ends."""

    BLOCKS = frozenset(
        (
            "br",
            "div",
            "h1",
            "h2",
            "h3",
            "h4",
            "h5",
            "h6",
            "hr",
            "li",
            "ol",
            "p",
            "table",
            "tr",
            "ul",
        )
    )
    SILENT = frozenset(("script", "style"))

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.silent = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del attrs
        self.silent += tag in self.SILENT
        if tag in self.BLOCKS:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self.silent -= tag in self.SILENT and self.silent > 0
        if tag in self.BLOCKS:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self.silent:
            self.parts.append(" ".join(("x" + data + "x").split())[1:-1])


def plain(html: str) -> str:
    """What a reader sees of a piece of HTML, a line for each block."""
    parser = _Plain()
    parser.feed(html)
    parser.close()
    lines = (line.strip() for line in "".join(parser.parts).split("\n"))
    return "\n".join(line for line in lines if line)


def mapping_of(name_or_text: str) -> Mapping | None:
    """The mapping that a sender names or sends; None where nothing is given."""
    return mappings.parse(mappings.text(name_or_text)) if name_or_text else None


MAPPED = frozenset(("csv", "json"))
PRICED_OUTSIDE = frozenset(("shopify",))
FORMATS: dict[str, Reader] = {
    "ndjson": _ndjson,
    "shopify": _shopify,
    "csv": _csv_mapped,
    "json": _json_mapped,
}
