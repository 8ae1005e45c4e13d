"""The fake engines are exact: tests elsewhere rely on every word and sample of them."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from chatapi.audio import RATE
from chatapi.engines import ContextOverflow, PromptMessage, Sampling, TokenChunk, TokenUsage
from chatapi.engines.fake import FakeLanguageModel, FakeSynthesizer, FakeTranscriber, FakeVoiceActivityDetector
from chatapi.errors import NotFound
from chatapi.settings import FakeEngineSettings, LlamaCppSettings, Settings


def tone(seconds: float, level: float = 0.1) -> np.ndarray:
    return (level * np.sin(2 * np.pi * 220 * np.arange(int(seconds * RATE)) / RATE)).astype(np.float32)


def model(**fake: object) -> FakeLanguageModel:
    return FakeLanguageModel(
        Settings(fake=FakeEngineSettings(**fake), llama_cpp=LlamaCppSettings(context=256, slots=3)), []
    )


def messages(text: str) -> list[PromptMessage]:
    return [
        PromptMessage("system", "be kind"),
        PromptMessage("user", "first"),
        PromptMessage("assistant", "yes"),
        PromptMessage("user", text),
    ]


def test_vad_reports_loud_frames_as_speech_and_pads_the_last():
    sound = np.concatenate([np.zeros(512, np.float32), tone(1.0)[:512], np.full(100, 0.001, np.float32)])
    assert list(FakeVoiceActivityDetector(Settings(), []).probabilities(sound)) == [0.0, 1.0, 0.0]


def test_vad_returns_nothing_for_no_samples():
    assert list(FakeVoiceActivityDetector(Settings(), []).probabilities(np.zeros(0, np.float32))) == []


def test_the_transcript_states_the_length_and_the_language():
    [segment] = FakeTranscriber(Settings(), []).transcribe(tone(1.5), "de")
    assert (segment.text, segment.start, segment.end, segment.language) == ("heard 1.50 seconds.", 0.0, 1.5, "de")


def test_transcriber_splits_long_audio_into_segments_of_30_seconds_and_skips_silent_ones():
    sound = np.concatenate([tone(30), np.zeros(30 * RATE, np.float32), tone(5)])
    segments = list(FakeTranscriber(Settings(), []).transcribe(sound))
    assert [(segment.start, segment.end) for segment in segments] == [(0.0, 30.0), (60.0, 65.0)]


def test_silence_has_no_transcript():
    assert list(FakeTranscriber(Settings(), []).transcribe(np.zeros(RATE, np.float32))) == []


def test_an_unsupported_language_is_rejected_with_the_supported_ones():
    with pytest.raises(NotFound, match=r"'fr'.*en, de") as raised:
        list(FakeTranscriber(Settings(), []).transcribe(tone(1), "fr"))
    assert raised.value.code == "unknown_language"


def test_the_model_repeats_the_last_user_message_word_by_word_and_reports_usage():
    pieces = list(model().generate(messages("hello  there"), Sampling(max_tokens=20)))
    assert [piece.text for piece in pieces] == ["You", " said:", " hello", "  there.", ""]
    assert pieces[-1] == TokenChunk("", "stop", TokenUsage(prompt_tokens=6, completion_tokens=4))


def test_model_stops_at_max_tokens_with_the_reason_length():
    pieces = list(model().generate(messages("one two three"), Sampling(max_tokens=3)))
    assert "".join(piece.text for piece in pieces) == "You said: one"
    assert pieces[-1] == TokenChunk("", "length", TokenUsage(7, 3))


def test_an_answer_of_exactly_max_tokens_is_complete():
    assert list(model().generate(messages("one"), Sampling(max_tokens=3)))[-1].finish_reason == "stop"


@pytest.mark.parametrize(("max_tokens", "fits"), [(250, True), (251, False)])
def test_an_overflow_is_raised_before_the_first_word(max_tokens: int, fits: bool):
    answer = model().generate(messages("a b"), Sampling(max_tokens=max_tokens))
    if fits:
        assert next(answer).text == "You"
    else:
        with pytest.raises(ContextOverflow) as raised:
            next(answer)
        assert (raised.value.needed, raised.value.context) == (257, 256)


def test_the_model_ends_before_a_stop_text():
    pieces = list(model().generate(messages("one two three"), Sampling(max_tokens=20, stop_texts=("three", " two"))))
    assert "".join(piece.text for piece in pieces) == "You said: one"
    assert pieces[-1].finish_reason == "stop"


def test_the_model_has_the_slots_of_the_settings():
    assert model().slots == 3


def test_the_fault_raise_comes_after_the_first_word():
    answer = model(fault="raise").generate(messages("hello"), Sampling(max_tokens=20))
    assert next(answer).text == "You"
    with pytest.raises(RuntimeError, match="makes the fake language model fail"):
        next(answer)


def test_the_fault_hang_ignores_stop_until_the_engine_is_closed():
    engine, wanted = model(fault="hang"), threading.Event()
    answer = engine.generate(messages("hello"), Sampling(max_tokens=20), stop=lambda: not wanted.is_set())
    wanted.set()
    assert next(answer).text == "You"
    wanted.clear()
    rest: list[TokenChunk] = []
    thread = threading.Thread(target=lambda: rest.extend(answer))
    thread.start()
    thread.join(timeout=0.05)
    assert thread.is_alive()
    engine.close()
    thread.join(timeout=60)
    assert not thread.is_alive()
    assert rest == []


def test_close_cuts_the_delay_of_a_step_short():
    engine = model(delay=3600)
    engine.close()
    assert [piece.text for piece in engine.generate(messages("x"), Sampling(max_tokens=20))] == [
        "You",
        " said:",
        " x.",
        "",
    ]


def test_voice_has_60_ms_per_word_and_a_chunk_per_sentence():
    chunks = list(FakeSynthesizer(Settings(), []).synthesize("One two three. Four! ... 5 6", "fake"))
    assert [chunk.seconds for chunk in chunks] == pytest.approx([0.18, 0.06, 0.12])
    assert all(chunk.rate == RATE and chunk.samples.dtype == np.float32 for chunk in chunks)


def test_the_high_voice_is_an_octave_above():
    def pitch(voice: str) -> float:
        [chunk] = FakeSynthesizer(Settings(), []).synthesize("word " * 10, voice)
        spectrum = np.abs(np.fft.rfft(chunk.samples))
        return float(spectrum.argmax() * RATE / len(chunk.samples))

    assert pitch("fake") == pytest.approx(440, abs=20)
    assert pitch("fake-high") == pytest.approx(880, abs=20)


def test_words_of_the_voice_are_separated_by_silence():
    [chunk] = FakeSynthesizer(Settings(), []).synthesize("one two", "fake")
    assert abs(chunk.samples[959]) < 0.001
    assert abs(chunk.samples[960]) < 0.001
    assert np.abs(chunk.samples).max() == pytest.approx(1 / 3, abs=0.01)


@pytest.mark.parametrize("text", ["", "  \n", "... !? —", "🙂"])
def test_a_text_without_words_gives_no_audio(text: str):
    assert list(FakeSynthesizer(Settings(), []).synthesize(text, "fake")) == []


def test_an_unknown_voice_is_rejected_with_the_known_ones():
    with pytest.raises(NotFound, match=r"'nina'.*fake, fake-high") as raised:
        list(FakeSynthesizer(Settings(), []).synthesize("hello", "nina"))
    assert raised.value.code == "unknown_voice"
