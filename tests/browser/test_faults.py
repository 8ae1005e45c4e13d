"""The page's messages and behaviour on faults."""

from __future__ import annotations

import mimetypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from browser.conftest import ENTER, GRANTED, write_wav
from chatapi.interfaces.http.page import FOLDER

Browse = Callable[..., Any]
Serve = Callable[..., Any]


SEND_AT_ONCE = """
    const button = document.getElementById('mic');
    new MutationObserver((_, observer) => {
        if (!button.classList.contains('on')) return;
        observer.disconnect();
        button.click();
    }).observe(button, {attributeFilter: ['class']});
    button.focus();
"""
"""Sends the recording in the moment in which it begins, before a driver on a busy machine could."""


def fault(page: Any, code: str) -> str:
    """The text of the fault with this code, once it is shown."""
    return str(page.wait(lambda: page.text(f".fault[data-code={code}]")))


def test_damaged_history_is_reported(serve: Serve, browse: Browse, tmp_path: Path) -> None:
    (tmp_path / "data0").mkdir()
    (tmp_path / "data0" / "history.sqlite3").write_bytes(b"damaged" * 1000)
    with serve() as server:
        page = browse(server.url)
        assert "set it aside" in fault(page, "history_set_aside")
        page.ask("it answers all the same")
        page.answered()
        assert page.all("#warnings .fault")
        page.press("#warnings button")
        assert not page.all("#warnings .fault")


def test_denied_microphone_is_explained(browse: Browse, server: str) -> None:
    page = browse(server)
    page.devtools("Browser.setPermission", permission={"name": "microphone"}, setting="denied", origin=server)
    page.press("#mic")
    assert "Allow it" in fault(page, "microphone_denied")
    assert page.one("#field").is_displayed()


def test_insecure_address_is_explained(serve: Serve, browse: Browse) -> None:
    with serve("server.hosts=box.test,127.0.0.1") as server:
        url = server.url.replace("127.0.0.1", "box.test")
        page = browse(url, GRANTED, "--host-resolver-rules=MAP box.test 127.0.0.1")
        page.press("#mic")
        assert "https" in fault(page, "insecure")
        page.ask("typing still works")
        page.answered()
        assert not page.all("#notice .fault")


def test_recording_without_speech_is_explained(browse: Browse, server: str, tmp_path: Path) -> None:
    page = browse(server, GRANTED, microphone=write_wav(tmp_path / "silence.wav", np.zeros(48_000)))
    page.allow_messages("422")
    page.press("#mic")
    page.recorded(1)
    page.press("#mic")
    assert "microphone" in fault(page, "no_speech")


def test_too_short_recording_is_not_sent(page: Any) -> None:
    page.run(SEND_AT_ONCE)
    page.key(ENTER)
    assert "Hold" in fault(page, "too_short")
    assert not page.all(".message")


@contextmanager
def busy(url: str) -> Iterator[threading.Event]:
    """Keeps the server busy with another request until the event is set or the block ends."""
    question = {"prompt": " ".join(["word"] * 400), "max_tokens": 400, "stream": True}
    started, stop = threading.Event(), threading.Event()

    def send() -> None:
        with httpx.stream("POST", f"{url}/completion", json=question, timeout=60) as reply:
            for _ in reply.iter_bytes():
                started.set()
                if stop.is_set():
                    return

    sender = threading.Thread(target=send)
    sender.start()
    assert started.wait(30)
    try:
        yield stop
    finally:
        stop.set()
        sender.join(30)


def test_busy_server_is_retried(serve: Serve, browse: Browse) -> None:
    with serve("limits.concurrent=1", "limits.queue=0", "fake.delay=0.05") as server:
        page = browse(server.url)
        page.allow_messages("503")
        with busy(server.url) as stop:
            page.ask("is anybody there?")
            page.wait(lambda: "busy; trying again" in page.text(".answer .phase"))
            stop.set()
        assert "is anybody there?" in page.answered().text
        assert not page.all(".fault")


def test_retries_of_a_busy_server_can_be_stopped(serve: Serve, browse: Browse) -> None:
    with serve("limits.concurrent=1", "limits.queue=0", "fake.delay=0.05") as server:
        page = browse(server.url)
        page.allow_messages("503")
        with busy(server.url):
            page.ask("is anybody there?")
            page.wait(lambda: "trying again" in page.text(".answer .phase"))
            page.press("#stop")
            assert page.wait_for(".answer .aside").text == "Stopped."


def test_page_waits_while_models_load(serve: Serve, browse: Browse) -> None:
    # A browser may take longer to start than the models to load.
    page = browse("about:blank", ready=False)
    page.allow_messages("503")
    with serve("fake.delay=0.4", until="listening") as server:
        page.open(server.url, ready=False)
        page.wait_for("#status[data-state=warming]")
        assert page.text("#status") == "Warming up"
        page.wait_for("#status[data-state=ready]")


def test_failure_midway_is_shown_in_place_of_the_answer(serve: Serve, browse: Browse) -> None:
    with serve("fake.fault=raise") as server:
        page = browse(server.url)
        page.ask("hello")
        page.wait_for(".answer .fault")
        assert "Try again" in page.text(".answer .fault")
        page.press(".answer .fault .ways button")
        page.wait_for(".answer .fault")
        assert len(page.all(".answer")) == 1


def test_lost_connection_is_reported_and_can_be_retried(serve: Serve, browse: Browse) -> None:
    with serve("fake.delay=0.1") as server:
        page = browse(server.url)
        page.allow_messages("ERR_")
        page.ask(" ".join(["word"] * 100))
        page.wait(lambda: page.all(".answer .text") and page.text(".answer .text"))
        server.kill()
        assert "The part that arrived" in fault(page, "broken_off")
        page.press(".answer .fault .ways button")
        assert "same network" in fault(page, "unreachable")
        page.wait_for("#status[data-state=offline]")
        assert page.run("return document.querySelector('.fault use').getBBox().width > 0"), "the icon is not there"


def test_stopped_server_is_shown_as_offline(serve: Serve, browse: Browse) -> None:
    with serve() as server:
        page = browse(server.url)
        page.allow_messages("ERR_")
        server.kill()
        page.wait_for("#status[data-state=offline]")
        assert page.text("#status") == "The box cannot be reached"


def test_text_field_has_the_limit_of_the_server(serve: Serve, browse: Browse) -> None:
    with serve("limits.prompt_chars=20") as server:
        page = browse(server.url)
        page.wait(lambda: page.run("return document.getElementById('prompt').maxLength") == 20)
        page.one("#prompt").send_keys("x" * 30)
        assert "left out" in fault(page, "field_full")
        page.one("#prompt").send_keys(ENTER)
        page.answered()
        assert not page.all(".fault")
        assert page.text(".question .text") == "x" * 20


def test_too_long_question_is_reported_and_put_back(serve: Serve, browse: Browse) -> None:
    with serve("llama_cpp.context=300") as server:
        page = browse(server.url)
        page.allow_messages("413")
        question = "word " * 299 + "word"
        page.ask(question)
        words = fault(page, "prompt_too_long")
        assert "context has 300" in words
        assert "Try again" not in words
        assert page.one("#prompt").get_attribute("value") == question


def test_api_key_is_prompted_for_and_stored(serve: Serve, browse: Browse) -> None:
    with serve("server.api_key=sesame") as server:
        page = browse("about:blank", ready=False)
        page.allow_messages("401")
        # The page's files may need the key too, for which a browser prompts by itself.
        page.devtools("Network.enable")
        page.devtools("Network.setExtraHTTPHeaders", headers={"Authorization": "Bearer sesame"})
        page.open(server.url)
        page.devtools("Network.setExtraHTTPHeaders", headers={})
        page.ask("hello")
        for entered, message in (("wrong", "The owner of this box"), ("sesame", "not accepted")):
            page.wait(lambda message=message: page.all("dialog#key[open]") and message in page.text("#key-words"))
            page.one("#key-value").send_keys(entered)
            if entered == "sesame":
                page.press("#key-remember")
            page.press("#key-enter")
        page.answered()
        assert page.run("return localStorage.getItem('chatapi.key')") == "sesame"
        page.press("#open-options")
        page.press("#forget-key")
        assert page.run("return localStorage.getItem('chatapi.key')") is None


def test_api_key_of_the_browser_prompt_is_enough(serve: Serve, browse: Browse) -> None:
    with serve("server.api_key=sesame") as server:
        page = browse(server.url.replace("http://", "http://anybody:sesame@"))
        page.ask("hello")
        page.answered()
        assert not page.all("dialog[open]")


class CaptivePortal(BaseHTTPRequestHandler):
    """Serves the page, but answers every other request itself, like captive portals and some proxies."""

    def do_GET(self) -> None:
        file = FOLDER / "index.html" if self.path == "/" else FOLDER / self.path.removeprefix("/page/")
        found = file.is_file()
        self._reply(mimetypes.guess_type(file.name)[0] or "text/plain", file.read_bytes() if found else b"{}")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._reply("text/html", b"<h1>Please sign in</h1>")

    def _reply(self, media_type: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Logs nothing."""


def test_response_of_another_server_is_reported(browse: Browse) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), CaptivePortal) as portal:
        serving = threading.Thread(target=portal.serve_forever)
        serving.start()
        try:
            page = browse(f"http://127.0.0.1:{portal.server_port}")
            page.ask("hello")
            assert "instead" in fault(page, "not_events")
        finally:
            portal.shutdown()
            serving.join()
