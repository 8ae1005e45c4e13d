"""The page in a real browser against a real server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from browser.conftest import ENTER, ESCAPE, RELEASE, SHIFT

Browse = Callable[..., Any]
Serve = Callable[..., Any]

QUESTION = "What is the capital of France?"


def test_typed_question_is_answered_in_text_and_speech(page: Any) -> None:
    page.ask(QUESTION)
    answer = page.answered()
    assert page.text(".question .text") == QUESTION
    assert "capital of France" in answer.text
    assert float(answer.get_attribute("data-seconds")) > 0.2
    page.wait(lambda: page.all("#stop")[0].get_attribute("hidden"))
    assert page.loudest() > 0.1


def test_without_speech_only_text_is_requested(page: Any) -> None:
    page.press("#speak")
    page.ask(QUESTION)
    answer = page.answered()
    assert answer.get_attribute("data-seconds") is None
    assert page.loudest() == 0
    assert "First text" in answer.text
    page.driver.refresh()
    page.wait(lambda: page.one("#speak").get_attribute("aria-checked") == "false")


def test_shift_enter_adds_a_line_and_enter_sends(page: Any) -> None:
    page.one("#prompt").send_keys("one", SHIFT, ENTER, RELEASE, "two", ENTER)
    page.answered()
    assert page.text(".question .text") == "one\ntwo"


def test_example_is_sent_as_a_question(page: Any) -> None:
    example = page.text("#examples button")
    page.press("#examples button")
    page.answered()
    assert page.text(".question .text") == example
    assert not page.one("#welcome").is_displayed()


def test_tapped_recording_is_transcribed_and_answered(page: Any) -> None:
    page.press("#mic")
    page.wait(lambda: int(page.one("#meter").get_attribute("aria-valuenow")) > 20, "the meter shows nothing")
    page.recorded(1)
    page.press("#mic")
    answer = page.answered()
    assert page.text(".question .text")
    assert len(page.all(".question .waveform rect")) > 10
    assert "Transcription" in answer.find_element("css selector", ".chart").get_attribute("textContent")
    page.wait(lambda: page.all("#stop")[0].get_attribute("hidden"))
    page.loudest()
    page.press(".question .play")
    page.wait(lambda: page.loudest() > 0.1, "the recording is not played")


def test_held_recording_is_sent_on_release(page: Any) -> None:
    page.hold_microphone(1)
    page.answered()
    assert page.text(".question .text")


def test_microphone_works_from_the_keyboard(page: Any) -> None:
    page.run("document.getElementById('mic').focus()")
    page.key(ENTER)
    page.recorded(1)
    page.key(ENTER)
    page.answered()
    assert page.text(".question .text")


def test_escape_discards_a_recording(page: Any) -> None:
    page.press("#mic")
    page.recorded(1)
    page.key(ESCAPE)
    page.wait(lambda: page.one("#field").is_displayed())
    assert page.run("return announcer.textContent") == "Recording cancelled"
    assert not page.all(".message")


def test_answer_can_be_replayed(page: Any) -> None:
    page.ask(QUESTION)
    page.answered()
    page.wait(lambda: page.all("#stop")[0].get_attribute("hidden"))
    page.loudest()
    page.press(".answer .play")
    page.wait(lambda: page.loudest() > 0.1, "the answer is not replayed")


LONG = " ".join(f"Sentence number {number} goes on for a while." for number in range(1, 40))


def test_playback_shows_its_state_and_can_be_stopped(page: Any) -> None:
    page.ask(LONG)
    page.wait(lambda: page.text("#status") == "Speaking")
    page.answered()
    assert page.wait_for(".answer .play").get_attribute("aria-label") == "Stop the answer"
    page.press(".answer .play")
    page.wait(lambda: page.text("#status") == "Ready")
    assert page.one(".answer .play").get_attribute("aria-label") == "Play the answer"
    assert not page.all(".answer.speaking")


def test_spoken_sentence_stays_in_view(page: Any) -> None:
    page.devtools("Emulation.setDeviceMetricsOverride", width=360, height=640, deviceScaleFactor=1, mobile=True)
    page.ask(LONG)
    page.answered()
    page.wait_for(".answer.speaking")
    spoken, thread = page.run(
        "const words = [...CSS.highlights.get('spoken')][0].getBoundingClientRect();"
        "const view = document.getElementById('thread').getBoundingClientRect();"
        "return [[words.top, words.bottom], [view.top, view.bottom]]"
    )
    assert thread[0] <= spoken[0] < thread[1]
    assert page.run("return thread.scrollHeight - thread.scrollTop - thread.clientHeight") > 120


def test_timeline_labels_every_stage(page: Any) -> None:
    page.ask(QUESTION)
    page.answered()
    page.press(".timeline summary")
    rows = [row.text for row in page.all(".chart li")]
    gist = page.text(".timeline .gist")
    assert rows
    assert "complete in" in gist and "long" in gist
    assert not any(row.startswith("First audio") for row in rows)
    assert all(row.splitlines()[-1].rstrip().endswith(("ms", "s")) for row in rows)
    assert "On this device" in page.text(".timeline .notes")


def test_stop_ends_answer_playback_and_turn(serve: Serve, browse: Browse) -> None:
    with serve("fake.delay=0.1") as server:
        page = browse(server.url)
        page.ask(" ".join(["One two three four five."] * 20))
        page.wait(lambda: page.all(".answer .text") and page.text(".answer .text"))
        page.press("#stop")
        assert "Stopped" in page.wait_for(".answer .aside").text
        page.wait(lambda: server.get("/health")["turns"]["active"] == 0, "the turn continued")
        assert not page.all(".answer.speaking")
        text = page.text(".answer .text")
        page.ask("again")
        page.answered()
        assert page.text(".answer .text") == text


def test_reload_restores_the_conversation(page: Any, server: str) -> None:
    page.ask("first question")
    page.answered()
    page.driver.refresh()
    page.wait_for(".answer .text")
    assert page.text(".question .text") == "first question"
    page.ask("second question")
    page.answered()
    conversation = page.run("return localStorage.getItem('chatapi.conversation')")
    messages = httpx.get(f"{server}/conversations/{conversation}").json()["messages"]
    assert [message["text"] for message in messages if message["role"] == "user"] == [
        "first question",
        "second question",
    ]


def test_new_conversation_keeps_the_old_one(page: Any, server: str) -> None:
    page.ask("a question to keep")
    page.answered()
    conversation = page.run("return localStorage.getItem('chatapi.conversation')")
    page.press("#new")
    page.wait(lambda: page.one("#welcome").is_displayed())
    assert not page.all(".message")
    page.ask("another question")
    page.answered()
    assert page.run("return localStorage.getItem('chatapi.conversation')") != conversation
    assert httpx.get(f"{server}/conversations/{conversation}").json()["messages"][0]["text"] == "a question to keep"


def test_answer_is_played_and_copied_after_a_reload(page: Any) -> None:
    page.ask("say it again")
    page.answered()
    page.wait(lambda: page.all("#stop")[0].get_attribute("hidden"))
    page.driver.refresh()
    page.wait_for(".answer .play")
    page.wait_for("#status[data-state=ready]")
    page.press(".answer .play")
    page.wait(lambda: page.loudest() > 0.1, "the stored answer is not played")
    page.devtools("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    page.press(".answer .copy")
    page.wait(lambda: page.one(".answer .copy use").get_attribute("href") == "#icon-done", "it is not copied")
    assert page.run("return navigator.clipboard.readText()") == page.text(".answer .text")


def test_answer_cut_short_is_continued(browse: Browse, serve: Serve) -> None:
    with serve("llm.max_tokens=3") as server:
        page = browse(server.url)
        page.ask("one two three four five six")
        page.answered()
        page.press(".answer .continue")
        page.answered(2)
        assert page.all(".question .text")[1].text == "Please go on where you stopped."
        assert len(page.all(".answer .continue")) == 1


def test_missing_conversation_starts_a_new_one(page: Any, server: str) -> None:
    page.ask("first question")
    page.answered()
    conversation = page.run("return localStorage.getItem('chatapi.conversation')")
    httpx.delete(f"{server}/conversations/{conversation}")
    page.allow_messages("404")
    page.ask("second question")
    page.answered(2)
    assert "no longer has the earlier conversation" in page.text(".remark")
    assert page.run("return localStorage.getItem('chatapi.conversation')") != conversation


def test_typed_markup_is_shown_as_text(page: Any) -> None:
    page.ask("<img src=x onerror=alert(1)><b>bold</b>")
    answer = page.answered()
    assert "<b>bold</b>" in page.text(".question .text")
    assert "<b>bold</b>" in answer.text
    assert not page.all(".message img, .message b")


@pytest.mark.parametrize("width", [320, 360, 768])
def test_nothing_is_wider_than_the_screen(page: Any, width: int) -> None:
    page.devtools("Emulation.setDeviceMetricsOverride", width=width, height=640, deviceScaleFactor=2, mobile=True)
    page.ask("x" * 300)
    page.answered()
    page.press(".timeline summary")
    wide = page.run(
        "return [...document.querySelectorAll('body, body *')].filter((element) => element.checkVisibility()"
        " && !element.closest('.unseen, svg, .meter') && element.getBoundingClientRect().right > innerWidth + 1)"
        ".map((element) => element.outerHTML.slice(0, 80))"
    )
    assert wide == []
    assert page.run("return document.documentElement.scrollWidth <= innerWidth")
    assert page.run("return thread.scrollWidth <= thread.clientWidth")


def test_every_control_has_a_name_and_is_big_enough_for_touch(page: Any) -> None:
    page.devtools("Emulation.setDeviceMetricsOverride", width=360, height=640, deviceScaleFactor=2, mobile=True)
    page.ask(QUESTION)
    page.answered()
    # The stop button disappears after playback, which must not happen during this check.
    page.wait(lambda: page.all("#stop")[0].get_attribute("hidden"))
    for control in page.all("button, textarea, select, main"):
        if control.is_displayed():
            assert control.accessible_name, control.get_attribute("outerHTML")
            if control.tag_name == "button":
                assert min(control.size.values()) >= 44, control.get_attribute("outerHTML")


def test_voice_and_language_are_selected_and_stored(page: Any) -> None:
    page.press("#open-options")
    chosen = page.wait(lambda: page.one("#voice option:nth-child(2)").get_attribute("value"))
    page.run("voice.value = arguments[0]; voice.dispatchEvent(new Event('change'))", chosen)
    page.key(ESCAPE)
    page.ask(QUESTION)
    page.answered()
    page.driver.refresh()
    page.wait_for("#status[data-state=ready]")
    assert page.run("return localStorage.getItem('chatapi.voice')") == chosen
    page.press("#open-options")
    page.wait(lambda: page.run("return voice.value") == chosen)
