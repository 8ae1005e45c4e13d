"""The live page's sound by the sample, and its words with it: the test is the box at the other end of the WebSocket."""

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
DOOR = """
    window.WebSocket = class {
        static OPEN = 1;
        readyState = 0;
        bufferedAmount = 0;
        constructor() {
            window.door = this;
            window.sent = [];
            setTimeout(() => { this.readyState = 1; this.emit({type: 'session.created'}); });
        }
        emit(event) { this.onmessage?.({data: JSON.stringify(event)}); }
        send(text) {
            const event = JSON.parse(text);
            if (event.type === 'session.update') this.emit({type: 'session.updated', session: event.session});
            const shown = document.querySelector('.answer .text')?.textContent;
            if (event.type !== 'input_audio_buffer.append') window.sent.push({...event, shown});
        }
        close() { this.readyState = 3; }
    };
"""
"""A connection that says what the test wants it to say, and remembers what it is told, and what stood there then."""


class Door:
    """The page in a live conversation with the test."""

    def __init__(self, page: Any) -> None:
        self.page = page

    def emit(self, kind: str, **fields: Any) -> None:
        self.page.run("window.door.emit(arguments[0])", {"type": kind, **fields})

    def ask(self, text: str = "a question") -> None:
        self.emit("input_audio_buffer.speech_started", item_id="asked")
        self.emit("chatapi.transcript.partial", text=text.split()[0])
        self.emit("input_audio_buffer.speech_stopped", audio_end_ms=0, item_id="asked")
        self.emit("input_audio_buffer.committed", item_id="asked")
        self.emit("conversation.item.input_audio_transcription.completed", transcript=text)

    def answer(self, seconds: float = 2.0, text: str = WORDS) -> None:
        """Begin to: all of its words and its sound."""
        self.emit("response.created", response={"conversation_id": "kept"})
        self.emit("response.output_item.added", item={"id": "answered"})
        self.emit("response.output_audio_transcript.delta", delta=text)
        self.emit("chatapi.speech", text=text, audio_start_ms=0, audio_end_ms=round(seconds * 1000))
        samples = (voice_like(seconds, RATE) * 32767).astype("<i2")
        self.emit("response.output_audio.delta", delta=base64.b64encode(samples.tobytes()).decode())

    def done(self, status: str = "completed", **details: Any) -> None:
        told = {"status": status, "conversation_id": "kept", "status_details": {"type": status, **details}}
        self.emit("response.done", response={**told, "usage": {"output_tokens": 12}})
        self.emit("chatapi.timings", timings={"transcript": 0.1, "endpoint": 0.4, "first_audio": 0.3, "end": 0.6})

    def heard(self) -> list[tuple[int, list[str]]]:
        """Whenever the page said how much was heard: the milliseconds, and the words it showed at that moment."""
        told = self.page.run("return window.sent.filter((event) => event.type === 'chatapi.played')")
        return [(event["audio_end_ms"], event["shown"].split()) for event in told]

    def played(self) -> int:
        """Milliseconds the page said were heard."""
        return (self.heard() or [(0, [])])[-1][0]

    def shown(self) -> list[str]:
        return str(self.page.text(".answer .text")).split()


@pytest.fixture
def door(browse: Browse, server: str) -> Door:
    page = browse("about:blank", GRANTED, ready=False)
    page.devtools("Page.addScriptToEvaluateOnNewDocument", source=DOOR)
    page.open(server)
    page.press("#talk")
    page.wait(lambda: page.text("#live-state") == "Listening")
    return Door(page)


def test_words_appear_with_their_sound(door: Door) -> None:
    door.ask()
    door.answer()
    door.page.wait(lambda: door.played() > 800)
    for played, seen in door.heard():
        assert WORDS.split()[: len(seen)] == seen
        assert abs(len(" ".join(seen)) - len(WORDS) * played / 2000) <= len("eleven "), (played, seen)
    assert door.page.loudest() > 0.1
    door.done()
    door.page.answered()
    assert door.played() == 2000
    assert door.shown() == WORDS.split()
    assert door.page.one(".answer").get_attribute("data-seconds") == "2.000"


def test_a_pause_holds_the_sound_at_a_sample_and_goes_on_there(door: Door) -> None:
    door.ask()
    door.answer()
    door.page.wait(lambda: door.played() > 400)
    door.emit("chatapi.output_audio.paused")
    assert door.page.text("#live-state") == "Paused"
    held = door.page.run(
        "return new Promise((resolve) => setTimeout(() => resolve(window.sent.length), 400))"
        ".then((before) => new Promise((resolve) => setTimeout(() => resolve(window.sent.length - before), 500)))"
    )
    assert held == 0, "it went on"
    words = door.shown()
    assert len(words) < 12
    door.emit("chatapi.output_audio.resumed")
    door.done()
    door.page.answered()
    assert door.played() == 2000
    assert door.shown() == WORDS.split()


def test_an_answer_spoken_against_keeps_what_was_heard(door: Door) -> None:
    door.ask()
    door.answer(4.0)
    door.page.wait(lambda: door.played() > 800)
    door.emit("chatapi.output_audio.paused")
    door.emit("input_audio_buffer.speech_started", item_id="against")
    door.done("cancelled", reason="turn_detected")
    words = door.shown()
    assert words[-1] == "—" and words[:-1] == WORDS.split()[: len(words) - 1] and len(words) < 8
    assert "Interrupted" in door.page.text(".answer .aside")
    assert 0.7 < float(door.page.one(".answer").get_attribute("data-seconds")) < 2.5
    assert door.page.text("#live-state") == "Hearing you"
    assert door.page.all(".answer .timeline")


def test_a_turn_that_was_not_over_is_taken_back(door: Door) -> None:
    door.ask()
    door.emit("response.created", response={"conversation_id": "kept"})
    door.emit("response.output_item.added", item={"id": "answered"})
    door.done("cancelled", reason="turn_detected")
    for item in ("answered", "asked"):
        door.emit("conversation.item.deleted", item_id=item)
    door.emit("input_audio_buffer.speech_started", item_id="more")
    assert not door.page.all(".message")
    door.emit("chatapi.transcript.partial", text="a question and")
    assert door.page.text(".question.partial .text").startswith("a question and")


def test_sound_without_words_leaves_nothing_behind(door: Door) -> None:
    door.emit("input_audio_buffer.speech_started", item_id="noise")
    door.emit("chatapi.transcript.partial", text="hm")
    door.emit("input_audio_buffer.cleared")
    assert not door.page.all(".message")
    assert door.page.text("#live-state") == "Listening"


def test_an_answer_that_fails_says_so(door: Door) -> None:
    door.ask()
    door.answer(0.3, "I am sorry.")
    door.done("failed", error={"code": "engine_failed", "message": "it broke"})
    assert "mends itself" in door.page.wait_for(".answer .fault").text


def test_ending_it_in_mid_answer_tells_the_box_and_keeps_the_conversation(door: Door) -> None:
    door.ask()
    door.answer()
    door.page.wait(lambda: door.played() > 300)
    door.page.press("#live-end")
    assert door.page.run("return window.sent.at(-1).type") == "output_audio_buffer.clear"
    assert door.page.run("return localStorage.getItem('chatapi.conversation')") == "kept"
    assert "Interrupted" in door.page.text(".answer .aside")
    # The box of this test is none, and knows no such conversation.
    door.page.run("localStorage.removeItem('chatapi.conversation')")


def test_it_goes_on_while_the_tab_is_hidden(door: Door) -> None:
    driver = door.page.driver
    door.page.run("document.addEventListener('visibilitychange', () => { window.wasHidden ||= document.hidden; })")
    door.ask()
    door.answer()
    door.done()
    here = driver.current_window_handle
    driver.switch_to.new_window("tab")
    door.page.run("return new Promise((resolve) => setTimeout(resolve, 3000))")
    driver.close()
    driver.switch_to.window(here)
    assert door.page.run("return window.wasHidden")
    assert door.page.all(".answer:has(.timeline)"), "it did not go on"
    assert door.played() == 2000


def test_a_box_that_still_loads_its_models_is_asked_again(door: Door) -> None:
    error = {"type": "server_error", "code": "not_ready", "message": "the models are still loading"}
    door.emit("error", error=error)
    door.page.run("window.door.onclose({code: 1013})")
    door.page.wait(lambda: door.page.text("#live-state") == "The box is warming up")
    door.page.wait(lambda: door.page.text("#live-state") == "Listening")


def test_something_that_lets_no_websocket_through_is_told(browse: Browse, server: str) -> None:
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
def test_a_microphone_at_another_rate_is_resampled(page: Any, have: int) -> None:
    out = np.array(page.run(RESAMPLED, have, RATE, 440))
    assert len(out) == pytest.approx(RATE, rel=0.05)
    expected = np.sin(2 * np.pi * 440 * np.arange(len(out)) / RATE)
    assert np.abs(out - expected)[100:].max() < 0.01
    if have > RATE:
        assert np.abs(np.array(page.run(RESAMPLED, have, RATE, 15_000)))[100:].max() < 0.01
