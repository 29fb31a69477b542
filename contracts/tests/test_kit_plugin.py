"""The pytest plugin as an outside team meets it: marks, adapters, and what it says when misused."""

import pytest

pytest_plugins = ["pytester"]

SETTINGS = """
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
"""
WORKER = """
import json
import pytest

class Worker:
    def __init__(self):
        self.levels = {}
    def handle(self, body):
        event = json.loads(body)
        sku, available = event["data"]["sku"], int(event["data"]["available"])
        if event["entityversion"] > self.levels.get(sku, (0, 0))[0]:
            self.levels[sku] = (event["entityversion"], available)

BAD = (ValueError, KeyError, TypeError)
"""


def run(pytester: pytest.Pytester, test: str, *arguments: str) -> pytest.RunResult:
    pytester.makeini(SETTINGS)
    pytester.makepyfile(WORKER + test)
    return pytester.runpytest_inprocess("-p", "no:cacheprovider", *arguments)


def test_a_handler_may_return_what_became_of_the_message(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
@pytest.mark.consumes("stock.changed.v1", subscription="acme.stock")
def test_worker(contract):
    worker = Worker()
    def deliver(message):
        try:
            worker.handle(message.body)
        except BAD:
            return "park"
        return "ack"
    contract.check(deliver, effects=lambda: worker.levels)
""",
    )

    result.assert_outcomes(passed=18, skipped=2)


def test_a_handler_may_be_async_in_an_async_test(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
@pytest.mark.consumes("stock.changed.v1", subscription="acme.stock")
async def test_worker(contract):
    worker = Worker()
    async def deliver(message):
        async with message.process(requeue=False):
            worker.handle(message.body)
    async def effects():
        return worker.levels
    await contract.acheck(deliver, effects)
""",
    )

    result.assert_outcomes(passed=18, skipped=2)


def test_a_pika_callback_runs_as_it_is(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
@pytest.mark.consumes("stock.changed.v1", subscription="acme.stock")
def test_worker(contract):
    worker = Worker()
    def on_message(channel, method, properties, body):
        try:
            worker.handle(body)
        except BAD:
            channel.basic_reject(method.delivery_tag, requeue=False)
        else:
            channel.basic_ack(delivery_tag=method.delivery_tag)
    contract.check(lambda message: on_message(*message.pika()), lambda: worker.levels)
""",
    )

    result.assert_outcomes(passed=18, skipped=2)


def test_each_type_of_a_mark_gets_its_own_tests(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
@pytest.mark.consumes("price.changed.v1", "stock.changed.v1", subscription="acme.stock")
def test_worker(contract):
    contract.check(lambda message: "ack", lambda: 0)
""",
        "--collect-only",
        "-q",
    )

    result.stdout.fnmatch_lines(
        ["*test_worker[[]price.changed.v1-golden[[]full]]", "*[[]stock.changed.v1-malformed]"]
    )


def test_the_name_and_the_law_of_the_check_are_what_fails(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
@pytest.mark.consumes("stock.changed.v1", subscription="acme.stock")
def test_worker(contract):
    worker = Worker()
    def deliver(message):
        try:
            worker.handle(message.body)
        except BAD:
            return "retry"
        return "ack"
    contract.check(deliver, effects=lambda: worker.levels)
""",
    )

    result.assert_outcomes(passed=17, skipped=2, failed=1)
    result.stdout.fnmatch_lines(
        [
            "stock.changed.v1-malformed: What is no event is parked at once*",
            "an empty body: expected park, got retry",
        ]
    )


@pytest.mark.parametrize(
    ("test", "said"),
    [
        (
            """
@pytest.mark.consumes("stock.changed.v1", subscription="acme.stock")
def test_worker(contract):
    pass
""",
            "*the test never called contract.check*",
        ),
        (
            """
@pytest.mark.consumes("stock.change.v1", subscription="acme.stock")
def test_worker(contract):
    pass
""",
            "*stock.change.v1 is no event of the shop; there are *stock.changed.v1*",
        ),
        (
            """
@pytest.mark.consumes("stock.changed.v1", subscription="acme.stock")
def test_worker():
    pass
""",
            "*takes the argument `contract`*",
        ),
        (
            """
@pytest.mark.consumes("stock.changed.v1", subscription="acme.stock")
async def test_worker(contract):
    contract.check(lambda message: "ack", lambda: 0)
""",
            "*await contract.acheck*",
        ),
    ],
)
def test_a_misused_mark_says_what_to_do(pytester: pytest.Pytester, test: str, said: str) -> None:
    result = run(pytester, test)

    assert 0 != result.ret
    assert 0 == result.parseoutcomes().get("passed", 0)
    result.stdout.fnmatch_lines([said])
