"""The view Captions: started from a stream, watched by several viewers, resumed, and how it looks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from broadcaster import Broadcast, broadcasting
from browser.conftest import ENTER, ESCAPE, serving
from browser.test_frame import COLOURS, CONTRAST, TAB, WIDE, contrast
from chatapi.audio import RATE
from conftest import encode_audio, tone

Browse = Callable[..., Any]
LINE = np.concatenate([np.zeros(int(0.4 * RATE)), tone(1.2), np.zeros(RATE)]).astype(np.float32)
"""Audio with one line."""
SIZE = "return parseFloat(getComputedStyle(document.querySelector('.captions-board')).fontSize)"
FOCUS = "return document.activeElement.textContent"
LINES = ".captions-lines li:not(.captions-gap)"


@pytest.fixture(scope="module")
def captioner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of a server that captions streams of this machine."""
    settings = ("captions.private_urls=true", "captions.sessions=20")
    with serving(tmp_path_factory.mktemp("captions") / "data", *settings) as running:
        yield running.url


@pytest.fixture
def broadcast() -> Iterator[Broadcast]:
    """A radio of two lines that stays on air until the test ends."""
    with broadcasting() as found:
        found.broadcasts["/radio"] = [encode_audio(np.concatenate([LINE, LINE]), RATE, "libmp3lame", "mp3")]
        found.hold = threading.Event()
        yield found
        found.hold.set()


def start(server: str, **fields: Any) -> str:
    return str(httpx.post(f"{server}/captions", json=fields, timeout=60).raise_for_status().json()["id"])


def opened(browse: Browse, server: str, route: str = "", **size: Any) -> Any:
    page = browse("about:blank", ready=False)
    if size:
        page.devtools("Emulation.setDeviceMetricsOverride", deviceScaleFactor=1, mobile=True, **size)
    page.open(f"{server}/#/captions{route}", ready=False)
    page.wait_for("#status[data-state=ready]")
    page.wait_for(".captions-board" if route else ".captions-form")
    return page


def test_a_stream_is_started_watched_and_ended(browse: Browse, captioner: str, broadcast: Broadcast) -> None:
    page = opened(browse, captioner)
    page.one("#captions-name").send_keys("Radio <b>one</b>")
    page.one("#captions-url").send_keys(broadcast.url("/radio"), ENTER)
    page.wait_for(LINES, 1)
    assert page.all(LINES)[0].text.startswith("heard ")
    page.press(".captions-back")
    page.wait(lambda: page.text(".captions-list li a") == "Radio <b>one</b>")
    page.run("document.querySelector('.captions-list button').click()")
    page.wait(lambda: not page.all(".captions-list li") and page.one(".captions-empty").is_displayed())
    assert httpx.get(f"{captioner}/captions").json()["captions"] == []


def test_viewers_see_the_same_lines_also_after_a_reload(browse: Browse, captioner: str, broadcast: Broadcast) -> None:
    id_ = start(captioner, source="stream", url=broadcast.url("/radio"))
    page, other = opened(browse, captioner, f"/{id_}"), opened(browse, captioner, f"/{id_}")
    for each in (page, other):
        each.wait_for(LINES, 1)
    before = [each.text for each in page.all(LINES)]
    page.driver.refresh()
    page.wait_for(LINES, len(before))
    assert [each.text for each in page.all(LINES)][: len(before)] == before
    assert httpx.delete(f"{captioner}/captions/{id_}").status_code == 204
    for each in (page, other):
        each.wait(lambda each=each: each.text(".captions-status") == "Ended")
    assert [each.text for each in page.all(LINES)] == [each.text for each in other.all(LINES)]


def test_size_colours_and_times_are_kept_and_full_screen_is_left(
    browse: Browse, captioner: str, broadcast: Broadcast
) -> None:
    id_ = start(captioner, source="stream", url=broadcast.url("/radio"))
    page = opened(browse, captioner, f"/{id_}")
    page.wait_for(LINES, 1)
    small = page.run(SIZE)
    page.press("[title='Larger text']")
    large = page.run(SIZE)
    assert large > small
    page.run("const field = document.querySelector('.captions-controls select'); field.value = 'contrast';"
             "field.dispatchEvent(new Event('change'))")  # fmt: skip
    page.press(".captions-controls [aria-pressed=false]")
    assert page.one(".captions-lines time").is_displayed()
    page.driver.refresh()
    page.wait_for(LINES, 1)
    assert page.run(SIZE) == large and page.one(".captions-lines time").is_displayed()
    assert page.run("return getComputedStyle(document.querySelector('.captions-whole')).color") == "rgb(255, 255, 0)"
    page.one(".captions-controls button:last-child").click()
    page.wait(lambda: page.run("return document.fullscreenElement?.className") == "captions-whole")
    page.run("location.hash = '#/captions'")
    page.wait_for(".captions-form")
    page.wait(lambda: page.run("return document.fullscreenElement") is None)


def test_keyboard_starts_captions_and_reaches_their_controls(
    browse: Browse, captioner: str, broadcast: Broadcast
) -> None:
    page = opened(browse, captioner)
    page.run("document.getElementById('captions-url').focus()")
    page.key(broadcast.url("/radio"))
    page.key(TAB * 3)
    assert page.run(FOCUS) == "Start"
    page.key(ENTER)
    page.wait_for(LINES, 1)
    page.run("document.querySelector('.captions-back').focus()")
    for name in ("A−", "A+"):
        page.key(TAB)
        assert page.run(FOCUS) == name
    page.key(TAB * 4)
    assert page.run("return document.activeElement.className") == "captions-board"
    page.key(ESCAPE)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_board_fits_320_pixels_with_names_and_contrast(
    browse: Browse, captioner: str, broadcast: Broadcast, scheme: str
) -> None:
    id_ = start(captioner, source="stream", url=broadcast.url("/radio"), title="Radio")
    page = opened(browse, captioner, f"/{id_}", width=320, height=640)
    page.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    page.wait_for(LINES, 1)
    for size in range(6):
        page.run("document.querySelector('.captions-whole').dataset.size = arguments[0]", str(size))
        assert page.run(WIDE) == []
    for control in page.all(".captions-controls :is(button, a, select)"):
        assert control.accessible_name and control.size["height"] >= 44
    for colours in ("page", "dark", "light", "contrast"):
        page.run("document.querySelector('.captions-whole').dataset.colours = arguments[0]", colours)
        parts = page.run(COLOURS, ".captions-whole :is(li, p, button, a, time)")
        assert [each for each in parts if contrast(*each[1:]) < CONTRAST] == []


def test_unknown_captions_and_private_addresses_are_explained(browse: Browse, server: str) -> None:
    page = opened(browse, server, "/none")
    page.allow_messages("404", "422")
    assert "not on the box" in page.wait(lambda: page.text("#notice .fault"))
    page.press(".captions-back")
    page.wait_for(".captions-form")
    page.one("#captions-url").send_keys("http://127.0.0.1/x", ENTER)
    assert "private network" in page.wait(lambda: "private" in page.text("#notice") and page.text("#notice"))


def test_reasons_are_in_the_language_of_the_page(browse: Browse, server: str) -> None:
    page = opened(browse, server)
    page.allow_messages("422")
    page.run("document.getElementById('page-language').value = 'de';"
             "document.getElementById('page-language').dispatchEvent(new Event('change'))")  # fmt: skip
    page.wait(lambda: page.run("return document.documentElement.lang") == "de")
    page.wait_for(".captions-form")
    page.one("#captions-url").send_keys("http://127.0.0.1/x", ENTER)
    shown = page.wait(lambda: "privaten Netz" in page.text("#notice") and page.text("#notice"))
    assert "Meldung der Box, auf Englisch: „" in shown and "that is not public" in shown
