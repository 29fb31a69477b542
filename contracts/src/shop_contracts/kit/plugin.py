"""The pytest plugin: makes one test per contract check of each test marked `consumes`.

@pytest.mark.consumes("stock.changed.v1", subscription="acme.stock")
def test_the_worker_keeps_the_contract(contract, tmp_path):
    worker = Worker(tmp_path / "stock.db")
    contract.check(deliver=worker.on_message, effects=worker.levels)
"""

from collections.abc import Generator
from pathlib import Path

import pytest

from shop_contracts.kit.checks import cases
from shop_contracts.kit.contract import Contract
from shop_contracts.kit.expectations import dump
from shop_contracts.kit.goldens import NoSuchType
from shop_contracts.kit.recording import CannotRecord, Recorder, probes
from shop_contracts.kit.subscriptions import Subscription

_MARK = "consumes"
RECORD = "--contracts-record"
_RECORDER = pytest.StashKey[Recorder]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("contracts").addoption(
        RECORD,
        type=Path,
        metavar="FILE",
        help="instead of checking the handlers, find out what they read and write it here",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "consumes(*types, subscription, binding=None, order='by-version'): run this handler "
        "against the contract of these event types; the test takes the argument `contract`",
    )
    if config.getoption(RECORD):
        config.stash[_RECORDER] = Recorder()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marks = list(metafunc.definition.iter_markers(_MARK))
    if not marks:
        return
    if "contract" not in metafunc.fixturenames:
        pytest.fail(
            f"{metafunc.definition.nodeid}: a test marked `consumes` takes the argument `contract`",
            pytrace=False,
        )
    recorder = metafunc.config.stash.get(_RECORDER, None)
    contracts: list[Contract] = []
    for mark in marks:
        try:
            options = dict(mark.kwargs)
            subscription = Subscription(name=options.pop("subscription"), **options)
            each = probes if recorder else cases
            found = [case for key in mark.args for case in each(key)]
        except (KeyError, TypeError, NoSuchType) as error:
            pytest.fail(f"{metafunc.definition.nodeid}: consumes: {error}", pytrace=False)
        contracts += [Contract(case, subscription, recorder) for case in found]
    metafunc.parametrize("contract", contracts, ids=[contract.case.id for contract in contracts])


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Fail a test that never used its contract: it would pass whatever the handler did."""
    result = yield
    contract = pyfuncitem.funcargs.get("contract")
    if isinstance(contract, Contract) and not contract.checked:
        pytest.fail("the test never called contract.check(...)", pytrace=False)
    return result


def pytest_sessionfinish(session: pytest.Session) -> None:
    recorder = session.config.stash.get(_RECORDER, None)
    if recorder is None or session.testsfailed:
        return
    try:
        expectation = recorder.expectation()
    except CannotRecord as error:
        raise pytest.UsageError(str(error)) from error
    session.config.getoption(RECORD).write_bytes(dump(expectation))
