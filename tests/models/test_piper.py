"""Piper: with a tiny ONNX voice that hums its phonemes, and with a real voice where it is installed."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as effort
from hypothesis import strategies as st

from chatapi.audio import Audio, joined
from chatapi.audio.loudness import LEVEL
from chatapi.catalog import InstalledModel
from chatapi.errors import ModelError, NotFound
from chatapi.settings import PiperSettings as Table
from chatapi.settings import Settings
from conftest import installed_model

piper = pytest.importorskip("piper")
from chatapi.engines.tts.piper import LOADED_VOICES, PHONEMES_AT_ONCE, Piper  # noqa: E402

RATE = 16_000
HUM = 256
"""Samples that the tiny voice hums for each phoneme."""


def field(number: int, value: int | bytes | str) -> bytes:
    """A field of a protobuf message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    body = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(body)) + body


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def node(kind: str, inputs: list[str], output: str, attributes: bytes = b"") -> bytes:
    return field(1, b"".join(field(1, name) for name in inputs) + field(2, output) + field(4, kind) + attributes)


def value(number: int, name: str, kind: int, dims: list[str]) -> bytes:
    shape = b"".join(field(1, field(2, dim)) for dim in dims)
    return field(number, field(1, name) + field(2, field(1, field(1, kind) + field(2, shape))))


def humming_model(speakers: int) -> bytes:
    """An ONNX model that hums HUM samples per phoneme, scaled by its number plus 50 times the speaker."""
    to_float = field(5, field(1, "to") + field(3, 1) + field(20, 2))
    swap = field(5, field(1, "perm") + field(8, 1) + field(8, 0) + field(20, 7))
    ramp = (np.sin(np.arange(HUM) * 0.3) / 300).astype("<f4").tobytes()
    fifty = struct.pack("<f", 50.0)
    nodes = node("Cast", ["input"], "number", to_float)
    inputs = value(11, "input", 7, ["b", "n"]) + value(11, "input_lengths", 7, ["b"]) + value(11, "scales", 1, ["s"])
    if speakers > 1:
        inputs += value(11, "sid", 7, ["b"])
        nodes += node("Cast", ["sid"], "speaker", to_float) + node("Mul", ["speaker", "fifty"], "shift")
        nodes += node("Add", ["number", "shift"], "height")
    else:
        nodes += node("Identity", ["number"], "height")
    nodes += node("Transpose", ["height"], "column", swap) + node("MatMul", ["column", "ramp"], "output")
    initial = field(5, field(1, 1) + field(1, HUM) + field(2, 1) + field(8, "ramp") + field(9, ramp))
    initial += field(5, field(1, 1) + field(2, 1) + field(8, "fifty") + field(9, fifty))
    graph = nodes + field(2, "hum") + initial + inputs + value(12, "output", 1, ["m", "k"])
    return field(1, 8) + field(7, graph) + field(8, field(1, "") + field(2, 13))


def make_voice(folder: Path, name: str, speakers: int = 1, **changed: object) -> SimpleNamespace:
    """A voice as the catalog returns it."""
    letters = "_^$ .,!?;:abcdefghijklmnopqrstuvwxyzəɛɪʊˈːɑɔæɹðθʃŋ"
    config = {
        "audio": {"sample_rate": RATE},
        "espeak": {"voice": "en-us"},
        "language": {"code": "en_US", "family": "en"},
        "inference": {"noise_scale": 0.667, "length_scale": 1, "noise_w": 0.8},
        "num_symbols": len(letters),
        "num_speakers": speakers,
        "speaker_id_map": {f"person{number}": number for number in range(speakers)} if speakers > 1 else {},
        "phoneme_id_map": {letter: [number] for number, letter in enumerate(letters)},
        **changed,
    }
    onnx, described = folder / f"{name}.onnx", folder / f"{name}.onnx.json"
    onnx.write_bytes(humming_model(speakers))
    described.write_text(json.dumps(config), encoding="utf-8")
    return SimpleNamespace(name=name, folder=folder, files={"onnx": onnx, "config": described}, options={}, digests={})


def synthesize(engine: Piper, text: str, name: str = "anna") -> list[Audio]:
    return list(engine.synthesize(text, name))


@pytest.fixture(scope="module")
def anna(tmp_path_factory: pytest.TempPathFactory) -> Piper:
    return Piper(Settings(), [make_voice(tmp_path_factory.mktemp("voice"), "anna")])


@pytest.mark.parametrize(
    ("espeak", "language", "locale"),
    [
        ("en-us", {"code": "en_US", "family": "en"}, "en-US"),
        ("en-gb-x-rp", {"code": "en_GB", "family": "en", "region": "GB"}, "en-GB"),
        ("pt-br", {}, "pt-BR"),
        ("de", {}, "de"),
    ],
)
def test_voice_has_the_locale_of_its_description(
    tmp_path: Path, espeak: str, language: dict[str, str], locale: str
) -> None:
    [voice] = Piper(Settings(), [make_voice(tmp_path, "amy", espeak={"voice": espeak}, language=language)]).voices
    assert voice.locale == locale


def test_sentences_are_chunks_at_the_rate_of_the_voice(anna: Piper):
    chunks = synthesize(anna, "Hello there. How are you? Fine!")
    assert len(chunks) == 3
    for chunk in chunks:
        assert (chunk.rate, chunk.samples.dtype, chunk.samples.ndim) == (RATE, np.float32, 1)


def test_voices_of_all_models_are_listed_by_name_and_the_first_is_the_default(tmp_path: Path):
    models = [make_voice(tmp_path, "anna"), make_voice(tmp_path, "crowd", speakers=2), make_voice(tmp_path, "bert")]
    engine = Piper(Settings(), models)
    assert [offer.name for offer in engine.voices] == ["anna", "crowd/person0", "crowd/person1", "bert"]
    assert {(offer.language, offer.rate) for offer in engine.voices} == {("en", RATE)}


def test_the_default_speaker_of_a_model_comes_first(tmp_path: Path):
    engine = Piper(Settings(), [make_voice(tmp_path, "crowd", speakers=3, default_speaker_id=2)])
    assert [offer.name for offer in engine.voices] == ["crowd/person2", "crowd/person0", "crowd/person1"]


def test_speakers_without_names_are_numbered(tmp_path: Path):
    engine = Piper(Settings(), [make_voice(tmp_path, "crowd", speakers=2, speaker_id_map={})])
    assert [offer.name for offer in engine.voices] == ["crowd/0", "crowd/1"]


def test_each_speaker_of_a_model_sounds_different(tmp_path: Path):
    engine = Piper(Settings(), [make_voice(tmp_path, "crowd", speakers=2)])
    first, second = (synthesize(engine, "Hello there.", f"crowd/person{number}")[0].samples for number in (0, 1))
    assert len(first) == len(second)
    assert not np.allclose(first, second)


def test_language_of_the_phonemizer_is_used_when_none_is_stated(tmp_path: Path):
    [offer] = Piper(Settings(), [make_voice(tmp_path, "anna", language={}, espeak={"voice": "de"})]).voices
    assert offer.language == "de"


def test_more_voices_than_fit_the_memory_can_be_used_in_turn(tmp_path: Path):
    models = [make_voice(tmp_path, f"voice{number}") for number in range(LOADED_VOICES + 2)]
    engine = Piper(Settings(), models)
    before = synthesize(engine, "Hello.", "voice0")[0].samples
    for model in models[1:]:
        assert len(synthesize(engine, "Hello.", model.name)) == 1
    assert np.array_equal(synthesize(engine, "Hello.", "voice0")[0].samples, before)


def test_an_unknown_voice_is_rejected_with_the_known_ones(anna: Piper):
    with pytest.raises(NotFound, match=r"'nina'.*anna") as raised:
        synthesize(anna, "Hello", "nina")
    assert raised.value.code == "unknown_voice"


@pytest.mark.parametrize("text", ["", "  \n\t", "... ?! —", "🙂🎉👩‍👩‍👧", "\x00\x07\x1b", "]] [[", "\ufeff\u200b"])
def test_a_text_without_words_gives_no_audio(anna: Piper, text: str):
    assert synthesize(anna, text) == []


def test_text_in_brackets_is_not_read_as_phonemes(anna: Piper):
    assert [len(chunk.samples) for chunk in synthesize(anna, "[[hello]]")] == [
        len(synthesize(anna, "hello")[0].samples)
    ]


def test_emoji_within_a_sentence_are_skipped(anna: Piper):
    assert len(synthesize(anna, "Hello 🙂 there.")[0].samples) == len(synthesize(anna, "Hello there.")[0].samples)


def test_degree_sign_is_synthesized(anna: Piper):
    assert synthesize(anna, "20 °")[0].seconds > synthesize(anna, "20")[0].seconds


@pytest.mark.parametrize("text", ["word " * 2000, "a" * 10_000, "1234567890" * 200, "x," * 3000, "日本語" * 1000])
def test_chunks_of_any_text_are_limited_in_size(anna: Piper, text: str):
    chunks = synthesize(anna, text)
    assert len(chunks) > 1
    # Each phoneme is followed by a pad, and the sentence has a start and an end.
    assert max(len(chunk.samples) for chunk in chunks) <= (2 * PHONEMES_AT_ONCE + 3) * HUM


def test_long_sentence_is_split_between_words(anna: Piper):
    [whole] = synthesize(anna, "seven")
    each = (len(whole.samples) // HUM - 3) // 2
    for chunk in synthesize(anna, "seven " * 60):
        # Words and the spaces between them; a last space may be left out.
        assert (len(chunk.samples) // HUM - 3) // 2 % (each + 1) in (0, each)


def test_stop_is_polled_between_sentences(anna: Piper):
    calls = []

    def stop() -> bool:
        calls.append(True)
        return len(calls) > 3

    assert 0 < len(list(anna.synthesize("One. Two. Three. Four. Five. Six.", "anna", stop))) < 6


def test_sentences_are_equally_loud(anna: Piper):
    for chunk in synthesize(anna, "Yes. The capital of France is Paris. Mmm."):
        assert np.sqrt(np.mean(np.square(chunk.samples))) == pytest.approx(LEVEL, rel=0.5)
        assert np.abs(chunk.samples).max() < 1


@pytest.mark.parametrize("missing", ["onnx", "config"])
def test_voice_without_a_file_is_named(tmp_path: Path, missing: str):
    model = make_voice(tmp_path, "anna")
    del model.files[missing]
    with pytest.raises(ModelError, match=r"anna needs an \.onnx and an \.onnx\.json"):
        Piper(Settings(), [model])


def test_a_damaged_model_is_named(tmp_path: Path):
    model = make_voice(tmp_path, "anna")
    model.files["onnx"].write_bytes(model.files["onnx"].read_bytes()[:100])
    with pytest.raises(ModelError, match=r"anna\.onnx cannot be loaded"):
        Piper(Settings(), [model])


@pytest.mark.parametrize("content", ["", "{", "{}", '{"num_symbols": 3}', "[]"])
def test_a_damaged_description_is_named(tmp_path: Path, content: str):
    model = make_voice(tmp_path, "anna")
    model.files["config"].write_text(content, encoding="utf-8")
    with pytest.raises(ModelError, match=r"anna\.onnx\.json does not describe a Piper voice"):
        Piper(Settings(), [model])


def test_no_voice_at_all_is_an_error():
    with pytest.raises(ModelError, match="given none"):
        Piper(Settings(), [])


@effort(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=300))
@example("\ud800 lone surrogate")
@example("<speak><break time='9s'/>hi</speak>")
@example("a" + "\u0301" * 200)
@example("%s%n\\x00 {}$()")
@example("(en)(fr) _:?")
def test_any_text_is_synthesized(anna: Piper, text: str):
    for chunk in synthesize(anna, text):
        assert np.isfinite(chunk.samples).all()


@pytest.fixture(scope="module")
def joe() -> InstalledModel:
    return installed_model("en_US-joe-medium")


@pytest.mark.real
def test_real_voice_synthesizes_a_short_sentence_in_one_to_four_seconds(joe: InstalledModel):
    engine = Piper(Settings(), [joe])
    chunk = joined(synthesize(engine, "The capital of France is Paris.", "en_US-joe-medium"))
    assert 1 < chunk.seconds < 4
    assert np.sqrt(np.mean(np.square(chunk.samples))) > 0.03


@pytest.mark.real
def test_a_real_voice_speaks_faster_at_a_higher_speed(joe: InstalledModel):
    text = "The quick brown fox jumps over the lazy dog."
    slow, fast = (
        joined(synthesize(Piper(Settings(piper=Table(speed=speed)), [joe]), text, "en_US-joe-medium"))
        for speed in (0.5, 2.0)
    )
    assert 2.5 < slow.seconds / fast.seconds < 6


@pytest.mark.real
def test_real_voice_splits_a_text_without_sentence_ends(joe: InstalledModel):
    chunks = synthesize(Piper(Settings(), [joe]), "and on it goes " * 30, "en_US-joe-medium")
    assert all(chunk.seconds < 20 for chunk in chunks)
