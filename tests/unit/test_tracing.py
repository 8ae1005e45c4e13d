"""Traces of turns, sent to a fake OTLP collector and to unreachable, hanging and unconfigured ones."""

from __future__ import annotations

import gc
import json
import logging
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import anyio
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.sdk.trace import ReadableSpan

from chatapi.appliance import Appliance
from chatapi.audio import RATE, Audio, wav
from chatapi.errors import SettingsError
from chatapi.events import TurnRecord, TurnTimings
from chatapi.observability.tracing import BATCH, QUEUE, Tracing, intervals
from chatapi.settings import Settings, TraceSettings
from conftest import RunningServer, serving, tone
from realtime_client import raw, receive_event

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{CALLER}-01"
UNSAMPLED = f"00-{TRACE}-{CALLER}-00"
SECRET = "marmalade"
RECORD = TurnRecord(
    "request", "text", "text", "ok", 0.0, TurnTimings(admitted=0.1, first_token=0.2, first_sentence=0.3, end=0.5)
)


class Collector:
    """A fake OpenTelemetry collector (OTLP 1, "OTLP/HTTP": protobuf in a POST to /v1/traces)."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                assert (self.path, self.headers["content-type"]) == ("/v1/traces", "application/x-protobuf")
                collector.requests.append(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Logs nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def spans(self) -> list[Span]:
        groups = [group for request in self.requests for group in request.resource_spans]
        return [span for group in groups for scope in group.scope_spans for span in scope.spans]

    def turns(self) -> list[Span]:
        return [span for span in self.spans if span.name == "turn"]

    def stages(self, turn: Span) -> dict[str, Span]:
        return {span.name: span for span in self.spans if span.parent_span_id == turn.span_id}


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


MakeSettings = Callable[..., Settings]


def attributes(span: Span) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


def test_turn_is_a_span_of_the_callers_trace_with_its_stages(fake_settings: MakeSettings, collector: Collector) -> None:
    with serving(fake_settings(f"trace.endpoint={collector.endpoint}")) as server:
        request = {"prompt": f"one two three {SECRET}", "reply": "voice", "system": f"You like {SECRET}."}
        headers = {"traceparent": PARENT, "x-request-id": "mine"}
        assert server.client.post("/completion", json=request, headers=headers).status_code == 200
    (turn,) = collector.turns()
    assert (turn.trace_id.hex(), turn.parent_span_id.hex()) == (TRACE, CALLER)
    stages = collector.stages(turn)
    assert list(stages) == ["admitted", "first_token", "first_sentence", "first_audio", "rest"]
    assert all(span.trace_id == turn.trace_id for span in stages.values())
    for span in stages.values():
        assert turn.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= turn.end_time_unix_nano + 50_000_000
    recorded = attributes(turn)
    assert (recorded["chatapi.turn.input"], recorded["chatapi.turn.reply"], recorded["chatapi.turn.result"]) == (
        "text", "voice", "ok")  # fmt: skip
    assert recorded["chatapi.request_id"] == "mine"
    assert recorded["gen_ai.usage.output_tokens"] > 3 and recorded["chatapi.turn.spoken_seconds"] > 0
    assert turn.status.code == Status.STATUS_CODE_UNSET
    (resource,) = {group.resource.SerializeToString() for each in collector.requests for group in each.resource_spans}
    assert b"chatapi" in resource
    assert all(SECRET.encode() not in request.SerializeToString() for request in collector.requests)


def test_spoken_turn_has_a_stage_for_its_transcript(fake_settings: MakeSettings, collector: Collector) -> None:
    with serving(fake_settings(f"trace.endpoint={collector.endpoint}")) as server:
        sound = wav(Audio(tone(0.5), RATE))
        server.client.post("/completion", content=sound, headers={"content-type": "audio/wav"})
    (turn,) = collector.turns()
    stages = collector.stages(turn)
    assert turn.parent_span_id == b""
    assert stages["transcript"].start_time_unix_nano == stages["admitted"].end_time_unix_nano
    assert stages["first_token"].start_time_unix_nano == stages["transcript"].end_time_unix_nano
    assert attributes(turn)["chatapi.turn.audio_seconds"] == 0.5


def test_transcription_and_speech_requests_are_traced(fake_settings: MakeSettings, collector: Collector) -> None:
    with serving(fake_settings(f"trace.endpoint={collector.endpoint}")) as server:
        headers = {"traceparent": PARENT}
        file = {"file": ("a.wav", wav(Audio(tone(0.5), RATE)))}
        paths = "/v1/audio/transcriptions", "/v1/audio/speech"
        assert server.client.post(paths[0], files=file, headers=headers).status_code == 200
        request = {"input": "Hello there.", "model": "tts-1", "voice": "default"}
        assert server.client.post(paths[1], json=request, headers=headers).status_code == 200
        assert "chatapi_turn_stage_seconds_count" not in server.appliance.metrics.page().decode()
    transcription, speech = collector.turns()
    assert {(each.trace_id.hex(), each.parent_span_id.hex()) for each in (transcription, speech)} == {(TRACE, CALLER)}
    assert list(collector.stages(transcription)) == ["admitted", "transcript"]
    assert list(collector.stages(speech)) == ["admitted", "first_audio", "rest"]
    assert attributes(transcription)["chatapi.turn.audio_seconds"] == 0.5
    assert attributes(speech)["chatapi.turn.spoken_seconds"] > 0
    assert {attributes(each)["chatapi.turn.kind"] for each in (transcription, speech)} == {"file"}


def test_failed_turn_has_an_error_status_with_its_code(fake_settings: MakeSettings, collector: Collector) -> None:
    with serving(fake_settings(f"trace.endpoint={collector.endpoint}", "fake.fault=raise")) as server:
        assert server.client.post("/completion", json={"prompt": "one two"}).status_code == 500
    (turn,) = collector.turns()
    assert turn.status.code == Status.STATUS_CODE_ERROR
    assert attributes(turn)["error.type"] == "engine_failed"


def test_live_turns_belong_to_the_trace_of_the_connection(fake_settings: MakeSettings, collector: Collector) -> None:
    async def talk(server: RunningServer) -> None:
        async with raw(server, additional_headers={"traceparent": PARENT}) as plain:
            content = [{"type": "input_text", "text": f"I like {SECRET}"}]
            item = {"type": "message", "role": "user", "content": content}
            await plain.send(json.dumps({"type": "conversation.item.create", "item": item}))
            await plain.send(json.dumps({"type": "response.create"}))
            await receive_event(plain, "response.done")

    with serving(fake_settings(f"trace.endpoint={collector.endpoint}")) as server:
        anyio.run(talk, server)
    (turn,) = collector.turns()
    assert (turn.trace_id.hex(), turn.parent_span_id.hex()) == (TRACE, CALLER)
    assert attributes(turn)["chatapi.turn.kind"] == "live"
    assert {"endpoint", "first_token", "first_audio"} <= set(collector.stages(turn))
    assert SECRET.encode() not in b"".join(request.SerializeToString() for request in collector.requests)


def test_sampling_follows_the_caller_or_else_the_sample_rate(fake_settings: MakeSettings, collector: Collector) -> None:
    with serving(fake_settings(f"trace.endpoint={collector.endpoint}", "trace.sample=0")) as server:
        for traceparent in (PARENT, UNSAMPLED, "", "garbage"):
            request = {"prompt": "hello"}
            reply = server.client.post("/completion", json=request, headers={"traceparent": traceparent})
            assert reply.status_code == 200
    assert [turn.trace_id.hex() for turn in collector.turns()] == [TRACE]


@pytest.mark.parametrize(
    ("timings", "expected"),
    [
        (TurnTimings(), []),
        (TurnTimings(admitted=0.1), [("admitted", 0.0, 0.1)]),
        (TurnTimings(admitted=0.1, transcript=0.4, first_token=0.6),
         [("admitted", 0.0, 0.1), ("transcript", 0.1, 0.4), ("first_token", 0.4, 0.6)]),
        (TurnTimings(endpoint=0.5, transcript=0.2, first_token=0.3, first_sentence=0.3, first_audio=0.45, end=0.9),
         [("endpoint", 0.0, 0.5), ("transcript", 0.0, 0.2), ("first_token", 0.2, 0.3), ("first_sentence", 0.3, 0.3),
          ("first_audio", 0.3, 0.45), ("rest", 0.45, 0.9)]),
    ],
)  # fmt: skip
def test_stages_are_intervals_between_timings(timings: TurnTimings, expected: list[Any]) -> None:
    assert list(intervals(timings)) == expected


def test_unreachable_collector_is_logged_once_and_turns_continue(
    fake_settings: MakeSettings, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    caplog.set_level(logging.WARNING)
    with serving(fake_settings(f"trace.endpoint=http://127.0.0.1:{port}")) as server:
        for _ in range(5):
            assert server.client.post("/completion", json={"prompt": "hello"}).status_code == 200
    messages = [record.getMessage() for record in caplog.records if "collector" in record.getMessage()]
    assert messages == [f"collector at http://127.0.0.1:{port} does not accept traces; traces are dropped"]
    assert [record for record in caplog.records if record.name.startswith("opentelemetry")] == []


@pytest.mark.slow
def test_hanging_collector_fills_only_the_queue() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=1) as hanging:
        tracing = Tracing(TraceSettings(endpoint=f"http://127.0.0.1:{hanging.getsockname()[1]}"))
        try:
            for _ in range(QUEUE // 2):
                tracing.turn(RECORD)
            gc.collect()
            # Each turn has five spans.
            waiting = sum(isinstance(each, ReadableSpan) for each in gc.get_objects())
            assert 0 < waiting <= QUEUE + 2 * BATCH
        finally:
            tracing.close()


def test_missing_library_is_reported_in_one_sentence(
    fake_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Makes the import fail as if it were not installed.
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    Appliance(fake_settings())
    with pytest.raises(SettingsError, match=r"pip install 'chatapi-appliance\[trace\]'") as raised:
        Appliance(fake_settings("trace.endpoint=http://127.0.0.1:4318"))
    assert "\n" not in raised.value.message


def test_invalid_endpoint_is_rejected(fake_settings: MakeSettings) -> None:
    for endpoint in ("localhost:4318", "grpc://127.0.0.1:4317", "http://"):
        with pytest.raises(SettingsError, match=r"trace\.endpoint"):
            fake_settings(f"trace.endpoint={endpoint}")


def test_opentelemetry_is_not_imported_by_default() -> None:
    script = (
        "import sys; from chatapi.appliance import Appliance; from chatapi.settings import Settings; "
        "Appliance(Settings()).tracing.turn(None); print([m for m in sys.modules if m.startswith('opentelemetry')])"
    )
    output = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert output.stdout.strip() == "[]"


def test_turns_without_a_trace_start_one(collector: Collector) -> None:
    tracing = Tracing(TraceSettings(endpoint=f"{collector.endpoint}/"))
    for result in ("ok", "disconnected", "interrupted", "retracted", "busy"):
        tracing.turn(replace(RECORD, result=result))
    tracing.close()
    turns = {attributes(turn)["chatapi.turn.result"]: turn for turn in collector.turns()}
    assert len({turn.trace_id for turn in turns.values()}) == 5
    assert [name for name, turn in turns.items() if turn.status.code == Status.STATUS_CODE_ERROR] == ["busy"]
