"""Speakers in `/v1/audio/transcriptions` with OpenAI's client: diarized JSON, events, captions, known voices."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from openai import OpenAI

from chatapi.audio import RATE, Audio, Samples, wav
from conftest import RunningServer, serving, tone

TRANSCRIPTIONS = "/v1/audio/transcriptions"
LOW, HIGH = 220.0, 880.0
"""Two voices of the fake speaker encoder, in hertz."""


def talk(*parts: tuple[float, float]) -> bytes:
    """A recording of tones, given in hertz and seconds, with silence of 1.5 s before each and after the last."""
    silence = np.zeros(RATE * 3 // 2, np.float32)
    spoken = itertools.chain.from_iterable((silence, tone(seconds, hertz)) for hertz, seconds in parts)
    return wav(Audio(np.concatenate([*spoken, silence]), RATE))


def data_url(samples: Samples, kind: str = "audio/wav") -> str:
    return f"data:{kind};base64,{base64.b64encode(wav(Audio(samples, RATE))).decode()}"


DIALOGUE = talk((LOW, 3), (HIGH, 4), (LOW, 2.5))


@pytest.fixture
def client(shared_server: RunningServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=shared_server.url + "/v1", api_key="none", max_retries=0) as made:
        yield made


def test_diarized_json_has_a_speaker_for_each_segment(client: OpenAI) -> None:
    found = client.audio.transcriptions.create(
        file=DIALOGUE, model="gpt-4o-transcribe-diarize", response_format="diarized_json", chunking_strategy="auto"
    )
    assert [segment.speaker for segment in found.segments] == ["A", "B", "A"]
    assert [segment.id for segment in found.segments] == ["seg_000", "seg_001", "seg_002"]
    assert found.text == " ".join(segment.text for segment in found.segments)
    assert found.duration == pytest.approx(15.5) and found.task == "transcribe"
    starts = [segment.start for segment in found.segments]
    assert starts == pytest.approx([1.5, 6.0, 11.5], abs=0.5)
    assert not hasattr(found, "speakers_error")


def test_stream_sends_text_at_once_and_the_segments_with_speakers_before_its_end(client: OpenAI) -> None:
    events = list(
        client.audio.transcriptions.create(
            file=DIALOGUE, model="gpt-4o-transcribe-diarize", response_format="diarized_json", stream=True
        )
    )
    kinds = [kind for kind, _ in itertools.groupby(event.type for event in events)]
    assert kinds == ["transcript.text.delta", "transcript.text.segment", "transcript.text.done"]
    segments = [event for event in events if event.type == "transcript.text.segment"]
    assert [segment.speaker for segment in segments] == ["A", "B", "A"]
    assert " ".join(segment.text for segment in segments) == events[-1].text


def test_known_speakers_have_their_names(client: OpenAI) -> None:
    found = client.audio.transcriptions.create(
        file=DIALOGUE,
        model="gpt-4o-transcribe-diarize",
        response_format="diarized_json",
        known_speaker_names=["agent", "A"],
        known_speaker_references=[data_url(tone(3, HIGH)), data_url(tone(2, 3000.0))],
    )
    # The second is not in the recording; its name is not given to another one.
    assert [segment.speaker for segment in found.segments] == ["B", "agent", "B"]


@pytest.mark.parametrize("known", [{"speaker_count": "1"}, {"speakers": "true", "speaker_count": "1"}])
def test_number_of_speakers_can_be_given(shared_server: RunningServer, known: dict[str, str]) -> None:
    form = {"model": "whisper-1", "response_format": "diarized_json", **known}
    reply = shared_server.client.post(TRANSCRIPTIONS, data=form, files={"file": DIALOGUE})
    assert {segment["speaker"] for segment in reply.json()["segments"]} == {"A"}


def said(server: RunningServer, form: str) -> Any:
    reply = server.client.post(
        TRANSCRIPTIONS, data={"speakers": "true", "response_format": form}, files={"file": DIALOGUE}
    )
    assert reply.status_code == 200, reply.text
    return reply.json() if "json" in reply.headers["content-type"] else reply.text


def test_text_and_captions_say_who_speaks(shared_server: RunningServer) -> None:
    lines = said(shared_server, "text").splitlines()
    assert [line[:3] for line in lines] == ["A: ", "B: ", "A: "]
    captions = said(shared_server, "srt").split("\n\n")
    assert [caption.split("\n")[2][:3] for caption in captions[:3]] == ["A: ", "B: ", "A: "]
    cues = said(shared_server, "vtt").split("\n\n")[1:4]
    assert [cue.split("\n")[1][:5] for cue in cues] == ["<v A>", "<v B>", "<v A>"]
    assert [segment["speaker"] for segment in said(shared_server, "verbose_json")["segments"]] == ["A", "B", "A"]
    assert [segment["speaker"] for segment in said(shared_server, "json")["segments"]] == ["A", "B", "A"]


def test_names_cannot_break_the_captions(shared_server: RunningServer) -> None:
    form = {
        "speakers": "true",
        "response_format": "vtt",
        "known_speaker_names[]": "<b>\n\n00:00 --> 00:09",
        "known_speaker_references[]": data_url(tone(3, HIGH)),
    }
    reply = shared_server.client.post(TRANSCRIPTIONS, data=form, files={"file": DIALOGUE})
    assert "<v &lt;b&gt; 00:00 --&gt; 00:09>" in reply.text


def test_silence_has_no_speakers(shared_server: RunningServer) -> None:
    form = {"response_format": "diarized_json"}
    silence = wav(Audio(np.zeros(3 * RATE, np.float32), RATE))
    found = shared_server.client.post(TRANSCRIPTIONS, data=form, files={"file": silence}).json()
    assert found["segments"] == [] and found["text"] == ""


VOICE = data_url(tone(2))


@pytest.mark.parametrize(
    ("changed", "param"),
    [
        ({"known_speaker_names[]": ["Ann", "Bob"], "known_speaker_references[]": [VOICE]}, "known_speaker_names"),
        ({"known_speaker_names[]": ["Ann", "Ann"], "known_speaker_references[]": [VOICE] * 2}, "known_speaker_names"),
        ({"known_speaker_names[]": "a" * 101, "known_speaker_references[]": VOICE}, "known_speaker_names"),
        ({"known_speaker_references[]": VOICE}, "known_speaker_names"),
        *(
            ({"known_speaker_names[]": "Ann", "known_speaker_references[]": url}, "known_speaker_references")
            for url in (
                "https://example.org/ann.wav", "data:audio/wav;base64", "data:audio/wav;base64,A", "data:,hello",
                data_url(tone(0.3)), data_url(tone(31)),
            )
        ),
        ({"speaker_count": "0"}, "speaker_count"),
        ({"speaker_count": "2", "response_format": "srt"}, "speaker_count"),
        ({"known_speaker_names[]": "Ann", "known_speaker_references[]": VOICE, "response_format": "json"},
         "known_speaker_names"),
        ({"diarize": "true"}, "diarize"),
    ],
)  # fmt: skip
def test_invalid_parameter_is_named(shared_server: RunningServer, changed: dict[str, Any], param: str) -> None:
    form = {"model": "whisper-1", "response_format": "diarized_json", **changed}
    reply = shared_server.client.post(TRANSCRIPTIONS, data=form, files={"file": DIALOGUE})
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["param"] == param


def test_only_samples_of_voices_may_be_large(shared_server: RunningServer) -> None:
    form = {"known_speaker_names[]": "Ann", "known_speaker_references[]": "data:," + "a" * (5 << 20)}
    reply = shared_server.client.post(TRANSCRIPTIONS, data=form, files={"file": DIALOGUE})
    assert reply.status_code == 400 and reply.json()["error"]["code"] == "invalid_form"
    reply = shared_server.client.post(TRANSCRIPTIONS, data={"prompt": "a" * 70_000}, files={"file": DIALOGUE})
    assert reply.status_code == 400 and "prompt" in reply.json()["error"]["message"]


def test_the_text_is_not_lost_where_the_speakers_cannot_be_told_apart(fake_settings: Any) -> None:
    with serving(fake_settings("speaker.engine=resemblyzer", "speaker.model=missing")) as server:
        form = {"response_format": "diarized_json"}
        found = server.client.post(TRANSCRIPTIONS, data=form, files={"file": DIALOGUE}).json()
        assert found["text"] and [segment["speaker"] for segment in found["segments"]] == ["unknown"] * 3
        assert "missing" in found["speakers_error"]["message"]
        events = server.client.post(TRANSCRIPTIONS, data={**form, "stream": "true"}, files={"file": DIALOGUE}).text
        assert "transcript.text.done" in events and "speakers_error" in events
