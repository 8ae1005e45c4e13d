"""The view Transcribe: uploads that survive faults, jobs, transcripts with playback, speakers and downloads."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from browser.conftest import ENTER, serving
from browser.pages import Page
from chatapi.audio import RATE, Audio, wav
from conftest import tone
from file_server import serve_files

Browse = Callable[..., Any]
Serve = Callable[..., Any]
PAUSE = np.zeros(2 * RATE, np.float32)
SPOKEN = "return [...(CSS.highlights.get('spoken') ?? [])].map(String)[0] ?? ''"
TIME = "return document.querySelector('audio').currentTime"
DONE = "#jobs [data-state=done]"
RIGHT, SPACE = "\ue014", " "


@pytest.fixture(scope="module")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The base URL of a server whose jobs belong to one test each by their names."""
    with serving(tmp_path_factory.mktemp("transcribe") / "data", "speaker.engine=fake") as running:
        yield running.url


def recording(folder: Path, name: str, *voices: float) -> Path:
    """A recording of 9 s of each voice, in hertz."""
    path = folder / name
    path.write_bytes(wav(Audio(np.concatenate([each for hertz in voices for each in (tone(9, hertz), PAUSE)]), RATE)))
    return path


def opened(browse: Browse, url: str) -> Any:
    page = browse(f"{url}/#/transcribe", ready=False)
    page.wait_for("#status[data-state=ready]")
    page.wait_for("#choose")
    return page


def add(page: Any, *files: Path) -> None:
    page.one("#transcribe-files").send_keys("\n".join(map(str, files)))


def row(page: Any, name: str, state: str) -> Any:
    """The row of a job, once it has this state."""
    return page.wait(
        lambda: next((each for each in page.all(f"#jobs [data-state={state}]") if name in each.text), None),
        f"{name} is not {state}",
    )


def transcribed(page: Any, file: Path) -> str:
    """Transcribes a file and opens its transcript; returns the id of its job."""
    add(page, file)
    done = row(page, file.name, "done")
    job = str(done.get_attribute("data-job"))
    done.find_element("css selector", ".open").click()
    page.wait_for(".transcript .words")
    return job


def test_several_files_are_uploaded_and_transcribed(browse: Browse, recorder: str, tmp_path: Path) -> None:
    page = opened(browse, recorder)
    good, other = recording(tmp_path, "interview.wav", 220.0), recording(tmp_path, "lecture.wav", 220.0)
    broken = tmp_path / "broken.m4a"
    broken.write_bytes(b"no audio" * 100)
    add(page, good, other, broken)
    assert row(page, good.name, "done") and row(page, other.name, "done")
    assert "no audio that can be read" in row(page, broken.name, "failed").text
    assert not page.all("#uploads li")


def test_options_are_folded_away_stored_and_sent(browse: Browse, recorder: str, tmp_path: Path) -> None:
    page = opened(browse, recorder)
    assert not page.one("#transcribe-prompt").is_displayed()
    page.press(".options summary")
    page.press("#transcribe-speakers")
    page.one("#transcribe-prompt").send_keys("Ada Lovelace")
    page.press(".options summary")
    assert "Speakers" in page.text(".options .gist")
    page.driver.refresh()
    page.wait(lambda: "Speakers" in page.text(".options .gist"))
    transcribed(page, recording(tmp_path, "options.wav", 220.0, 880.0))
    assert len(page.all(".speaker")) == 2


def test_url_is_fetched(serve: Serve, browse: Browse, tmp_path: Path) -> None:
    with serve("transcription.private_urls=true") as server, serve_files() as files:
        address = files.put("remote.wav", recording(tmp_path, "remote.wav", 220.0).read_bytes())
        page = opened(browse, server.url)
        page.one("#transcribe-url").send_keys(address, ENTER)
        row(page, "remote.wav", "done")


def test_wrong_url_is_explained(browse: Browse, recorder: str) -> None:
    page = opened(browse, recorder)
    page.allow_messages("422")
    page.one("#transcribe-url").send_keys("http://127.0.0.1/x.mp3", ENTER)
    assert "private network" in page.wait(lambda: page.text("#notice .fault"))


def test_words_are_highlighted_and_a_click_seeks(browse: Browse, recorder: str, tmp_path: Path) -> None:
    page = opened(browse, recorder)
    transcribed(page, recording(tmp_path, "words.wav", 220.0, 220.0))
    assert page.text("#view-title") == "words.wav"
    text = page.text(".words")
    page.wait(lambda: page.run("return document.querySelector('audio').readyState") > 0)
    # The middle of the last word.
    x, y = page.run(
        "const node = document.querySelector('.words').firstChild, range = document.createRange();"
        "range.setStart(node, node.length - 4); range.setEnd(node, node.length - 3);"
        "const {left, top, height, width} = range.getBoundingClientRect(); return [left + width / 2, top + height / 2]"
    )
    page.devtools("Input.dispatchMouseEvent", type="mousePressed", x=x, y=y, button="left", clickCount=1)
    page.devtools("Input.dispatchMouseEvent", type="mouseReleased", x=x, y=y, button="left", clickCount=1)
    page.wait(lambda: page.run(SPOKEN) == text.split()[-1].rstrip("."))
    assert page.run(TIME) > 9


def test_playback_follows_the_keyboard_and_the_speed(browse: Browse, recorder: str, tmp_path: Path) -> None:
    page = opened(browse, recorder)
    transcribed(page, recording(tmp_path, "keys.wav", 220.0, 220.0, 220.0))
    page.wait(lambda: page.run("return document.querySelector('audio').readyState") > 0)
    page.run("document.activeElement.blur()")
    page.key(RIGHT)
    page.wait(lambda: page.run(TIME) == 5)
    page.key(SPACE)
    page.wait(lambda: page.run(TIME) > 5.2)
    page.wait(lambda: page.run(SPOKEN))
    page.key(SPACE)
    page.wait(lambda: page.one("#play").get_attribute("aria-label") == "Play")
    page.run(
        "const field = document.getElementById('speed'); field.value = '1.5'; field.dispatchEvent(new Event('change'))"
    )
    assert page.run("return document.querySelector('audio').playbackRate") == 1.5
    page.driver.refresh()
    page.wait(lambda: page.run("return document.querySelector('audio')?.playbackRate") == 1.5)


def test_speakers_are_named_in_the_page_and_in_downloads(browse: Browse, recorder: str, tmp_path: Path) -> None:
    page = opened(browse, recorder)
    page.press(".options summary")
    page.press("#transcribe-speakers")
    job = transcribed(page, recording(tmp_path, "dialogue.wav", 220.0, 880.0, 220.0))
    assert [each.text for each in page.all(".speaker")] == ["Speaker A", "Speaker B", "Speaker A"]
    page.press(".speaker")
    page.wait_for("#speaker-name").send_keys("<b>Ada</b>", ENTER)
    page.wait(lambda: [each.text for each in page.all(".speaker")] == ["<b>Ada</b>", "Speaker B", "<b>Ada</b>"])
    page.driver.refresh()
    page.wait_for(".speaker", 3)
    assert page.text(".speaker") == "<b>Ada</b>"
    assert httpx.get(f"{recorder}/jobs/{job}/result?format=txt").text.startswith("<b>Ada</b>: ")


def test_search_marks_every_match(browse: Browse, recorder: str, tmp_path: Path) -> None:
    page = opened(browse, recorder)
    transcribed(page, recording(tmp_path, "search.wav", 220.0, 220.0, 220.0))
    count = page.text(".transcript").lower().count("heard")
    page.one("#search").send_keys("HEARD")
    page.wait(lambda: page.text(".search .count") == f"1 of {count}")
    page.one("#search").send_keys(ENTER)
    assert page.text(".search .count").startswith(f"{min(2, count)} of")
    assert page.run("return CSS.highlights.get('found').size") == count
    page.one("#search").send_keys("xyz")
    page.wait(lambda: page.text(".search .count") == "0 of 0")


def test_formats_are_downloaded_and_text_is_copied(browse: Browse, recorder: str, tmp_path: Path) -> None:
    page = opened(browse, recorder)
    job = transcribed(page, recording(tmp_path, "formats.wav", 220.0))
    page.devtools("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path / "downloads"))
    for format_ in ("txt", "srt", "vtt", "json", "tsv"):
        page.press(f"[data-format={format_}]")
        file = tmp_path / "downloads" / f"formats.{format_}"
        page.wait(file.exists)
        assert file.read_bytes() == httpx.get(f"{recorder}/jobs/{job}/result?format={format_}").content
    page.devtools("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    page.press("#copy")
    page.wait(lambda: page.text("#copy") == "Copied")


def test_deletion_can_be_undone_and_happens_when_the_page_is_left(
    browse: Browse, recorder: str, tmp_path: Path
) -> None:
    page = opened(browse, recorder)
    add(page, recording(tmp_path, "deleted.wav", 220.0))
    job = row(page, "deleted.wav", "done").get_attribute("data-job")
    page.press(f"[data-job={job}] [aria-label^=Delete]")
    assert not page.all(f"[data-job={job}]")
    page.press(".toast button")
    page.wait_for(f"[data-job={job}]")
    page.press(f"[data-job={job}] [aria-label^=Delete]")
    page.driver.refresh()
    page.wait(lambda: httpx.get(f"{recorder}/jobs/{job}").status_code == 404)


def test_running_job_shows_its_text_and_can_be_paused(serve: Serve, browse: Browse, tmp_path: Path) -> None:
    with serve("fake.delay=0.002") as server:
        page = opened(browse, server.url)
        add(page, recording(tmp_path, "long.wav", *[220.0] * 6))
        running = row(page, "long.wav", "running")
        job = running.get_attribute("data-job")
        page.press(f"[data-job={job}] [aria-label^=Pause]")
        row(page, "long.wav", "paused")
        page.press(f"[data-job={job}] [aria-label^=Continue]")
        row(page, "long.wav", "running")
        page.press(f"[data-job={job}] .open")
        page.wait(lambda: "heard" in page.text(".partial-text"), "there is no partial text")
        assert re.match(r"Transcribing · \d+\s%", page.text("#view-transcribe .meta"))
        # The transcript takes its place.
        page.wait_for(".transcript .words")


def test_upload_goes_on_after_a_lost_connection_and_a_reload(serve: Serve, browse: Browse, tmp_path: Path) -> None:
    # Larger than one request of the page.
    big = recording(tmp_path, "big.wav", *[220.0] * 60)
    assert big.stat().st_size > 17 << 20
    with serve() as server:
        page = opened(browse, server.url)
        page.allow_messages("uploads")
        throttled = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 6_000_000}
        page.devtools("Network.enable")
        page.devtools("Network.emulateNetworkConditions", **throttled)
        add(page, big)
        page.wait(lambda: "Uploading" in page.text("#uploads li"))
        page.wait(lambda: float(page.one("#uploads progress").get_attribute("value")) > 0.1)
        page.devtools("Network.emulateNetworkConditions", **{**throttled, "offline": True})
        page.wait_for("#uploads [data-state=lost]")
        page.devtools("Network.emulateNetworkConditions", **throttled)
        page.wait_for("#uploads [data-state=sending]")
        page.press("#uploads [aria-label^=Pause]")
        page.wait_for("#uploads [data-state=paused]")
        page.driver.refresh()
        assert "Choose the same file again" in page.wait_for("#uploads [data-state=fileless]").text
        page.devtools("Network.emulateNetworkConditions", **{**throttled, "uploadThroughput": -1})
        add(page, big)
        page.wait(lambda: not page.all("#uploads li"))
        job = page.wait_for("#jobs li").get_attribute("data-job")
        assert server.get(f"/jobs/{job}")["name"] == "big.wav"
        assert len(server.get("/jobs")["jobs"]) == 1


def test_key_is_asked_for_and_used_for_uploads_and_audio(serve: Serve, browse: Browse, tmp_path: Path) -> None:
    with serve("server.api_key=sesame") as server:
        page = browse("about:blank", ready=False)
        page.allow_messages("401")
        # The page's files need the key too, for which a browser prompts by itself.
        page.devtools("Network.enable")
        page.devtools("Network.setExtraHTTPHeaders", headers={"Authorization": "Bearer sesame"})
        page.open(f"{server.url}/#/transcribe", ready=False)
        page.wait_for("#status[data-state=ready]")
        page.wait_for("#choose")
        page.devtools("Network.setExtraHTTPHeaders", headers={})
        add(page, recording(tmp_path, "locked.wav", 220.0))
        page.wait(lambda: page.one("#key-value").is_displayed())
        page.one("#key-value").send_keys("sesame", ENTER)
        row(page, "locked.wav", "done").find_element("css selector", ".open").click()
        page.wait_for(".transcript .words")
        page.wait(lambda: page.run("return document.querySelector('audio').readyState") > 0)
        assert "&signature=" in page.run("return document.querySelector('audio').src")
        # A link that has expired is replaced, and playback goes on where it was.
        page.run("const now = Date.now; Date.now = () => now() + 60_000")
        page.run(
            "const audio = document.querySelector('audio');"
            "audio.src = audio.src.replace(/signature=.*/, 'signature=0'); audio.currentTime = 4"
        )
        page.wait(lambda: page.run("return document.querySelector('audio').readyState") > 0)
        assert page.run(TIME) == 4
        assert not page.run("return document.querySelector('audio').src").endswith("signature=0")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_transcript_fits_320_pixels(browse: Browse, recorder: str, tmp_path: Path, scheme: str) -> None:
    from browser.test_frame import COLOURS, CONTRAST, WIDE, contrast

    page: Page = opened(browse, recorder)
    page.devtools("Emulation.setDeviceMetricsOverride", width=320, height=640, deviceScaleFactor=1, mobile=True)
    page.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    page.press(".options summary")
    page.press("#transcribe-speakers")
    transcribed(page, recording(tmp_path, f"narrow-{scheme}-{'x' * 80}.wav", 220.0, 880.0))
    assert page.run(WIDE) == []
    for control in page.all("#view-transcribe :is(button, a, input, select)"):
        if control.is_displayed():
            assert control.accessible_name, control.get_attribute("outerHTML")
    pale = [each for each in page.run(COLOURS, "p, strong, span, a, label, button") if contrast(*each[1:]) < CONTRAST]
    assert pale == []
