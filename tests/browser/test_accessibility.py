"""Every view and its states under axe-core, in both colour schemes, on a phone and on a desktop.

`npm ci --prefix tests/node` installs axe-core. Its rules of WCAG 2.2 A and AA and its best practices have to hold.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from broadcaster import broadcasting
from browser.conftest import ENTER, ESCAPE, serving
from browser.test_transcribe import PAUSE, add, recording, row, transcribed
from chatapi.audio import RATE
from conftest import encode_audio, tone
from paths import NODE

AXE = NODE / "node_modules/axe-core/axe.min.js"
VIEWS = ("talk", "transcribe", "captions", "voices")
SIZES = {"phone": (320, 640, True), "desktop": (1280, 900, False)}
RUN = """
    const [tags, done] = arguments;
    axe.run(document, { runOnly: { type: 'tag', values: tags }, resultTypes: ['violations'] }).then(
        ({ violations }) => done(violations.flatMap(({ id, help, nodes }) => nodes.map(({ target, html, any }) =>
            [id, help, target.join(' '), html.slice(0, 120), ...any.map(({ message }) => message)].join(' | ')))),
        (error) => done([String(error)]));
"""
TAGS = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")
LINE = np.concatenate([np.zeros(int(0.4 * RATE)), tone(1.2), np.zeros(RATE)]).astype(np.float32)

pytestmark = pytest.mark.skipif(not AXE.is_file(), reason="needs tests/node: npm ci --prefix tests/node")

Browse = Callable[..., Any]
Opened = Callable[..., Any]


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of a server whose jobs take long enough to be looked at, and whose addresses may be private."""
    settings = (
        "speaker.engine=fake",
        "voice_converter.engine=fake",
        "captions.private_urls=true",
        "fake.delay=0.0005",
    )
    with serving(tmp_path_factory.mktemp("accessible") / "data", *settings) as running:
        yield running.url


@pytest.fixture(params=[(size, scheme) for size in SIZES for scheme in ("light", "dark")], ids="-".join)
def opened(request: pytest.FixtureRequest, browse: Browse, slow: str) -> Opened:
    """Opens a view in one size and one colour scheme."""
    size, scheme = request.param
    width, height, is_phone = SIZES[size]

    def open_view(path: str) -> Any:
        page = browse("about:blank", ready=False)
        page.devtools(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=is_phone
        )
        page.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        page.open(f"{slow}/#/{path}", ready=False)
        page.wait_for("#status[data-state=ready]")
        page.wait_for(f"#view-{path.partition('/')[0]}:not([hidden]) *")
        return page

    return open_view


def faults(page: Any) -> list[str]:
    """What axe-core finds on the page as it is."""
    page.run(AXE.read_text(encoding="utf-8") + "; window.axe = axe;")
    found: list[str] = page.driver.execute_async_script(RUN, TAGS)
    return found


@pytest.mark.parametrize("view", VIEWS)
def test_each_view_follows_the_rules(opened: Opened, view: str) -> None:
    assert faults(opened(view)) == []


def test_conversation_and_its_options_follow_the_rules(opened: Opened) -> None:
    page = opened("talk")
    page.ask("one question")
    page.answered()
    assert faults(page) == []
    page.press("#open-options")
    page.wait_for("dialog[open]")
    assert faults(page) == []


def test_drawer_and_its_states_follow_the_rules(opened: Opened) -> None:
    page = opened("talk")
    page.ask("one question")
    page.answered()
    page.press("#open-conversations")
    page.wait_for("#conversations summary").click()
    assert faults(page) == []
    page.press(".conversation-menu[open] button")
    page.wait_for(".conversation-name")
    assert faults(page) == []
    page.key(ESCAPE)
    page.wait_for("#conversations summary").click()
    page.press(".conversation-menu[open] button:last-child")
    page.wait_for(".conversations-undo button")
    assert faults(page) == []


def test_states_of_jobs_follow_the_rules(opened: Opened, tmp_path: Path) -> None:
    page = opened("transcribe")
    page.allow_messages("422")
    broken = tmp_path / "broken.m4a"
    broken.write_bytes(b"no audio" * 100)
    page.press(".options summary")
    add(page, broken, recording(tmp_path, "long.wav", *[220.0] * 40))
    row(page, "broken.m4a", "failed")
    running = row(page, "long.wav", "running")
    page.one("#transcribe-url").send_keys("http://127.0.0.1/x.mp3", ENTER)
    page.wait(lambda: page.text("#notice .fault"))
    assert faults(page) == []
    job = running.get_attribute("data-job")
    page.run(f"location.hash = '#/transcribe/{job}'")
    page.wait(lambda: "heard" in page.text(".partial-text"), "there is no partial text")
    assert faults(page) == []
    page.run("location.hash = '#/transcribe'")
    page.wait_for(f"[data-job={job}] [aria-label^=Pause]").click()
    row(page, "long.wav", "paused")
    page.press(f"[data-job={job}] [aria-label^=Delete]")
    page.wait_for(".toast button")
    assert faults(page) == []


def test_transcript_and_its_dialog_follow_the_rules(opened: Opened, tmp_path: Path) -> None:
    page = opened("transcribe")
    page.press(".options summary")
    page.press("#transcribe-speakers")
    transcribed(page, recording(tmp_path, "dialogue.wav", 220.0, 880.0, 220.0))
    page.one("#search").send_keys("heard")
    page.wait(lambda: page.text(".search .count"))
    assert faults(page) == []
    page.press(".speaker")
    page.wait_for("#speaker-name")
    assert faults(page) == []


def test_captions_and_their_faults_follow_the_rules(opened: Opened, slow: str) -> None:
    with broadcasting() as radio:
        radio.broadcasts["/radio"] = [encode_audio(np.concatenate([LINE, PAUSE, LINE]), RATE, "libmp3lame", "mp3")]
        radio.hold = threading.Event()
        asked = {"source": "stream", "url": radio.url("/radio"), "title": "Radio", "speakers": True}
        id_ = httpx.post(f"{slow}/captions", json=asked, timeout=60).raise_for_status().json()["id"]
        try:
            page = opened(f"captions/{id_}")
            page.wait_for(".captions-lines li", 1)
            for colours in ("page", "dark", "light", "contrast"):
                page.run("document.querySelector('.captions-whole').dataset.colours = arguments[0]", colours)
                assert faults(page) == [], colours
            page.run("location.hash = '#/captions'")
            page.wait_for(".captions-list li a")
            assert faults(page) == []
            page.allow_messages("404")
            page.run("location.hash = '#/captions/none'")
            page.wait(lambda: page.text("#notice .fault"))
            assert faults(page) == []
        finally:
            radio.hold.set()
            httpx.delete(f"{slow}/captions/{id_}")
