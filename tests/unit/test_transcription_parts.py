"""Parts of recordings, cut at pauses without loss; recordings at a URL, fetched from checked addresses only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from chatapi.audio import RATE, Samples
from chatapi.errors import BadInput, NotFound, TooLarge, Unprocessable, WaitAndRetry
from chatapi.services.transcription import parts, url_source
from chatapi.services.transcription.segmenter import FRAME
from chatapi.services.transcription.url_source import UrlRules
from conftest import tone
from file_server import serve_files

BLOCK = 4801
"""Samples of a block; no multiple of a frame."""


def loud(samples: Samples) -> Sequence[float]:
    """The detector of the tests: loudness is speech."""
    return [float(np.abs(samples[at : at + FRAME]).max() > 0.01) for at in range(0, len(samples), FRAME)]


def blocks(samples: Samples) -> list[Samples]:
    return [samples[at : at + BLOCK] for at in range(0, len(samples), BLOCK)]


def speech(seconds: float) -> Samples:
    """Tones of 9 s, each followed by pauses of 0.3 s and 1 s."""
    unit = [tone(4), np.zeros(int(0.3 * RATE), np.float32), tone(5), np.zeros(RATE, np.float32)]
    whole = np.concatenate(unit * (1 + int(seconds / 10.3)))
    return np.asarray(whole[: int(seconds * RATE)], np.float32)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART_SECONDS", 25.0)
    monkeypatch.setattr(parts, "SEARCH_SECONDS", 15.0)


@pytest.mark.parametrize("seconds", [0, 0.01, 24.99, 25, 25.01, 200])
def test_parts_are_the_whole_recording_and_end_in_pauses(seconds: float) -> None:
    recording = speech(seconds)
    found = list(parts.cut(iter(blocks(recording)), loud))
    assert np.array_equal(np.concatenate([each.samples for each in found]), recording)
    assert [each.last for each in found] == [False] * (len(found) - 1) + [True]
    assert [each.start for each in found] == [0, *(each.end for each in found[:-1])]
    for each in found[:-1]:
        assert 9 * RATE <= len(each.samples) <= 25 * RATE
        # The longer pause, and its middle.
        assert not recording[each.end - RATE // 3 : each.end + RATE // 3].any()


def test_parts_after_a_restart_are_those_of_one_run() -> None:
    recording = speech(120)
    whole = list(parts.cut(iter(blocks(recording)), loud))
    assert len(whole) > 4
    for number, each in enumerate(whole):
        rest = list(parts.cut(iter(blocks(recording)), loud, each.start))
        assert [(part.start, part.end, part.last) for part in rest] == [
            (part.start, part.end, part.last) for part in whole[number:]
        ]


def test_speech_without_a_pause_is_cut_where_it_is_least_likely() -> None:
    recording = tone(60)

    def likely(samples: Samples) -> Sequence[float]:
        found = np.full(-(-len(samples) // FRAME), 0.9)
        found[100:105] = 0.6
        return list(found)

    first = next(parts.cut(iter(blocks(recording)), likely))
    assert first.end == 10 * RATE + 102 * FRAME


def test_a_recording_is_fetched_through_redirects(tmp_path: Path) -> None:
    rules, target = UrlRules(private=True, most_bytes=1000, most_seconds=60), tmp_path / "source"
    with serve_files() as files:
        url = files.put("a", bytes(900))
        files.put("moved", b"", location=url)
        seen: list[tuple[int, int]] = []
        url_source.fetch(f"{files.address}/moved", target, rules, lambda *count: seen.append(count))
        assert target.read_bytes() == bytes(900) and seen[-1] == (900, 900)
        files.put("round", b"", location=f"{files.address}/round")
        with pytest.raises(BadInput, match="redirects"):
            url_source.fetch(f"{files.address}/round", target, rules, lambda *_: None)
        with pytest.raises(NotFound):
            url_source.fetch(f"{files.address}/none", target, rules, lambda *_: None)
        files.put("large", bytes(1001), stated=-1)
        with pytest.raises(TooLarge):
            url_source.fetch(f"{files.address}/large", target, rules, lambda *_: None)
        files.put("cut", bytes(range(200)), cuts=[100])
        url_source.fetch(f"{files.address}/cut", target, rules, lambda *_: None)
        assert target.read_bytes() == bytes(range(200))
        files.put("busy", bytes(900), statuses=[503])
        with pytest.raises(WaitAndRetry):
            url_source.fetch(f"{files.address}/busy", target, rules, lambda *_: None)


def test_a_redirect_to_a_private_address_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The only addresses that a test can reach are this machine's: one of them stands for a public one.
    monkeypatch.setattr(url_source, "is_public", lambda address: address == "127.0.0.1")
    rules = UrlRules(private=False, most_bytes=1000, most_seconds=60)
    with serve_files() as files:
        port = files.address.rpartition(":")[2]
        files.put("secret", b"secret")
        for host in ("127.0.0.2", "[::1]", "169.254.169.254"):
            files.put("moved", b"", location=f"http://{host}:{port}/secret")
            with pytest.raises(Unprocessable) as caught:
                url_source.fetch(f"{files.address}/moved", tmp_path / "source", rules, lambda *_: None)
            assert caught.value.code == "url_not_public"
        assert {path for path, _ in files.requests} == {"moved"}
        files.put("moved", b"", location="file:///etc/passwd")
        with pytest.raises(Unprocessable):
            url_source.fetch(f"{files.address}/moved", tmp_path / "source", rules, lambda *_: None)
