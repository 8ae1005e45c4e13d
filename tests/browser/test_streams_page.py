"""The view Streams: places with state, spectrogram and coverage, a whole round of moderation, mutes and new places."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from browser.conftest import serving
from hls_tree_server import TreeServer, segment, serving_trees

Browse = Callable[..., Any]
LOUD, QUIET, OTHER = segment(10, 3000, 0.3), segment(10, 0, 0.0005), segment(10, 700, 0.3)
PLACE = "rpi_orcasound_lab"
BRIGHT = """
    const canvas = document.querySelector(arguments[0]);
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    return data.filter((each, index) => index % 4 === 0 && each > 200).length;
"""
"""Number of bright pixels of a canvas."""
WANTED = {
    "hls_hydrophone_id": PLACE, "hls_stream_type": "LiveHLS",
    "inference_segment_size": 60, "hls_live_delay_buffer": 100,
}  # fmt: skip


@pytest.fixture
def trees() -> Iterator[TreeServer]:
    with serving_trees() as served:
        yield served


@pytest.fixture(scope="module")
def streams_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    data = tmp_path_factory.mktemp("streams") / "data"
    with serving(data, "sound_detector.engine=fake", "monitoring.private_urls=true") as running:
        yield running.url


def fill(trees: TreeServer, *contents: bytes | None, ago: float = 12) -> None:
    """A live place whose last segments are these; the last one ended some seconds ago."""
    folder = trees.folder(PLACE, time.time() - 10 * len(contents) - 2 - ago)
    for each in contents:
        folder.add(each)


def opened(browse: Browse, server: str) -> Any:
    page = browse("about:blank", ready=False)
    page.open(f"{server}/#/streams", ready=False)
    page.wait_for("#status[data-state=ready]")
    page.wait_for(".streams-add")
    return page


def click(page: Any, selector: str) -> None:
    page.wait_for(selector)
    page.run("document.querySelector(arguments[0]).click()", selector)


def card(state: str = "") -> str:
    return f".streams-detections .streams-card{f'[data-state={state}]' if state else ''}"


def detections(server: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = httpx.get(f"{server}/detections").json()["detections"]
    return found


def test_a_place_is_added_watched_and_its_detections_are_moderated(
    browse: Browse, streams_server: str, trees: TreeServer
) -> None:
    page = opened(browse, streams_server)
    page.allow_messages("willReadFrequently")
    # Nothing is monitored yet, so the form is open.
    page.wait(lambda: page.run("return document.querySelector('.streams-add').open"))
    fill(trees, QUIET, QUIET, LOUD, QUIET, QUIET, QUIET)
    page.one("[name=id]").send_keys(PLACE)
    page.one("[name=name]").send_keys("Made <b>Bay")
    page.one("[name=base]").send_keys(trees.base)
    click(page, ".streams-form [type=submit]")
    page.wait(lambda: page.all(".streams-places h3") and page.text(".streams-places h3") == "Made <b>Bay")
    page.wait_for(".streams-is-live")
    page.wait(lambda: page.run("return document.querySelector('.streams-spectrum').dataset.columns") is not None)
    page.wait(lambda: page.run(BRIGHT, ".streams-spectrum") > 20)

    page.wait_for(card("unreviewed"))
    [found] = detections(streams_server)
    # Pictures are fetched when they come into view.
    page.run("document.querySelector('.streams-picture').scrollIntoView()")
    page.wait_for(".streams-picture[data-drawn]")
    assert page.run(BRIGHT, ".streams-picture") > 1000
    click(page, ".streams-play")
    played = f"return Number(document.querySelector('{card()}').dataset.played || 0)"
    page.wait(lambda: page.run(played) > 0.2)
    click(page, ".streams-play")

    click(page, ".streams-reject")
    page.wait_for(card("negative"))
    page.one(".streams-fields [name=tags]").send_keys("winch, <i>boat\n")
    page.wait(lambda: detections(streams_server)[0]["tags"] == ["winch", "<i>boat"])
    assert detections(streams_server)[0]["state"] == "negative"
    # The same verdict again takes it back.
    click(page, ".streams-reject")
    page.wait_for(card("unreviewed"))
    click(page, ".streams-confirm")
    page.wait_for(card("positive"))
    click(page, '[data-filter="positive"]')
    page.wait(lambda: page.text('[data-filter="positive"]') == "Confirmed (1)")
    assert page.run("return document.querySelector('.streams-fields [name=tags]').value") == "winch, <i>boat"
    click(page, ".streams-reject")
    page.wait_for(card("negative"))
    record = f"{streams_server}/detections/{found['id']}/record"
    page.wait(lambda: httpx.get(record).json().get("SRKWFound") == "no")

    click(page, ".streams-mute:not([hidden])")
    page.wait_for(".streams-mutes li")
    assert found["name"] in page.text(".streams-mutes li")
    click(page, ".streams-mutes button")
    page.wait(lambda: not page.all(".streams-mutes li"))

    click(page, '[data-act="pause"]')
    page.wait_for(".streams-is-paused")
    page.run("window.confirm = () => true")
    click(page, '[data-act="remove"]')
    page.wait(lambda: not page.all(".streams-places > li"))
    assert httpx.get(f"{streams_server}/monitors").json()["monitors"] == []


def test_gaps_are_named_and_a_fault_of_the_form_is_explained(browse: Browse, serve: Any, trees: TreeServer) -> None:
    settings = ("sound_detector.engine=fake", "monitoring.private_urls=true")
    with serve(*settings) as running:
        # The missing segment is old enough to be given up at once.
        fill(trees, QUIET, None, QUIET, b"damaged", QUIET, ago=105)
        wanted = {**WANTED, "hls_base_url": trees.base}
        assert httpx.post(f"{running.url}/monitors", json=wanted).status_code == 201
        page = opened(browse, running.url)
        page.wait_for(".streams-bar rect.streams-missing")
        page.wait_for(".streams-words details")
        page.run("document.querySelector('.streams-words details').open = true")
        words = page.text(".streams-words")
        assert "damaged" in words and "gap" in words
        click(page, '[data-span="week"]')
        page.wait(lambda: page.run("return document.querySelector('[data-span=week]').ariaPressed") == "true")
        page.allow_messages(r"/monitors .* 409")
        page.run("document.querySelector('.streams-add').open = true")
        page.one("[name=id]").send_keys(PLACE)
        page.one("[name=base]").send_keys(trees.base)
        click(page, ".streams-form [type=submit]")
        page.wait(lambda: "monitored already" in page.text("#notice"))
