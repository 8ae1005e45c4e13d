"""Voices and voice conversion over HTTP and on the command line, on the fake engine."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from chatapi.audio import RATE, Audio, Samples, wav
from chatapi.audio.decode import decode
from chatapi.auth import add as add_key
from conftest import RunningServer, encode_audio, tone
from test_cli import run

CONSENT = "my own voice"
SOURCE = wav(Audio(tone(1.5, 440), RATE))


def clip(seconds: float = 4, hertz: float = 880, level: float = 0.3) -> bytes:
    pause = np.zeros(RATE // 2, np.float32)
    return wav(Audio(np.concatenate([pause, tone(seconds, hertz, level=level), pause]), RATE))


def files(*contents: bytes, part: str = "clips") -> list[tuple[str, tuple[str, bytes, str]]]:
    return [(part, (f"{number}.wav", each, "audio/wav")) for number, each in enumerate(contents)]


def add(server: RunningServer, name: str, *contents: bytes, consent: str = CONSENT, key: str = "") -> httpx.Response:
    headers = {"X-API-Key": key} if key else {}
    texts = {"name": name, "consent": consent}
    reply: httpx.Response = server.client.post("/voices", data=texts, files=files(*contents), headers=headers)
    return reply


def hertz(content: bytes) -> float:
    """The loudest frequency of a WAV file."""
    samples = decode(content).samples
    return float(np.argmax(np.abs(np.fft.rfft(samples)))) * RATE / len(samples)


@pytest.fixture
def voice(shared_server: RunningServer) -> Iterator[dict[str, Any]]:
    reply = add(shared_server, "high", clip(), clip(2))
    assert reply.status_code == 201, reply.text
    yield reply.json()
    shared_server.client.delete(f"/voices/{reply.json()['id']}")


def test_an_added_voice_is_listed_exported_and_deleted(shared_server: RunningServer, voice: dict[str, Any]) -> None:
    client = shared_server.client
    assert voice["consent"] == CONSENT and [each["name"] for each in voice["clips"]] == ["0.wav", "1.wav"]
    assert voice["quality"]["seconds"] == 8 and 6 <= voice["quality"]["speech_seconds"] <= 7.5
    assert -15 < voice["quality"]["level_db"] < -11 and voice["quality"]["noise_db"] < -60
    assert client.get("/voices").json()["voices"] == [voice]
    assert client.get("/voices/high").json() == client.get(f"/voices/{voice['id']}").json() == voice
    with zipfile.ZipFile(io.BytesIO(client.get("/voices/high/export").content)) as archive:
        assert json.loads(archive.read("voice.json"))["name"] == "high"
        assert np.load(io.BytesIO(archive.read("reference.npy"))).dtype == np.float16
    assert client.delete("/voices/high").status_code == 204
    assert client.get("/voices/high").json()["code"] == "unknown_voice"
    assert not list((shared_server.appliance.settings.data / "voices").iterdir())


def test_a_recording_is_converted_whole_and_streamed(shared_server: RunningServer, voice: dict[str, Any]) -> None:
    source = files(SOURCE, part="source")
    whole = shared_server.client.post("/conversions", data={"voice": "high"}, files=source)
    assert whole.status_code == 200, whole.text
    streamed = shared_server.client.post("/conversions", data={"voice": "high", "stream": "true"}, files=source)
    for reply in (whole, streamed):
        assert reply.headers["content-type"] == "audio/wav"
        assert len(decode(reply.content).samples) == 1.5 * RATE and hertz(reply.content) == pytest.approx(880, abs=5)
        assert b"LIST" in reply.content[:60] and b"ICMT" in reply.content[:60]
        assert b"converted speech, voice high, chatapi " in reply.content[:200]
    assert len(whole.content) == int.from_bytes(whole.content[4:8], "little") + 8
    assert "content-length" not in streamed.headers


def test_clips_of_the_request_are_its_voice(shared_server: RunningServer) -> None:
    form = files(SOURCE, part="source") + files(clip(hertz=1200), clip(hertz=1200), part="targets")
    reply = shared_server.client.post("/conversions", data={"consent": CONSENT}, files=form)
    assert reply.status_code == 200 and hertz(reply.content) == pytest.approx(1200, abs=5), reply.text
    refused = shared_server.client.post("/conversions", files=form)
    assert (refused.status_code, refused.json()["code"]) == (422, "consent_required")


def test_silence_stays_silent(shared_server: RunningServer, voice: dict[str, Any]) -> None:
    silence = files(wav(Audio(np.zeros(RATE, np.float32), RATE)), part="source")
    reply = shared_server.client.post("/conversions", data={"voice": "high"}, files=silence)
    assert not decode(reply.content).samples.any()


CLICK = np.zeros(4 * RATE, np.float32)
CLICK[RATE] = 0.9


@pytest.mark.parametrize(
    ("contents", "consent", "code"),
    [
        ((clip(),), " ", "consent_required"),
        ((), CONSENT, "missing_clips"),
        ((b"",), CONSENT, "bad_audio"),
        ((b"no audio at all",), CONSENT, "bad_audio"),
        ((clip(), wav(Audio(np.zeros(4 * RATE, np.float32), RATE))), CONSENT, "silent_clip"),
        ((wav(Audio(CLICK, RATE)),), CONSENT, "no_speech"),
        ((clip(1),), CONSENT, "voice_too_short"),
        ((clip(601),), CONSENT, "voice_too_long"),
        ((wav(Audio(tone(1300, 880, 8000), 8000)),), CONSENT, "audio_too_long"),
    ],
    ids=["consent", "none", "empty", "text", "silent", "click", "short", "long", "very_long"],
)
def test_unusable_clips_are_rejected_by_name(
    shared_server: RunningServer, contents: tuple[bytes, ...], consent: str, code: str
) -> None:
    texts = {"name": "bad", "consent": consent}
    # A form without a file would be sent as application/x-www-form-urlencoded.
    form: list[Any] = [*files(*contents)] or [("name", (None, b"bad", ""))]
    reply = shared_server.client.post("/voices", data=texts if contents else {"consent": consent}, files=form)
    assert reply.json()["code"] == code and 400 <= reply.status_code < 500, reply.text
    assert shared_server.client.get("/voices").json()["voices"] == []


def test_a_quiet_clip_is_used_with_a_warning(shared_server: RunningServer) -> None:
    reply = add(shared_server, "quiet", clip(level=0.004))
    assert reply.status_code == 201, reply.text
    assert {"quiet", "short"} <= set(reply.json()["quality"]["warnings"])
    shared_server.client.delete("/voices/quiet")


def test_two_speakers_and_clipping_are_warned_of(shared_server: RunningServer) -> None:
    clipped: Samples = np.clip(tone(4, 3000, level=3.0), -1, 1)
    reply = add(shared_server, "two", clip(8, 220), wav(Audio(np.tile(clipped, 2), RATE)))
    assert reply.status_code == 201, reply.text
    assert {"several_speakers", "clipped"} <= set(reply.json()["quality"]["warnings"]), reply.text
    assert reply.json()["quality"]["speakers"] == 2
    shared_server.client.delete("/voices/two")


def test_a_name_is_given_once(shared_server: RunningServer, voice: dict[str, Any]) -> None:
    reply = add(shared_server, "high", clip())
    assert (reply.status_code, reply.json()["code"]) == (409, "voice_exists")


def test_unknown_voice_and_unknown_parts_are_rejected(shared_server: RunningServer) -> None:
    source = files(SOURCE, part="source")
    for texts, status, code in (
        ({"voice": "nobody's"}, 404, "unknown_voice"),
        ({}, 422, "missing_voice"),
        ({"voice": "x", "speed": "2"}, 422, "invalid_value"),
    ):
        reply = shared_server.client.post("/conversions", data=texts, files=source)
        assert (reply.status_code, reply.json()["code"]) == (status, code)
    reply = shared_server.client.post("/conversions", data={"voice": "x"}, files=files(clip()))
    assert reply.json()["code"] == "missing_file"


def test_the_command_line_adds_converts_and_removes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "clip.wav").write_bytes(clip())
    (tmp_path / "in.wav").write_bytes(SOURCE)
    data = tmp_path / "data"
    fake = [option for role in ("voice_converter", "vad", "speaker") for option in ("--set", f"{role}.engine=fake")]
    assert run(*fake, "voices", "add", "high", str(tmp_path / "clip.wav"), data=data) == 2
    assert "consent is missing" in capsys.readouterr().err
    assert run(*fake, "voices", "add", "high", str(tmp_path / "clip.wav"), "--consent", CONSENT, data=data) == 0
    assert run(*fake, "voices", "list", data=data) == 0
    assert capsys.readouterr().out.count("high  ") == 2
    output = tmp_path / "out.wav"
    assert run(*fake, "convert", str(tmp_path / "in.wav"), "--voice", "high", "-o", str(output), data=data) == 0
    assert hertz(output.read_bytes()) == pytest.approx(880, abs=5) and b"ICMT" in output.read_bytes()[:60]
    assert run("voices", "export", "high", "-o", str(tmp_path / "high.zip"), data=data) == 0
    assert zipfile.is_zipfile(tmp_path / "high.zip")
    assert run("voices", "remove", "high", data=data) == 0
    assert run("voices", "show", "high", data=data) == 2


def test_a_key_sees_its_own_voices(secured_voices: tuple[RunningServer, str, str]) -> None:
    server, mine, other = secured_voices
    assert add(server, "mine", clip(), key=mine).status_code == 201
    for key, status, count in ((mine, 200, 1), (other, 404, 0)):
        headers = {"X-API-Key": key}
        assert server.client.get("/voices/mine", headers=headers).status_code == status
        assert len(server.client.get("/voices", headers=headers).json()["voices"]) == count
        form = files(SOURCE, part="source")
        reply = server.client.post("/conversions", data={"voice": "mine"}, files=form, headers=headers)
        assert reply.status_code == status
    assert server.client.delete("/voices/mine", headers={"X-API-Key": other}).status_code == 404


@pytest.fixture
def secured_voices(fake_settings: Any) -> Iterator[tuple[RunningServer, str, str]]:
    from conftest import serving

    chosen = fake_settings()
    keys = [add_key(chosen.data, name, ["voices"]) for name in ("one", "two")]
    with serving(chosen) as running:
        yield running, keys[0], keys[1]


def test_sources_and_clips_of_every_kind_give_a_sensible_result(shared_server: RunningServer) -> None:
    """Source and clip the same; telephone quality; half of a file."""
    flac = encode_audio(tone(4, 880), RATE, "flac", "flac")
    for source, target in (
        (clip(), clip()),
        (encode_audio(tone(1.5, 440, 8000), 8000, "pcm_mulaw"), wav(Audio(tone(4, 880, 8000), 8000))),
        (flac[: len(flac) // 2], encode_audio(tone(8, 880), RATE, "flac", "flac")),
    ):
        form = [*files(source, part="source"), *files(target, part="targets")]
        reply = shared_server.client.post("/conversions", data={"consent": CONSENT}, files=form)
        assert reply.status_code == 200, reply.text
        assert hertz(reply.content) == pytest.approx(880, abs=5)


def test_ten_targets_of_ten_minutes_are_rejected_before_work(shared_server: RunningServer) -> None:
    target = encode_audio(tone(600, 880, 8000), 8000, "flac", "flac")
    form = [*files(SOURCE, part="source"), *files(*[target] * 10, part="targets")]
    reply = shared_server.client.post("/conversions", data={"consent": CONSENT}, files=form)
    assert reply.status_code == 413 and reply.json()["code"] == "audio_too_long", reply.text


def test_the_quality_of_clips_is_told_and_nothing_stored(shared_server: RunningServer) -> None:
    reply = shared_server.client.post("/voices/quality", files=files(clip(35), clip(2)))
    assert reply.status_code == 200 and reply.json()["warnings"] == [], reply.text
    assert 36 <= reply.json()["speech_seconds"] <= 38
    assert shared_server.client.get("/voices").json()["voices"] == []
    reply = shared_server.client.post("/voices/quality", files=files(clip(1)))
    assert (reply.status_code, reply.json()["code"]) == (422, "voice_too_short")
