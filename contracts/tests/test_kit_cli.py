"""The verbs of `contracts`, as a team in any language calls them."""

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from shop_contracts import build
from shop_contracts.cli import COMMANDS, main
from shop_contracts.events import BY_KEY, EVENTS
from shop_contracts.kit import goldens
from shop_contracts.kit.expectations import dump, load, verify
from shop_contracts.kit.messages import message

pytestmark = pytest.mark.slow

CONSUMERS = sorted((build.ROOT / "consumers").glob("*.json"))
KEY = "stock.changed.v1"


def need(read: dict[str, Any], *path: str) -> dict[str, Any]:
    node = read["needs"]
    for name in path:
        node = node["properties"][name]
    return node


@pytest.fixture
def acme() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((build.ROOT / "consumers" / "ext.acme.json").read_bytes())
    return found


def verdict(tmp_path: Path, expectation: dict[str, Any]) -> list[str]:
    path = tmp_path / "expectation.json"
    path.write_text(json.dumps(expectation))
    return [problem.rule for report in verify(load(path)) for problem in report.problems]


def test_every_verb_says_what_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in COMMANDS:
        with pytest.raises(SystemExit) as end:
            main([verb, "--help"])

        assert 0 == end.value.code
        assert f"contracts {verb}" in capsys.readouterr().out


@pytest.mark.parametrize("path", CONSUMERS, ids=lambda path: path.stem)
def test_what_a_consumer_relies_on_is_sent(path: Path) -> None:
    assert 0 == main(["verify", "consumer", str(path)])


def test_every_service_and_every_example_says_what_it_relies_on() -> None:
    wanted = {*EVENTS, "purger", "ext.acme", "ext.acme-go", "ext.acme-node"}

    assert wanted - {"search"} <= {path.stem for path in CONSUMERS}


def test_an_expectation_is_written_as_it_is_read() -> None:
    for path in CONSUMERS:
        assert load(path) == load(path)
        assert dump(load(path)) == path.read_bytes()


def test_a_need_that_the_writer_does_not_keep_is_named(
    tmp_path: Path, acme: dict[str, Any]
) -> None:
    read = acme["reads"][0]
    need(read, "available")["maximum"] = 1000
    read["needs"]["properties"]["warehouse"] = {"type": "string"}

    assert ["maximum", "never sent"] == verdict(tmp_path, acme)


def test_a_need_that_the_goldens_break_names_them(tmp_path: Path, acme: dict[str, Any]) -> None:
    need(acme["reads"][0], "available")["minimum"] = 1

    assert {"minimum", "golden"} == set(verdict(tmp_path, acme))


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("binding", "price.*.v1", "binding"),
        ("queue", "ext.Acme.stock", "binding"),
        ("tolerates_unknown", False, "unknown field"),
        ("type", "stock.changed.v7", "type"),
    ],
)
def test_an_expectation_that_cannot_hold_is_refused(
    tmp_path: Path, acme: dict[str, Any], field: str, value: Any, rule: str
) -> None:
    acme["reads"][0][field] = value

    assert [rule] == verdict(tmp_path, acme)


def test_a_file_that_is_no_expectation_is_told_apart_from_one_that_fails(tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    path.write_text('{"consumer": "acme"}')

    assert 2 == main(["verify", "consumer", str(path)])


@pytest.mark.parametrize("key", BY_KEY)
def test_samples_are_valid_on_the_command_line_too(
    key: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 0 == main(["sample", key, "-n", "20"])
    lines = capsys.readouterr().out
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(lines.encode())))
    assert 0 == main(["validate"])

    assert 20 == len(capsys.readouterr().out.splitlines())


def test_an_invalid_event_fails_with_a_verdict_in_json_and_junit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, junit = tmp_path / "events.ndjson", tmp_path / "verdict.xml"
    good = goldens.golden(KEY)
    bad = {**good, "data": {**good["data"], "available": -1}}
    path.write_text(json.dumps(good) + "\n" + json.dumps(bad) + "\n")

    assert 1 == main(["validate", str(path), "--json", "--junit", str(junit)])
    told = json.loads(capsys.readouterr().out)
    assert [True, False] == [report["holds"] for report in told]
    assert "/data/available" == told[1]["problems"][0]["where"]
    suite = ET.parse(junit).getroot()
    assert ("2", "1") == (suite.get("tests"), suite.get("failures"))


def test_a_captured_message_is_held_to_its_exchange_and_properties(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = message(goldens.golden(KEY))
    properties = {
        name: getattr(made.properties, name) for name in made.properties.__struct_fields__
    }
    captured = {
        "exchange": "stock.events",
        "routing_key": KEY,
        "properties": properties,
        "body": made.body.decode(),
    }
    path = tmp_path / "captured.ndjson"
    path.write_text(json.dumps(captured))
    assert 0 == main(["verify", "producer", str(path)])
    path.write_text(json.dumps({**captured, "exchange": "amq.topic"}))
    assert 1 == main(["verify", "producer", str(path)])

    assert "exchange at exchange: 'amq.topic', not 'stock.events'" in capsys.readouterr().out


def test_an_unknown_type_names_its_neighbours(capsys: pytest.CaptureFixture[str]) -> None:
    assert 2 == main(["sample", "stock.change.v1"])
    assert "stock.changed.v1" in capsys.readouterr().err


def test_what_a_handler_reads_is_recorded_from_its_contract_test(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nasyncio_default_fixture_loop_scope = function\n"
    )
    (tmp_path / "test_worker.py").write_text(
        """
import json, pytest

@pytest.mark.consumes("price.changed.v1", subscription="acme.prices")
def test_worker(contract):
    prices = {}
    def deliver(message):
        try:
            event = json.loads(message.body)
            data = event["data"]
            for price in data["prices"]:
                prices[data["sku"], price["currency"]] = price["amount_minor"]
                prices["list", price["currency"]] = price.get("list_minor")
        except (ValueError, KeyError, TypeError):
            return "park"
        return "ack"
    contract.check(deliver, lambda: prices)
"""
    )
    output = tmp_path / "ext.acme.json"
    code = main(["expect", "record", str(tmp_path / "test_worker.py"), "-o", str(output)])

    assert 0 == code
    (read,) = load(output).reads
    items = read.needs["properties"]["prices"]["items"]
    assert {"prices", "sku"} == set(read.needs["required"])
    assert {"amount_minor", "currency"} == set(items["required"])
    assert {"amount_minor", "currency", "list_minor"} == set(items["properties"])
    assert 0 == main(["verify", "consumer", str(output)])


def test_nothing_is_recorded_from_a_handler_that_does_not_ack(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_worker.py").write_text(
        """
import pytest

@pytest.mark.consumes("price.changed.v1", subscription="acme.prices")
def test_worker(contract):
    contract.check(lambda message: "park", lambda: 0)
"""
    )
    output = tmp_path / "ext.acme.json"

    assert 0 != main(["expect", "record", str(tmp_path / "test_worker.py"), "-o", str(output)])
    assert not output.exists()


def test_a_pact_holds_what_is_read_and_nothing_else(tmp_path: Path) -> None:
    file = build.ROOT / "consumers" / "ext.acme.json"
    assert 0 == main(["export", "pact", str(file), "-o", str(tmp_path)])
    pact = json.loads((tmp_path / "ext.acme-stock.json").read_bytes())

    assert "4.0" == pact["metadata"]["pactSpecification"]["version"]
    (interaction,) = pact["interactions"]
    assert "Asynchronous/Messages" == interaction["type"]
    assert {"sku": "MUG-350", "available": 36} == interaction["contents"]["content"]["data"]
    assert "$.data.available" in interaction["matchingRules"]["body"]


def test_a_pact_of_nothing_is_refused_for_any_message_would_hold_it(tmp_path: Path) -> None:
    expectation = load(build.ROOT / "consumers" / "ext.acme.json")
    file = tmp_path / "empty.json"
    emptied = json.loads(dump(expectation))
    emptied["reads"][0]["needs"] = {}
    file.write_text(json.dumps(emptied))

    assert 2 == main(["export", "pact", str(file), "-o", str(tmp_path)])


ANSWERS = """
import base64, json, sys
levels = {}
for line in sys.stdin:
    question = json.loads(line)
    if "effects" in question:
        answer = {"effects": levels}
    else:
        outcome = "ack"
        try:
            event = json.loads(base64.b64decode(question["body_base64"]))
            levels[event["subject"]] = event["data"]["available"]
        except (ValueError, KeyError, TypeError):
            outcome = "park"
        answer = {"outcome": outcome}
    print(json.dumps(answer), flush=True)
"""


def verdicts(capsys: pytest.CaptureFixture[str], program: str) -> dict[str, bool]:
    words = ["--subscription", "acme.stock", "--json", "--", sys.executable, "-c", program]
    main(["verify", "handler", KEY, *words])
    told = json.loads(capsys.readouterr().out)
    return {report["name"].removeprefix(f"{KEY}-"): report["holds"] for report in told}


def test_a_bug_in_another_language_fails_its_own_check(capsys: pytest.CaptureFixture[str]) -> None:
    told = verdicts(capsys, ANSWERS)

    # it keeps the levels in memory: no outage can reach them
    assert {"reordered", "outage"} == {check for check, holds in told.items() if not holds}


def test_a_program_that_says_nothing_fails_without_a_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = verdicts(capsys, "pass")

    assert {"subscription", "open-enum"} == {check for check, holds in told.items() if holds}
