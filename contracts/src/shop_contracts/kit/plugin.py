"""The pytest plugin: makes one test per contract check of each test marked `consumes`.

@pytest.mark.consumes("stock.changed.v1", subscription="acme.stock")
def test_the_worker_keeps_the_contract(contract, tmp_path):
    worker = Worker(tmp_path / "stock.db")
    contract.check(deliver=worker.on_message, effects=worker.levels)
"""

from collections.abc import Generator

import pytest

from shop_contracts.kit.checks import cases
from shop_contracts.kit.contract import Contract
from shop_contracts.kit.goldens import NoSuchType
from shop_contracts.kit.subscriptions import Subscription

_MARK = "consumes"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "consumes(*types, subscription, binding=None, order='by-version'): run this handler "
        "against the contract of these event types; the test takes the argument `contract`",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marks = list(metafunc.definition.iter_markers(_MARK))
    if not marks:
        return
    if "contract" not in metafunc.fixturenames:
        pytest.fail(
            f"{metafunc.definition.nodeid}: a test marked `consumes` takes the argument `contract`",
            pytrace=False,
        )
    contracts: list[Contract] = []
    for mark in marks:
        try:
            options = dict(mark.kwargs)
            subscription = Subscription(name=options.pop("subscription"), **options)
            found = [case for key in mark.args for case in cases(key)]
        except (KeyError, TypeError, NoSuchType) as error:
            pytest.fail(f"{metafunc.definition.nodeid}: consumes: {error}", pytrace=False)
        contracts += [Contract(case, subscription) for case in found]
    metafunc.parametrize("contract", contracts, ids=[contract.case.id for contract in contracts])


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Fail a test that never used its contract: it would pass whatever the handler did."""
    result = yield
    contract = pyfuncitem.funcargs.get("contract")
    if isinstance(contract, Contract) and not contract.checked:
        pytest.fail("the test never called contract.check(...)", pytrace=False)
    return result
