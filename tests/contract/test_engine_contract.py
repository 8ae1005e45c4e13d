"""One contract for every registered engine; engines without their library or model are skipped with the reason."""

from __future__ import annotations

import importlib.util
import inspect
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chatapi.audio import RATE, Audio, Samples
from chatapi.audio.decode import decode
from chatapi.engines import (
    COMMAND_SAMPLES,
    SOUND_RATE,
    CommandFeatures,
    ContextOverflow,
    PromptMessage,
    Sampling,
    Segment,
    SoundOptions,
    SoundWindow,
    Stop,
    TokenChunk,
    TranscriptionOptions,
    Voice,
    never,
    speaker_windows,
)
from chatapi.engines.registry import SHIPPED, entry, installed, load
from chatapi.errors import ChatapiError, NotFound, Unprocessable
from chatapi.settings import LlamaCppSettings, MlcSettings, OpenAIUpstreamSettings, Settings
from conftest import installed_model
from coqui_model import coqui_tts, make_model
from minimal_chat_server import MinimalChatServer
from mlc_model import compiled_model, mlc_llm
from paths import CORPUS

EVERY = [
    pytest.param((role.name, name), id=f"{role.name}-{name}", marks=[pytest.mark.real] if needs.needs_model else [])
    for role in SHIPPED
    for name, needs in role.engines.items()
]
KINDS: dict[str, type] = {
    "vad": float,
    "wake_word": float,
    "turn_detection": float,
    "asr": Segment,
    "llm": TokenChunk,
    "tts": Audio,
    "speaker": np.ndarray,
    "voice_converter": Audio,
    "command": CommandFeatures,
    "word_encoder": np.ndarray,
    "sound_detector": SoundWindow,
}
MODELS = {
    "ctranslate2": "whisper-tiny.en-ct2",
    "whisper_cpp": "whisper-tiny.en",
    "llama_cpp": "smollm2-135m-instruct",
    "knn_vc": "knn-vc-whisper-base",
    "piper": "en_US-joe-medium",
    "pymicro_wakeword": "okay_nabu",
    "silero_onnx": "silero-vad-v6",
    "smart_turn": "smart-turn-v3.2",
    "resemblyzer": "resemblyzer",
    "tc_resnet": "command-words",
    "whisper_words": "whisper-base-words",
    "orcahello": "made-calls",
}
NETWORK_WIDTH = 72
"""Width of the embeddings of the model command-words."""
COMMANDS = ("down", "go", "left", "no", "right", "stop", "up", "yes")
LIBRARIES: dict[str, Callable[[], AbstractContextManager[None]]] = {"mlc": mlc_llm, "coqui": coqui_tts}
"""Engines whose library has a stand-in."""
CHAT = [
    PromptMessage("system", "You answer in one short sentence."),
    PromptMessage("user", "Tell me about the sea and the sky."),
]
TIMEOUT = 120
"""Seconds after which a thread counts as stuck."""


def speech() -> Samples:
    """Two seconds of recorded speech."""
    return decode(CORPUS / "real" / "en-hello_world.flac").samples


class Engine:
    """A registered engine with the call of its role."""

    def __init__(self, role: str, name: str, settings: Settings) -> None:
        self.role, self.name = role, name
        if name == "mlc":
            models = [compiled_model(settings.data)]
        elif name == "coqui":
            models = [make_model(settings.data / "made")]
        else:
            models = [installed_model(MODELS[name])] if entry(role, name).needs_model else []
        self.files = [str(path) for each in models for path in each.files.values()]
        self.built = load(role, name)(settings, models)

    def call(self, stop: Stop = never) -> Iterator[Any]:
        if self.role in ("vad", "wake_word"):
            return iter(self.built.probabilities(speech(), stop))
        if self.role == "turn_detection":
            return iter(self.built.end_of_turn_probability(speech(), stop))
        if self.role == "speaker":
            return iter(self.built.embeddings(speech(), stop))
        if self.role == "voice_converter":
            reference = np.concatenate(list(self.built.reference(speech())))
            return iter(self.built.convert(speech(), reference, stop))
        if self.role == "command":
            return iter(self.built.classify(speech()[:COMMAND_SAMPLES], stop))
        if self.role == "word_encoder":
            return iter(self.built.encode(speech()[:COMMAND_SAMPLES], np.zeros(NETWORK_WIDTH, np.float32), stop))
        if self.role == "sound_detector":
            return iter(self.built.detect(np.tile(speech(), 12), stop))
        if self.role == "asr":
            return iter(self.built.transcribe(speech(), "en", stop))
        if self.role == "llm":
            return iter(self.built.generate(CHAT, Sampling(max_tokens=12, temperature=0), stop))
        return iter(self.built.synthesize("One is here. Two is there. Three.", self.built.voices[0].name, stop))

    def close(self) -> None:
        if hasattr(self.built, "close"):
            self.built.close()


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    with ThreadingHTTPServer(("127.0.0.1", 0), MinimalChatServer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/v1"
        yield Settings(
            data=tmp_path_factory.mktemp("data"),
            llama_cpp=LlamaCppSettings(context=512, slots=2),
            mlc=MlcSettings(context=512, slots=3),
            openai_upstream=OpenAIUpstreamSettings(url=url, context=100_000),
        )
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module", params=EVERY)
def engine(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Engine]:
    role, name = request.param
    with LIBRARIES.get(name, nullcontext)():
        if not installed(role, name):
            pytest.skip(f"{entry(role, name).requires} is not installed")
        if importlib.util.find_spec(entry(role, name).target.partition(":")[0]) is None:
            pytest.skip(f"{entry(role, name).target} is not here")
        built = Engine(role, name, settings)
        yield built
        built.close()


def of(role: str) -> pytest.MarkDecorator:
    """The engines of one role only."""
    return pytest.mark.parametrize("engine", [each for each in EVERY if each.values[0][0] == role], indirect=True)


def in_threads(count: int, target: Callable[[], Any]) -> list[Any]:
    with ThreadPoolExecutor(count) as pool:
        return [future.result(TIMEOUT) for future in [pool.submit(target) for _ in range(count)]]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc tells what is mapped")
def test_no_file_of_its_model_stays_mapped(engine: Engine) -> None:
    """Truncating a mapped file would end the process (SIGBUS)."""
    list(engine.call())
    mapped = {line.split(maxsplit=5)[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
    assert not [file for file in engine.files if file in mapped]


def test_the_constructor_takes_settings_and_models(engine: Engine):
    assert list(inspect.signature(type(engine.built)).parameters) == ["settings", "models"]


def test_items_have_the_type_of_the_role(engine: Engine):
    items = list(engine.call())
    assert items
    assert all(isinstance(item, KINDS[engine.role]) for item in items)


def test_stop_from_the_start_leaves_at_most_one_item(engine: Engine):
    assert len(list(engine.call(lambda: True))) <= 1


def test_stop_in_the_middle_ends_the_call(engine: Engine):
    wanted = threading.Event()
    items = []
    for item in engine.call(wanted.is_set):
        items.append(item)
        wanted.set()
    assert len(items) <= 2


def test_a_cancelled_call_leaves_the_engine_usable(engine: Engine):
    for _ in range(3):
        call = engine.call()
        next(call, None)
        call.close()  # type: ignore[attr-defined]
    assert list(engine.call())


def test_call_that_never_starts_leaves_the_engine_usable(engine: Engine):
    engine.call().close()  # type: ignore[attr-defined]
    assert list(engine.call())


def test_calls_share_no_state(engine: Engine):
    first, second = ([type(item) for item in engine.call()] for _ in range(2))
    assert set(first) == set(second)


def test_another_thread_than_the_builders_may_call_the_engine(engine: Engine):
    [items] = in_threads(1, lambda: list(engine.call()))
    assert items


def test_a_call_may_move_between_threads(engine: Engine):
    call = engine.call()
    first = [next(call, None) for _ in range(2)]
    [rest] = in_threads(1, lambda: list(call))
    assert len([item for item in [*first, *rest] if item is not None]) >= 1


def test_every_slot_can_be_used_at_once(engine: Engine):
    slots = getattr(engine.built, "slots", 1)
    assert slots >= 1
    assert all(in_threads(slots, lambda: list(engine.call())))


@of("llm")
def test_a_language_model_ends_with_a_finish_reason_and_rejects_an_overflow(engine: Engine):
    pieces = list(engine.call())
    assert [piece.finish_reason for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert pieces[-1].finish_reason in ("stop", "length")
    assert pieces[-1].usage.completion_tokens > 0
    with pytest.raises(ContextOverflow) as raised:
        next(engine.built.generate([PromptMessage("user", "sea " * 6000)], Sampling(max_tokens=10)))
    assert raised.value.needed > raised.value.context > 0


@of("tts")
def test_synthesizer_rejects_unknown_voices(engine: Engine):
    assert all(isinstance(voice, Voice) for voice in engine.built.voices)
    assert all(chunk.rate == engine.built.voices[0].rate for chunk in engine.call())
    assert list(engine.built.synthesize(" ... ", engine.built.voices[0].name)) == []
    with pytest.raises(NotFound) as raised:
        list(engine.built.synthesize("Hello.", "unknown"))
    assert raised.value.code == "unknown_voice"


@of("tts")
def test_speed_changes_the_length_of_the_speech(engine: Engine):
    voice = engine.built.voices[0].name
    slow, plain, fast = (
        sum(chunk.seconds for chunk in engine.built.synthesize("One is here. Two is there.", voice, never, speed))
        for speed in (0.5, 1.0, 2.0)
    )
    assert slow > 1.4 * plain > 1.4 * 1.3 * fast > 0


@of("speaker")
def test_a_speaker_encoder_yields_a_unit_vector_for_each_window(engine: Engine):
    assert -1 < engine.built.threshold < 1
    for samples in (speech(), speech()[:1000], np.zeros(50_000, np.float32), np.zeros(0, np.float32)):
        found = list(engine.built.embeddings(samples))
        assert len(found) == len(speaker_windows(len(samples)))
        assert all(each.dtype == np.float32 and abs(np.linalg.norm(each) - 1) < 1e-3 for each in found)


@of("voice_converter")
def test_a_voice_converter_keeps_the_length_and_rejects_an_empty_reference(engine: Engine):
    rows = np.concatenate(list(engine.built.reference(speech())))
    assert rows.ndim == 2 and len(rows) and engine.built.reference_format
    found = list(engine.built.convert(speech(), rows))
    assert {each.rate for each in found} == {engine.built.rate}
    assert abs(sum(each.seconds for each in found) - len(speech()) / RATE) < 1e-3
    with pytest.raises(Unprocessable):
        list(engine.built.convert(speech(), rows[:0]))


@of("command")
def test_a_command_classifier_yields_a_probability_for_each_label(engine: Engine):
    for samples in (speech(), speech()[:1000], np.zeros(COMMAND_SAMPLES, np.float32), np.zeros(0, np.float32)):
        [found] = list(engine.built.classify(samples))
        assert len(found.probabilities) == len(engine.built.labels) == len({*engine.built.labels})
        assert min(found.probabilities) >= 0 and abs(sum(found.probabilities) - 1) < 1e-3
        assert found.embedding.ndim == 1 and np.isfinite(found.embedding).all()
    assert engine.built.labels[-1] == "unknown"


@of("word_encoder")
def test_a_word_encoder_yields_one_vector_of_the_width_of_its_known_clips(engine: Engine):
    labels = ("beep", "unknown") if engine.name == "fake" else (*COMMANDS, "unknown")
    [known] = list(engine.built.known(labels))
    assert {*known.labels} == set(range(len(labels))) and {*known.parts} == {0, 1, 2}
    for samples in (speech()[:COMMAND_SAMPLES], speech()[:1000], np.zeros(COMMAND_SAMPLES, np.float32), speech()[:0]):
        [found] = list(engine.built.encode(samples, np.zeros(NETWORK_WIDTH, np.float32)))
        assert found.shape == known.embeddings.shape[1:] and found.dtype == np.float32 and np.isfinite(found).all()
    assert list(engine.built.known(("other", "unknown"))) == []


@of("sound_detector")
def test_a_sound_detector_scores_every_label_of_whole_windows(engine: Engine):
    assert 0 <= engine.built.target < len(engine.built.labels) == len({*engine.built.labels})
    assert list(engine.built.detect(np.zeros(SOUND_RATE // 2, np.float32))) == []
    found = list(engine.built.detect(np.zeros(10 * SOUND_RATE, np.float32), never, SoundOptions(batch=3)))
    assert found and found[0].start == 0 and found == sorted(found, key=lambda each: each.start)
    assert all(each.start + each.duration <= 10 and len(each.scores) == len(engine.built.labels) for each in found)
    assert all(0 <= score <= 1 for each in found for score in each.scores)


@of("asr")
def test_a_transcriber_returns_words_and_tokens_where_requested(engine: Engine):
    assert not any(segment.words or segment.tokens for segment in engine.call())
    options = TranscriptionOptions(words=True, tokens=True)
    for segment in engine.built.transcribe(speech(), "en", never, options):
        words = re.findall(r"[\w.']*\w", segment.text)
        assert [word.text for word in segment.words] == words
        times = [(word.start, word.end) for word in segment.words]
        assert times == sorted(times) and all(0 <= start <= end <= segment.end for start, end in times)
        assert b"".join(token.utf8 for token in segment.tokens).decode().strip() == segment.text
        assert all(token.logprob <= 0 for token in segment.tokens)


@of("asr")
def test_a_transcriber_translates_or_rejects_a_translation(engine: Engine):
    try:
        segments = list(engine.built.transcribe(speech(), "en", never, TranscriptionOptions(translate=True)))
    except Unprocessable as error:
        assert not engine.built.translates and error.code == "no_translation"
    else:
        assert engine.built.translates and segments


@of("asr")
def test_a_prompt_does_not_affect_the_next_transcription(engine: Engine):
    before = [segment.text for segment in engine.call()]
    list(engine.built.transcribe(speech(), "en", never, TranscriptionOptions(prompt="Nabu, HELLO WORLD!")))
    assert [segment.text for segment in engine.call()] == before


@of("asr")
def test_a_transcriber_states_its_languages_and_returns_nothing_for_silence(engine: Engine):
    assert engine.built.languages
    assert all(segment.end >= segment.start >= 0 for segment in engine.call())
    assert list(engine.built.transcribe(np.zeros(0, np.float32), "en")) == []
    try:
        list(engine.built.transcribe(speech(), "xx"))
    except ChatapiError as error:
        assert error.message


@of("vad")
def test_vad_returns_a_probability_for_every_frame_and_the_rest(engine: Engine):
    sound = speech()[:5000]
    found = list(engine.built.probabilities(sound))
    assert len(found) == -(-len(sound) // 512)
    assert all(0 <= probability <= 1 for probability in found)
    assert list(engine.built.probabilities(np.zeros(0, np.float32))) == []


@of("turn_detection")
def test_a_turn_detector_returns_one_probability_for_any_length(engine: Engine):
    for samples in (speech(), np.zeros(0, np.float32), np.zeros(20 * 16_000, np.float32), speech()[:700]):
        [probability] = engine.built.end_of_turn_probability(samples)
        assert 0 <= probability <= 1


@of("vad")
def test_a_vad_stream_returns_the_probabilities_of_the_whole_audio(engine: Engine):
    sound = speech()[: len(speech()) // 512 * 512]
    first, second = engine.built.stream(), engine.built.stream()
    second.probability(sound[:512])
    frames = [first.probability(sound[start : start + 512]) for start in range(0, len(sound), 512)]
    assert frames == list(engine.built.probabilities(sound))


@of("wake_word")
def test_a_wake_word_stream_returns_the_probabilities_of_the_whole_audio(engine: Engine):
    assert engine.built.words
    assert 0 < engine.built.threshold < 1
    sound, stream = speech(), engine.built.stream()
    frames = [stream.probability(sound[start : start + 320]) for start in range(0, len(sound), 320)]
    assert frames == list(engine.built.probabilities(sound))
    assert all(0 <= probability <= 1 for probability in frames)
