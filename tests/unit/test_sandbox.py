"""The sandbox: a crash, memory limit or timeout of a child process fails one call and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from chatapi.errors import BadInput
from chatapi.system.sandbox import CallFailed, ChildCrashed, OutOfMemory, Sandbox, SandboxFailure, TimedOut, memory_file
from conftest import TIMEOUT


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    made = Sandbox(["sandboxed"], memory=64 << 20)
    yield made
    made.close()


def processes() -> list[int]:
    """The running forkservers and children of this process."""
    found = psutil.Process().children(recursive=True)
    return [each.pid for each in found if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


def until(condition: Callable[[], bool]) -> None:
    """Waits until the condition on other processes is true."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_values_and_samples_come_in_order(sandbox: Sandbox) -> None:
    assert list(sandbox.stream("sandboxed:echo", 1, "two", [3.5], {"four": None})) == [1, "two", [3.5], {"four": None}]
    blocks = list(sandbox.stream("sandboxed:samples", 3))
    assert [len(block) for block in blocks] == [16_000] * 3
    assert all(block.dtype == np.float32 and block.all() for block in blocks)


def test_a_descriptor_is_read_in_the_child(sandbox: Sandbox) -> None:
    with memory_file(b"from the parent") as file:
        assert sandbox.call("sandboxed:content", files=[file.fileno()]) == "from the parent"


def test_child_is_reused(sandbox: Sandbox) -> None:
    assert sandbox.call("sandboxed:process") == sandbox.call("sandboxed:process") != os.getpid()


def test_child_that_keeps_much_memory_gets_no_other_call() -> None:
    sandbox = Sandbox(["sandboxed"], memory=256 << 20)
    try:
        # The call that follows at once must not meet a child that is about to end.
        pairs = [(sandbox.call("sandboxed:grow", 60 << 20), sandbox.call("sandboxed:process")) for _ in range(20)]
    finally:
        sandbox.close()
    assert all(grown != next_one for grown, next_one in pairs)
    assert sandbox.crashes == 0


def test_keys_in_the_environment_do_not_reach_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATAPI_SERVER__API_KEY", "secret")
    sandbox = Sandbox([])
    try:
        assert "secret" not in str(sandbox.call("sandboxed:environment"))
    finally:
        sandbox.close()


@pytest.mark.parametrize("target", ["crash", "overrun", "write_nonsense"])
def test_crash_fails_one_call(sandbox: Sandbox, target: str) -> None:
    before = sandbox.crashes
    with pytest.raises(ChildCrashed):
        list(sandbox.stream(f"sandboxed:{target}"))
    assert sandbox.crashes == before + 1
    assert sandbox.call("sandboxed:echo", 1) == 1


def test_a_crash_names_the_signal(sandbox: Sandbox) -> None:
    with pytest.raises(ChildCrashed, match="sandboxed:crash crashed: SIGSEGV"):
        list(sandbox.stream("sandboxed:crash"))


def test_items_before_a_crash_are_delivered(sandbox: Sandbox) -> None:
    items = sandbox.stream("sandboxed:crash")
    assert next(items) == 1
    with pytest.raises(ChildCrashed):
        next(items)


def test_allocation_beyond_the_memory_limit_fails(sandbox: Sandbox) -> None:
    assert sandbox.call("sandboxed:allocate", 32 << 20) == 32 << 20
    with pytest.raises(OutOfMemory):
        sandbox.call("sandboxed:allocate", 128 << 20)
    assert sandbox.call("sandboxed:echo", 1) == 1


def test_a_call_that_never_ends_is_killed(sandbox: Sandbox) -> None:
    with pytest.raises(TimedOut, match="1 seconds"):
        list(sandbox.stream("sandboxed:hang", timeout=1.0))
    assert sandbox.call("sandboxed:echo", 1) == 1


def test_time_limit_grows_with_the_audio(sandbox: Sandbox) -> None:
    blocks = sandbox.stream("sandboxed:slow_samples", 10, 0.1, timeout=lambda seconds: 0.7 + seconds)
    assert len(list(blocks)) == 10
    with pytest.raises(TimedOut):
        list(sandbox.stream("sandboxed:slow_samples", 10, 0.3, timeout=lambda _: 0.7))


def test_api_error_is_raised_unchanged(sandbox: Sandbox) -> None:
    with pytest.raises(BadInput, match="the audio is green") as raised:
        list(sandbox.stream("sandboxed:reject"))
    assert (raised.value.code, raised.value.details) == ("green", {"colour": "green"})


def test_an_unexpected_exception_is_no_crash(sandbox: Sandbox) -> None:
    before = sandbox.crashes
    with pytest.raises(CallFailed, match="KeyError"):
        list(sandbox.stream("sandboxed:fail"))
    assert sandbox.crashes == before


def test_a_child_writes_no_files(sandbox: Sandbox, tmp_path: Path) -> None:
    with pytest.raises(SandboxFailure):
        sandbox.call("sandboxed:write_file", str(tmp_path / "file"))
    assert sandbox.call("sandboxed:echo", 1) == 1
    assert not (tmp_path / "file").exists() or (tmp_path / "file").stat().st_size == 0


def test_closing_a_stream_ends_its_child(sandbox: Sandbox) -> None:
    sandbox.warm()
    before = processes()
    stream = sandbox.stream("sandboxed:hang")
    next(stream)
    stream.close()
    assert len(processes()) <= len(before)
    assert sandbox.call("sandboxed:echo", 1) == 1


def test_a_killed_idle_child_is_replaced(sandbox: Sandbox) -> None:
    process = sandbox.call("sandboxed:process")
    os.kill(process, signal.SIGKILL)
    # Its parent collects it at the next call.
    until(lambda: psutil.Process(process).status() == psutil.STATUS_ZOMBIE)
    assert sandbox.call("sandboxed:process") != process


def test_killed_forkserver_is_restarted(sandbox: Sandbox) -> None:
    sandbox.warm()
    assert sandbox._server is not None
    sandbox._server.kill()
    sandbox._server.wait()
    for _ in range(2):
        assert sandbox.call("sandboxed:echo", 1) == 1


def test_concurrent_calls_each_have_a_child(sandbox: Sandbox) -> None:
    found: list[int] = []

    def ask() -> None:
        found.extend(sandbox.call("sandboxed:echo", number) for number in range(20))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(found) == sorted(list(range(20)) * 8)


def test_calls_that_end_in_any_way_leak_no_processes_or_descriptors(sandbox: Sandbox) -> None:
    def make_calls() -> None:
        sandbox.call("sandboxed:echo", 1)
        for target in ("crash", "reject", "fail"):
            with pytest.raises((BadInput, SandboxFailure)):
                list(sandbox.stream(f"sandboxed:{target}"))
        stream = sandbox.stream("sandboxed:samples", 1000)
        next(stream)
        stream.close()

    make_calls()
    this = psutil.Process()
    files, children = this.num_fds(), len(processes())
    for _ in range(20):
        make_calls()
    assert this.num_fds() <= files
    assert len(processes()) <= children


def test_closing_ends_every_process() -> None:
    before = set(processes())
    sandbox = Sandbox(["sandboxed"])
    sandbox.warm()
    until(lambda: len(set(processes()) - before) == 2)
    sandbox.close()
    _, left = psutil.wait_procs([psutil.Process(each) for each in set(processes()) - before], timeout=60)
    assert not left


def test_children_of_a_killed_parent_end() -> None:
    program = (
        "from chatapi.system.sandbox import Sandbox; sandbox = Sandbox([]); sandbox.warm(); "
        "print('warm', flush=True); input()"
    )
    parent = psutil.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with parent:
        assert parent.stdout.readline() == "warm\n"
        until(lambda: len(parent.children(recursive=True)) == 2)
        children = parent.children(recursive=True)
        parent.kill()
    _, left = psutil.wait_procs(children, timeout=20)
    assert not left
