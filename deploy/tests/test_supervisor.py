"""The supervisor with small real processes."""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from shop import records
from shop.process import Process, State, Talk
from shop.profiles import Profile
from shop.stack import Stack, StackFailed

pytestmark = pytest.mark.slow

WITHIN = 20.0

GREETER = """
import signal, socket, sys, time
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    connection, _ = server.accept()
    connection.sendall(b"hello")
    connection.close()
"""
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    found = Stack(Profile("small", {}, tmp_path), mariadb=False)
    yield found
    found.down()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def program(stack: Stack, name: str, code: str, *arguments: str, **fields: object) -> Process:
    command = [sys.executable, "-c", code, *arguments]
    folder = stack.profile.folder("log")
    return Process(
        name=name, command=command, directory=str(folder), log=str(folder / name), **fields
    )


def greeter(stack: Stack, name: str = "greeter", **fields: object) -> Process:
    port = free_port()
    return program(stack, name, GREETER, str(port), port=port, ready=Talk(port, b"hello"), **fields)


def start(stack: Stack, *processes: Process) -> dict[str, State]:
    states = list(stack.starting(list(processes)))[-1]
    stack.check(list(processes), states)
    return {state.name: state for state in states}


def until(look: Callable[[], object]) -> None:
    deadline = time.monotonic() + WITHIN
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def state(stack: Stack, name: str) -> State:
    return next(found for found in stack.status() if found.name == name)


def test_a_process_is_ready_when_it_answers_in_its_own_protocol(stack: Stack) -> None:
    seen = start(stack, greeter(stack))

    assert "ready" == seen["greeter"].state
    assert 0 == seen["greeter"].restarts


def test_a_process_starts_after_those_it_needs_are_ready(stack: Stack) -> None:
    first = greeter(stack, "first")
    second = program(
        stack,
        "second",
        "import socket, sys, time; socket.create_connection(('127.0.0.1', int(sys.argv[1])));"
        "time.sleep(600)",
        str(first.port),
        needs=["first"],
    )

    seen = start(stack, second, first)

    assert 0 == seen["second"].restarts


def test_a_killed_process_comes_back_with_another_pid(stack: Stack) -> None:
    before = start(stack, greeter(stack))["greeter"]

    stack.kill("greeter")

    until(lambda: state(stack, "greeter").state == "ready" and state(stack, "greeter").restarts)
    assert before.pid != state(stack, "greeter").pid


def test_a_stopped_process_stays_down_until_it_is_started_again(stack: Stack) -> None:
    process = greeter(stack)
    start(stack, process)

    stack.stop("greeter")

    assert "stopped" == state(stack, "greeter").state
    assert [] == records.living(stack.run)
    assert "ready" == start(stack, process)["greeter"].state


def test_a_process_that_ignores_sigterm_is_killed_after_its_time(stack: Stack) -> None:
    pid = start(stack, program(stack, "stubborn", STUBBORN, stop_within=0.2))["stubborn"].pid

    stack.stop("stubborn")

    assert pid is not None
    assert not psutil.pid_exists(pid)


def test_a_process_that_only_dies_is_reported_with_the_end_of_its_log(stack: Stack) -> None:
    process = program(
        stack, "broken", "raise SystemExit('no such setting')", ready=Talk(free_port(), b"x")
    )

    with pytest.raises(StackFailed, match="broken is not ready:\nno such setting"):
        start(stack, process)


def test_down_leaves_no_process(stack: Stack) -> None:
    seen = start(stack, greeter(stack, "first"), greeter(stack, "second", needs=["first"]))
    pids = [state.pid for state in seen.values()] + [stack.supervisor()]

    stack.down()

    assert [] == [pid for pid in pids if pid is not None and alive(pid)]


def test_what_a_killed_supervisor_left_is_seen_and_stopped(stack: Stack) -> None:
    pid = start(stack, greeter(stack))["greeter"].pid
    kill_supervisor(stack)

    assert ["leftover"] == [state.state for state in stack.status()]
    stack.down()
    assert pid is not None
    until(lambda: not alive(pid))


def test_a_new_supervisor_replaces_what_a_killed_one_left(stack: Stack) -> None:
    process = greeter(stack)
    before = start(stack, process)["greeter"].pid
    kill_supervisor(stack)

    after = start(stack, process)["greeter"]

    assert before is not None
    assert not alive(before)
    assert "ready" == after.state


def test_a_record_of_another_process_with_the_same_pid_is_nobody_of_ours(stack: Stack) -> None:
    records.write(stack.run, "old", os.getpid())
    path = stack.run / "old.pid.json"
    path.write_text(path.read_text().replace('"ticks":', '"ticks":1'))

    assert [] == records.living(stack.run)


def test_the_folder_of_a_stack_may_have_a_long_name(tmp_path: Path) -> None:
    stack = Stack(Profile("deep", {}, tmp_path / ("d" * 120)), mariadb=False)
    try:
        assert "ready" == start(stack, greeter(stack))["greeter"].state
    finally:
        stack.down()


def kill_supervisor(stack: Stack) -> None:
    pid = stack.supervisor()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: not stack.up())


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
