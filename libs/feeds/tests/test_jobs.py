"""Jobs on a real directory: nothing is lost or done again when a worker dies."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from feeds import jobs
from feeds.jobs import CREATED, UNCHANGED, Job, Outcome
from feeds.rows import BadMapping, BadUpload, NoSuchJob, Row, TooLarge


async def parts(*files: tuple[str, bytes]) -> AsyncIterator[jobs.Part]:
    async def chunks(content: bytes) -> AsyncIterator[bytes]:
        for start in range(0, len(content), 1000):
            yield content[start : start + 1000]

    for name, content in files:
        yield name, chunks(content)


def lines(*numbers: int) -> bytes:
    made = [
        {"key": f"P{n}", "name": f"Product {n}", "variants": [{"sku": f"P{n}"}]} for n in numbers
    ]
    return b"".join(json.dumps(each).encode() + b"\n" for each in made)


async def queue(root: Path, *contents: bytes) -> Job:
    files = [(f"{n}.ndjson", content) for n, content in enumerate(contents)]
    return await jobs.spool(root, parts(*files), format="ndjson")


def names(directory: Path) -> list[str]:
    return sorted(each.name for each in directory.iterdir())


class Shop:
    """Applies rows to a set of keys; dies when it is told to."""

    def __init__(self, dies_at: str = "") -> None:
        self.keys: list[str] = []
        self.dies_at = dies_at

    async def apply(self, rows: Sequence[Row]) -> list[Outcome]:
        outcomes = []
        for row in rows:
            if row.product.key == self.dies_at:
                raise ConnectionError("the store is gone")
            outcomes.append(UNCHANGED if row.product.key in self.keys else CREATED)
            self.keys.append(row.product.key)
        return outcomes


async def test_a_job_runs_to_its_end_and_says_what_became_of_each_row(tmp_path: Path) -> None:
    queued = await queue(tmp_path, lines(1, 2), b"{\n" + lines(3, 2))

    assert "queued" == jobs.find(tmp_path, queued.id).state

    shop = Shop()
    directory = jobs.next_queued(tmp_path)
    assert directory
    job = await jobs.run(directory, shop.apply, batch=2)

    assert ["P1", "P2", "P3"] == shop.keys
    assert job == jobs.find(tmp_path, queued.id)
    assert ("done", 5, job.bytes_total) == (job.state, job.rows, job.bytes_done)
    assert jobs.Counts(created=3, failed=2) == job.counts
    assert [("1.ndjson", 1, "bad-json"), ("1.ndjson", 3, "duplicate-sku")] == [
        (each.source, each.line, each.code) for each in job.errors
    ]
    assert 3 == job.warnings
    assert jobs.next_queued(tmp_path) is None


async def test_a_second_run_of_a_finished_job_does_nothing(tmp_path: Path) -> None:
    job = await queue(tmp_path, lines(1))
    shop = Shop()
    first = await jobs.run(tmp_path / job.id, shop.apply)
    second = await jobs.run(tmp_path / job.id, shop.apply)

    assert first == second
    assert ["P1"] == shop.keys
    assert ["job.json"] == names(tmp_path / job.id)


async def test_a_refusal_by_the_store_is_an_error_of_the_row(tmp_path: Path) -> None:
    async def refuse(rows: Sequence[Row]) -> list[Outcome]:
        return [jobs.failed("conflict", "somebody else has it") for _ in rows]

    job = await queue(tmp_path, lines(1))
    job = await jobs.run(tmp_path / job.id, refuse)

    assert (1, "conflict") == (job.counts.failed, job.errors[0].code)


@pytest.mark.parametrize("batch", [1, 3, 4, 100])
@pytest.mark.parametrize("dies_at", [1, 2, 6, 10])
async def test_a_job_whose_worker_died_goes_on_behind_its_last_batch(
    tmp_path: Path, batch: int, dies_at: int
) -> None:
    job = await queue(tmp_path, lines(*range(1, 6)), lines(3, *range(6, 11)))
    shop = Shop(dies_at=f"P{dies_at}")
    with pytest.raises(ConnectionError):
        await jobs.run(tmp_path / job.id, shop.apply, batch=batch)

    assert "running" == jobs.find(tmp_path, job.id).state
    assert tmp_path / job.id == jobs.next_queued(tmp_path)

    shop.dies_at = ""
    job = await jobs.run(tmp_path / job.id, shop.apply, batch=batch)

    assert {f"P{n}" for n in range(1, 11)} == set(shop.keys)
    assert batch > len(shop.keys) - 10
    assert (10, 1) == (job.counts.created + job.counts.unchanged, job.counts.failed)


async def test_two_workers_never_carry_one_job(tmp_path: Path) -> None:
    job = await queue(tmp_path, lines(1, 2))
    entered, leave = asyncio.Event(), asyncio.Event()

    async def slowly(rows: Sequence[Row]) -> list[Outcome]:
        entered.set()
        await leave.wait()
        return [CREATED for _ in rows]

    first = asyncio.create_task(jobs.run(tmp_path / job.id, slowly))
    await entered.wait()
    shop = Shop()
    other = await jobs.run(tmp_path / job.id, shop.apply)

    assert ("running", []) == (other.state, shop.keys)
    assert jobs.next_queued(tmp_path) is None

    leave.set()

    assert "done" == (await first).state


async def test_a_file_nobody_can_read_fails_the_job_and_keeps_what_went_in(tmp_path: Path) -> None:
    job = await queue(tmp_path, lines(1), lines(2).decode().encode("utf-16"))
    job = await jobs.run(tmp_path / job.id, Shop().apply, batch=1)

    assert ("failed", 1) == (job.state, job.counts.created)
    assert "bad-upload: 1.ndjson is UTF-16; save it as UTF-8" == job.reason


async def test_only_the_first_thousand_errors_are_kept_and_all_are_counted(tmp_path: Path) -> None:
    job = await queue(tmp_path, b"{\n" * 1500)
    job = await jobs.run(tmp_path / job.id, Shop().apply)

    assert (1500, 1000) == (job.counts.failed, len(job.errors))


async def test_what_is_too_large_or_empty_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(TooLarge):
        await jobs.spool(
            tmp_path, parts(("a", b"x" * 6), ("b", b"x" * 5)), format="ndjson", limit=10
        )
    with pytest.raises(BadUpload):
        await jobs.spool(tmp_path, parts(), format="ndjson")
    with pytest.raises(BadMapping):
        await jobs.spool(tmp_path, parts(("a", b"x")), format="csv", mapping="nothing")

    assert [] == names(tmp_path)


async def test_the_name_of_an_uploaded_file_never_becomes_a_path(tmp_path: Path) -> None:
    given = ["../../etc/passwd", "C:\\feed.csv", "", "feed.csv"]
    job = await jobs.spool(
        tmp_path / "spool", parts(*[(each, lines(1)) for each in given]), format="ndjson"
    )

    assert ["passwd", "feed.csv", "file-3", "4-feed.csv"] == [each.name for each in job.files]
    assert ["spool"] == names(tmp_path)


@pytest.mark.parametrize("job_id", ["", "..", "../x", "0" * 24, "x" * 24])
def test_an_id_that_is_no_job_is_refused(tmp_path: Path, job_id: str) -> None:
    with pytest.raises(NoSuchJob):
        jobs.find(tmp_path, job_id)


async def test_jobs_are_taken_oldest_first_and_listed_newest_first(tmp_path: Path) -> None:
    made = [(await queue(tmp_path, lines(n))).id for n in range(3)]

    assert tmp_path / made[0] == jobs.next_queued(tmp_path)
    assert made[::-1] == [each.id for each in jobs.listing(tmp_path)]


async def test_a_job_outlives_a_change_of_the_mapping_it_came_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = json.dumps([{"Id": 7, "Name": "Boots", "Price": 9.5}]).encode()
    job = await jobs.spool(tmp_path, parts(("a", content)), format="json", mapping="eshop")
    nothing: Callable[[], list[str]] = list
    monkeypatch.setattr("feeds.mapping.names", nothing)
    shop = Shop()
    await jobs.run(tmp_path / job.id, shop.apply)

    assert ["ESHOP-7"] == shop.keys


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from feeds import jobs

async def apply(rows):
    if any(row.product.key == "P5" for row in rows):
        os.kill(os.getpid(), signal.SIGKILL)
    return [jobs.CREATED for _ in rows]

asyncio.run(jobs.run(Path(sys.argv[1]), apply, batch=2))
"""


async def test_the_job_of_a_worker_killed_outright_is_free_and_goes_on(tmp_path: Path) -> None:
    job = await queue(tmp_path, lines(*range(1, 8)))
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED, str(tmp_path / job.id)
    )

    assert -signal.SIGKILL == await worker.wait()

    shop = Shop()
    directory = jobs.next_queued(tmp_path)
    assert directory
    job = await jobs.run(directory, shop.apply, batch=2)

    assert ["P5", "P6", "P7"] == shop.keys
    assert ("done", 7) == (job.state, job.counts.created)
