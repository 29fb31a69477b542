"""What others wrote says yes to every file: tools of AsyncAPI and CloudEvents, more validators."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import jsonschema_rs
import pytest
from cloudevents.core.bindings.amqp import AMQPMessage, from_amqp_event
from cloudevents.core.bindings.rabbitmq import RabbitMQMessage, from_rabbitmq_event

from shop_contracts import build
from shop_contracts.envelope import CONTENT_TYPE, Malformed, decode
from shop_contracts.events import BY_KEY, EVENTS, OWNER_OF

pytestmark = pytest.mark.slow

TOOLS = Path(__file__).parent / "tools"
EXAMPLES = build.ROOT / "examples"
DOCUMENTS = [build.ROOT / "asyncapi" / f"{name}.json" for name in (*EVENTS, "shop")]
GOLDEN = sorted(EXAMPLES.glob("*/*.json"))
INVALID = sorted(EXAMPLES.glob("*/invalid/*.json"))

Judge = Callable[..., dict[str, list[str]]]


@pytest.fixture(scope="session")
def judge() -> Judge:
    """What the tools in `tools/` say of files, by file; installed there when they are missing."""
    for name in ("node", "npm"):
        if shutil.which(name) is None:
            pytest.fail(f"{name} is not installed: `./shop test` installs it")
    if not (TOOLS / "node_modules").is_dir():
        subprocess.run(["npm", "ci", "--silent", "--prefer-offline"], cwd=TOOLS, check=True)

    def ask(mode: str, *files: Path) -> dict[str, list[str]]:
        done = subprocess.run(
            ["node", "judge.mjs", mode, *map(str, files)],
            cwd=TOOLS,
            capture_output=True,
            text=True,
            check=True,
        )
        said: dict[str, list[str]] = json.loads(done.stdout)
        return said

    return ask


def data(path: Path) -> Any:
    return json.loads(path.read_bytes())["data"]


def test_asyncapi_accepts_every_document_without_a_word(judge: Judge) -> None:
    """Its official parser, and the JSON Schema of its specification."""
    assert {str(path): [] for path in DOCUMENTS} == judge("asyncapi", *DOCUMENTS)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("operations", "send.search.performed.v1", "action"), "shout"),
        (("channels", "search.performed.v1", "bindings", "amqp", "is"), "stream"),
        (("components", "messages", "search.performed.v1", "payload", "$ref"), "#/nowhere"),
    ],
)
def test_asyncapi_refuses_a_broken_document(
    judge: Judge, tmp_path: Path, place: tuple[str, ...], value: str
) -> None:
    document = json.loads((build.ROOT / "asyncapi" / "search.json").read_bytes())
    node = document
    for word in place[:-1]:
        node = node[word]
    node[place[-1]] = value
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps(document))

    assert judge("asyncapi", broken)[str(broken)]


def test_the_shop_document_says_who_sends_and_who_receives() -> None:
    document = json.loads((build.ROOT / "asyncapi" / "shop.json").read_bytes())

    assert set(BY_KEY) == set(document["channels"])
    assert "send" == document["operations"]["send.order.placed.v1"]["action"]
    assert (
        "stock.checkout"
        == document["operations"]["stock.receive.order.placed.v1"]["x-queue"]["name"]
    )


def test_every_example_is_an_event_by_the_schema_of_cloudevents(judge: Judge) -> None:
    assert {str(path): [] for path in GOLDEN} == judge("cloudevents", *GOLDEN)


def test_an_event_without_a_source_is_none(judge: Judge, tmp_path: Path) -> None:
    event = json.loads(GOLDEN[0].read_bytes())
    del event["source"]
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps(event))

    assert judge("cloudevents", broken)[str(broken)]


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_both_bindings_of_the_python_sdk_read_every_example(path: Path) -> None:
    body = path.read_bytes()
    event = decode(body)
    for read in (
        from_rabbitmq_event(RabbitMQMessage({}, CONTENT_TYPE, body)),
        from_amqp_event(AMQPMessage({"content-type": CONTENT_TYPE}, {}, body)),
    ):
        assert (event.meta.type, event.meta.source, event.meta.subject, event.meta.time) == (
            read.get_type(),
            read.get_source(),
            read.get_subject(),
            read.get_time(),
        )
        assert json.loads(body)["data"] == read.get_data()


@pytest.mark.parametrize("key", BY_KEY)
def test_code_and_three_validators_agree_on_every_example(judge: Judge, key: str) -> None:
    path = build.schema_path(OWNER_OF[key], BY_KEY[key])
    schema = json.loads(path.read_bytes())
    python = jsonschema.Draft202012Validator(
        schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )
    rust = jsonschema_rs.Draft202012Validator(schema, validate_formats=True)
    good = [each for each in GOLDEN if each.parent.name == key]
    bad = [each for each in INVALID if each.parent.parent.name == key]
    javascript = judge("schema", path, *good, *bad)
    for example in [*good, *bad]:
        verdicts = [
            reads(example.read_bytes()),
            python.is_valid(data(example)),
            rust.is_valid(data(example)),
            not javascript[str(example)],
        ]

        assert [example in good] * 4 == verdicts, example


def reads(body: bytes) -> bool:
    try:
        decode(body)
    except Malformed:
        return False
    return True


@pytest.mark.parametrize(
    "path", sorted((build.ROOT / "schemas").rglob("*.json")), ids=lambda p: p.stem
)
def test_every_schema_is_one_by_its_own_dialect(path: Path) -> None:
    schema = json.loads(path.read_bytes())

    jsonschema.Draft202012Validator.check_schema(schema)
    assert jsonschema_rs.meta.is_valid(schema)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_every_example_in_a_document_fits_the_payload_it_stands_for(document: Path) -> None:
    """The parser does not look."""
    content = json.loads(document.read_bytes())
    for message in content["components"]["messages"].values():
        schema = {**content, "$ref": message["payload"]["$ref"]}
        check = jsonschema_rs.Draft202012Validator(schema, validate_formats=True)
        assert message["examples"]
        for example in message["examples"]:
            check.validate(example["payload"])


def test_the_reference_needs_nothing_from_elsewhere() -> None:
    page = (build.ROOT / "reference.html").read_text()

    assert not [
        word for word in ("<script", "http://", "https://", "@import", "url(") if word in page
    ]
    assert not [key for key in BY_KEY if f'id="{key}"' not in page]
