"""`/v1/audio/transcriptions` and `/translations` with OpenAI's official clients, on fake engines and real models."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from openai import OpenAI

from chatapi import settings
from chatapi.audio import RATE, Audio, Samples, wav
from chatapi.audio.decode import Source, blocks
from chatapi.bench.wer import words
from chatapi.events import JobProgress, Transcript
from chatapi.services.transcription import decoded_file
from chatapi.services.transcription.transcriber import TranscriptionRequest
from chatapi.settings import Settings
from conftest import (
    DEFAULTS,
    FAKE_ENGINES,
    MODELS,
    RunAppliance,
    RunningServer,
    encode_audio,
    installed_model,
    serving,
    tone,
    until,
)
from paths import CORPUS, NODE

TRANSCRIPTIONS, TRANSLATIONS = "/v1/audio/transcriptions", "/v1/audio/translations"
CORPUS = CORPUS / "real"


def beeps(*seconds: float, pause: float = 2.0) -> Samples:
    """Tones of these lengths, with silence before each and after the last."""
    silence = np.zeros(int(pause * RATE), np.float32)
    return np.concatenate([part for length in seconds for part in (silence, tone(length))] + [silence])


def file(*seconds: float, pause: float = 2.0) -> bytes:
    return wav(Audio(beeps(*seconds, pause=pause), RATE))


SHORT, LONG = file(1.5), file(3, 6, 6, 12, 9)


@pytest.fixture
def client(shared_server: RunningServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=shared_server.url + "/v1", api_key="none", max_retries=0) as made:
        yield made


def lengths(text: str) -> list[float]:
    return [float(found) for found in re.findall(r"heard ([\d.]+) seconds", text)]


def test_short_recording_is_transcribed_in_every_format(client: OpenAI) -> None:
    def transcribe(form: Any) -> Any:
        return client.audio.transcriptions.create(file=SHORT, model="whisper-1", response_format=form)

    whole = transcribe("json")
    assert lengths(whole.text) == [pytest.approx(1.9, abs=0.1)] and whole.usage.seconds == 6
    assert transcribe("text") == whole.text + "\n"
    assert re.fullmatch(rf"1\n00:00:01,\d+ --> 00:00:03,\d+\n{whole.text}\n\n", transcribe("srt"))
    assert re.fullmatch(rf"WEBVTT\n\n00:00:01\.\d+ --> 00:00:03\.\d+\n{whole.text}\n\n", transcribe("vtt"))
    verbose = transcribe("verbose_json")
    assert (verbose.text, verbose.language, verbose.duration) == (whole.text, "english", 5.5)
    [segment] = verbose.segments
    assert 1.5 < segment.start < 2 < 3.5 < segment.end < 4
    assert (segment.id, segment.avg_logprob, segment.no_speech_prob, len(segment.tokens)) == (0, 0, 0, 3)
    assert verbose.words is None


@pytest.mark.parametrize(("granularities", "field"), [(["word"], "words"), (["segment"], "segments"), ([], "segments")])
def test_timestamps_have_the_requested_granularity(client: OpenAI, granularities: Any, field: str) -> None:
    verbose = client.audio.transcriptions.create(
        file=LONG, model="whisper-1", response_format="verbose_json", timestamp_granularities=granularities
    )
    other = {"words": "segments", "segments": "words"}[field]
    assert getattr(verbose, field) and getattr(verbose, other) is None
    times = [(each.start, each.end) for each in getattr(verbose, field)]
    assert times == sorted(times) and all(0 <= start <= end <= verbose.duration for start, end in times)


def test_both_granularities_are_returned_on_request(client: OpenAI) -> None:
    verbose = client.audio.transcriptions.create(
        file=SHORT,
        model="whisper-1",
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )
    assert verbose.words and verbose.words[0].word == "heard" and verbose.segments


def test_recording_longer_than_a_turn_is_transcribed_completely(fake_settings: Callable[..., Settings]) -> None:
    with (
        serving(fake_settings("limits.audio_seconds=10")) as small,
        OpenAI(base_url=small.url + "/v1", api_key="none", max_retries=0) as client,
    ):
        transcript = client.audio.transcriptions.create(file=LONG, model="whisper-1", response_format="verbose_json")
    assert transcript.duration == 48
    seconds = lengths(transcript.text)
    assert len(seconds) == 3 and sum(seconds) == pytest.approx(36 + 5 * 0.4, abs=0.5)
    assert [round(segment.start) for segment in transcript.segments or []] == [2, 7, 15, 23, 37]


@pytest.mark.parametrize("codec", [("flac", "flac"), ("libmp3lame", "mp3"), ("libopus", "ogg"), ("aac", "mp4")])
def test_every_decodable_format_is_accepted(client: OpenAI, codec: tuple[str, str]) -> None:
    rate = 48_000
    sound = np.concatenate([np.zeros(rate), tone(35, rate=rate), np.zeros(rate)]).astype(np.float32)
    transcript = client.audio.transcriptions.create(file=encode_audio(sound, rate, *codec), model="whisper-1")
    assert sum(lengths(transcript.text)) == pytest.approx(35.4, abs=0.5)


def test_file_too_large_for_memory_is_read_from_disk(client: OpenAI) -> None:
    sound = file(20, 20, 20)
    assert len(sound) > 1 << 20
    assert sum(lengths(client.audio.transcriptions.create(file=sound, model="whisper-1").text)) > 59


def test_stream_deltas_join_to_the_transcript(client: OpenAI) -> None:
    *deltas, done = client.audio.transcriptions.create(file=LONG, model="whisper-1", stream=True)
    assert {event.type for event in deltas} == {"transcript.text.delta"} and len(deltas) == 3
    assert done.type == "transcript.text.done"
    assert "".join(event.delta for event in deltas) == done.text  # type: ignore[union-attr]
    assert done.usage is not None and done.usage.input_tokens == 480 and done.usage.output_tokens == 9


@pytest.mark.anyio
async def test_transcripts_are_streamed_before_the_file_is_decoded(
    fake_appliance: RunAppliance, monkeypatch: pytest.MonkeyPatch
) -> None:
    freed = threading.Event()

    def held(source: Source, **options: Any) -> Iterator[Samples]:
        """The real blocks; those after 100 seconds only once a transcript was sent."""
        count = 0
        for block in blocks(source, **options):
            count += len(block)
            assert count < 100 * RATE or freed.wait(20), "no transcript was sent before the rest was decoded"
            yield block

    monkeypatch.setattr(decoded_file, "blocks", held)
    async with fake_appliance() as appliance:
        async with appliance.transcription_service.transcribe_file(file(*[5] * 30), TranscriptionRequest()) as chunks:
            found = []
            async for chunk in chunks:
                found.append(chunk)
                freed.set()
        assert len(found[0].segments) == 1 and found[0].processed < 100 < found[-1].processed


@pytest.mark.anyio
async def test_command_line_transcribes_a_file_of_any_length(fake_appliance: RunAppliance, tmp_path: Path) -> None:
    (tmp_path / "long.wav").write_bytes(LONG)
    async with fake_appliance("limits.file_seconds=1") as appliance:
        async with appliance.transcriber.stream_file(tmp_path / "long.wav") as events:
            found = [event async for event in events]
    assert sum(isinstance(event, Transcript) for event in found) == 5
    assert isinstance(found[-1], JobProgress) and found[-1].done == found[-1].total == 48


def test_logprobs_are_returned_with_tokens(client: OpenAI) -> None:
    transcript = client.audio.transcriptions.create(file=SHORT, model="gpt-4o-transcribe", include=["logprobs"])
    assert "".join(each.token or "" for each in transcript.logprobs or []).strip() == transcript.text
    assert all(bytes(map(int, each.bytes or [])).decode() == each.token for each in transcript.logprobs or [])
    delta, done = client.audio.transcriptions.create(file=SHORT, model="whisper-1", include=["logprobs"], stream=True)
    assert delta.logprobs and done.logprobs and len(delta.logprobs) == len(done.logprobs)


def test_language_prompt_and_temperature_reach_the_asr_engine(client: OpenAI) -> None:
    transcript = client.audio.transcriptions.create(
        file=SHORT,
        model="whisper-1",
        language="de",
        prompt="Nabu",
        temperature=0.5,
        response_format="verbose_json",
    )
    assert transcript.language == "german" and transcript.text.endswith("after Nabu at 0.5.")
    assert transcript.segments is not None and transcript.segments[0].temperature == 0.5


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
def test_translation_is_english(client: OpenAI) -> None:
    assert "in English" in client.audio.translations.create(file=SHORT, model="whisper-1").text
    assert "in English" not in client.audio.transcriptions.create(file=SHORT, model="whisper-1").text
    for form in ("text", "srt", "vtt"):
        text: Any = client.audio.translations.create(file=SHORT, model="whisper-1", response_format=form, prompt="Nabu")
        assert "in English after Nabu" in text
    verbose = client.audio.translations.create(
        file=SHORT, model="whisper-1", response_format="verbose_json", temperature=0.2
    )
    assert verbose.language == "english" and verbose.segments and verbose.text.endswith("at 0.2.")


@pytest.mark.parametrize(
    ("strategy", "parts"),
    [
        ("auto", 1),
        ({"type": "server_vad"}, 3),
        ({"type": "server_vad", "silence_duration_ms": 1500}, 1),
        ({"type": "server_vad", "prefix_padding_ms": 0, "silence_duration_ms": 300}, 3),
        ({"type": "server_vad", "threshold": 0.9}, 3),
    ],
)
def test_chunking_strategy_splits_the_recording(client: OpenAI, strategy: Any, parts: int) -> None:
    transcript = client.audio.transcriptions.create(
        file=file(1, 2, 1, pause=0.8), model="whisper-1", chunking_strategy=strategy
    )
    assert len(lengths(transcript.text)) == parts


def test_silent_recording_has_an_empty_transcript(client: OpenAI) -> None:
    silence = wav(Audio(np.zeros(3 * RATE, np.float32), RATE))
    assert client.audio.transcriptions.create(file=silence, model="whisper-1").text == ""
    [done] = client.audio.transcriptions.create(file=silence, model="whisper-1", stream=True)
    assert done.type == "transcript.text.done" and done.text == ""


@pytest.mark.parametrize(
    ("changed", "param"),
    [
        ({"keywords[]": ["a" * 201]}, "keywords"),
        ({"known_speaker_names[]": "Ann"}, "known_speaker_names"),
        ({"known_speaker_references[]": "data:audio/wav;base64,"}, "known_speaker_references"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": "1.5"}, "temperature"),
        ({"temperature": "nan"}, "temperature"),
        ({"language": "xx"}, "language"),
        ({"stream": "perhaps"}, "stream"),
        ({"stream": "true", "response_format": "srt"}, "response_format"),
        ({"include[]": "secrets"}, "include"),
        ({"include[]": "logprobs", "response_format": "text"}, "include"),
        ({"timestamp_granularities[]": "word"}, "timestamp_granularities"),
        ({"timestamp_granularities[]": "hour", "response_format": "verbose_json"}, "timestamp_granularities"),
        ({"chunking_strategy": "never"}, "chunking_strategy"),
        ({"chunking_strategy": '{"type": "server_vad", "threshold": 2}'}, "chunking_strategy"),
        ({"chunking_strategy": "{"}, "chunking_strategy"),
        ({"chunking_strategy[kind]": "server_vad"}, "chunking_strategy"),
        ({"prompt": "a" * 8001}, "prompt"),
        ({"model": ["a", "b"]}, "model"),
        ({"response_fromat": "text"}, "response_fromat"),
        ({"model": ["whisper-1"], "model[]": ["whisper-1"]}, "model"),
    ],
)
def test_invalid_parameter_is_named(shared_server: RunningServer, changed: dict[str, Any], param: str) -> None:
    reply = shared_server.client.post(TRANSCRIPTIONS, data={"model": "whisper-1", **changed}, files={"file": SHORT})
    error = reply.json()["error"]
    assert (reply.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param), error
    assert param in error["message"] or "language" in error["message"]


def test_unknown_model_is_not_found(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.audio.transcriptions.create(file=SHORT, model="parakeet")
    assert caught.value.code == "model_not_found" and caught.value.param == "model"


def test_turn_runs_during_a_long_transcription(fake_settings: Callable[..., Settings]) -> None:
    with serving(fake_settings("fake.delay=0.001", "limits.audio_seconds=10")) as server:
        found: list[int] = []

        def long() -> None:
            found.append(server.client.post(TRANSCRIPTIONS, files={"file": file(*[8] * 5)}).status_code)

        thread = threading.Thread(target=long)
        thread.start()
        server.run(lambda: until(lambda: server.appliance.transcription_service.long_recordings.used == 1))
        reply = server.client.post("/completion", content=SHORT, headers={"content-type": "audio/wav"})
        assert reply.status_code == 200 and server.appliance.transcription_service.long_recordings.used == 1
        thread.join()
        assert found == [200]


@pytest.mark.skipif(
    shutil.which("node") is None or not (NODE / "node_modules").is_dir(), reason="needs node and tests/node"
)
def test_node_client_transcribes_and_synthesizes(shared_server: RunningServer, tmp_path: Path) -> None:
    (tmp_path / "long.wav").write_bytes(LONG)
    ran = subprocess.run(
        ["node", NODE / "audio.mjs", shared_server.url + "/v1", tmp_path / "long.wav"],
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr.decode()
    found = json.loads(ran.stdout)
    assert found["text"] == found["streamed"] == found["deltas"] and len(lengths(found["text"])) == 3
    assert "in English" in found["translated"] and found["srt"].startswith("1\n00:00:0")
    assert len(found["words"]) == 9 and found["param"] == "temperature" and found["spoken"] > 1000


@pytest.mark.real
@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
def test_real_speech_is_transcribed_with_timestamps(real_server: RunningServer) -> None:
    with OpenAI(base_url=real_server.url + "/v1", api_key="none", max_retries=0, timeout=60) as client:
        transcript = client.audio.transcriptions.create(
            file=CORPUS / "two_cities-00.flac",
            model="whisper-1",
            language="en",
            response_format="verbose_json",
            timestamp_granularities=["word", "segment"],
        )
        expected = words("It was the best of times, it was the worst of times")
        assert words(transcript.text) == [word.word.lower() for word in transcript.words or []] == expected
        starts = [word.start for word in transcript.words or []]
        # The pause after the first half is at 1.8 s.
        assert starts == sorted(starts) and starts[5] < 1.8 < starts[6] + 0.2
        with pytest.raises(openai.BadRequestError, match="cannot translate") as caught:
            client.audio.translations.create(file=CORPUS / "two_cities-00.flac", model="whisper-1")
        assert caught.value.param == "model"


@pytest.mark.real
@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
def test_french_is_translated_by_a_multilingual_model(tmp_path_factory: pytest.TempPathFactory) -> None:
    installed_model("whisper-base")
    data = tmp_path_factory.mktemp("data")
    (data / "models").symlink_to(MODELS / "models")
    chosen = ["asr.engine=whisper_cpp", "asr.model=whisper-base", "vad.engine=silero"]
    with (
        serving(settings.load([*DEFAULTS, *FAKE_ENGINES, *chosen, f"data={data}"], environ={}).settings) as many,
        OpenAI(base_url=many.url + "/v1", api_key="none", max_retries=0, timeout=60) as client,
    ):
        french = CORPUS / "fr-pangrama.flac"
        transcript = client.audio.transcriptions.create(file=french, model="whisper-1", response_format="verbose_json")
        assert transcript.language == "french" and "juge" in words(transcript.text)
        english = client.audio.translations.create(file=french, model="whisper-1").text
        assert {"old", "judge"} & set(words(english)) and "juge" not in words(english)


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ({"type": "server_vad", "threshold": 2}, "chunking_strategy.threshold must be less than 1.0"),
        ({"type": "pauses"}, "chunking_strategy.type must be 'server_vad'"),
        ("never", "chunking_strategy must be 'auto'"),
    ],
)
def test_faulty_chunking_strategy_is_named_in_terms_of_the_request(client: OpenAI, strategy: Any, message: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.audio.transcriptions.create(file=file(1), model="whisper-1", chunking_strategy=strategy)
    assert caught.value.param == "chunking_strategy" and message in caught.value.message
    assert "ChunkingStrategy" not in caught.value.message and "literal[" not in caught.value.message


def test_translation_is_not_streamed(client: OpenAI) -> None:
    def translate(stream: str) -> httpx.Response:
        files = {"file": ("a.wav", wav(Audio(tone(1), RATE)))}
        return httpx.post(f"{client.base_url}audio/translations", data={"stream": stream}, files=files, timeout=60)

    assert translate("false").json()["text"]
    error = translate("true").json()["error"]
    assert (error["code"], error["param"]) == ("unsupported_parameter", "stream")
