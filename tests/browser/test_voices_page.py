"""The view Voices: clips and their quality, a voice with consent, source and result side by side, deletion."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from browser.conftest import GRANTED, serving
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
    assert "at least 3 s are needed" in page.text(".voices-bad")
    page.run("document.querySelector('.voices-clips button').click()")
    page.one("#voices-clips").send_keys(recordings["good"])
    page.wait_for(".voices-form .voices-quality")
    assert "35" in page.text(".voices-form .voices-quality") and page.all(".voices-form .voices-good")
    page.one("#voices-name").send_keys("Anna <b>one")
    page.run("document.querySelector('.voices-main').click()")
    # Without a statement of consent the browser sends nothing.
    assert httpx.get(f"{voices_server}/voices").json()["voices"] == []
    page.one("#voices-consent").send_keys("my own voice")
    page.run("document.querySelector('.voices-main').click()")
    page.wait(lambda: page.all(".voices-list strong") and page.text(".voices-list strong") == "Anna <b>one")
    [stored] = httpx.get(f"{voices_server}/voices").json()["voices"]
    assert stored["consent"] == "my own voice"
    page.one("#voices-source").send_keys(recordings["source"])
    page.wait_for(".voices-after")
    for player in (".voices-before", ".voices-after"):
        length = f"return document.querySelector('{player}').duration"
        page.wait(lambda length=length: abs((page.run(length) or 0) - 1.5) < 0.05)
    page.run("window.confirm = () => true; document.querySelector('.voices-list button').click()")
    page.wait(lambda: not page.all(".voices-list li"))
    assert httpx.get(f"{voices_server}/voices").json()["voices"] == []


def test_the_microphone_records_a_clip(browse: Browse, voices_server: str) -> None:
    page = opened(browse, voices_server, GRANTED)
    record = "document.querySelector('.voices-form .voices-drop button')"
    page.run(f"{record}.click()")
    page.wait(lambda: page.run(f"return {record}.getAttribute('aria-pressed')") == "true")
    page.allow_messages(r"/voices/quality .* 422")
    page.run(f"{record}.click()")
    page.wait_for(".voices-clips li")
    assert page.text(".voices-clips li").startswith("recording.wav")
