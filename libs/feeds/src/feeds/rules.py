"""What a row must satisfy to go in, whatever feed it came from. No I/O, and no format, here."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import cache
from math import ceil

from babel.numbers import get_currency_precision, is_currency
from msgspec import Struct

from feeds.rows import Offer, Price, Product, Variant

LONGEST_NAME = 200
LONGEST_VALUE = 500
LONGEST_TEXT = 20_000
LONGEST_URL = 2_000
MOST_VARIANTS = 500
SHOWN = 60  # characters of a stranger's text in a sentence
MOST_PARTS = 100  # categories, attributes, images, options
MOST_UNITS = 2**31
MOST_GRAMS = 10**9
MOST_MINOR = 2**53 - 1

_SKU = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_AMOUNT = re.compile(r"[0-9]{1,16}(?:\.[0-9]{1,16})?")
_GRAMS = re.compile(r"[0-9]{1,10}(\.[0-9]{1,10})?")
_CLASS = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_UNITS = re.compile(r"[0-9]{1,10}")
# A lone "<setjmp.h>" is what a book about C says; a closing tag or an HTML element is what a
# broken export says.
_MARKUP = re.compile(
    r"</\s*[A-Za-z]|<[A-Za-z][^<>]*/>|<!--|<!\[CDATA\["
    r"|<(?:a|b|br|div|em|font|h[1-6]|hr|i|iframe|img|li|object|ol|p|script|span|strong|style|svg"
    r"|table|td|tr|ul)"
    r"(?:\s+[\w-]+\s*=[^<>]*)?\s*>",
    re.IGNORECASE,
)
_URL = re.compile(r"(?:https?://[^\s/\\<>\"]+|/(?![/\\]))[^\s\\<>\"]*")


class Reject(Exception):
    """A row does not go in."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Sellable(Struct, frozen=True, kw_only=True):
    """A variant and its offer as a format found them: texts that nobody has judged yet."""

    sku: str
    options: Mapping[str, str] = {}
    barcode: str = ""
    weight_g: str = ""
    tax_class: str = ""
    stock: str = ""
    prices: Sequence[tuple[str, str, str]] = ()  # currency, amount, list amount


class Found(Struct, frozen=True, kw_only=True):
    """A product as a format found it: texts that nobody has judged yet."""

    key: str
    name: str
    description: str = ""
    brand: str = ""
    categories: Sequence[Sequence[str]] = ()
    attributes: Mapping[str, str] = {}
    images: Sequence[str] = ()
    variants: Sequence[Sellable]


def judged(found: Found) -> tuple[Product, list[Offer], list[str]]:
    """The product, its offers, what is worth a warning; or Reject. It goes in whole or not."""
    if not found.variants:
        raise Reject("no-variant", "the product has nothing to sell: no variant")
    _few("variants", found.variants, MOST_VARIANTS)
    variants: list[Variant] = []
    offers: list[Offer] = []
    for each in found.variants:
        variant = Variant(
            sku=sku(each.sku),
            options=_names("option", each.options),
            barcode=_short("the barcode", each.barcode, LONGEST_NAME) or None,
            weight_g=grams(each.weight_g),
            tax_class=tax_class(each.tax_class),
        )
        if any(variant.sku == other.sku for other in variants):
            raise Reject("duplicate-sku", f"the product has the SKU {variant.sku} twice")
        variants.append(variant)
        offers.append(
            Offer(
                sku=variant.sku, stock=units(each.stock), prices=[price(*it) for it in each.prices]
            )
        )
    name = _short("the name", found.name, LONGEST_NAME)
    if not name:
        raise Reject("empty-name", "the product has no name")
    description = _clean("the description", found.description, LONGEST_TEXT)
    product = Product(
        key=sku(found.key, "the key"),
        name=name,
        description=description,
        brand=_short("the brand", found.brand, LONGEST_NAME) or None,
        categories=_paths(found.categories),
        attributes=_names("attribute", found.attributes),
        images=_images(found.images),
        variants=variants,
    )
    return product, offers, [] if description else ["the description is empty"]


def sku(text: str, what: str = "the SKU") -> str:
    """A stock keeping unit, or the key of a product."""
    if not text:
        raise Reject("bad-sku", f"{what} is missing")
    if not _SKU.fullmatch(text):
        raise Reject(
            "bad-sku",
            f"{what} {_shown(text)} is not 1 to 64 of A-Z, a-z, 0-9, '.', '_', '-', "
            "a letter or digit first",
        )
    return text


def grams(text: str) -> int | None:
    """Grams, a broken one counted as whole; nothing where the feed says nothing."""
    if not text:
        return None
    if not _GRAMS.fullmatch(text) or (weight := ceil(Decimal(text))) > MOST_GRAMS:
        raise Reject("bad-weight", f"the weight {_shown(text)} is not a number of grams to 10^9")
    return weight


def tax_class(text: str) -> str | None:
    """The word of a tax class; nothing where the feed says nothing."""
    if text and not _CLASS.fullmatch(text):
        raise Reject("bad-tax-class", f"the tax class {_shown(text)} is not a word such as reduced")
    return text or None


def units(text: str) -> int | None:
    """Whole units in stock; nothing where the feed says nothing."""
    if not text:
        return None
    if not _UNITS.fullmatch(text) or int(text) > MOST_UNITS:
        raise Reject("bad-stock", f"the stock {_shown(text)} is not a whole number from 0 to 2^31")
    return int(text)


def price(currency: str, amount: str, list_amount: str = "") -> Price:
    """A price in minor units; a compared price that is not higher says nothing and is dropped."""
    paid = minor(currency, amount)
    compared = minor(currency, list_amount) if list_amount else None
    return Price(currency, paid, compared if compared and compared > paid else None)


def minor(currency: str, amount: str) -> int:
    """A decimal amount as minor units of its currency, exactly or not at all."""
    digits = precision(currency)
    if not _AMOUNT.fullmatch(amount):
        raise Reject("bad-price", f"the price {_shown(amount)} is not a decimal number from 0 up")
    scaled = Decimal(amount).scaleb(digits)
    if scaled != int(scaled):
        raise Reject(
            "bad-price",
            f"the price {_shown(amount)} has more than the {digits} decimals of {currency}",
        )
    if scaled > MOST_MINOR:
        raise Reject("bad-price", f"the price {_shown(amount)} is too large")
    return int(scaled)


@cache
def _precision(currency: str) -> int | None:
    return get_currency_precision(currency) if is_currency(currency, "en") else None


def precision(currency: str) -> int:
    """Decimals of a currency."""
    digits = _precision(currency) if re.fullmatch("[A-Z]{3}", currency) else None
    if digits is None:
        raise Reject("bad-currency", f"{_shown(currency)} is not a currency of ISO 4217")
    return digits


def _clean(what: str, text: str, longest: int) -> str:
    """Normalised text without control characters and markup; line breaks and tabs may stay."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Reject("bad-encoding", f"{what} is not UTF-8") from None
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n")).strip()
    if len(text) > longest:
        raise Reject("too-long", f"{what} has {len(text)} characters, {longest} are allowed")
    if any(unicodedata.category(each) == "Cc" and each not in "\n\t" for each in text):
        raise Reject("control-character", f"{what} contains a control character")
    if found := _MARKUP.search(text):
        raise Reject("markup-in-text", f"{what} contains markup: {_shown(found[0])}")
    return text


def _short(what: str, text: str, longest: int) -> str:
    text = _clean(what, text, longest)
    if "\n" in text or "\t" in text:
        raise Reject("control-character", f"{what} contains a line break or a tab")
    return text


def _names(what: str, pairs: Mapping[str, str]) -> dict[str, str]:
    _few(f"{what}s", pairs, MOST_PARTS)
    clean = {}
    for name, value in pairs.items():
        key = _short(f"the name of an {what}", name, LONGEST_NAME)
        if not key:
            raise Reject("empty-name", f"an {what} has no name")
        if text := _short(f"the {what} {key}", value, LONGEST_VALUE):
            clean[key] = text
    return clean


def _paths(paths: Sequence[Sequence[str]]) -> list[list[str]]:
    _few("categories", paths, MOST_PARTS)
    clean: list[list[str]] = []
    for path in paths:
        _few("levels of a category", path, MOST_PARTS)
        names = [_short("a category", each, LONGEST_NAME) for each in path]
        if not all(names):
            raise Reject(
                "bad-category", f"the category {_shown(' > '.join(path))} has an empty name"
            )
        if names and names not in clean:
            clean.append(names)
    return clean


def _images(images: Sequence[str]) -> list[str]:
    _few("images", images, MOST_PARTS)
    for each in images:
        if len(each) > LONGEST_URL or not _URL.fullmatch(each):
            raise Reject(
                "bad-image", f"the image {_shown(each)} is no http(s) URL and no path from '/'"
            )
    return list(dict.fromkeys(images))


def _few(what: str, things: Sequence[object] | Mapping[str, str], most: int) -> None:
    if len(things) > most:
        raise Reject("too-many", f"the product has {len(things)} {what}, {most} are allowed")


def _shown(text: str) -> str:
    """A stranger's text, fit to be quoted in a sentence."""
    return ascii(text if len(text) <= SHOWN else text[:SHOWN] + "...")
