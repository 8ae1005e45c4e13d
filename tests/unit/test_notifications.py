"""Notifications about jobs by apprise: their text, retries, and that no URL is shown."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from chatapi.appliance import Appliance
from chatapi.errors import SettingsError
from chatapi.jobs import JobLimits, JobRequest, JobStore, outbox_sender
from chatapi.jobs.notifications import NotificationSender, sentence
from chatapi.jobs.outbox import StateChange
from chatapi.settings import Settings
from chatapi.settings.services import NotifySettings
from conftest import serving, until
from running_interface import running_jobs
from webhook_receiver import WebhookReceiver, receiving

pytest.importorskip("apprise", reason="apprise is not installed")
pytestmark = pytest.mark.anyio
TOKEN = "hush-hush-token"


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_sender, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(outbox_sender, "PAUSE_SECONDS", 0.05)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    with closing(JobStore(tmp_path, JobLimits())) as found:
        yield found


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    with receiving() as found:
        yield found


def settings(*receivers: WebhookReceiver, **more: object) -> NotifySettings:
    urls = " ".join(f"json://127.0.0.1:{each.port}/{TOKEN}" for each in receivers)
    return NotifySettings.model_validate({"urls": urls, "events": ("job.cancelled",), **more})


def cancelled(store: JobStore, name: str = "talk.wav") -> str:
    job = store.add(JobRequest("transcription", {"name": name}, subject="")).id
    store.cancel(job)
    return job


async def test_each_service_gets_one_sentence_with_a_link(store: JobStore, receiver: WebhookReceiver) -> None:
    with receiving() as second:
        senders = NotificationSender.of(settings(receiver, second, link="https://box.local:8000/"))
        async with anyio.create_task_group() as group:
            for sender in senders:
                group.start_soon(sender.run, store.database)
            await until(lambda: all(each._reader is not None for each in senders))
            job = cancelled(store)
            await until(lambda: bool(receiver.received and second.received))
            group.cancel_scope.cancel()
    for each in (receiver, second):
        expected = f"The transcription of talk.wav was cancelled: https://box.local:8000/jobs/{job}"
        assert [found.document["message"] for found in each.received] == [expected]
        assert each.received[0].path == f"/{TOKEN}"


async def test_a_service_that_fails_is_tried_again_and_its_url_is_not_logged(
    store: JobStore, receiver: WebhookReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.statuses[:] = [503, 500]
    [sender] = NotificationSender.of(settings(receiver))
    with caplog.at_level(logging.DEBUG):
        async with anyio.create_task_group() as group:
            group.start_soon(sender.run, store.database)
            await until(lambda: sender._reader is not None)
            cancelled(store)
            await until(lambda: sender.results["delivered"] == 1)
            group.cancel_scope.cancel()
    assert len(receiver.received) == 3 and sender.results["failed"] == 2
    assert "notification not delivered" in caplog.text
    assert TOKEN not in "".join(record.getMessage() for record in caplog.records if record.name.startswith("chatapi"))
    assert not [record for record in caplog.records if record.name == "apprise"]


def test_a_sentence_has_the_reason_of_a_failure() -> None:
    data = {"state": "failed", "code": "bad_audio", "message": "the audio is\ndamaged"}
    change = StateChange(1, "j1", "transcription", "", 3, 0.0, data)
    assert sentence(change, "talk.wav", "") == "The transcription of talk.wav failed (the audio is damaged)."


@pytest.mark.parametrize(
    ("urls", "wrong"),
    [("nothing", "number 1"), (f"json://127.0.0.1/{TOKEN} nope://x", "number 2"), ("json://a " * 11, "at most 10")],
)
def test_a_wrong_url_is_an_error_that_does_not_show_it(urls: str, wrong: str) -> None:
    with pytest.raises(SettingsError, match=wrong) as raised:
        NotificationSender.of(NotifySettings.model_validate({"urls": urls}))
    assert TOKEN not in raised.value.message and "nope" not in raised.value.message


def test_a_server_notifies_of_a_job_that_failed_and_shows_no_url(
    fake_settings: Callable[..., Settings], receiver: WebhookReceiver
) -> None:
    url = f"json://127.0.0.1:{receiver.port}/{TOKEN}"
    with serving(fake_settings(f"notify.urls={url}")) as server, running_jobs(server):
        assert TOKEN not in server.client.get("/settings").text
        headers = {"content-type": "audio/wav"}
        job = server.client.post("/transcriptions?name=damaged.wav", content=b"no audio", headers=headers).json()["id"]
        server.run(lambda: until(lambda: bool(receiver.received)))
        assert TOKEN not in server.client.get(f"/jobs/{job}").text
    assert receiver.received[0].document["message"].startswith("The transcription of damaged.wav failed (")


def test_the_senders_of_an_appliance_are_those_of_its_settings(fake_settings: Callable[..., Settings]) -> None:
    assert len(Appliance(fake_settings("notify.urls=json://a, json://b json://c")).jobs._senders) == 3
