"""Alerts about monitored places, through apprise to a receiver on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path

import anyio
import pytest

from chatapi.engines import SoundOptions
from chatapi.engines.sound_detector import orcahello
from chatapi.jobs.notifications import NotificationSender
from chatapi.services.stream_monitoring import alert_queue, alerts
from chatapi.services.stream_monitoring.alert_queue import AlertQueue
from chatapi.services.stream_monitoring.alerts import DETECTION_SECONDS, PlaceAlerts, QuietHours
from chatapi.services.stream_monitoring.config import PlaceConfig
from chatapi.services.stream_monitoring.database import MonitoringDatabase
from chatapi.services.stream_monitoring.decision import Decision, V1Rule
from chatapi.services.stream_monitoring.monitor import JudgedClip
from chatapi.settings.services import NotifySettings
from conftest import until
from webhook_receiver import WebhookReceiver, receiving

pytest.importorskip("apprise", reason="apprise is not installed")
pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    with receiving() as found:
        yield found


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[AlertQueue]:
    with closing(MonitoringDatabase(tmp_path / "coverage.sqlite3")) as database:
        yield AlertQueue(database)


def judged(place: str, positive: bool = True) -> JudgedClip:
    location = orcahello.LOCATIONS[place]
    config = PlaceConfig(location, orcahello.V1, "m", V1Rule(), SoundOptions(), 60)
    return JudgedClip(config, f"{place}_clip", 0, 60, Decision(positive, 87.4, ()), 29)


def senders(receiver: WebhookReceiver) -> list[NotificationSender]:
    return NotificationSender.of(NotifySettings.model_validate({"urls": f"json://127.0.0.1:{receiver.port}/"}))


async def test_detections_of_a_place_are_said_once_in_a_while_and_lost_audio_always(
    receiver: WebhookReceiver, queue: AlertQueue
) -> None:
    now = [0.0]
    told = PlaceAlerts(senders(receiver), queue, clock=lambda: now[0])
    async with anyio.create_task_group() as group:
        group.start_soon(told.run)
        told.clip(judged("rpi_bush_point"))
        told.clip(judged("rpi_bush_point", positive=False))
        for _ in range(3):
            told.clip(judged("rpi_bush_point"))
        told.clip(judged("rpi_sunset_bay"))
        told.state("Bush Point", "no audio for 300 seconds: the cable is cut")
        now[0] = DETECTION_SECONDS + 1
        told.clip(judged("rpi_bush_point"))
        await until(lambda: len(receiver.received) == 4)
        await anyio.sleep(0.2)
        group.cancel_scope.cancel()
    assert [each.document["message"] for each in receiver.received] == [
        "Bush Point: detected rpi_bush_point_clip (87 %)",
        "Sunset Bay: detected rpi_sunset_bay_clip (87 %)",
        "Bush Point: no audio for 300 seconds: the cable is cut",
        "Bush Point: detected rpi_bush_point_clip (87 %, and 3 more since the last alert)",
    ]


async def test_an_alert_is_sent_again_until_the_service_accepts_it(
    receiver: WebhookReceiver, queue: AlertQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerts, "PAUSE", 0.01)
    receiver.statuses = [500, 503]
    told = PlaceAlerts(senders(receiver), queue)
    async with anyio.create_task_group() as group:
        group.start_soon(told.run)
        told.state("Bush Point", "audio is back")
        await until(lambda: len(receiver.received) == 3)
        await anyio.sleep(0.2)
        group.cancel_scope.cancel()
    assert len(receiver.received) == 3


async def test_alerts_survive_a_restart_and_wait_for_the_end_of_quiet_hours(
    receiver: WebhookReceiver, queue: AlertQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerts, "POLL_SECONDS", 0.05)
    moment = [datetime(2026, 11, 30, 23, 30)]
    quiet = QuietHours.of("22:00-07:00")
    told = PlaceAlerts(senders(receiver), queue, quiet, local_time=lambda: moment[0])
    async with anyio.create_task_group() as group:
        group.start_soon(told.run)
        told.state("Bush Point", "no audio for 300 seconds: the cable is cut")
        told.state("Sunset Bay", "no audio for 300 seconds: the cable is cut")
        await until(lambda: queue.count() == 2)
        await anyio.sleep(0.2)
        group.cancel_scope.cancel()
    assert receiver.received == []
    again = PlaceAlerts(senders(receiver), queue, quiet, local_time=lambda: moment[0])
    async with anyio.create_task_group() as group:
        group.start_soon(again.run)
        await anyio.sleep(0.2)
        assert receiver.received == []
        moment[0] = datetime(2026, 12, 1, 7, 0)
        await until(lambda: queue.count() == 0)
        group.cancel_scope.cancel()
    [message] = [each.document["message"] for each in receiver.received]
    assert message.splitlines() == [
        "Bush Point: no audio for 300 seconds: the cable is cut",
        "Sunset Bay: no audio for 300 seconds: the cable is cut",
    ]


@pytest.mark.parametrize(
    ("hours", "moment", "quiet"),
    [
        ("22:00-07:00", "22:00", True), ("22:00-07:00", "06:59", True), ("22:00-07:00", "07:00", False),
        ("12:00-13:30", "13:29", True), ("12:00-13:30", "11:59", False),
    ],
)  # fmt: skip
def test_quiet_hours_may_span_midnight(hours: str, moment: str, quiet: bool) -> None:
    found = QuietHours.of(hours)
    assert found is not None and found.include(datetime.strptime(moment, "%H:%M")) is quiet


async def test_alerts_that_cannot_wait_any_longer_are_logged(
    receiver: WebhookReceiver, queue: AlertQueue, caplog: pytest.LogCaptureFixture
) -> None:
    told = PlaceAlerts(senders(receiver), queue)
    for number in range(alert_queue.MOST_WAITING + 1):
        told.state("Bush Point", f"change {number}")
    assert [record.message for record in caplog.records] == ["alert is lost, because too many wait"]
    [service] = senders(receiver)
    for number in range(alert_queue.MOST_WAITING):
        assert queue.put(service.name, f"change {number}")
    assert not queue.put(service.name, "one more")


async def test_without_services_nothing_is_kept(queue: AlertQueue) -> None:
    told = PlaceAlerts(NotificationSender.of(NotifySettings()), queue)
    for _ in range(alert_queue.MOST_WAITING + 10):
        told.clip(judged("rpi_bush_point"))
    with anyio.fail_after(5):
        await told.run()
    assert queue.count() == 0
