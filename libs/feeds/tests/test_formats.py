"""What each format makes of a file, good rows and bad ones."""

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeds import mapping as mappings
from feeds.formats import plain, read
from feeds.rows import Bad, BadMapping, BadUpload, File, Offer, Price, Row, UnknownFormat

Feed = Callable[..., list[Row | Bad]]

BOOKS = """
format = "csv"
currency = "EUR"
sku = "{sku}"
name = "{name}"
description = "{text}"
price = "{price}"
stock = "{stock}"
categories = ["{category}"]
category_separator = ">"
"""
HEADER = "sku,name,text,price,stock,category\n"
GOODS = 'format = "json"\ncurrency = "EUR"\nsku = "{sku}"\nname = "{name}"\nprice = "{price}"\n'


@pytest.fixture
def feed(tmp_path: Path) -> Feed:
    """Reads texts or bytes as the files a.feed, b.feed ... of one feed."""

    def feed(kind: str, *contents: str | bytes, mapping: str = "", currency: str = "") -> Any:
        files = []
        for letter, content in zip("abcdef", contents, strict=False):
            path = tmp_path / letter
            path.write_bytes(content.encode() if isinstance(content, str) else content)
            files.append(File(f"{letter}.feed", path))
        chosen = mappings.parse(mapping) if mapping else None
        return list(read(files, kind, chosen, currency=currency))

    return feed


def codes(rows: list[Row | Bad]) -> list[tuple[int, str]]:
    return [(each.line, each.code if isinstance(each, Bad) else "ok") for each in rows]


def product(**changes: Any) -> str:
    whole: dict[str, Any] = {
        "key": "tent",
        "name": "Tarn 2",
        "description": "For two.",
        "variants": [
            {"sku": "tent-1", "stock": 5, "prices": [{"currency": "EUR", "amount": "249.00"}]}
        ],
    }
    return json.dumps(whole | changes) + "\n"


def variant(**changes: Any) -> list[dict[str, Any]]:
    return [{"sku": "tent-1"} | changes]


def cost(amount: Any, currency: str = "EUR") -> list[dict[str, Any]]:
    return variant(prices=[{"currency": currency, "amount": amount}])


def test_a_line_of_ndjson_is_a_product_with_its_offers(feed: Feed) -> None:
    (row,) = feed("ndjson", product(brand="Nordhang", categories=[["Outdoor", "Tents"]]))

    assert isinstance(row, Row)
    assert ("tent", "Tarn 2", "Nordhang") == (row.product.key, row.product.name, row.product.brand)
    assert [["Outdoor", "Tents"]] == row.product.categories
    assert [Offer(sku="tent-1", stock=5, prices=[Price("EUR", 24900)])] == row.offers


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("{", "bad-json"),
        ("[" * 100_000, "bad-json"),
        ('{"key": NaN}', "bad-json"),
        ("[]", "bad-shape"),
        ('{"key": "a"}', "bad-shape"),
        (product(colour="red"), "bad-shape"),
        (product(name=["Tarn"]), "bad-shape"),
        (product(key="-tent"), "bad-sku"),
        (product(variants=[]), "no-variant"),
        (product(variants=variant(sku="ta\u0301rn")), "bad-sku"),
        (product(variants=variant(sku="x" * 65)), "bad-sku"),
        (product(variants=variant(sku="tent\n")), "bad-sku"),
        (product(variants=variant() * 2), "duplicate-sku"),
        (product(name="  "), "empty-name"),
        (product(name="x" * 201), "too-long"),
        (product(name="Tarn\x002"), "control-character"),
        (product(name="Tarn\n2"), "control-character"),
        (product(name="\ud800"), "bad-encoding"),
        (product(description="x" * 20_001), "too-long"),
        (product(description="so <b>light</b>"), "markup-in-text"),
        (product(attributes={"Weight": "<script>"}), "markup-in-text"),
        (product(categories=[["Outdoor", ""]]), "bad-category"),
        (product(images=["javascript:alert(1)"]), "bad-image"),
        (product(images=["//elsewhere.example/a.png"]), "bad-image"),
        (product(images=["/a.png"] * 101), "too-many"),
        (product(variants=variant(stock=-1)), "bad-stock"),
        (product(variants=variant(stock=1.5)), "bad-stock"),
        (product(variants=variant(stock=2**31 + 1)), "bad-stock"),
        (product(variants=cost("19.999")), "bad-price"),
        (product(variants=cost("-1")), "bad-price"),
        (product(variants=cost("1e3")), "bad-price"),
        (product(variants=cost("1,50")), "bad-price"),
        (product(variants=cost("9" * 16)), "bad-price"),
        (product(variants=cost("19.99", "JPY")), "bad-price"),
        (product(variants=cost("1", "EURO")), "bad-currency"),
        (product(variants=cost("1", "QQQ")), "bad-currency"),
    ],
)
def test_a_bad_line_is_named_and_the_rest_goes_in(feed: Feed, line: str, code: str) -> None:
    rows = feed("ndjson", line.strip("\n") + "\n" + product())

    assert [(1, code), (2, "ok")] == codes(rows)


@pytest.mark.parametrize(
    ("amount", "currency", "minor"),
    [
        ("0", "EUR", 0),
        ("19.9", "EUR", 1990),
        ("19.990", "EUR", 1999),
        (19.99, "EUR", 1999),
        (1.1, "EUR", 110),
        ("1999", "JPY", 1999),
        ("1.234", "KWD", 1234),
    ],
)
def test_a_price_is_exact(feed: Feed, amount: Any, currency: str, minor: int) -> None:
    (row,) = feed("ndjson", product(variants=cost(amount, currency)))

    assert isinstance(row, Row)
    assert [Price(currency, minor)] == row.offers[0].prices


def test_a_list_price_counts_only_when_it_is_higher(feed: Feed) -> None:
    prices = [
        {"currency": "EUR", "amount": "5", "list": "6"},
        {"currency": "USD", "amount": "5", "list": "5"},
    ]
    (row,) = feed("ndjson", product(variants=variant(prices=prices)))

    assert isinstance(row, Row)
    assert [Price("EUR", 500, 600), Price("USD", 500)] == row.offers[0].prices


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"weight_g": 1900, "tax_class": "reduced"}, (1_900, "reduced")),
        ({"weight_g": "0.2"}, (1, None)),
        ({"weight_g": None, "tax_class": ""}, (None, None)),
        ({"weight_g": "1.9 kg"}, "bad-weight"),
        ({"weight_g": "1000000001"}, "bad-weight"),
        ({"weight_g": "-1"}, "bad-weight"),
        ({"tax_class": "Reduced rate"}, "bad-tax-class"),
    ],
)
def test_a_variant_says_what_it_weighs_and_how_it_is_taxed(
    feed: Feed, said: dict[str, Any], expected: Any
) -> None:
    (row,) = feed("ndjson", product(variants=[{"sku": "A", **said}]))

    if isinstance(row, Bad):
        assert expected == row.code
    else:
        found = row.product.variants[0]
        assert expected == (found.weight_g, found.tax_class)


def test_an_empty_description_is_a_warning_and_the_row_goes_in(feed: Feed) -> None:
    (row,) = feed("ndjson", product(description=""))

    assert isinstance(row, Row)
    assert ["the description is empty"] == row.warnings


def test_a_less_than_sign_is_no_markup(feed: Feed) -> None:
    (row,) = feed("ndjson", product(description="#include <setjmp.h> if a <b && b> 3"))

    assert isinstance(row, Row)


def test_the_first_of_two_products_wins_even_across_files(feed: Feed) -> None:
    rows = feed("ndjson", product(), product() + product(key="other"))

    assert [(1, "ok"), (1, "duplicate-sku"), (2, "duplicate-sku")] == codes(rows)
    assert isinstance(rows[1], Bad)
    assert "the SKU tent-1 was first seen in a.feed line 1" == rows[1].reason
    assert "b.feed" == rows[1].source


def test_a_refused_row_does_not_keep_its_sku_from_a_good_one(feed: Feed) -> None:
    rows = feed("ndjson", product(name="") + product())

    assert [(1, "empty-name"), (2, "ok")] == codes(rows)


def test_bytes_that_are_not_utf_8_spoil_only_their_line(feed: Feed) -> None:
    rows = feed("ndjson", b'{"key": "M\xfcsli"}\n' + product().encode())

    assert [(1, "bad-encoding"), (2, "ok")] == codes(rows)


def test_a_line_without_end_is_refused_in_constant_memory(feed: Feed) -> None:
    rows = feed("ndjson", "x" * 3_000_000 + "\n" + product())

    assert [(1, "line-too-long"), (2, "ok")] == codes(rows)


def test_a_byte_order_mark_and_gzip_are_read_over(feed: Feed) -> None:
    plain_rows = feed("ndjson", b"\xef\xbb\xbf" + product().encode())
    packed = feed("ndjson", gzip.compress(product().encode()))

    assert [(1, "ok")] == codes(plain_rows) == codes(packed)


def test_a_damaged_gzip_or_utf_16_fails_the_feed(feed: Feed) -> None:
    for content in (gzip.compress(product().encode())[:-10], product().encode("utf-16")):
        with pytest.raises(BadUpload):
            feed("ndjson", content)


def test_csv_is_read_through_a_mapping_with_the_line_each_row_starts_in(feed: Feed) -> None:
    rows = feed(
        "csv",
        '\ufeff"sku",name,text,price,stock,category\r\n'
        'A1,One,"first\r\nsecond",1.50,3,A > B\r\n\r\nA2,Zwölf,"say ""hi""",2,,A\r\n',
        mapping=BOOKS,
    )

    assert [(2, "ok"), (5, "ok")] == codes(rows)
    one, two = rows
    assert isinstance(one, Row)
    assert isinstance(two, Row)
    assert ("first\nsecond", [["A", "B"]]) == (one.product.description, one.product.categories)
    assert [Offer(sku="A1", stock=3, prices=[Price("EUR", 150)])] == one.offers
    assert ('say "hi"', "Zwölf") == (two.product.description, two.product.name)
    assert [Offer(sku="A2", prices=[Price("EUR", 200)])] == two.offers


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("A1,One,text,1", "wrong-cells"),
        ("A1,One,text,1,2,c,more", "wrong-cells"),
        ('A1,"One"x,text,1,2,c', "bad-csv"),
        ("A1,One,text,1.-,2,c", "bad-price"),
        ("A1,One,text,1,many,c", "bad-stock"),
        ("A1,One," + "x" * 300_000 + ",1,2,c", "bad-csv"),
        ("A1,One," + "x" * 2_000_000 + ",1,2,c", "bad-csv"),
        (b"A1,M\xfcsli,text,1,2,c", "bad-encoding"),
    ],
)
def test_a_bad_row_of_csv_is_named_and_the_rest_goes_in(
    feed: Feed, line: str | bytes, code: str
) -> None:
    data = line.encode() if isinstance(line, str) else line
    rows = feed("csv", HEADER.encode() + data + b"\nA2,Two,text,1,2,c\n", mapping=BOOKS)

    assert [(2, code), (3, "ok")] == codes(rows)


def test_a_quote_that_is_never_closed_is_named_by_the_line_it_starts_in(feed: Feed) -> None:
    rows = feed("csv", HEADER + 'A1,One,text,1,2,c\nA2,"Two,text,1,2,c\n', mapping=BOOKS)

    assert [(2, "ok"), (3, "bad-csv")] == codes(rows)


def test_a_header_that_lacks_a_column_refuses_its_file_and_no_other(feed: Feed) -> None:
    rows = feed("csv", "sku,name\nA1,One\n", HEADER + "A2,Two,t,1,2,c\n", mapping=BOOKS)

    assert [(1, "missing-column"), (2, "ok")] == codes(rows)
    assert isinstance(rows[0], Bad)
    assert "the header lacks category, price, stock, text" == rows[0].reason


names = st.text(
    st.characters(categories=["L", "N", "P", "Zs"], exclude_characters="<"), max_size=40
)


@given(
    products=st.lists(
        st.tuples(names, names, st.integers(0, 10**9), st.integers(0, 2**31)), max_size=8
    ),
    delimiter=st.sampled_from(",;\t|"),
    end=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
)
def test_whatever_a_csv_writer_wrote_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    products: list[tuple[str, str, int, int]],
    delimiter: str,
    end: str,
    quoting: Any,
) -> None:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writerow(["sku", "name", "text", "price", "stock", "category"])
    for number, (name, words, minor, stock) in enumerate(products):
        writer.writerow([f"S{number}", f"x{name}x", f"x{words}x", f"{minor / 100:.2f}", stock, "c"])
    path = tmp_path_factory.mktemp("csv") / "file"
    path.write_bytes(text.getvalue().encode())
    mapping = mappings.parse(BOOKS + f"delimiter = {json.dumps(delimiter)}\n")

    rows = list(read([File("file", path)], "csv", mapping))

    assert [f"S{number}" for number in range(len(products))] == [
        each.product.key for each in rows if isinstance(each, Row)
    ]
    assert [(minor, stock) for _, _, minor, stock in products] == [
        (each.offers[0].prices[0].amount_minor, each.offers[0].stock)
        for each in rows
        if isinstance(each, Row)
    ]


def goods(count: int) -> list[dict[str, Any]]:
    return [{"sku": f"S{n}", "name": f"Größe {n}", "price": 0.1 + n} for n in range(count)]


@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_array_is_streamed_and_each_row_has_its_line(feed: Feed, indent: int | None) -> None:
    text = json.dumps(goods(3000), indent=indent, ensure_ascii=False)
    rows = feed("json", text, mapping=GOODS)

    assert 3000 == len([each for each in rows if isinstance(each, Row)])
    lines = text.split("\n")
    assert all('"sku"' in lines[each.line if indent else each.line - 1] for each in rows)


def test_json_values_one_after_another_are_read_as_well(feed: Feed) -> None:
    rows = feed("json", "\n".join(json.dumps(each) for each in goods(5)), mapping=GOODS)

    assert [(line, "ok") for line in range(1, 6)] == codes(rows)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("[]", []),
        ("[1]", [(1, "bad-shape")]),
        (
            '[{"sku": "A", "name": "a"}, 7\n, {"name": "b"}]',
            [(1, "ok"), (1, "bad-shape"), (2, "bad-sku")],
        ),
        ('[{"sku": "A", "name": {"en": "a"}}]', [(1, "bad-value")]),
        ('[{"sku": "A", "name": "a"} {"sku": "B"}]', [(1, "ok"), (1, "bad-json")]),
        ('[{"sku": "A", "name": "a"}\n', [(1, "ok"), (2, "bad-json")]),
        ('[{"sku": "A", "name": "a"}]\n[]', [(1, "ok"), (2, "bad-json")]),
        ('[{"sku": "A",\n"name": }]', [(1, "bad-json")]),
        ("[" * 100_000, [(1, "bad-json")]),
    ],
)
def test_broken_json_is_named_where_it_starts(
    feed: Feed, text: str, expected: list[tuple[int, str]]
) -> None:
    assert expected == codes(feed("json", text, mapping=GOODS))


SHOPIFY = """\
Handle,Title,Body (HTML),Vendor,Type,Tags,Option1 Name,Option1 Value,Option2 Name,Option2 Value,\
Variant SKU,Variant Inventory Qty,Variant Price,Variant Compare At Price,Variant Barcode,\
Image Src,Image Position,Status
shirt,Shirt,"<p>Soft &amp; <b>warm</b>.</p><ul><li>wool</li></ul>",Nordhang,Clothing,\
"new, wool",Size,S,Colour,Red,'sh-s,4,19.90,29.90,'4006381333931,https://cdn.example/2.jpg,2,active
shirt,,,,,,,M,,Red,sh-m,-2,21,,,https://cdn.example/1.jpg,1,
shirt,,,,,,,,,,,,,,,https://cdn.example/3.jpg,3,
mug,Mug,,,,,Title,Default Title,,,mug-1,0,5,5,,,,active
draft,Draft,,,,,Title,Default Title,,,draft-1,0,5,,,,,draft
bare,Bare,,,,,Title,Default Title,,,,0,5,,,,,active
"""


def test_the_rows_of_a_shopify_product_come_together(feed: Feed) -> None:
    rows = feed("shopify", SHOPIFY, currency="EUR")

    assert [(2, "ok"), (5, "ok"), (6, "not-active"), (7, "bad-sku")] == codes(rows)
    shirt, mug, draft, _ = rows
    assert isinstance(shirt, Row)
    assert ("Soft & warm.\nwool", "Nordhang") == (shirt.product.description, shirt.product.brand)
    assert {"Tags": "new, wool"} == shirt.product.attributes
    assert [["Clothing"]] == shirt.product.categories
    assert [f"https://cdn.example/{n}.jpg" for n in (1, 2, 3)] == shirt.product.images
    assert [{"Size": "S", "Colour": "Red"}, {"Size": "M", "Colour": "Red"}] == [
        each.options for each in shirt.product.variants
    ]
    assert "4006381333931" == shirt.product.variants[0].barcode
    assert [
        Offer(sku="sh-s", stock=4, prices=[Price("EUR", 1990, 2990)]),
        Offer(sku="sh-m", stock=0, prices=[Price("EUR", 2100)]),
    ] == shirt.offers
    assert isinstance(mug, Row)
    assert {} == mug.product.variants[0].options
    assert isinstance(draft, Bad)
    assert "warning" == draft.severity


def test_the_newer_names_of_shopify_columns_are_known(feed: Feed) -> None:
    (row,) = feed(
        "shopify",
        "Title,URL handle,Description,Vendor,Product category,Status,SKU,Option1 name,"
        "Option1 value,Price,Compare-at price,Inventory quantity,Product image URL\n"
        "Mug,mug,<p>Blue</p>,Nordhang,Home & Garden > Kitchen,Active,mug-1,Title,Default Title,"
        "5.00,6.00,7,https://cdn.example/1.jpg\n",
        currency="USD",
    )

    assert isinstance(row, Row)
    assert [["Home & Garden", "Kitchen"]] == row.product.categories
    assert [Offer(sku="mug-1", stock=7, prices=[Price("USD", 500, 600)])] == row.offers


def test_a_shopify_product_with_one_bad_row_stays_out_whole(feed: Feed) -> None:
    rows = feed("shopify", SHOPIFY.replace("shirt,,,,,,,M,,Red", "shirt,,,,M,,Red"), currency="EUR")

    assert (3, "wrong-cells") == codes(rows)[0]


@pytest.mark.parametrize("column", ["Variant Grams", "Weight value (grams)"])
def test_shopify_knows_the_grams(feed: Feed, column: str) -> None:
    text = f"Handle,Title,Variant SKU,Variant Price,{column}\nmug,Mug,mug-1,5,340.0\n"

    (row,) = feed("shopify", text, currency="EUR")

    assert isinstance(row, Row)
    assert 340 == row.product.variants[0].weight_g


def test_a_csv_that_is_not_shopifys_says_so(feed: Feed) -> None:
    rows = feed("shopify", "a,b\n1,2\n", currency="EUR")

    assert [(2, "missing-column")] == codes(rows)


def test_html_becomes_what_a_reader_sees() -> None:
    assert "One\nTwo & three" == plain(
        "<style>p {}</style><h1>One</h1>\n<p>Two &amp;\n <i>three</i></p><script>x<y</script>"
    )


@pytest.mark.parametrize(
    ("kind", "mapping", "currency", "error"),
    [
        ("xml", "", "", UnknownFormat),
        ("csv", "", "", BadMapping),
        ("csv", GOODS, "", BadMapping),
        ("ndjson", GOODS, "", BadMapping),
        ("ndjson", "", "EUR", BadMapping),
        ("shopify", "", "", BadMapping),
        ("shopify", "", "euro", BadMapping),
        ("json", GOODS + "colour = 1", "", BadMapping),
        ("json", GOODS.replace("EUR", "EURO"), "", BadMapping),
        ("json", GOODS.replace("{sku}", "{sku"), "", BadMapping),
        ("json", "not = [toml", "", BadMapping),
        ("csv", BOOKS + "header = false", "", BadMapping),
        ("csv", BOOKS + 'header = false\ncolumns = ["sku", "name"]', "", BadMapping),
        ("csv", BOOKS + 'delimiter = "ab"', "", BadMapping),
    ],
)
def test_a_feed_nobody_can_read_is_refused_before_it_is_read(
    feed: Feed, kind: str, mapping: str, currency: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        feed(kind, "", mapping=mapping, currency=currency)


def test_a_name_that_is_no_shipped_mapping_is_refused() -> None:
    with pytest.raises(BadMapping, match="there are dummyjson, eshop, oscar-books"):
        mappings.named("nothing")
