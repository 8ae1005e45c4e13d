"""The view Commands: samples from files and the microphone, a training, its figures, the way back, and its layout."""

from __future__ import annotations

import os
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
ENGINES = ("command.engine=fake", "word_encoder.engine=fake")
SCREENSHOTS = os.environ.get("CHATAPI_TEST_SCREENSHOTS", "")
"""A folder for pictures of the view; empty: none are taken."""
TAUGHT = 8
"""Samples of a word."""


@pytest.fixture
def commands_server(tmp_path: Path) -> Iterator[str]:
    with serving(tmp_path / "data", *ENGINES) as running:
        yield running.url


@pytest.fixture(scope="module")
def whistles(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Paths of clips that sound alike."""
    folder, random = tmp_path_factory.mktemp("whistles"), np.random.default_rng(1)
    for number in range(TAUGHT):
        samples = tone(0.5, 1500 + number) + random.normal(0, 0.01, RATE // 2)
        (folder / f"{number}.wav").write_bytes(wav(Audio(samples.astype(np.float32), RATE)))
    return sorted(str(path) for path in folder.iterdir())


def opened(browse: Browse, server: str, *switches: str) -> Any:
    page = browse("about:blank", *switches, ready=False)
    page.open(f"{server}/#/commands", ready=False)
    page.wait_for("#status[data-state=ready]")
    page.wait(lambda: "beep" in page.text(".commands-words"))
    return page


def teach(page: Any, files: list[str]) -> None:
    """Submits clips of the word whistle, and trains."""
    page.one("#commands-word").send_keys("Whistle ")
    page.one("#commands-files").send_keys("\n".join(files))
    page.wait(lambda: f"{TAUGHT} samples" in page.text(".commands-words"))
    page.press(".commands-main")
    page.wait(lambda: page.all(".commands-good") and "Version 1 is good" in page.text(".commands-good"))


def test_a_word_is_taught_judged_heard_and_rolled_back(
    browse: Browse, commands_server: str, whistles: list[str]
) -> None:
    page = opened(browse, commands_server)
    assert not page.one(".commands-versions").is_displayed()
    page.allow_messages(r"/commands/train .* 422")
    page.press(".commands-main")
    page.wait(lambda: any("nothing to train" in each.text for each in page.all(".commands-bad")))
    teach(page, whistles)
    assert httpx.get(f"{commands_server}/commands").json() == {"labels": ["beep", "whistle"], "model": "", "version": 1}
    rows = [each.text for each in page.all(".commands-matrix tbody th")]
    assert rows == ["beep", "whistle", "unknown"]
    assert page.one(".commands-curve").is_displayed() and "Loss from" in page.text(".commands-figure")
    assert "100 % right" in page.text(".commands-words").replace("\u00a0", " ")
    page.run("document.querySelector('summary.commands-head').click()")
    page.wait(lambda: len(page.all(".commands-samples li")) == TAUGHT)
    page.run("document.querySelector('.commands-samples .round').click()")
    page.wait(
        lambda: page.run("return document.querySelector('.commands-samples use').getAttribute('href')") == "#icon-stop"
    )
    page.wait(
        lambda: page.run("return document.querySelector('.commands-samples use').getAttribute('href')") == "#icon-play"
    )
    page.run("document.querySelector('.commands-samples li .round:last-child').click()")
    page.wait(lambda: len(page.all(".commands-samples li")) == TAUGHT - 1)
    page.run("[...document.querySelectorAll('button.plain')].find((each) => each.textContent === 'Roll back').click()")
    page.wait(
        lambda: (
            page.all(".commands-versions [aria-current]")
            and "Untaught" in page.text(".commands-versions [aria-current]")
        )
    )
    assert httpx.get(f"{commands_server}/commands").json()["version"] == 0
    page.run("document.querySelector('.commands-versions button').click()")
    page.wait(lambda: "Version 1" in page.text(".commands-versions [aria-current]"))


def test_a_doubtful_sample_is_set_aside_and_can_be_accepted(
    browse: Browse, commands_server: str, whistles: list[str], tmp_path: Path
) -> None:
    page = opened(browse, commands_server)
    teach(page, whistles)
    (tmp_path / "wrong.wav").write_bytes(wav(Audio(tone(0.5, 455), RATE)))
    page.one("#commands-files").send_keys(str(tmp_path / "wrong.wav"))
    page.wait(lambda: "it sounds like “beep”" in page.text(".commands-said"))
    page.run("document.querySelector('summary.commands-head').click()")
    page.wait(lambda: page.all(".commands-samples .commands-bad"))
    page.run("document.querySelector('[aria-label^=\"Accept the sample\"]').click()")
    page.wait(lambda: not page.all(".commands-samples .commands-bad"))
    assert f"{TAUGHT + 1} samples" in page.text(".commands-words")


def test_the_microphone_records_samples_and_tries_commands(browse: Browse, commands_server: str, spoken: Path) -> None:
    page = opened(browse, commands_server, GRANTED, f"--use-file-for-fake-audio-capture={spoken}")
    page.allow_messages(r"/commands/samples\S* .* 422")
    hold = "document.querySelectorAll('.commands-hold')"
    page.run(f"{hold}[0].click()")
    page.wait(lambda: page.run(f"return {hold}[0].getAttribute('aria-pressed')") == "true")
    page.run(f"{hold}[0].click()")
    page.wait(lambda: page.text(".commands-said") != "")
    assert page.text(".commands-said") in (
        "Enter the word first.",
        "That was too short. Hold the button while you say the word.",
    )
    page.run(f"{hold}[1].click()")
    page.wait(lambda: page.run(f"return {hold}[1].getAttribute('aria-pressed')") == "true")
    # It ends by itself.
    page.wait(lambda: page.all(".commands-label"))
    assert page.text(".commands-label") in ("beep", "unknown")


@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_small_phone_and_has_contrast(
    browse: Browse, commands_server: str, whistles: list[str], dark: bool
) -> None:
    page = opened(browse, commands_server)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    page.devtools("Emulation.setEmulatedMedia", features=[scheme])
    teach(page, whistles)
    page.run("document.querySelector('summary.commands-head').click()")
    for width in (320, 1280):
        page.devtools("Emulation.setDeviceMetricsOverride", width=width, height=700, deviceScaleFactor=1, mobile=False)
        # The matrix scrolls by itself.
        assert page.run(WIDE.replace(".skip'", ".skip, .commands-wide *'")) == []
        faint = [each for each in page.run(COLOURS, "#view-commands *") if contrast(*each[1:]) < CONTRAST]
        assert faint == []
    for control in page.all("#view-commands :is(button, input:not([type=file]), summary)"):
        if control.is_displayed():
            assert control.accessible_name and min(control.size.values()) >= 44
    if SCREENSHOTS:
        for name, width, height in (("phone", 320, 3600), ("desktop", 1280, 1900)):
            page.devtools(
                "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
            )
            page.driver.save_screenshot(f"{SCREENSHOTS}/commands-{name}-{'dark' if dark else 'light'}.png")
