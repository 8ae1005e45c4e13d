"""Webhooks to a real receiver: signatures, order, retries, what is never sent where, and what survives."""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import ssl
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from chatapi.auth.certificates import Identity
from chatapi.errors import SettingsError
from chatapi.jobs import JobRequest, JobStore, database, outbox_sender, rows, webhooks
from chatapi.jobs.outbox import OutboxReader
from chatapi.jobs.webhooks import WebhookSender, signed
from chatapi.settings.tables import WebhookSettings
from chatapi.system.public_address import is_public
from conftest import until
from webhook_receiver import ReceivedWebhook, WebhookReceiver, receiving

pytestmark = pytest.mark.anyio

KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_sender, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(outbox_sender, "PAUSE_SECONDS", 0.05)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    with closing(JobStore(tmp_path)) as opened:
        yield opened


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    with receiving() as found:
        yield found


def settings(url: str, **more: Any) -> WebhookSettings:
    return WebhookSettings.model_validate({"url": url, "secret": SECRET, "private": True, **more})


@asynccontextmanager
async def sending(
    store: JobStore, receiver: WebhookReceiver, trust: ssl.SSLContext | None = None, url: str = "", **more: Any
) -> AsyncIterator[WebhookSender]:
    sender = WebhookSender(settings(url or f"http://127.0.0.1:{receiver.port}/hook?token=hush", **more), trust)
    async with anyio.create_task_group() as group:
        group.start_soon(sender.run, store.database)
        await until(lambda: sender._reader is not None)
        yield sender
        group.cancel_scope.cancel()


def cancelled(store: JobStore, kind: str = "work") -> str:
    """The id of a job whose events are queued and cancelled."""
    job = store.add(JobRequest(kind, subject="", owner="kitchen")).id
    store.cancel(job)
    return job


def verify(found: ReceivedWebhook) -> None:
    """As the specification has receivers do it."""
    at = found.headers["webhook-timestamp"]
    assert abs(time.time() - int(at)) < 300
    content = f"{found.id}.{at}.".encode() + found.body
    expected = base64.b64encode(hmac.new(KEY, content, hashlib.sha256).digest()).decode()
    assert found.headers["webhook-signature"] == f"v1,{expected}"


def test_the_signature_is_that_of_the_published_example() -> None:
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    found = signed(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert found["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


async def test_an_event_is_sent_once_signed_and_with_what_it_is_about(
    store: JobStore, receiver: WebhookReceiver
) -> None:
    cancelled(store)
    async with sending(store, receiver) as sender:
        # What was before the first start is not sent.
        job = cancelled(store)
        await until(lambda: bool(receiver.received))
        await until(lambda: sender.pending() == 0)
    [found] = receiver.received
    verify(found)
    assert found.id == f"{job}.2" and found.path == "/hook?token=hush"
    assert found.headers["content-type"] == "application/json" and "host" in found.headers
    document = found.document
    assert document["type"] == "job.cancelled"
    assert {**document["data"]}.items() >= {"job": job, "kind": "work", "event": 2, "state": "cancelled"}.items()
    assert sender.results == {"delivered": 1, "failed": 0, "dropped": 0}


async def test_events_are_chosen_and_come_in_order(store: JobStore, receiver: WebhookReceiver) -> None:
    async with sending(store, receiver, events=("job.queued", "job.paused", "job.cancelled")) as sender:
        jobs = [cancelled(store) for _ in range(5)]
        store.pause(store.add(JobRequest("work")).id)
        await until(lambda: len(receiver.received) == 12)
        await until(lambda: sender.pending() == 0)
    assert receiver.events == ["job.queued", "job.cancelled"] * 5 + ["job.queued", "job.paused"]
    assert [each.document["data"]["job"] for each in receiver.received[:10:2]] == jobs


async def test_what_fails_is_sent_again_with_growing_pauses_and_the_same_id(
    store: JobStore, receiver: WebhookReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.statuses = [500, 429, 404, 302]
    receiver.headers = {"Location": f"http://127.0.0.1:{receiver.port}/elsewhere"}
    async with sending(store, receiver) as sender:
        begun = time.monotonic()
        cancelled(store)
        await until(lambda: sender.results["delivered"] == 1)
    assert time.monotonic() - begun >= 0.05 * (1 + 2 + 4 + 8)
    assert sender.results == {"delivered": 1, "failed": 4, "dropped": 0}
    # A redirect is not followed.
    assert {each.path for each in receiver.received} == {"/hook?token=hush"}
    assert len({each.id for each in receiver.received}) == 1
    text = "".join(str(vars(record)) for record in caplog.records if record.name.startswith("chatapi"))
    assert "status 500" in text and "hush" not in text and SECRET not in text


async def test_an_event_is_given_up_and_the_next_one_is_sent(
    store: JobStore, receiver: WebhookReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_sender, "ATTEMPTS", 3)
    receiver.statuses = [500] * 3
    async with sending(store, receiver) as sender:
        jobs = [cancelled(store), cancelled(store)]
        await until(lambda: sender.results["delivered"] == 1)
    assert sender.results == {"delivered": 1, "failed": 2, "dropped": 1}
    assert [each.document["data"]["job"] for each in receiver.received] == [jobs[0]] * 3 + [jobs[1]]


async def test_a_receiver_that_hangs_costs_one_attempt(
    store: JobStore, receiver: WebhookReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "SEND_SECONDS", 0.2)
    receiver.hang = threading.Event()
    async with sending(store, receiver) as sender:
        cancelled(store)
        await until(lambda: sender.results["failed"] >= 1)
        receiver.hang.set()
        await until(lambda: sender.results["delivered"] == 1)


async def test_a_receiver_that_asks_for_a_pause_gets_it(store: JobStore, receiver: WebhookReceiver) -> None:
    receiver.statuses, receiver.headers = [503], {"Retry-After": "1000"}
    async with sending(store, receiver) as sender:
        cancelled(store)
        await until(lambda: sender.results["failed"] == 1)
        reader = sender._reader
        assert reader is not None and (found := reader.next()) is not None
        assert 900 < found.seconds <= 1000 and found.attempts == 1


async def test_a_new_sender_goes_on_where_the_last_one_was(store: JobStore, receiver: WebhookReceiver) -> None:
    async with sending(store, receiver) as sender:
        cancelled(store)
        await until(lambda: sender.results["delivered"] == 1)
    # While nobody sends; one of the jobs is deleted before it is sent.
    jobs = [cancelled(store) for _ in range(3)]
    store.delete(jobs[1])
    async with sending(store, receiver) as sender:
        await until(lambda: sender.results["delivered"] == 3)
    assert [each.document["data"]["job"] for each in receiver.received[-3:]] == jobs


async def test_another_url_starts_anew(store: JobStore, receiver: WebhookReceiver) -> None:
    async with sending(store, receiver):
        pass
    cancelled(store)
    async with sending(store, receiver, url=f"http://127.0.0.1:{receiver.port}/other"):
        job = cancelled(store)
        await until(lambda: bool(receiver.received))
    assert [each.document["data"]["job"] for each in receiver.received] == [job]
    with store.database.reading() as db:
        assert db.execute("SELECT count(*) FROM readers").fetchone() == (1,)


def test_the_list_of_changes_is_bounded(store: JobStore) -> None:
    reader = OutboxReader(store.database, "test:a")
    reader.begin()
    job = store.add(JobRequest("work")).id
    with store.database.transaction() as db:
        for _ in range(database.OUTBOX + 10):
            rows.append_state(db, job, 0.0, "paused", 10)
    assert reader.pending() == database.OUTBOX
    found = reader.next()
    # One change was that the job was queued.
    assert found is not None and found.change.sequence == 12


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1", "127.1", "2130706433", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"]
)
async def test_a_private_address_is_not_connected_to(
    store: JobStore, receiver: WebhookReceiver, host: str, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"http://{host}:{receiver.port}/"
    async with sending(store, receiver, url=url, private=False) as sender:
        cancelled(store)
        await until(lambda: sender.results["failed"] >= 1)
    assert not receiver.received
    assert "not public; webhook.private allows it" in caplog.text or "gaierror" in caplog.text


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("1.1.1.1", True), ("2606:4700:4700::1111", True), ("::ffff:1.1.1.1", True), ("64:ff9b::101:101", True),
        ("10.0.0.1", False), ("172.16.3.4", False), ("192.168.1.1", False), ("100.64.0.1", False), ("127.0.0.1", False),
        ("169.254.169.254", False), ("0.0.0.0", False), ("224.0.0.1", False), ("240.0.0.1", False),
        ("255.255.255.255", False), ("::", False), ("::1", False), ("fe80::1%eth0", False), ("fc00::1", False),
        ("fec0::1", False), ("ff02::1", False), ("::ffff:10.0.0.1", False), ("::127.0.0.1", False),
        ("64:ff9b::a00:1", False), ("2002:7f00:1::", False), ("2001:0:4136:e378:8000:63bf:3fff:fdd2", False),
    ],
)  # fmt: skip
def test_addresses_that_are_public(address: str, public: bool) -> None:
    assert is_public(address) is public


async def test_the_certificate_is_that_of_the_urls_host(store: JobStore, tmp_path: Path) -> None:
    identity = Identity(tmp_path, None, None, ("localhost",))
    assert identity.keeper is not None
    trust = ssl.create_default_context(cafile=identity.keeper.authority)
    with receiving(identity.context) as receiver:
        async with sending(store, receiver, trust, f"https://localhost:{receiver.port}/") as sender:
            cancelled(store)
            await until(lambda: sender.results["delivered"] == 1)
        assert receiver.received[0].headers["host"] == f"localhost:{receiver.port}"
        for authorities, host in ((None, "localhost"), (trust, "ip6-localhost.invalid")):
            async with sending(store, receiver, authorities, f"https://{host}:{receiver.port}/") as sender:
                cancelled(store)
                await until(lambda sender=sender: sender.results["failed"] >= 1)  # type: ignore[misc]
        assert len(receiver.received) == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"secret": None}, "needs a secret"),
        ({"secret": "hush"}, "24 to 64 random bytes in base64"),
        ({"secret": "whsec_" + base64.b64encode(b"short").decode()}, "it has 5 bytes"),
        ({"url": "ftp://example.com/"}, "must be https://HOST/PATH"),
        ({"url": "https://user:hush@example.com/"}, "without a password"),
        ({"url": "https:///nowhere"}, "must be https://HOST/PATH"),
        ({"url": "https://[::1"}, "is not a URL"),
    ],
)
def test_wrong_settings_are_rejected_without_repeating_them(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        WebhookSender(settings(**{"url": "https://example.com/", **values}))
    assert "hush" not in caught.value.message


def test_an_unknown_event_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"job\.lost"):
        settings("https://example.com/", events=("job.lost",))


async def test_a_public_host_needs_https(store: JobStore, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with sending(store, WebhookReceiver(), url="http://1.1.1.1/") as sender:
        cancelled(store)
        await until(lambda: sender.results["failed"] >= 1)
    assert "only sent to over https" in caplog.text
