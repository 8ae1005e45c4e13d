"""Metrics of live turns, engines and the machine, with a Jetson's sensors from files as its kernel has them."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.core import Metric

import fake_jetson
from chatapi.appliance import Appliance
from chatapi.cli.health import health
from chatapi.engines import PromptMessage, Sampling
from chatapi.engines.registry import load
from chatapi.errors import Busy, NotReady
from chatapi.events import Interrupted, Resumed, TurnEnded
from chatapi.observability.metrics import Metrics
from chatapi.observability.metrics.jtop import Jtop, client
from chatapi.observability.metrics.sensors import SensorReadings, read
from chatapi.runtime.rebuild_limit import REBUILD_SECONDS, REBUILDS
from chatapi.services.live import SessionOrigin
from chatapi.services.transcription.transcriber import TranscriptText
from chatapi.services.turns.completion import Turn
from chatapi.settings import MlcSettings, ServerSettings, Settings
from conftest import RunAppliance, RunningServer, answer, serving, tone, until
from fake_jetson import ORIN_NX, write_files
from mlc_model import compiled_model, mlc_llm
from paths import ROOT
from test_live import silence, speak_again_before_playback, talking

pytestmark = pytest.mark.anyio
DOCUMENT = ROOT / "containers/monitoring/metrics.md"


def value(metrics: Metrics, name: str, **labels: str) -> float:
    found = metrics.registry.get_sample_value(name, labels)
    assert found is not None, f"there is no {name} with {labels}"
    return found


def exposed(metrics: Metrics) -> list[Metric]:
    return list(metrics.registry.collect())


def named(metric: Metric) -> str:
    return metric.name + ("_total" if metric.type == "counter" else "")


# Documentation


def test_every_metric_is_documented_and_nothing_else() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]*) \|", DOCUMENT.read_text(), re.MULTILINE)
    documented = {name: (kind, labels.replace("`", "").replace(",", " ").split()) for name, kind, labels in rows}
    metrics = exposed(Metrics())
    assert set(documented) == {named(metric) for metric in metrics}
    assert {name: kind for name, (kind, _) in documented.items()} == {named(m): m.type for m in metrics}
    for metric in metrics:
        given = {name for sample in metric.samples for name in sample.labels} - {"le"}
        assert given <= set(documented[named(metric)][1]), metric.name


def test_every_own_metric_has_a_unit_in_its_name_and_a_description() -> None:
    units = ("_seconds", "_bytes", "_hertz", "_watts", "_celsius", "_ratio", "_total", "_factor", "_per_second")
    counts = {
        "chatapi_turns_active", "chatapi_turns_waiting", "chatapi_live_sessions", "chatapi_engine_jobs_waiting",
        "chatapi_ready", "chatapi_engine_loaded", "chatapi_engine_failed", "chatapi_sound_device_up",
        "chatapi_jetson_throttled", "chatapi_wyoming_connections", "chatapi_history_kept", "chatapi_http_connections",
        "chatapi_jobs", "chatapi_work_waits", "chatapi_webhooks_pending", "chatapi_engine_model",
        "chatapi_conversions_active", "chatapi_conversions_waiting", "chatapi_voices",
        "chatapi_command_active_version", "chatapi_command_samples", "chatapi_command_words",
        "chatapi_command_versions",
        "chatapi_monitor_audio", "chatapi_monitor_waiting_detections",
    }  # fmt: skip
    for metric in exposed(Metrics()):
        if metric.name.startswith("chatapi_"):
            assert named(metric).endswith(units) or metric.name in counts, metric.name
            assert metric.documentation.endswith("."), metric.name


async def test_counters_of_rare_events_start_at_zero(fake_appliance: RunAppliance) -> None:
    async with fake_appliance() as appliance:
        for kind in ("interrupted", "cancelled", "resumed", "retracted"):
            assert value(appliance.metrics, "chatapi_live_interruptions_total", kind=kind) == 0
        for role in ("vad", "wake_word", "turn_detection", "asr", "llm", "tts", "speaker"):
            assert value(appliance.metrics, "chatapi_engine_rebuilds_total", engine=role) == 0
            assert value(appliance.metrics, "chatapi_engine_failed", engine=role) == 0


# Turns


async def test_live_turn_is_counted_with_its_stages_from_the_end_of_speech(fake_appliance: RunAppliance) -> None:
    async with talking(fake_appliance) as talk:
        await talk.say(silence(0.3), tone(0.8), silence(0.5))
        ended = await talk.wait_for(TurnEnded)
        metrics = talk.appliance.metrics
        await until(lambda: bool(metrics.registry.get_sample_value(
            "chatapi_turns_total", {"kind": "live", "input": "voice", "reply": "voice", "result": "ok"})))  # fmt: skip
        for stage in ("endpoint", "transcript", "first_token", "first_audio", "audible", "end"):
            assert value(metrics, "chatapi_live_stage_seconds_count", stage=stage) == 1
        timings = ended.timings
        assert timings.endpoint is not None and timings.first_audio is not None
        audible = value(metrics, "chatapi_live_stage_seconds_sum", stage="audible")
        assert audible == pytest.approx(max(timings.endpoint, timings.first_audio))
        assert value(metrics, "chatapi_tokens_total", kind="completion") == ended.completion_tokens > 0
        assert value(metrics, "chatapi_live_guesses_total", result="used") == 1
        assert metrics.registry.get_sample_value("chatapi_turn_stage_seconds_count", {"stage": "end"}) is None


async def test_interruptions_are_counted_by_kind(fake_appliance: RunAppliance, monkeypatch: pytest.MonkeyPatch) -> None:
    async with talking(fake_appliance) as talk:
        metrics = talk.appliance.metrics
        transcripts = ["", "What about the hills?"]

        async def transcribe(*_: object) -> TranscriptText:
            return TranscriptText(transcripts[0], "en")

        monkeypatch.setattr(talk.appliance.transcriber, "transcribe_samples", transcribe)
        await talk.session.respond(" ".join(["word"] * 60))
        await talk.wait_for(TurnEnded)
        await talk.say(silence(0.2), tone(0.3), silence(0.6))
        await talk.wait_for(Resumed)
        assert value(metrics, "chatapi_live_interruptions_total", kind="resumed") == 1
        del transcripts[0]
        # Four words take about a second.
        await talk.say(silence(0.2), tone(1.1), silence(0.5))
        await talk.wait_for(Interrupted)
        assert value(metrics, "chatapi_live_interruptions_total", kind="interrupted") == 1
        await talk.session.respond(" ".join(["word"] * 60))
        await until(lambda: talk.session.playing)
        # The answer to the interruption may have been interrupted by this one.
        before = value(metrics, "chatapi_live_interruptions_total", kind="interrupted")
        assert await talk.session.cancel()
        assert value(metrics, "chatapi_live_interruptions_total", kind="cancelled") == 1
        assert value(metrics, "chatapi_live_interruptions_total", kind="interrupted") == before


async def test_turn_extended_by_resumed_speech_is_counted_as_retracted(fake_appliance: RunAppliance) -> None:
    async with talking(fake_appliance) as talk:
        await speak_again_before_playback(talk)
        metrics = talk.appliance.metrics
        assert value(metrics, "chatapi_live_interruptions_total", kind="retracted") == 1
        labels = {"kind": "live", "input": "voice", "reply": "voice"}
        assert value(metrics, "chatapi_turns_total", **labels, result="retracted") == 1


async def test_disconnect_during_an_answer_is_counted(fake_appliance: RunAppliance) -> None:
    async with fake_appliance() as appliance:
        async with appliance.live.session() as (session, _):
            await session.respond(" ".join(["word"] * 100))
        labels = {"kind": "live", "input": "voice", "reply": "voice"}
        await until(lambda: bool(appliance.metrics.registry.get_sample_value(
            "chatapi_turns_total", {**labels, "result": "disconnected"})))  # fmt: skip


async def test_live_sessions_are_counted_by_interface_and_rejected_ones_too(fake_appliance: RunAppliance) -> None:
    async with fake_appliance("live.sessions=1") as appliance:
        metrics = appliance.metrics
        async with appliance.live.session(origin=SessionOrigin("audio_device")):
            assert value(metrics, "chatapi_live_sessions", interface="audio_device") == 1
            with pytest.raises(Busy):
                async with appliance.live.session(origin=SessionOrigin("realtime")):
                    pass
        assert value(metrics, "chatapi_live_sessions", interface="audio_device") == 0
        assert value(metrics, "chatapi_live_sessions", interface="realtime") == 0
        assert value(metrics, "chatapi_live_sessions_refused_total") == 1


async def test_failure_in_a_live_conversation_is_counted_by_its_code(fake_appliance: RunAppliance) -> None:
    async with talking(fake_appliance, "fake.fault=raise") as talk:
        await talk.session.respond("hello there")
        await talk.wait_for(TurnEnded)
        metrics = talk.appliance.metrics
        assert value(metrics, "chatapi_errors_total", code="engine_failed") == 1


# Engines


async def test_busy_time_of_an_engine_is_measured(fake_appliance: RunAppliance) -> None:
    async with fake_appliance("fake.delay=0.02") as appliance:
        before = value(appliance.metrics, "chatapi_engine_busy_seconds_total", engine="llm")
        await answer(appliance, Turn(prompt="one two three four five six"))
        busy = value(appliance.metrics, "chatapi_engine_busy_seconds_total", engine="llm") - before
        # Eight words and the end, each after its delay; waiting does not count.
        assert busy >= 8 * 0.02 * 0.9
        assert value(appliance.metrics, "chatapi_tokens_per_second_count") == 1
        assert 0 < value(appliance.metrics, "chatapi_tokens_per_second_sum") < 1 / 0.02 * 1.1


async def test_event_loop_lag_is_measured(fake_appliance: RunAppliance) -> None:
    async with fake_appliance() as appliance:
        before = value(appliance.metrics, "chatapi_event_loop_lag_seconds_sum")
        # Blocks the event loop, and with it all audio.
        time.sleep(0.3)  # noqa: ASYNC251
        await until(lambda: value(appliance.metrics, "chatapi_event_loop_lag_seconds_sum") - before >= 0.15)


def test_mlc_counters_are_read_without_waiting(tmp_path: Path) -> None:
    with mlc_llm():
        settings = Settings(data=tmp_path, mlc=MlcSettings(context=512))
        engine = load("llm", "mlc")(settings, [compiled_model(tmp_path)])
        try:
            messages = [PromptMessage("user", "Tell me about the sea.")]
            pieces = list(engine.generate(messages, Sampling(max_tokens=5, temperature=0)))
            counts = engine.counts()
            assert counts["decode_tokens"] >= len(pieces) - 2
            assert counts["prefill_tokens"] > 0 and counts["decode_seconds"] > 0 and counts["prefill_seconds"] > 0
            engine._engine.paused.set()
            assert engine.counts() == {}
            engine._engine.paused.clear()
        finally:
            engine.close()
        assert engine.counts() == {}


# Readiness


@pytest.fixture
def stuck_server(fake_settings: Callable[..., Settings]) -> Iterator[RunningServer]:
    """A server that was ready, and whose language model has been stuck too often since."""
    with serving(fake_settings("fake.fault=hang", "limits.step_seconds=0.1")) as server:
        assert server.client.get("/ready").json() == {"ready": True}
        assert value(server.appliance.metrics, "chatapi_ready") == 1
        assert health(Settings(server=ServerSettings(port=server.port))) == 0
        for _ in range(50):
            if server.appliance.engines.llm.state == "failed":
                break
            server.client.post("/completion", json={"prompt": "one two"})
        yield server


def test_server_whose_engine_was_stuck_too_often_is_not_ready(
    stuck_server: RunningServer, capsys: pytest.CaptureFixture[str]
) -> None:
    reply = stuck_server.client.get("/ready")
    assert (reply.status_code, reply.json()["code"]) == (503, "not_ready")
    assert reply.json()["detail"].startswith("the engine llm has been lost too often; chatapi retries in ")
    assert 3000 < int(reply.headers["retry-after"]) <= REBUILD_SECONDS
    rejected = stuck_server.client.post("/completion", json={"prompt": "one two"})
    assert (rejected.status_code, rejected.json()["code"]) == (503, "engine_gone")
    assert 3000 < int(rejected.headers["retry-after"]) <= REBUILD_SECONDS
    assert stuck_server.client.get("/health").json()["status"] == "failing"
    metrics = stuck_server.appliance.metrics
    assert value(metrics, "chatapi_ready") == 0
    assert value(metrics, "chatapi_engine_failed", engine="llm") == 1
    assert value(metrics, "chatapi_engine_rebuilds_total", engine="llm") == REBUILDS + 1
    assert health(Settings(server=ServerSettings(port=stuck_server.port))) == 1
    assert "the engine llm has been lost too often" in capsys.readouterr().err


async def test_server_is_not_ready_until_its_engines_are_loaded(fake_settings: Callable[..., Settings]) -> None:
    async with Appliance(fake_settings()).running() as appliance:
        with pytest.raises(NotReady, match="still loading"):
            appliance.require_ready()
        await appliance.load()
        appliance.require_ready()


# The machine


def test_sensors_of_a_jetson_are_read(tmp_path: Path) -> None:
    readings = read(fake_jetson.board(tmp_path))
    assert (readings.gpu_load, readings.gpu_hertz) == (pytest.approx(0.427), 918e6)
    assert readings.power == {rail: pytest.approx(mv * ma / 1e6) for rail, (mv, ma) in fake_jetson.RAILS.items()}
    assert readings.temperatures == {zone: heat / 1000 for zone, heat in fake_jetson.ZONES.items()}
    assert readings.limits == dict.fromkeys(fake_jetson.ZONES, 99.0)
    assert readings.throttled == {"cpu": False, "gpu": True}
    assert readings.memory_total == 16055396 * 1024 and readings.memory_available == 12_000_000 * 1024
    assert readings.memory_gpu == 4 << 30


def test_gpu_load_of_older_kernels_is_read(tmp_path: Path) -> None:
    assert read(write_files(tmp_path, {"sys/devices/platform/gpu.0/load": "1000\n"})).gpu_load == 1.0
    assert read(write_files(tmp_path / "none", {"sys/devices/platform/gpu.0/load": "garbage"})).gpu_load is None


def test_sensors_are_exposed_on_a_jetson_and_nowhere_else(tmp_path: Path) -> None:
    jetson = Metrics(tmp_path, fake_jetson.board(tmp_path / "jetson"))
    assert value(jetson, "chatapi_jetson_power_watts", rail="VDD_IN") == pytest.approx(7.171456)
    assert value(jetson, "chatapi_jetson_throttled", part="gpu") == 1
    assert value(jetson, "chatapi_memory_available_bytes") == 12_000_000 * 1024
    assert value(jetson, "chatapi_data_disk_bytes") > value(jetson, "chatapi_data_disk_free_bytes") > 0
    jetson_metrics = [m.name for m in exposed(Metrics(tmp_path)) if m.samples and m.name.startswith("chatapi_jetson")]
    assert jetson_metrics == []


class FakeJtop:
    """A fake jetson-stats client, with the properties of jtop/jtop.py 7.2.2."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.fault = fault
        self.starts = self.closed = 0
        self.gpu = {"gpu": {"type": "integrated", "status": {"load": 63.0}, "freq": {"cur": 918000}}}
        self.power = {"rail": {"VIN": {"volt": 19_000, "curr": 500, "power": 9_500}}, "tot": {"power": 9_500}}
        self.temperature = {"cpu": {"temp": 51.5, "online": True}, "cv0": {"temp": -256, "online": False}}
        self.memory = {"RAM": {"tot": 16_055_396, "used": 4_000_000, "shared": 1024}}

    def start(self) -> None:
        self.starts += 1
        if self.fault is not None:
            raise self.fault

    def ok(self, spin: bool = False) -> bool:
        return spin

    def close(self) -> None:
        self.closed += 1


def test_jetson_stats_completes_the_readings_of_the_files() -> None:
    jtop_client = FakeJtop()
    jtop = Jtop(lambda: jtop_client)
    readings = jtop.completed(SensorReadings(temperatures={"tj-thermal": 60.0}))
    assert (readings.gpu_load, readings.power, readings.memory_gpu) == (0.63, {"VIN": 9.5}, 1 << 20)
    assert readings.temperatures == {"tj-thermal": 60.0}
    assert jtop.completed(SensorReadings()).temperatures == {"cpu": 51.5}
    jtop.close()
    assert (jtop_client.starts, jtop_client.closed) == (1, 1)


def test_failing_jetson_stats_is_not_retried_at_once() -> None:
    jtop_client = FakeJtop(ConnectionRefusedError("connection refused"))
    jtop = Jtop(lambda: jtop_client)
    known = SensorReadings(gpu_load=0.5)
    assert jtop.completed(known) is known
    assert jtop.completed(known) is known
    assert jtop_client.starts == 1


def test_jetson_stats_is_not_used_without_its_socket(tmp_path: Path) -> None:
    assert client(write_files(tmp_path, ORIN_NX)) is None


class FakeAudioDevice:
    """A fake audio device that dropped some audio."""

    async def press(self) -> None: ...

    async def release(self) -> None: ...

    async def wake(self) -> None: ...

    @property
    def health(self) -> dict[str, Any]:
        device = {"name": "any", "reopened": 2, "error": ""}
        return {"mode": "hands_free", "state": "listening", "wake_word": None,
                "input": {**device, "state": "ok", "dropped": 8000},
                "output": {**device, "state": "lost", "dropped": 0}}  # fmt: skip


def test_dropped_audio_is_counted_in_seconds(fake_server: RunningServer) -> None:
    fake_server.appliance.microphone = FakeAudioDevice()
    metrics = fake_server.appliance.metrics
    assert value(metrics, "chatapi_sound_dropped_seconds_total", device="input") == 0.5
    assert value(metrics, "chatapi_sound_device_up", device="output") == 0
    assert value(metrics, "chatapi_sound_device_reopens_total", device="input") == 2


class HangingSensor:
    """A fake sensor that answers only once it is released."""

    def __init__(self) -> None:
        self.released = threading.Event()

    def collect(self) -> Iterator[Metric]:
        self.released.wait(20)
        yield from ()


async def test_hanging_sensor_fails_the_scrape_and_blocks_nothing() -> None:
    metrics, sensor = Metrics(), HangingSensor()
    sensor.released.set()
    metrics.registry.register(sensor)
    sensor.released.clear()
    for _ in range(3):
        with pytest.raises(NotReady, match="a sensor of the machine does not answer"):
            await metrics.read(0.05)
    sensor.released.set()
    assert b"chatapi_turns_total" in await metrics.read()
