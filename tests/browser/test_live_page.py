"""A live conversation on the page, in a real browser against a real server with fake engines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from browser.conftest import ESCAPE, GRANTED, voice_like, write_wav
from browser.test_faults import fault

Browse = Callable[..., Any]
Serve = Callable[..., Any]


@pytest.fixture(scope="session")
def turns(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Audio of the fake microphone, which repeats it: an utterance, then a silence that ends it."""
    file = tmp_path_factory.mktemp("turns") / "turns.wav"
    return write_wav(file, np.concatenate([np.zeros(24_000), voice_like(1.2), np.zeros(4 * 48_000)]))


@pytest.fixture
def live(browse: Browse, server: str, turns: Path) -> Any:
    """The page in a live conversation."""
    page = browse(server, GRANTED, microphone=turns)
    talk(page)
    return page


def talk(page: Any) -> None:
    page.press("#talk")
    state(page, "listening", "hearing")


def state(page: Any, *names: str) -> None:
    """Waits until the dock shows one of these states."""
    page.wait(lambda: page.one("#live").get_attribute("data-state") in names, f"never {names}")


def conversation(page: Any) -> str:
    return str(page.run("return localStorage.getItem('chatapi.conversation') || ''"))


def questions(server: str, page: Any) -> list[str]:
    messages = httpx.get(f"{server}/conversations/{conversation(page)}").json()["messages"]
    return [message["text"] for message in messages if message["role"] == "user"]


def test_spoken_question_is_shown_and_answered(live: Any) -> None:
    answer = live.answered()
    assert live.text(".question:not(.partial) .text").startswith("heard ")
    assert answer.find_element("css selector", ".text").text.startswith("You said: heard ")
    assert float(answer.get_attribute("data-seconds")) > 0.2
    gist = answer.find_element("css selector", ".gist").text
    assert "First audio" in gist and "long" in gist
    assert "audio after" in live.run("return document.querySelector('.timeline .notes').textContent")


def test_typed_and_spoken_turns_share_one_conversation(browse: Browse, server: str, turns: Path) -> None:
    page = browse(server, GRANTED, microphone=turns)
    page.ask("first, typed")
    page.answered()
    before = conversation(page)
    talk(page)
    page.answered(2)
    page.press("#live-end")
    assert conversation(page) == before
    page.ask("third, typed")
    page.wait(lambda: "third, typed" in questions(server, page))
    first, *spoken, third = questions(server, page)
    assert (first, third) == ("first, typed", "third, typed")
    assert spoken and all(text.startswith("heard ") for text in spoken)
    assert conversation(page) == before


def test_live_conversation_is_continued_by_typing(live: Any, server: str) -> None:
    live.answered()
    live.key(ESCAPE)
    conversation_id = conversation(live)
    assert conversation_id
    live.ask("and now typed")
    live.wait(lambda: "and now typed" in questions(server, live))
    assert conversation(live) == conversation_id
    live.driver.refresh()
    live.wait_for(".answer .text", 2)


def test_dock_shows_the_state_and_escape_ends_the_conversation(live: Any) -> None:
    assert live.run("return document.activeElement.id") == "live"
    assert not live.one("#composer").is_displayed()
    live.remember_states()
    for words in ("Hearing you", "Speaking", "Listening"):
        live.wait(lambda words=words: words in live.states(), words)
    live.wait(lambda: int(live.one("#live-meter").get_attribute("aria-valuenow")) > 20, "the meter shows nothing")
    live.key(ESCAPE)
    live.wait(lambda: live.one("#composer").is_displayed())
    assert live.run("return document.activeElement.id") == "talk"
    assert not live.one("#live").is_displayed()


def test_muted_microphone_sends_silence(live: Any) -> None:
    live.press("#mute")
    assert live.one("#mute").get_attribute("aria-pressed") == "true"
    live.wait(lambda: live.text("#live-state") == "Muted")
    count = len(live.all(".question"))
    quiet = live.run(
        "const state = document.getElementById('live-state'); let changes = 0;"
        "new MutationObserver(() => { changes += 1; window.changes = changes; }).observe(state, {childList: true});"
        "window.changes = 0; return true"
    )
    assert quiet
    # The fake microphone repeats its audio after 6.2 s.
    began = live.run("return performance.now()")
    live.wait(lambda: live.run("return performance.now()") - began > 7_000)
    assert (live.run("return window.changes"), len(live.all(".question"))) == (0, count)
    live.press("#mute")
    live.wait_for(".answer", count + 1)


def test_every_control_has_a_name_and_fits_a_phone(live: Any) -> None:
    live.devtools("Emulation.setDeviceMetricsOverride", width=320, height=640, deviceScaleFactor=2, mobile=True)
    live.answered()
    for control in live.all(".dock button"):
        if control.is_displayed():
            assert control.accessible_name, control.get_attribute("outerHTML")
            assert min(control.size.values()) >= 44, control.get_attribute("outerHTML")
    assert live.run("return document.documentElement.scrollWidth <= innerWidth")
    assert live.run("return document.getElementById('live-end').getBoundingClientRect().right <= innerWidth")


# Faults


def test_too_many_conversations_are_reported(serve: Serve, browse: Browse, turns: Path) -> None:
    with serve("live.sessions=1") as server:
        first = browse(server.url, GRANTED, microphone=turns)
        talk(first)
        second = browse(server.url, GRANTED, microphone=turns)
        second.press("#talk")
        assert "Wait until one ends" in fault(second, "too_many_sessions")
        assert second.one("#composer").is_displayed()
        first.press("#live-end")
        second.press(".fault .ways button")
        state(second, "listening", "hearing")


def test_api_key_of_the_browser_prompt_is_enough(serve: Serve, browse: Browse, turns: Path) -> None:
    with serve("server.api_key=sesame") as server:
        page = browse(server.url.replace("http://", "http://anybody:sesame@"), GRANTED, microphone=turns)
        talk(page)
        page.answered()


def test_api_key_that_becomes_required_is_prompted_for(serve: Serve, browse: Browse, turns: Path) -> None:
    with serve() as server:
        page = browse(server.url, GRANTED, microphone=turns)
        page.allow_messages("401", "WebSocket connection", "net::ERR_")
        talk(page)
        server.kill()
    with serve("server.api_key=open (sesame)", f"server.port={server.url.rsplit(':')[-1]}"):
        for entered, message in (("wrong", "The owner of this box"), ("open (sesame)", "not accepted")):
            page.wait(lambda message=message: page.all("dialog#key[open]") and message in page.text("#key-words"))
            page.one("#key-value").send_keys(entered)
            page.press("#key-enter")
        page.answered()


PATIENT = """
    const later = window.setTimeout;
    window.setTimeout = (what, milliseconds, ...more) =>
        later(what, milliseconds === 8000 ? 60_000 : milliseconds, ...more);
"""
"""Lengthens the last delays before the page gives up, because a server starts slowly on a busy machine."""


def test_page_reconnects_to_a_restarted_server(serve: Serve, browse: Browse, turns: Path, tmp_path: Path) -> None:
    data = f"data={tmp_path / 'kept'}"
    with serve(data) as server:
        page = browse("about:blank", GRANTED, microphone=turns, ready=False)
        page.devtools("Page.addScriptToEvaluateOnNewDocument", source=PATIENT)
        page.open(server.url)
        page.allow_messages("WebSocket connection", "net::ERR_", "/ready - .*503")
        talk(page)
        page.answered()
        before = conversation(page)
        page.remember_states()
        server.kill()
        page.wait(lambda: "Reconnecting (1 of 6)" in page.states(), "never reconnecting")
    count = len(page.all(".answer:has(.timeline)"))
    with serve(data, f"server.port={server.url.rsplit(':')[-1]}"):
        page.answered(count + 1)
        assert conversation(page) == before
        page.press("#live-end")


def test_unreachable_server_is_reported(serve: Serve, browse: Browse, turns: Path) -> None:
    with serve() as server:
        page = browse(server.url, GRANTED, microphone=turns)
        page.allow_messages("WebSocket connection", "net::ERR_", "worklet")
        talk(page)
        server.kill()
        assert "continue the conversation" in fault(page, "live_lost")
        assert page.one("#composer").is_displayed()
        page.press("#talk")
        assert "same network" in fault(page, "unreachable")


def test_denied_microphone_is_explained(browse: Browse, server: str) -> None:
    page = browse(server)
    page.devtools("Browser.setPermission", permission={"name": "microphone"}, setting="denied", origin=server)
    page.press("#talk")
    assert "Allow it" in fault(page, "microphone_denied")
    assert page.one("#composer").is_displayed()


def test_insecure_address_is_explained(serve: Serve, browse: Browse) -> None:
    with serve("server.hosts=box.test,127.0.0.1") as server:
        page = browse(
            server.url.replace("127.0.0.1", "box.test"), GRANTED, "--host-resolver-rules=MAP box.test 127.0.0.1"
        )
        page.press("#talk")
        words = fault(page, "insecure")
        assert "--tls" in words and "localhost" in words


def test_lost_microphone_is_reported(browse: Browse, server: str, turns: Path) -> None:
    page = browse("about:blank", GRANTED, microphone=turns, ready=False)
    page.devtools("Page.addScriptToEvaluateOnNewDocument", source=TRACKS)
    page.open(server)
    talk(page)
    page.run("window.tracks[0].dispatchEvent(new Event('ended'))")
    assert "unplugged" in fault(page, "microphone_lost")
    assert page.run("return window.tracks[0].readyState") == "ended"
    page.press(".fault .ways button")
    state(page, "listening", "hearing")


TRACKS = """
    window.tracks = [];
    const open = MediaDevices.prototype.getUserMedia;
    MediaDevices.prototype.getUserMedia = async function (constraints) {
        const stream = await open.call(this, constraints);
        window.tracks.push(...stream.getTracks());
        return stream;
    };
"""
"""Records the opened microphones, so that a fake one can be unplugged."""


def test_dock_shows_that_models_load(serve: Serve, browse: Browse, turns: Path) -> None:
    page = browse("about:blank", GRANTED, microphone=turns, ready=False)
    page.allow_messages("503")
    with serve("fake.delay=0.15", until="listening") as server:
        page.open(server.url, ready=False)
        page.wait_for("#status[data-state=warming]")
        page.remember_states()
        page.press("#talk")
        states = page.wait(page.states)
        assert states[0] in ("Opening the microphone", "Connecting")
        state(page, "listening", "hearing")
