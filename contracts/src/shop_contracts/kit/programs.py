"""Runs the checks on a program in any language, through lines of JSON. Knows no pytest.

The program is started anew for each check, with an empty folder for its store. Questions come on
standard input, one on a line, and each is answered with one line on standard output:

    {"body_base64": "...", "exchange": ..., "routing_key": ..., "redelivered": ...,
     "properties": {...}}                      ->  {"outcome": "ack"}     or "retry", "park"
    {"effects": null}                          ->  {"effects": ...}       what it has done so far
"""

import asyncio
import json
import tempfile
from base64 import b64encode
from collections.abc import Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from msgspec import to_builtins

from shop_contracts.kit.checks import CHECKS, Broken, Case, NotApplicable, Subject, cases
from shop_contracts.kit.messages import Message, Outcome
from shop_contracts.kit.problems import Problem, Report
from shop_contracts.kit.subscriptions import Subscription

FOLDER = "{folder}"
ANSWER_SECONDS = 30


class Program:
    """One run of the program under test."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def deliver(self, sent: Message) -> Outcome:
        """What becomes of a message. A program that ends, or says something else, has crashed."""
        answer = await self._ask(
            {
                "body_base64": b64encode(sent.body).decode(),
                "exchange": sent.exchange,
                "routing_key": sent.routing_key,
                "redelivered": sent.redelivered,
                "properties": to_builtins(sent.properties),
            }
        )
        return Outcome(answer["outcome"])

    async def effects(self) -> Any:
        return (await self._ask({"effects": None}))["effects"]

    async def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        reader, writer = self._process.stdout, self._process.stdin
        if reader is None or writer is None:
            raise RuntimeError("the program was started without pipes")
        writer.write(json.dumps(question).encode() + b"\n")
        await writer.drain()
        async with asyncio.timeout(ANSWER_SECONDS):
            line = await reader.readline()
        if not line:
            raise ConnectionError("the program ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


async def check(command: Sequence[str], key: str, subscription: Subscription) -> list[Report]:
    """A verdict for each check of an event type, each on a new program."""
    return [await _one(command, case, subscription) for case in cases(key)]


async def _one(command: Sequence[str], case: Case, subscription: Subscription) -> Report:
    with tempfile.TemporaryDirectory() as folder:
        process = await asyncio.create_subprocess_exec(
            *(word.replace(FOLDER, folder) for word in command),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=2**24,
        )
        program = Program(process)

        def outage() -> AbstractContextManager[None]:
            return _away(Path(folder))

        subject = Subject(case, subscription, program.deliver, program.effects, outage)
        try:
            await CHECKS[case.check](subject)
        except Broken as broken:
            return Report(case.id, [Problem(case.check, case.example, str(broken))])
        except NotApplicable as reason:
            return Report(case.id, notes=[str(reason)])
        except (ConnectionError, ValueError, KeyError, TimeoutError) as error:
            return Report(case.id, [Problem(case.check, case.example, f"no answer: {error!r}")])
        finally:
            if process.stdin is not None:
                process.stdin.close()
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
        return Report(case.id)


@contextmanager
def _away(folder: Path) -> Any:
    """The program's store cannot be reached: its folder is a file for the time being."""
    aside = folder.with_name(folder.name + ".away")
    folder.rename(aside)
    folder.touch()
    try:
        yield
    finally:
        folder.unlink()
        aside.rename(folder)
