"""whisper-asr-webservice's API on a real model: the request sequences of Bazarr, of subgen's clients and of Speakr."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator

import httpx
import numpy as np
import pytest

from asr_webservice_port import asr_serving
from chatapi import auth
from chatapi.audio import RATE, Audio, wav
from chatapi.audio.decode import decode
from chatapi.errors import SettingsError
from chatapi.interfaces.asr_webservice.port import open_port
from chatapi.interfaces.asr_webservice.requests import wav_header
from chatapi.settings import Settings
from conftest import RunningServer, encode_audio, installed_model, serving, tone
from paths import ROOT

RECORDING = ROOT / "tests/corpus/real/beckett-12.flac"
CLIPS = ("two_cities-00", "two_cities-01", "jfk-16", "jfk-18", "two_cities-07")
CLOCK = r"\d\d:\d\d:\d\d[,.]\d{3}"


@pytest.fixture(scope="module")
def client(real_server: RunningServer) -> Iterator[httpx.Client]:
    with asr_serving(real_server) as found:
        yield found


@pytest.fixture(scope="module")
def audio() -> bytes:
    return RECORDING.read_bytes()


@pytest.fixture(scope="module")
def dialogue() -> bytes:
    """Two people in turns: the first, the second, the first."""
    installed_model("resemblyzer")
    pause = np.zeros(RATE // 2, np.float32)
    clips = [decode(ROOT / f"tests/corpus/real/{name}.flac").samples for name in CLIPS]
    return wav(Audio(np.concatenate([part for clip in clips for part in (clip, pause)]), RATE))


@pytest.fixture(scope="module")
def samples(audio: bytes) -> bytes:
    """The recording as Bazarr sends it: 16-bit samples without a header."""
    return (decode(audio).samples * 32767).astype(np.int16).tobytes()


@pytest.mark.real
def test_bazarr_detects_the_language_and_gets_subtitles(client: httpx.Client, samples: bytes) -> None:
    files = {"audio_file": samples}
    detected = client.post("/detect-language", params={"encode": "false"}, files=files)
    found = detected.json()
    assert (found["language_code"], found["detected_language"]) == ("en", "english")
    assert 0 < found["confidence"] <= 1
    query = {"task": "transcribe", "language": "en", "output": "srt", "encode": "false", "video_file": "/films/x.mkv"}
    subtitles = client.post("/asr", params=query, files=files)
    assert subtitles.status_code == 200 and subtitles.headers["content-type"].startswith("text/plain")
    assert re.match(rf"1\n{CLOCK} --> {CLOCK}\nEver tried,", subtitles.text)
    assert subtitles.headers["x-chatapi-ignored"] == "video_file"
    # This model hears English only.
    query["task"] = "translate"
    translated = client.post("/asr", params=query, files=files)
    assert translated.status_code == 422 and "cannot translate" in translated.json()["detail"]


@pytest.mark.real
def test_clients_of_subgen_send_files_and_raw_samples(client: httpx.Client, audio: bytes, samples: bytes) -> None:
    files = {"audio_file": ("audio", audio, "application/octet-stream")}
    detected = client.post("/detect-language", params={"detect_lang_length": 30, "detect_lang_offset": 0}, files=files)
    assert detected.json()["language_code"] == "en"
    query = {"task": "transcribe", "language": "en", "initial_prompt": "A play.", "output": "srt"}
    for encode, content in (("true", audio), ("false", samples), ("false", wav_header(len(samples)) + samples)):
        response = client.post(
            "/asr", params={**query, "encode": encode, "word_timestamps": "false"}, files={"audio_file": content}
        )
        assert "Ever tried" in response.text and "failed" in response.text
    assert client.get("/status").json()["version"].startswith("chatapi")


@pytest.mark.real
def test_speakr_gets_json_with_speakers(client: httpx.Client, dialogue: bytes) -> None:
    query = {"encode": True, "task": "transcribe", "output": "json", "language": "en", "initial_prompt": "A play."}
    files = {"audio_file": ("meeting.wav", dialogue, "audio/wav")}
    assert client.get("/health").status_code < 500 and client.get("/v1/models").status_code == 404
    asked = {**query, "diarize": True, "enable_diarization": True, "min_speakers": 1, "max_speakers": 4}
    labelled = client.post("/asr", params=asked, files=files)
    assert labelled.status_code == 200 and "x-chatapi-ignored" not in labelled.headers
    document = json.loads(labelled.text)
    assert "speakers_error" not in document and document["language"] == "en"
    speakers = [name for name, _ in itertools.groupby(each["speaker"] for each in document["segments"])]
    assert speakers == ["SPEAKER_00", "SPEAKER_01", "SPEAKER_00"]
    assert all(word["speaker"] == each["speaker"] for each in document["segments"] for word in each["words"])
    assert " ".join(each["text"].strip() for each in document["segments"]) == document["text"]
    assert "best of times" in document["segments"][0]["text"].lower()
    single = json.loads(client.post("/asr", params={**asked, "max_speakers": 1}, files=files).text)
    assert {each["speaker"] for each in single["segments"]} == {"SPEAKER_00"}
    without = json.loads(client.post("/asr", params={**query, "diarize": False}, files=files).text)
    assert re.findall(r"\w+", without["text"].lower())[:6] == ["it", "was", "the", "best", "of", "times"]
    assert not any("speaker" in each for each in without["segments"])


@pytest.mark.real
def test_speakers_in_captions_and_none_in_text_as_whisperx_writes_them(client: httpx.Client, dialogue: bytes) -> None:
    def asked(output: str) -> str:
        query = {"output": output, "language": "en", "diarize": "true"}
        return client.post("/asr", params=query, files={"audio_file": dialogue}).text

    for output in ("srt", "vtt"):
        captions = re.findall(rf"{CLOCK} --> {CLOCK}\n(.*)\n", asked(output))
        assert captions[0].startswith("[SPEAKER_00]: ") and any(each.startswith("[SPEAKER_01]: ") for each in captions)
    for output in ("txt", "tsv"):
        assert "best of times" in (text := asked(output)).lower() and "SPEAKER" not in text


@pytest.mark.real
@pytest.mark.parametrize(
    ("output", "pattern"),
    [
        ("txt", r"Ever tried, ever failed\.\n"),
        ("vtt", rf"WEBVTT\n\n({CLOCK} --> {CLOCK}\n[^\n]+\n\n)+"),
        ("srt", rf"(\d\n{CLOCK} --> {CLOCK}\n[^\n]+\n\n)+"),
        ("tsv", r"start\tend\ttext\n(\d+\t\d+\t[^\t\n]+\n)+"),
        ("json", r"\{.*\}"),
    ],
)
def test_every_output(client: httpx.Client, audio: bytes, output: str, pattern: str) -> None:
    response = client.post(
        "/asr", params={"output": output, "word_timestamps": "true"}, files={"audio_file": ("a b.flac", audio)}
    )
    assert re.fullmatch(pattern, response.text)
    assert response.headers["content-disposition"] == f'attachment; filename="a%20b.flac.{output}"'
    assert response.headers["asr-engine"] == "ctranslate2"
    if output == "json":
        words = [word["word"] for each in response.json()["segments"] for word in each["words"]]
        assert [each.strip(" ,.") for each in words] == ["Ever", "tried", "ever", "failed"]


@pytest.mark.parametrize(
    ("path", "query", "files", "status"),
    [
        ("/asr", {"output": "pdf"}, {"audio_file": b"x"}, 422),
        ("/asr", {"task": "sing"}, {"audio_file": b"x"}, 422),
        ("/asr", {"language": "xx"}, {"audio_file": b"x"}, 422),
        ("/asr", {"diarize": "maybe"}, {"audio_file": b"x"}, 422),
        ("/asr", {"min_speakers": "0"}, {"audio_file": b"x"}, 422),
        ("/asr", {"max_speakers": "101"}, {"audio_file": b"x"}, 422),
        ("/asr", {"min_speakers": "3", "max_speakers": "2"}, {"audio_file": b"x"}, 422),
        ("/asr", {"encode": "maybe"}, {"audio_file": b"x"}, 422),
        ("/asr", {"initial_prompt": "x" * 8001}, {"audio_file": b"x"}, 422),
        ("/asr", {}, {"audio_file": b"no audio"}, 400),
        ("/asr", {}, {"audio_file": b""}, 400),
        ("/asr", {}, {"file": b"x"}, 422),
        ("/asr", {}, None, 422),
        ("/detect-language", {"encode": "false"}, {"audio_file": b"\0" * 64_001}, 422),
        ("/nothing", {}, None, 404),
    ],
)
def test_wrong_request_gets_a_sentence(
    shared_server: RunningServer, path: str, query: dict[str, str], files: dict[str, bytes] | None, status: int
) -> None:
    with asr_serving(shared_server) as client:
        response = client.post(path, params=query, files=files)
    assert response.status_code == status and response.json()["detail"]


def test_samples_without_header_become_a_wav_file() -> None:
    content = np.arange(-500, 500, dtype=np.int16).tobytes()
    decoded = decode(wav_header(len(content)) + content)
    assert np.array_equal((decoded.samples * 32768).round().astype(np.int16), np.frombuffer(content, np.int16))


def test_larger_request_is_rejected_and_large_samples_are_kept_in_a_file(shared_server: RunningServer) -> None:
    content = (tone(40.0) * 32767).astype(np.int16).tobytes()
    assert len(content) > 1 << 20
    with asr_serving(shared_server) as client:
        response = client.post("/asr?encode=false", files={"audio_file": content})
        assert response.status_code == 200 and response.text
    with asr_serving(shared_server, request_bytes=1 << 20) as client:
        assert client.post("/asr?encode=false", files={"audio_file": content}).status_code == 413


def test_keys_of_the_box_require_a_list_of_networks(fake_settings: Callable[..., Settings]) -> None:
    closed = fake_settings("asr_webservice.enabled=true", "asr_webservice.host=0.0.0.0", "asr_webservice.port=0")
    auth.add(closed.data, "owner", ("all",))
    with pytest.raises(SettingsError, match=r"set asr_webservice\.allow"):
        open_port(closed)
    with serving(closed) as running, asr_serving(running, allow=("10.9.0.0/16",)) as client:
        audio = encode_audio(tone(1.0), 16_000, "pcm_s16le")
        # This machine is always allowed, without a key.
        assert client.post("/asr", files={"audio_file": audio}).status_code == 200


def test_a_failure_costs_the_speakers_and_no_text(fake_settings: Callable[..., Settings]) -> None:
    broken = fake_settings("speaker.engine=resemblyzer", "speaker.model=missing")
    with serving(broken) as running, asr_serving(running) as client:
        query = {"output": "json", "diarize": "true"}
        document = json.loads(client.post("/asr", params=query, files={"audio_file": wav(Audio(tone(3.0), RATE))}).text)
    assert document["text"] and "missing" in document["speakers_error"]["message"]
    assert not any("speaker" in each for each in document["segments"])
