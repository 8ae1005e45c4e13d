"""Playback and captions of a live conversation, against a fake server in place of the WebSocket."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from browser.conftest import GRANTED, voice_like
from browser.test_faults import fault

Browse = Callable[..., Any]
RATE = 24_000
WORDS = "one two three four five six seven eight nine ten eleven twelve"
FAKE_WEBSOCKET = """
    window.WebSocket = class {
        static OPEN = 1;
        readyState = 0;
        bufferedAmount = 0;
        constructor() {
            window.socket = this;
            window.sent = [];
            setTimeout(() => { this.readyState = 1; this.emit({type: 'session.created'}); });
        }
        emit(event) { this.onmessage?.({data: JSON.stringify(event)}); }
        send(text) {
            const event = JSON.parse(text);
            if (event.type === 'session.update') this.emit({type: 'session.updated', session: event.session});
            const shown = document.querySelector('.answer .text')?.textContent;
            if (event.type !== 'input_audio_buffer.append') window.sent.push({...event, shown});
            if (event.audio_end_ms > window.due?.milliseconds) {
                const events = window.due.events;
                window.due = null;
                for (const each of events) this.emit(each);
            }
        }
        close() { this.readyState = 3; }
    };
"""
"""A fake WebSocket that emits the test's events, and records sent events with the text shown at that time."""


class FakeRealtimeServer:
    """A fake server of the page's live conversation: emits the events of the Realtime API to it."""

    def __init__(self, page: Any) -> None:
        self.page = page

    def emit(self, kind: str, **fields: Any) -> None:
        self.page.run("window.socket.emit(arguments[0])", {"type": kind, **fields})

    def user_turn(self, text: str = "a question") -> None:
        """Sends the events of a user's utterance, from its onset to its transcript."""
        self.emit("input_audio_buffer.speech_started", item_id="asked")
        self.emit("chatapi.transcript.partial", text=text.split()[0])
        self.emit("input_audio_buffer.speech_stopped", audio_end_ms=0, item_id="asked")
        self.emit("input_audio_buffer.committed", item_id="asked")
        self.emit("conversation.item.input_audio_transcription.completed", transcript=text)

    def answer(self, seconds: float = 2.0, text: str = WORDS) -> None:
        """Sends a whole response, text and audio, without its end."""
        self.emit("response.created", response={"conversation_id": "kept"})
        self.emit("response.output_item.added", item={"id": "answered"})
        self.emit("response.output_audio_transcript.delta", delta=text)
        self.emit("chatapi.speech", text=text, audio_start_ms=0, audio_end_ms=round(seconds * 1000))
        samples = (voice_like(seconds, RATE) * 32767).astype("<i2")
        self.emit("response.output_audio.delta", delta=base64.b64encode(samples.tobytes()).decode())

    def done(self, status: str = "completed", **details: Any) -> None:
        response = {"status": status, "conversation_id": "kept", "status_details": {"type": status, **details}}
        self.emit("response.done", response={**response, "usage": {"output_tokens": 12}})
        self.emit("chatapi.timings", timings={"transcript": 0.1, "endpoint": 0.4, "first_audio": 0.3, "end": 0.6})

    def progress(self) -> list[tuple[int, list[str]]]:
        """For every `chatapi.played` event: the milliseconds, and the words shown at that time."""
        events = self.page.run("return window.sent.filter((event) => event.type === 'chatapi.played')")
        return [(event["audio_end_ms"], event["shown"].split()) for event in events]

    def emit_when_played(self, milliseconds: int, *events: dict[str, Any]) -> None:
        """Emits the events when the page reports more than this position, which a driver may see too late."""
        self.page.run("window.due = {milliseconds: arguments[0], events: arguments[1]}", milliseconds, events)

    def played(self) -> int:
        """The last reported playback position, in milliseconds."""
        return (self.progress() or [(0, [])])[-1][0]

    def shown(self) -> list[str]:
        return str(self.page.text(".answer .text")).split()


@pytest.fixture
def realtime_server(browse: Browse, server: str) -> FakeRealtimeServer:
    page = browse("about:blank", GRANTED, ready=False)
    page.devtools("Page.addScriptToEvaluateOnNewDocument", source=FAKE_WEBSOCKET)
    page.open(server)
    page.press("#talk")
    page.wait(lambda: page.text("#live-state") == "Listening")
    return FakeRealtimeServer(page)


def test_captions_follow_the_playback(realtime_server: FakeRealtimeServer) -> None:
    realtime_server.user_turn()
    realtime_server.answer()
    realtime_server.page.wait(lambda: realtime_server.played() > 800)
    for played, seen in realtime_server.progress():
        assert WORDS.split()[: len(seen)] == seen
        assert abs(len(" ".join(seen)) - len(WORDS) * played / 2000) <= len("eleven "), (played, seen)
    assert realtime_server.page.loudest() > 0.1
    realtime_server.done()
    realtime_server.page.answered()
    assert realtime_server.played() == 2000
    assert realtime_server.shown() == WORDS.split()
    assert realtime_server.page.one(".answer").get_attribute("data-seconds") == "2.000"


def test_pause_and_resume_are_exact_to_the_sample(realtime_server: FakeRealtimeServer) -> None:
    realtime_server.user_turn()
    realtime_server.emit_when_played(400, {"type": "chatapi.output_audio.paused"})
    realtime_server.answer()
    realtime_server.page.wait(lambda: realtime_server.page.text("#live-state") == "Paused")
    sent = realtime_server.page.run(
        "return new Promise((resolve) => setTimeout(() => resolve(window.sent.length), 400))"
        ".then((before) => new Promise((resolve) => setTimeout(() => resolve(window.sent.length - before), 500)))"
    )
    assert sent == 0, "the playback continued"
    words = realtime_server.shown()
    assert len(words) < 12
    realtime_server.emit("chatapi.output_audio.resumed")
    realtime_server.done()
    realtime_server.page.answered()
    assert realtime_server.played() == 2000
    assert realtime_server.shown() == WORDS.split()


def test_barge_in_keeps_the_played_part(realtime_server: FakeRealtimeServer) -> None:
    realtime_server.user_turn()
    against = {"type": "input_audio_buffer.speech_started", "item_id": "against"}
    realtime_server.emit_when_played(800, {"type": "chatapi.output_audio.paused"}, against)
    realtime_server.answer(4.0)
    realtime_server.page.wait(lambda: realtime_server.page.text("#live-state") == "Hearing you")
    realtime_server.done("cancelled", reason="turn_detected")
    words = realtime_server.shown()
    assert words[-1] == "—" and words[:-1] == WORDS.split()[: len(words) - 1] and len(words) < 8
    assert "Interrupted" in realtime_server.page.text(".answer .aside")
    assert 0.7 < float(realtime_server.page.one(".answer").get_attribute("data-seconds")) < 2.5
    assert realtime_server.page.text("#live-state") == "Hearing you"
    assert realtime_server.page.all(".answer .timeline")


def test_retracted_turn_is_removed(realtime_server: FakeRealtimeServer) -> None:
    realtime_server.user_turn()
    realtime_server.emit("response.created", response={"conversation_id": "kept"})
    realtime_server.emit("response.output_item.added", item={"id": "answered"})
    realtime_server.done("cancelled", reason="turn_detected")
    for item in ("answered", "asked"):
        realtime_server.emit("conversation.item.deleted", item_id=item)
    realtime_server.emit("input_audio_buffer.speech_started", item_id="more")
    assert not realtime_server.page.all(".message")
    realtime_server.emit("chatapi.transcript.partial", text="a question and")
    assert realtime_server.page.text(".question.partial .text").startswith("a question and")


def test_audio_without_a_transcript_leaves_no_message(realtime_server: FakeRealtimeServer) -> None:
    realtime_server.emit("input_audio_buffer.speech_started", item_id="noise")
    realtime_server.emit("chatapi.transcript.partial", text="hm")
    realtime_server.emit("input_audio_buffer.cleared")
    assert not realtime_server.page.all(".message")
    assert realtime_server.page.text("#live-state") == "Listening"


def test_failed_response_is_reported(realtime_server: FakeRealtimeServer) -> None:
    realtime_server.user_turn()
    realtime_server.answer(0.3, "I am sorry.")
    realtime_server.done("failed", error={"code": "engine_failed", "message": "it broke"})
    assert "recovers by itself" in realtime_server.page.wait_for(".answer .fault").text


def test_end_during_a_response_reports_playback_and_keeps_the_conversation(realtime_server: FakeRealtimeServer) -> None:
    realtime_server.user_turn()
    realtime_server.answer(20.0)
    realtime_server.page.wait(lambda: realtime_server.played() > 300)
    realtime_server.page.press("#live-end")
    assert realtime_server.page.run("return window.sent.at(-1).type") == "output_audio_buffer.clear"
    assert realtime_server.page.run("return localStorage.getItem('chatapi.conversation')") == "kept"
    assert "Interrupted" in realtime_server.page.text(".answer .aside")
    # The fake server has no such conversation.
    realtime_server.page.run("localStorage.removeItem('chatapi.conversation')")


def test_playback_continues_in_a_hidden_tab(realtime_server: FakeRealtimeServer) -> None:
    driver = realtime_server.page.driver
    realtime_server.page.run(
        "document.addEventListener('visibilitychange', () => { window.wasHidden ||= document.hidden; })"
    )
    realtime_server.user_turn()
    realtime_server.answer()
    realtime_server.done()
    here = driver.current_window_handle
    driver.switch_to.new_window("tab")
    realtime_server.page.run("return new Promise((resolve) => setTimeout(resolve, 3000))")
    driver.close()
    driver.switch_to.window(here)
    assert realtime_server.page.run("return window.wasHidden")
    assert realtime_server.page.all(".answer:has(.timeline)"), "the playback stopped"
    assert realtime_server.played() == 2000


def test_loading_server_is_retried(realtime_server: FakeRealtimeServer) -> None:
    error = {"type": "server_error", "code": "not_ready", "message": "the models are still loading"}
    realtime_server.page.remember_states()
    realtime_server.emit("error", error=error)
    realtime_server.page.run("window.socket.onclose({code: 1013})")
    realtime_server.page.wait(lambda: "The box is warming up" in realtime_server.page.states())
    realtime_server.page.wait(lambda: realtime_server.page.text("#live-state") == "Listening")


def test_blocked_websocket_is_reported(browse: Browse, server: str) -> None:
    page = browse(server, GRANTED)
    page.run("window.WebSocket = class { constructor() { setTimeout(() => this.onclose({code: 1006})); } close() {} }")
    page.press("#talk")
    assert "proxy" in fault(page, "no_websocket")
    assert page.one("#composer").is_displayed()


RESAMPLED = """
    return import('/page/resampler.js').then(({ Resampler }) => {
        const [have, want, hertz] = arguments;
        const resampler = new Resampler(have, want), out = [];
        for (let start = 0; start < have; start += 1024) {
            const wave = (_, i) => Math.sin(2 * Math.PI * hertz * (start + i) / have);
            out.push(...resampler.feed(Float32Array.from({length: 1024}, wave)));
        }
        return out;
    });
"""


@pytest.mark.parametrize("have", [44_100, 48_000, 16_000])
def test_microphone_at_another_rate_is_resampled(page: Any, have: int) -> None:
    out = np.array(page.run(RESAMPLED, have, RATE, 440))
    assert len(out) == pytest.approx(RATE, rel=0.05)
    expected = np.sin(2 * np.pi * 440 * np.arange(len(out)) / RATE)
    assert np.abs(out - expected)[100:].max() < 0.01
    if have > RATE:
        assert np.abs(np.array(page.run(RESAMPLED, have, RATE, 15_000)))[100:].max() < 0.01
