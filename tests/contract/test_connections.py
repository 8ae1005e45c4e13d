"""Connection limits: which connections are served, evicted and rejected, and the file descriptors they need."""

from __future__ import annotations

import asyncio
import json
import resource
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from chatapi.auth import client_address
from chatapi.interfaces.http import connections
from chatapi.interfaces.http.connections import GRACE_SECONDS, MAX_REJECTED, ConnectionTable
from chatapi.interfaces.http.listening import BACKLOG
from chatapi.interfaces.http.protocols import RequestPacer
from chatapi.settings import Settings
from chatapi.system import file_descriptors
from conftest import FAKE_ENGINES, TIMEOUT, RunningServer, serving

GET = "GET {} HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Transport:
    """Records the calls of its methods."""

    def __init__(self) -> None:
        self.aborted = self.closed = False

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.aborted = self.closed = True


class Peer:
    """A fake connection without a socket."""

    def __init__(self) -> None:
        self.transport = Transport()
        self.expired = False

    def expire(self) -> None:
        self.expired = True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.mark.parametrize(
    ("address", "client", "local"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("::1", "::/64", True),
        ("::ffff:127.0.0.1", "127.0.0.1", True),
        ("::ffff:192.0.2.1", "192.0.2.1", False),
        ("2001:db8::1:2:3:4", "2001:db8::/64", False),
        ("fe80::1%eth0", "fe80::/64", False),
        ("", "", True),
    ],
)
def test_address_counts_as_its_network_and_loopback_as_this_machine(address: str, client: str, local: bool) -> None:
    assert (client_address.client(address), client_address.is_local(address)) == (client, local)


def test_full_table_evicts_the_longest_idle_connection(clock: Clock) -> None:
    table, peers = ConnectionTable(16, 16, clock), [Peer() for _ in range(18)]
    entries = [table.add(peer, f"192.0.2.{number}") for number, peer in enumerate(peers[:16])]
    assert all(entries)
    table.mark_busy(entries[0])  # type: ignore[arg-type]
    clock.now = GRACE_SECONDS
    for peer in peers[16:]:
        entry = table.add(peer, "198.51.100.1")
        assert entry is not None and not entry.rejection
    assert [peer.transport.aborted for peer in peers] == [False, True, True] + [False] * 15
    assert len(table) == 16


def test_recent_connection_is_not_evicted_and_the_new_one_is_rejected(clock: Clock) -> None:
    table = ConnectionTable(16, 100, clock)
    for number in range(16):
        table.add(Peer(), f"192.0.2.{number}")
    entry = table.add(Peer(), "198.51.100.1")
    assert entry is not None and entry.rejection == "16 connections are open, which is the limit"


def test_address_at_its_limit_evicts_only_its_own_idle_connections(clock: Clock) -> None:
    table, own, others = ConnectionTable(100, 4, clock), [Peer() for _ in range(5)], [Peer() for _ in range(50)]
    for number, peer in enumerate(others):
        table.add(peer, f"192.0.2.{number}")
    for peer in own[:4]:
        table.add(peer, "2001:db8::1")
    clock.now = GRACE_SECONDS
    assert not table.add(own[4], "2001:db8::2").rejection  # type: ignore[union-attr]
    assert [peer.transport.aborted for peer in own] == [True, False, False, False, False]
    assert not any(peer.transport.aborted for peer in others)
    assert not any(table.add(Peer(), "2001:db8::1").rejection for _ in range(3))  # type: ignore[union-attr]
    rejected = table.add(Peer(), "2001:db8::3")
    assert rejected is not None and "4 connections from your address are open" in rejected.rejection
    # This machine has no limit: a proxy on it may serve many clients.
    assert not any(table.add(Peer(), "127.0.0.1").rejection for _ in range(20))  # type: ignore[union-attr]


def test_oldest_idle_rejected_connection_is_evicted(clock: Clock) -> None:
    table, peers = ConnectionTable(16, 1000, clock), [Peer() for _ in range(16 + MAX_REJECTED)]
    entries = [table.add(peer, "192.0.2.1") for peer in peers]
    assert all(entries) and sum(bool(entry and entry.rejection) for entry in entries) == MAX_REJECTED
    assert table.add(Peer(), "192.0.2.1") is not None
    assert [number for number, peer in enumerate(peers) if peer.transport.aborted] == [16]
    for entry in entries:
        table.mark_busy(entry)  # type: ignore[arg-type]
    # Only the last one is idle.
    assert table.add(Peer(), "192.0.2.1") is not None
    last = [table.add(Peer(), "127.0.0.1") for _ in range(connections.MAX_REJECTED_LOCAL)]
    assert all(last), "this machine finds a place"


def test_rejected_connections_have_a_limit(clock: Clock) -> None:
    table = ConnectionTable(16, 1000, clock)
    for _ in range(16 + MAX_REJECTED):
        table.mark_busy(table.add(Peer(), "192.0.2.1"))  # type: ignore[arg-type]
    assert table.add(Peer(), "192.0.2.1") is None
    assert table.add(Peer(), "127.0.0.1") is not None


def test_idle_connections_expire_and_hanging_ones_are_aborted(clock: Clock) -> None:
    table, idle, busy, closing = ConnectionTable(16, 16, clock), Peer(), Peer(), Peer()
    for peer in (idle, busy, closing):
        entry = table.add(peer, "192.0.2.1")
        assert entry is not None
        if peer is busy:
            table.mark_busy(entry)
    closing.transport.closed = True
    table.sweep(10)
    clock.now = 11
    table.sweep(10)
    assert (idle.expired, busy.expired, closing.transport.aborted) == (True, False, True)


@pytest.mark.anyio
async def test_few_requests_start_per_iteration_and_in_order() -> None:
    loop, pace, started = asyncio.get_running_loop(), RequestPacer(3), []
    for number in range(8):
        if pace.admit(loop, partial(started.append, number)):
            started.append(number)
    rounds = []
    while len(started) < 8:
        rounds.append(len(started))
        await asyncio.sleep(0)
    assert started == list(range(8)) and set(rounds) <= {3, 6} and 6 in rounds


# A real server


@contextmanager
def open_connections(port: int, number: int) -> Iterator[list[socket.socket]]:
    """Opens this number of connections at once."""
    opened: list[socket.socket] = []
    try:
        opened.extend(socket.create_connection(("127.0.0.1", port), TIMEOUT) for _ in range(number))
        yield opened
    finally:
        for each in opened:
            each.close()


def replies(connections: list[socket.socket], request: bytes) -> list[bytes]:
    """The response of each connection, up to its end or the end of the connection."""
    found: dict[socket.socket, bytes] = dict.fromkeys(connections, b"")
    with selectors.DefaultSelector() as selector:
        for each in connections:
            each.sendall(request)
            selector.register(each, selectors.EVENT_READ)
        end = time.monotonic() + TIMEOUT
        while selector.get_map() and time.monotonic() < end:
            for key, _ in selector.select(1):
                sock: Any = key.fileobj
                try:
                    data = sock.recv(65536)
                except ConnectionResetError:
                    data = b""
                found[sock] += data
                if not data or whole(found[sock]):
                    selector.unregister(sock)
    return list(found.values())


def whole(reply: bytes) -> bool:
    head, _, body = reply.partition(b"\r\n\r\n")
    lengths = [line.split(b":")[1] for line in head.lower().splitlines() if line.startswith(b"content-length:")]
    return bool(lengths) and len(body) >= int(lengths[0])


def test_idle_connections_do_not_block_requests(fake_settings: Callable[..., Settings]) -> None:
    with serving(fake_settings("server.connections=16")) as server:
        with open_connections(server.port, 16):
            time.sleep(GRACE_SECONDS)
            for path in ("/ready", "/health", "/models"):
                assert server.client.get(path).status_code == 200


def test_rejected_connection_gets_a_response_and_health_is_served(fake_settings: Callable[..., Settings]) -> None:
    with serving(fake_settings("server.connections=16", "fake.delay=0.2", "limits.queue=32")) as server:
        body = json.dumps({"prompt": "one two three four five " * 20}).encode()
        head = "POST /completion HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        with open_connections(server.port, 16) as busy:
            for each in busy:
                each.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            wait_until(lambda: server.appliance.admission.used + server.appliance.admission.waiting == 16)
            with open_connections(server.port, 5) as late:
                paths = ["/models", "/v1/models", "/metrics", "/health", "/ready"]
                responses = [
                    replies([each], GET.format(path).encode())[0] for each, path in zip(late, paths, strict=True)
                ]
        assert [reply.split()[1] for reply in responses] == [b"503", b"503", b"503", b"200", b"200"]
        for reply in responses[:3]:
            assert b"\r\nretry-after: " in reply.lower() and b"\r\nconnection: close" in reply.lower()
        assert json.loads(responses[0].partition(b"\r\n\r\n")[2])["code"] == "too_many_connections"
        assert json.loads(responses[1].partition(b"\r\n\r\n")[2])["error"]["code"] == "too_many_connections"


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < end, "the condition did not become true"
        time.sleep(0.01)


@contextmanager
def process(folder: Path, files: int) -> Iterator[tuple[psutil.Process, int]]:
    """Runs `chatapi serve` with fake engines and a limit of open files; yields its process and port."""
    chosen = [*FAKE_ENGINES, f"data={folder}/data", "server.port=0", "wyoming.enabled=false"]
    words = [word for each in chosen for word in ("--set", each)]
    code = (
        f"import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, ({files}, {files}))\n"
        f"from chatapi.cli import main; sys.exit(main({[*words, 'serve']!r}))"
    )
    with (folder / "log").open("w") as errors:
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        assert child.stdout is not None
        line = next(line for line in child.stdout if "ready after" in line)
        yield psutil.Process(child.pid), int(line.rsplit(":", 1)[1])
    finally:
        child.kill()
        child.communicate()


def test_requests_beyond_the_limit_are_rejected_and_health_is_served(
    fake_settings: Callable[..., Settings],
) -> None:
    with serving(fake_settings("server.requests=4")) as server:
        head = b"POST /completion HTTP/1.1\r\nHost: localhost\r\nContent-Type: audio/wav\r\nContent-Length: 9\r\n\r\n"
        with open_connections(server.port, 4) as slow:
            for each in slow:
                each.sendall(head)
            wait_until(lambda: server.client.get("/models").status_code == 503)
            rejected = server.client.get("/v1/models")
            assert (rejected.status_code, rejected.json()["error"]["code"]) == (503, "too_many_requests")
            assert int(rejected.headers["retry-after"]) > 0
            assert server.client.get("/health").status_code == server.client.get("/ready").status_code == 200
        wait_until(lambda: server.client.get("/models").status_code == 200)


# File descriptors


def limited(soft: int, hard: int, code: str) -> str:
    """The output of a child process with these limits of open files."""
    start = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
    run = subprocess.run([sys.executable, "-c", start + code], capture_output=True, text=True, timeout=TIMEOUT)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_soft_limit_of_descriptors_is_raised_to_the_hard_limit() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = file_descriptors.MOST if hard == resource.RLIM_INFINITY else min(hard, file_descriptors.MOST)
    code = "from chatapi.system import file_descriptors as f; print(f.raise_limit(), f.for_connections(2048, 600))"
    assert limited(256, most, code) == f"{most} {min(2048, most - 600)}"
    assert limited(1024, 1024, code) == "1024 424"
    assert limited(256, 256, code) == "256 16"


def test_connections_leave_descriptors_for_other_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_descriptors, "limit", lambda: 1024)
    assert ConnectionTable(2048, 256).most == 1024 - connections.RESERVED
    assert connections.RESERVED > MAX_REJECTED + connections.MAX_REJECTED_LOCAL + BACKLOG


@pytest.mark.alone
def test_1500_idle_connections_under_a_limit_of_1024_neither_block_nor_fill_the_log(
    tmp_path: Path,
) -> None:
    """The hard limit is fixed, as an operator may set it."""
    log = tmp_path / "log"
    with process(tmp_path, 1024) as (_, port):
        opened: list[socket.socket] = []
        late: list[float] = []
        for number in range(1500):
            opened.append(socket.create_connection(("127.0.0.1", port), TIMEOUT))
            if number % 100 == 99:
                started = time.monotonic()
                with open_connections(port, 1) as asking:
                    [reply] = replies(asking, GET.format("/ready").encode())
                late.append(time.monotonic() - started)
                assert reply.startswith(b"HTTP/1.1 200"), (number, reply)
        print(f"the slowest of {len(late)} answers took {max(late):.2f} s; the log has {log.stat().st_size} bytes")
        assert max(late) < 10 and log.stat().st_size < 100_000
        for each in opened:
            each.close()


@pytest.mark.alone
def test_1000_clients_at_once_are_served_or_get_retry_after(
    fake_settings: Callable[..., Settings],
) -> None:
    body = json.dumps({"prompt": "one two"}).encode()
    request = (
        f"POST /completion HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        "\r\nConnection: close\r\n\r\n"
    ).encode() + body
    with serving(fake_settings("fake.delay=0.02")) as server, open_connections(server.port, 1000) as clients:
        health: list[int] = []
        done = threading.Event()

        def ask() -> None:
            while not done.is_set():
                health.append(server.client.get("/ready").status_code)
                time.sleep(0.05)

        asking = threading.Thread(target=ask)
        asking.start()
        responses = replies(clients, request)
        done.set()
        asking.join()
    found = Counter(reply.split(b" ", 2)[1] for reply in responses if reply)
    print(f"answers: {dict(found)}; health: {Counter(health)}")
    assert set(found) == {b"200", b"503"} and sum(found.values()) == 1000
    assert all(b"\r\nretry-after: " in reply.lower() for reply in responses if reply.startswith(b"HTTP/1.1 503"))
    assert set(health) == {200}


def test_queued_request_does_not_count_as_idle(
    fake_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(fake_settings("server.head_seconds=0.2")) as server:
        paced = RequestPacer.admit
        waiting: list[Callable[[], None]] = []

        def later(pace: RequestPacer, loop: asyncio.AbstractEventLoop, begin: Callable[[], None]) -> bool:
            waiting.append(begin)
            return False

        monkeypatch.setattr(RequestPacer, "admit", later)
        with open_connections(server.port, 1) as [plain]:
            plain.sendall(GET.format("/models").encode())
            wait_until(lambda: bool(waiting))
            time.sleep(0.5)
            monkeypatch.setattr(RequestPacer, "admit", paced)

            async def begin() -> None:
                waiting[0]()

            server.run(begin)
            assert plain.recv(15) == b"HTTP/1.1 200 OK"


def test_served_connection_is_counted(fake_server: RunningServer) -> None:
    assert "chatapi_http_connections 1.0" in fake_server.client.get("/metrics").text
