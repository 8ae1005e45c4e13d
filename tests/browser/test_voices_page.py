"""The view Voices: clips and their quality, a voice with consent, source and result side by side, deletion."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from browser.conftest import GRANTED, serving
from browser.test_frame import COLOURS, CONTRAST, WIDE, contrast
from chatapi.audio import RATE, Audio, wav
from conftest import tone

Browse = Callable[..., Any]


@pytest.fixture(scope="module")
def voices_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(
        tmp_path_factory.mktemp("voices") / "data", "voice_converter.engine=fake", "speaker.engine=fake"
    ) as running:
        yield running.url


@pytest.fixture
def recordings(tmp_path: Path) -> dict[str, str]:
    """Paths of a good clip, a short one and a source."""
    pause = np.zeros(RATE // 2, np.float32)
    made = {"good": np.concatenate([pause, tone(35, 880), pause]), "short": tone(1, 880), "source": tone(1.5, 440)}
    for name, samples in made.items():
        (tmp_path / f"{name}.wav").write_bytes(wav(Audio(samples, RATE)))
    return {name: str(tmp_path / f"{name}.wav") for name in made}


def opened(browse: Browse, server: str, *switches: str) -> Any:
    page = browse("about:blank", *switches, ready=False)
    page.open(f"{server}/#/voices", ready=False)
    page.wait_for("#status[data-state=ready]")
    page.wait_for(".voices-form")
    return page


def test_a_voice_is_judged_added_tried_and_deleted(
    browse: Browse, voices_server: str, recordings: dict[str, str]
) -> None:
    page = opened(browse, voices_server)
    page.allow_messages(r"/voices/quality .* 422")
    page.one("#voices-clips").send_keys(recordings["short"])
    page.wait_for(".voices-bad")
    assert "too little speech" in page.text(".voices-bad") and "at least 3 s are needed" in page.text(".voices-bad")
    page.run("document.querySelector('.voices-clips button').click()")
    page.one("#voices-clips").send_keys(recordings["good"])
    page.wait_for(".voices-form .voices-quality")
    assert "35 s of speech" in page.text(".voices-form .voices-quality") and page.all(".voices-form .voices-good")
    duration = "return document.querySelector('.voices-clips audio').duration"
    page.wait(lambda: abs((page.run(duration) or 0) - 36) < 0.1)
    page.one("#voices-name").send_keys("Anna <b>one")
    page.run("document.querySelector('.voices-main').click()")
    # Without a statement of consent the browser sends nothing.
    assert httpx.get(f"{voices_server}/voices").json()["voices"] == []
    page.one("#voices-consent").send_keys("my own voice")
    page.run("document.querySelector('.voices-main').click()")
    page.wait(lambda: page.all(".voices-list strong") and page.text(".voices-list strong") == "Anna <b>one")
    [stored] = httpx.get(f"{voices_server}/voices").json()["voices"]
    assert stored["consent"] == "my own voice" and "Consent: my own voice" in page.text(".voices-list")
    page.one("#voices-source").send_keys(recordings["source"])
    page.wait_for(".voices-after")
    for player in (".voices-before", ".voices-after"):
        length = f"return document.querySelector('{player}').duration"
        page.wait(lambda length=length: abs((page.run(length) or 0) - 1.5) < 0.05)
    boxes = page.run("return [...document.querySelectorAll('.voices-results figure')]"
                     ".map((each) => each.getBoundingClientRect().top)")  # fmt: skip
    assert len(boxes) == 2 and boxes[0] == boxes[1]
    page.one("#voices-text").send_keys("one two three")
    page.run("document.querySelector('.voices-say button').click()")
    page.wait(lambda: page.all(".voices-after") and not page.all(".voices-before"))
    page.run("window.confirm = () => true; document.querySelector('.voices-list button').click()")
    page.wait(lambda: not page.all(".voices-list li"))
    assert httpx.get(f"{voices_server}/voices").json()["voices"] == []


def test_a_warning_is_no_error(browse: Browse, voices_server: str, tmp_path: Path) -> None:
    pause = np.zeros(RATE // 2, np.float32)
    (tmp_path / "few.wav").write_bytes(wav(Audio(np.concatenate([pause, tone(5, 880), pause]), RATE)))
    page = opened(browse, voices_server)
    page.one("#voices-clips").send_keys(str(tmp_path / "few.wav"))
    page.wait_for(".voices-form .voices-warnings")
    assert "less than half a minute" in page.text(".voices-warnings") and not page.all(".voices-bad, .voices-good")
    colour = "return getComputedStyle(document.querySelector(arguments[0])).color"
    colours = [page.run(colour, each) for each in (".voices-warnings", ".voices-form")]
    assert colours[0] == colours[1]


def test_clips_can_be_dropped(browse: Browse, voices_server: str) -> None:
    page = opened(browse, voices_server)
    page.allow_messages(r"/voices/quality .* 4\d\d")
    page.run("""
        const given = new DataTransfer();
        for (const name of ['one.wav', 'two.wav']) given.items.add(new File(['none'], name));
        document.querySelector('.voices-form .voices-input')
            .dispatchEvent(new DragEvent('drop', { dataTransfer: given, bubbles: true, cancelable: true }));
    """)
    page.wait_for(".voices-bad")
    assert [each.text for each in page.all(".voices-clips strong")] == ["one.wav", "two.wav"]
    assert "can be read" in page.text(".voices-bad strong")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_view_fits_a_phone_with_all_its_parts(
    browse: Browse, voices_server: str, recordings: dict[str, str], scheme: str
) -> None:
    page = browse("about:blank", ready=False)
    page.devtools("Emulation.setDeviceMetricsOverride", width=320, height=640, deviceScaleFactor=1, mobile=True)
    page.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    content = Path(recordings["good"]).read_bytes()
    form = {"name": f"A voice with a long name {scheme}", "consent": "my own voice, recorded for this test"}
    added = httpx.post(f"{voices_server}/voices", data=form, files={"clips": ("clip.wav", content)}, timeout=60).json()
    page.open(f"{voices_server}/#/voices", ready=False)
    page.wait_for(".voices-list li")
    page.one("#voices-clips").send_keys(recordings["good"])
    page.one("#voices-source").send_keys(recordings["source"])
    page.wait_for(".voices-form .voices-quality")
    page.wait_for(".voices-after")
    assert page.run(WIDE) == []
    for element, text, back in page.run(COLOURS, "#view-voices *"):
        assert contrast(text, back) >= CONTRAST, (element, text, back)
    small = page.run("""return [...document.querySelectorAll('#view-voices :is(button, select, textarea, summary)')]
        .filter((each) => each.checkVisibility() && each.getBoundingClientRect().height < 43)
        .map((each) => each.outerHTML.slice(0, 80))""")
    assert small == []
    httpx.delete(f"{voices_server}/voices/{added['id']}")


def test_the_microphone_records_a_clip(browse: Browse, voices_server: str) -> None:
    page = opened(browse, voices_server, GRANTED)
    record = "document.querySelector('.voices-form .voices-record')"
    page.run(f"{record}.click()")
    page.wait(lambda: page.run(f"return {record}.getAttribute('aria-pressed')") == "true")
    assert page.one(".voices-form .meter").is_displayed()
    page.allow_messages(r"/voices/quality .* 422")
    page.wait(lambda: page.text(".voices-form .clock") == "0:01")
    page.run(f"{record}.click()")
    page.wait_for(".voices-clips li")
    assert page.text(".voices-clips strong") == "recording 1.wav"
