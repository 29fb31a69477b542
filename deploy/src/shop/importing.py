"""The `import` verb: a merchant's feed to the services that own what is in it. Reads no row.

catalog takes the products, stock the quantities and prices; each from the same files.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from http import HTTPStatus
from pathlib import Path

import aiohttp
import msgspec
from msgspec import Struct

from feeds import mapping as mappings
from feeds.jobs import Job
from feeds.rows import Bad, BadMapping
from shop.profiles import Profile
from shop.secrets import api_key

PATHS = {"catalog": "/imports", "stock": "/stock/imports"}
BY_SUFFIX = {".ndjson": "ndjson", ".jsonl": "ndjson", ".csv": "shopify"}
POLL_SECONDS = 0.2
OVER = ("done", "failed")

Watch = Callable[[str, Job], None]


class ImportFailed(Exception):
    """The feed was not taken at all; rows that were refused one by one are in the job."""


class Problem(Struct, frozen=True):
    """What a service says about a request that it refuses."""

    title: str
    detail: str = ""

    def said(self) -> str:
        return self.detail or self.title


class Feed(Struct, frozen=True, kw_only=True):
    """What to import and how to read it; `mapping` is a shipped one's name or a TOML file."""

    files: list[Path]
    mapping: str = ""
    format: str = ""
    currency: str = ""

    def fields(self) -> dict[str, str]:
        """The form fields, with the mapping's text and the format found. Raises ImportFailed."""
        mapping = self.mapping
        try:
            if mapping and Path(mapping).is_file():
                mapping = Path(mapping).read_text()
            text = mappings.text(mapping) if mapping else ""
            found = self.format or (mappings.parse(text).format if text else "")
        except (BadMapping, OSError, UnicodeDecodeError) as error:
            raise ImportFailed(str(error)) from error
        found = found or BY_SUFFIX.get(self.files[0].suffix.lower(), "")
        if not found:
            raise ImportFailed(f"say --format or --mapping for {self.files[0].name}")
        return {"format": found, "mapping": text, "currency": self.currency}


async def run(profile: Profile, feed: Feed, watch: Watch) -> dict[str, Job]:
    """Import the feed; the finished job of each service. Raises ImportFailed."""
    fields = feed.fields()
    if missing := [str(file) for file in feed.files if not file.is_file()]:
        raise ImportFailed(f"no such file: {', '.join(missing)}")
    headers = {"Authorization": f"Bearer {api_key(profile)}"}
    # an upload of any length is fine as long as it moves
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60)
    try:
        async with (
            aiohttp.ClientSession(headers=headers, timeout=timeout) as session,
            asyncio.TaskGroup() as group,
        ):
            tasks = {}
            for service, path in PATHS.items():
                job = _carry(session, profile.url(service), path, fields, feed.files)
                tasks[service] = group.create_task(_followed(job, service, watch))
    except* (aiohttp.ClientError, TimeoutError) as errors:
        raise ImportFailed(f"the shop does not answer: {errors.exceptions[0]}") from errors
    except* ImportFailed as errors:
        raise ImportFailed("; ".join(str(error) for error in errors.exceptions)) from errors
    return {service: task.result() for service, task in tasks.items()}


async def _followed(jobs: AsyncIterator[Job], service: str, watch: Watch) -> Job:
    async for job in jobs:
        watch(service, job)
    if job.state == "failed":
        raise ImportFailed(f"{service}: {job.reason}")
    return job


async def _carry(
    session: aiohttp.ClientSession, base: str, path: str, fields: dict[str, str], files: list[Path]
) -> AsyncIterator[Job]:
    """Upload, then the job as it goes on, until it is over."""
    with ExitStack() as opened:
        form = aiohttp.FormData()
        for name, value in fields.items():
            form.add_field(name, value)
        for file in files:
            form.add_field("file", opened.enter_context(file.open("rb")), filename=file.name)
        async with session.post(base + path, data=form) as answer:
            job = await _job(answer, HTTPStatus.ACCEPTED)
            location = answer.headers["Location"]
    yield job
    while job.state not in OVER:
        await asyncio.sleep(POLL_SECONDS)
        async with session.get(base + location) as answer:
            job = await _job(answer, HTTPStatus.OK)
        yield job


async def _job(answer: aiohttp.ClientResponse, expected: HTTPStatus) -> Job:
    body = await answer.read()
    if answer.status != expected:
        raise ImportFailed(f"{answer.method} {answer.url.path}: {answer.status} {_detail(body)}")
    return msgspec.json.decode(body, type=Job)


def _detail(body: bytes) -> str:
    try:
        return msgspec.json.decode(body, type=Problem).said()
    except msgspec.MsgspecError:
        return body[:200].decode(errors="replace")


def refused(done: dict[str, Job]) -> list[Bad]:
    """Every row that did not go in, once, in the order of the feed."""
    found = {(bad.source, bad.line, bad.reason): bad for job in done.values() for bad in job.errors}
    return sorted(found.values(), key=lambda bad: (bad.source, bad.line))
