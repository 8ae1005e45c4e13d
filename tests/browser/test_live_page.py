"""A live conversation on the page, in a real browser against a real server with engines that need no model."""

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
    """What the fake microphone hears, again and again: an utterance, then a silence that ends it."""
    file = tmp_path_factory.mktemp("turns") / "turns.wav"
    return write_wav(file, np.concatenate([np.zeros(24_000), voice_like(1.2), np.zeros(4 * 48_000)]))


@pytest.fixture
def live(browse: Browse, server: str, turns: Path) -> Any:
    """The page, in a live conversation."""
    page = browse(server, GRANTED, hears=turns)
    talk(page)
    return page


def talk(page: Any) -> None:
    page.press("#talk")
    state(page, "listening", "hearing")


def state(page: Any, *names: str) -> None:
    """Wait until one of these is what the dock shows."""
    page.wait(lambda: page.one("#live").get_attribute("data-state") in names, f"never {names}")


def conversation(page: Any) -> str:
    return str(page.run("return localStorage.getItem('chatapi.conversation') || ''"))


def asked(server: str, page: Any) -> list[str]:
    messages = httpx.get(f"{server}/conversations/{conversation(page)}").json()["messages"]
    return [message["text"] for message in messages if message["role"] == "user"]


def test_what_is_said_is_shown_answered_and_heard(live: Any) -> None:
    answer = live.answered()
    assert live.text(".question:not(.partial) .text").startswith("heard ")
    assert answer.find_element("css selector", ".text").text.startswith("You said: heard ")
    assert float(answer.get_attribute("data-seconds")) > 0.2
    gist = answer.find_element("css selector", ".gist").text
    assert "First sound" in gist and "to hear" in gist
    assert "sound after" in live.run("return document.querySelector('.timeline .notes').textContent")


def test_typed_and_spoken_turns_are_one_conversation(browse: Browse, server: str, turns: Path) -> None:
    page = browse(server, GRANTED, hears=turns)
    page.ask("first, typed")
    page.answered()
    before = conversation(page)
    talk(page)
    page.answered(2)
    page.press("#live-end")
    assert conversation(page) == before
    page.ask("third, typed")
    page.wait(lambda: "third, typed" in asked(server, page))
    first, *spoken, third = asked(server, page)
    assert (first, third) == ("first, typed", "third, typed")
    assert spoken and all(text.startswith("heard ") for text in spoken)
    assert conversation(page) == before


def test_a_conversation_begun_aloud_goes_on_typed(live: Any, server: str) -> None:
    live.answered()
    live.key(ESCAPE)
    begun = conversation(live)
    assert begun
    live.ask("and now typed")
    live.wait(lambda: "and now typed" in asked(server, live))
    assert conversation(live) == begun
    live.driver.refresh()
    live.wait_for(".answer .text", 2)


def test_the_dock_says_what_happens_and_escape_ends_it(live: Any) -> None:
    assert live.run("return document.activeElement.id") == "live"
    assert not live.one("#composer").is_displayed()
    for words in ("Hearing you", "Speaking", "Listening"):
        live.wait(lambda words=words: live.text("#live-state") == words, words)
    live.wait(lambda: int(live.one("#live-meter").get_attribute("aria-valuenow")) > 20, "the meter shows nothing")
    live.key(ESCAPE)
    live.wait(lambda: live.one("#composer").is_displayed())
    assert live.run("return document.activeElement.id") == "talk"
    assert not live.one("#live").is_displayed()


def test_muted_nothing_is_heard(live: Any) -> None:
    live.press("#mute")
    assert live.one("#mute").get_attribute("aria-pressed") == "true"
    live.wait(lambda: live.text("#live-state") == "Muted")
    count = len(live.all(".question"))
    quiet = live.run(
        "const told = document.getElementById('live-state'); let changes = 0;"
        "new MutationObserver(() => { changes += 1; window.changes = changes; }).observe(told, {childList: true});"
        "window.changes = 0; return true"
    )
    assert quiet
    # The fake microphone repeats itself after 6.2 s.
    began = live.run("return performance.now()")
    live.wait(lambda: live.run("return performance.now()") - began > 7_000)
    assert (live.run("return window.changes"), len(live.all(".question"))) == (0, count)
    live.press("#mute")
    live.wait_for(".answer", count + 1)


def test_every_control_of_it_has_a_name_and_fits_a_phone(live: Any) -> None:
    live.devtools("Emulation.setDeviceMetricsOverride", width=320, height=640, deviceScaleFactor=2, mobile=True)
    live.answered()
    for control in live.all(".dock button"):
        if control.is_displayed():
            assert control.accessible_name, control.get_attribute("outerHTML")
            assert min(control.size.values()) >= 44, control.get_attribute("outerHTML")
    assert live.run("return document.documentElement.scrollWidth <= innerWidth")
    assert live.run("return document.getElementById('live-end').getBoundingClientRect().right <= innerWidth")


# What is in the way


def test_one_conversation_too_many_is_told(serve: Serve, browse: Browse, turns: Path) -> None:
    with serve("live.sessions=1") as served:
        first = browse(served.url, GRANTED, hears=turns)
        talk(first)
        second = browse(served.url, GRANTED, hears=turns)
        second.press("#talk")
        assert "Wait until one ends" in fault(second, "too_many_sessions")
        assert second.one("#composer").is_displayed()
        first.press("#live-end")
        second.press(".fault .ways button")
        state(second, "listening", "hearing")


def test_a_key_given_to_the_browsers_own_prompt_is_enough(serve: Serve, browse: Browse, turns: Path) -> None:
    with serve("server.api_key=sesame") as served:
        page = browse(served.url.replace("http://", "http://anybody:sesame@"), GRANTED, hears=turns)
        talk(page)
        page.answered()


def test_a_key_that_is_wanted_all_at_once_is_asked_for(serve: Serve, browse: Browse, turns: Path) -> None:
    with serve() as served:
        page = browse(served.url, GRANTED, hears=turns)
        page.excuse("401", "WebSocket connection", "net::ERR_")
        talk(page)
        served.kill()
    with serve("server.api_key=open (sesame)", f"server.port={served.url.rsplit(':')[-1]}"):
        for entered, told in (("wrong", "Whoever set it up"), ("open (sesame)", "not accepted")):
            page.wait(lambda told=told: page.all("dialog#key[open]") and told in page.text("#key-words"))
            page.one("#key-value").send_keys(entered)
            page.press("#key-enter")
        page.answered()


def test_a_box_that_comes_back_is_connected_to_again(serve: Serve, browse: Browse, turns: Path, tmp_path: Path) -> None:
    data = f"data={tmp_path / 'kept'}"
    with serve(data) as served:
        page = browse(served.url, GRANTED, hears=turns)
        page.excuse("WebSocket connection", "net::ERR_", "/ready - .*503")
        talk(page)
        page.answered()
        before = conversation(page)
        served.kill()
        page.wait(lambda: "Reconnecting (1 of 6)" in page.text("#live-state"))
    count = len(page.all(".answer:has(.timeline)"))
    with serve(data, f"server.port={served.url.rsplit(':')[-1]}"):
        page.answered(count + 1)
        assert conversation(page) == before
        page.press("#live-end")


def test_a_box_that_stays_away_is_told(serve: Serve, browse: Browse, turns: Path) -> None:
    with serve() as served:
        page = browse(served.url, GRANTED, hears=turns)
        page.excuse("WebSocket connection", "net::ERR_", "worklet")
        talk(page)
        served.kill()
        assert "goes on where it was" in fault(page, "live_lost")
        assert page.one("#composer").is_displayed()
        page.press("#talk")
        assert "same network" in fault(page, "unreachable")


def test_a_refused_microphone_is_explained(browse: Browse, server: str) -> None:
    page = browse(server)
    page.devtools("Browser.setPermission", permission={"name": "microphone"}, setting="denied", origin=server)
    page.press("#talk")
    assert "Allow it" in fault(page, "microphone_denied")
    assert page.one("#composer").is_displayed()


def test_an_insecure_address_is_explained(serve: Serve, browse: Browse) -> None:
    with serve("server.hosts=box.test,127.0.0.1") as served:
        page = browse(
            served.url.replace("127.0.0.1", "box.test"), GRANTED, "--host-resolver-rules=MAP box.test 127.0.0.1"
        )
        page.press("#talk")
        words = fault(page, "insecure")
        assert "--tls" in words and "localhost" in words


def test_a_microphone_that_goes_away_is_told(browse: Browse, server: str, turns: Path) -> None:
    page = browse("about:blank", GRANTED, hears=turns, ready=False)
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
    MediaDevices.prototype.getUserMedia = async function (wanted) {
        const stream = await open.call(this, wanted);
        window.tracks.push(...stream.getTracks());
        return stream;
    };
"""
"""Keeps the microphones that were opened: there is no other way to unplug one that is not real."""


def test_while_the_models_load_the_dock_says_so(serve: Serve, browse: Browse, turns: Path) -> None:
    with serve("fake.delay=0.15", until="listening") as served:
        page = browse(served.url, GRANTED, hears=turns, ready=False)
        page.excuse("503")
        page.wait_for("#status[data-state=warming]")
        page.press("#talk")
        assert page.wait(lambda: page.text("#live-state")) in ("Opening the microphone", "Connecting")
        state(page, "listening", "hearing")
