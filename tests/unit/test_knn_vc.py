"""kNN voice conversion on small random networks: the written graphs against numpy, and the engine's promises."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from chatapi.audio import RATE, Samples
from chatapi.audio.mel import FFT, mel_filters
from chatapi.catalog import hifigan, whisper_encoder
from chatapi.catalog.ggml import Variables
from chatapi.engines import ConversionWindow
from chatapi.engines.voice_converter import matching, vocoder
from chatapi.engines.voice_converter.knn_vc import KnnVc
from chatapi.engines.voice_converter.source_memory import RunningStatistics, SourceMemories
from chatapi.errors import ModelError, Unprocessable
from chatapi.settings import Settings

WIDTH, HEADS, LAYERS = 16, 2, 2
SMALL = hifigan.Structure(80, (8, 8, 2, 2), (16, 16, 4, 4), width=32)


def whisper_weights() -> Variables:
    rng = np.random.default_rng(1)

    def normal(*shape: int) -> Any:
        return rng.normal(0, 0.3, shape).astype(np.float32)

    found: dict[str, Any] = {
        "encoder/num_heads": np.array(HEADS, np.int16),
        "encoder/conv1/weight": normal(WIDTH, 80, 3), "encoder/conv1/bias": normal(WIDTH),
        "encoder/conv2/weight": normal(WIDTH, WIDTH, 3), "encoder/conv2/bias": normal(WIDTH),
        "encoder/position_encodings/encodings": normal(1500, WIDTH),
    }  # fmt: skip
    for layer in range(LAYERS):
        name = f"encoder/layer_{layer}"
        for norm in ("self_attention/layer_norm", "ffn/layer_norm"):
            found[f"{name}/{norm}/gamma"], found[f"{name}/{norm}/beta"] = normal(WIDTH), normal(WIDTH)
        sizes = {
            "self_attention/linear_0": (3 * WIDTH, WIDTH), "self_attention/linear_1": (WIDTH, WIDTH),
            "ffn/linear_0": (4 * WIDTH, WIDTH), "ffn/linear_1": (WIDTH, 4 * WIDTH),
        }  # fmt: skip
        for linear, shape in sizes.items():
            found[f"{name}/{linear}/weight"], found[f"{name}/{linear}/bias"] = normal(*shape), normal(shape[0])
    return Variables(found)


def vocoder_weights(folded: bool = False) -> dict[str, Any]:
    rng = np.random.default_rng(2)
    found: dict[str, Any] = {}

    def layer(name: str, shape: tuple[int, int, int], outputs: int) -> None:
        weight = rng.normal(0, 1.7 * (shape[1] * shape[2]) ** -0.5, shape).astype(np.float32)
        found[f"{name}.bias"] = rng.normal(0, 0.1, outputs).astype(np.float32)
        if folded:
            found[f"{name}.weight"] = weight
        else:
            norm = np.sqrt(np.sum(weight**2, axis=(1, 2), keepdims=True))
            # Three times the direction: only its direction counts.
            found[f"{name}.weight_g"], found[f"{name}.weight_v"] = norm, 3 * weight

    width = SMALL.width
    layer("conv_pre", (width, 80, 7), width)
    for place, kernel in enumerate(SMALL.kernels):
        layer(f"ups.{place}", (width, width // 2, kernel), width // 2)
        width //= 2
        for each, size in enumerate(hifigan.KERNELS):
            for convolution in range(3):
                for stack in ("convs1", "convs2"):
                    name = f"resblocks.{place * 3 + each}.{stack}.{convolution}"
                    layer(name, (width, width, size), width)
    layer("conv_post", (1, width, 7), 1)
    return found


def convolved(given: Any, weight: Any, bias: Any, dilation: int = 1, stride: int = 1) -> Any:
    """(channels, frames) -> (outputs, frames / stride), padded to the same length."""
    size = weight.shape[2]
    pad = (size - 1) * dilation // 2
    padded = np.pad(given, ((0, 0), (pad, pad)))
    length = given.shape[1]
    taps = [weight[:, :, tap] @ padded[:, tap * dilation : tap * dilation + length] for tap in range(size)]
    return (sum(taps) + bias[:, None])[:, ::stride]


def upsampled(given: Any, weight: Any, bias: Any, rate: int) -> Any:
    size = weight.shape[2]
    length = given.shape[1]
    full = np.zeros((weight.shape[1], (length - 1) * rate + size))
    for frame in range(length):
        full[:, frame * rate : frame * rate + size] += np.einsum("c,cok->ok", given[:, frame], weight)
    pad = (size - rate) // 2
    return full[:, pad : pad + length * rate] + bias[:, None]


def leaky(given: Any, slope: float) -> Any:
    return np.where(given > 0, given, given * slope)


def vocoded(weights: dict[str, Any], given: Any) -> Any:
    """HiFi-GAN's generator (Kong et al., 2020), written a second time."""

    def conv(name: str, x: Any, dilation: int = 1) -> Any:
        return convolved(x, weights[f"{name}.weight"], weights[f"{name}.bias"], dilation)

    x = conv("conv_pre", given.astype(np.float64))
    for place, rate in enumerate(SMALL.rates):
        x = upsampled(leaky(x, 0.1), weights[f"ups.{place}.weight"], weights[f"ups.{place}.bias"], rate)
        total = 0
        for each in range(3):
            y = x
            for number, dilation in enumerate((1, 3, 5)):
                name = f"resblocks.{place * 3 + each}"
                inner = conv(f"{name}.convs1.{number}", leaky(y, 0.1), dilation)
                y = y + conv(f"{name}.convs2.{number}", leaky(inner, 0.1))
            total = total + y
        x = total / 3
    return np.tanh(conv("conv_post", leaky(x, 0.01)))


def run(model: bytes, name: str, given: Any) -> Any:
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {name: given})[0]


def test_the_vocoder_is_hifigan_whether_or_not_its_weights_are_normalized() -> None:
    given = np.random.default_rng(3).normal(size=(80, 9)).astype(np.float32)
    expected = vocoded(vocoder_weights(folded=True), given)
    assert expected.std() > 0.01
    for folded in (True, False):
        found = run(hifigan.encoded(vocoder_weights(folded), SMALL), "features", given[None])[0]
        assert found.shape == (1, 9 * 256)
        assert np.abs(found - expected).max() < 1e-4


def encoded(weights: Variables, given: Any, layers: int) -> Any:
    """Whisper's encoder (Radford et al., 2022), written a second time; `given` (80, frames)."""
    erf = np.vectorize(math.erf)

    def gelu(x: Any) -> Any:
        return x * (1 + erf(x / 2**0.5)) / 2

    def linear(name: str, x: Any) -> Any:
        return x @ weights[f"{name}/weight"].T + weights[f"{name}/bias"]

    def norm(name: str, x: Any) -> Any:
        spread = np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5)
        return (x - x.mean(axis=-1, keepdims=True)) / spread * weights[f"{name}/gamma"] + weights[f"{name}/beta"]

    x = gelu(convolved(given, weights["encoder/conv1/weight"], weights["encoder/conv1/bias"]))
    x = gelu(convolved(x, weights["encoder/conv2/weight"], weights["encoder/conv2/bias"], stride=2)).T
    x = x + weights["encoder/position_encodings/encodings"][: len(x)]
    for layer in range(layers):
        name = f"encoder/layer_{layer}"
        stacked = linear(f"{name}/self_attention/linear_0", norm(f"{name}/self_attention/layer_norm", x))
        heads = []
        for head in range(HEADS):
            columns = slice(head * WIDTH // HEADS, (head + 1) * WIDTH // HEADS)
            query, key, value = (part[:, columns] for part in np.split(stacked, 3, axis=1))
            scores = np.exp(query @ key.T / (WIDTH // HEADS) ** 0.5)
            heads.append(scores / scores.sum(axis=1, keepdims=True) @ value)
        x = x + linear(f"{name}/self_attention/linear_1", np.concatenate(heads, axis=1))
        x = x + linear(f"{name}/ffn/linear_1", gelu(linear(f"{name}/ffn/linear_0", norm(f"{name}/ffn/layer_norm", x))))
    return x


@pytest.mark.parametrize("layers", [1, 2])
def test_the_encoder_is_the_first_layers_of_whisper(layers: int) -> None:
    given = np.random.default_rng(4).normal(size=(80, 40)).astype(np.float32)
    found = run(whisper_encoder.encoded(whisper_weights(), layers), "mel", given[None])[0]
    expected = encoded(whisper_weights(), given, layers)
    assert found.shape == (20, WIDTH)
    assert np.abs(found - expected).max() < 1e-4


def test_other_weights_are_rejected() -> None:
    with pytest.raises(ModelError, match="2 layers; 3 are wanted"):
        whisper_encoder.encoded(whisper_weights(), 3)
    weights = vocoder_weights()
    del weights["ups.1.weight_v"]
    with pytest.raises(ModelError, match="another vocoder"):
        hifigan.encoded(weights, SMALL)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> KnnVc:
    folder: Path = tmp_path_factory.mktemp("knn_vc")
    (folder / "encoder.onnx").write_bytes(whisper_encoder.encoded(whisper_weights(), LAYERS))
    (folder / "vocoder.onnx").write_bytes(hifigan.encoded(vocoder_weights(), SMALL))
    files = {name: folder / name for name in ("encoder.onnx", "vocoder.onnx")}
    digests = {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items()}
    model: Any = SimpleNamespace(name="small", files=files, digests=digests)
    return KnnVc(Settings(), [model])


def hum(seconds: float, seed: int = 0) -> Samples:
    return np.random.default_rng(seed).normal(0, 0.1, round(seconds * RATE)).astype(np.float32)


def kept(engine: KnnVc, samples: Samples) -> Samples:
    return np.concatenate(list(engine.reference(samples)))


def test_a_long_reference_has_a_row_for_every_20_ms(engine: KnnVc) -> None:
    assert kept(engine, hum(31.5)).shape == (1575, WIDTH + 80)
    assert list(engine.reference(hum(0.01))) == []


def test_a_quiet_reference_is_the_same_as_a_loud_one(engine: KnnVc) -> None:
    samples = hum(2)
    assert np.abs(kept(engine, samples) - kept(engine, samples * np.float32(0.01))).max() < 0.1


def test_the_chunks_join_without_a_trace(engine: KnnVc, monkeypatch: pytest.MonkeyPatch) -> None:
    source, reference = hum(3.3), kept(engine, hum(4, seed=1))
    parts = list(engine.convert(source, reference))
    assert len(parts) == 4 and {each.rate for each in parts} == {22_050}
    found = np.concatenate([each.samples for each in parts])
    monkeypatch.setattr(vocoder, "CHUNK", 10_000)
    [whole] = engine.convert(source, reference)
    assert len(found) == round(3.3 * 22_050) and np.abs(found).max() > 0.01
    assert np.abs(found - whole.samples).max() < 1e-4


def test_silence_stays_silent(engine: KnnVc) -> None:
    reference = kept(engine, hum(4, seed=1))
    source = np.concatenate([hum(1), np.zeros(RATE, np.float32), hum(1)])
    found = np.concatenate([each.samples for each in engine.convert(source, reference)])
    assert not found[round(1.1 * 22_050) : round(1.9 * 22_050)].any()
    assert found[:22_050].any() and found[2 * 22_050 :].any()
    [silence] = engine.convert(np.zeros(RATE, np.float32), reference)
    assert len(silence.samples) == 22_050 and not silence.samples.any()


def test_a_reference_that_cannot_be_used_is_rejected(engine: KnnVc) -> None:
    for rows, code in ((np.zeros((0, WIDTH + 80)), "empty_reference"), (np.zeros((9, 7)), "unknown_reference")):
        with pytest.raises(Unprocessable) as raised:
            list(engine.convert(hum(1), rows.astype(np.float32)))
        assert raised.value.code == code


@pytest.mark.parametrize("samples", [1, 100, 319, 321, 480_001])
def test_a_source_of_any_length_keeps_its_length(engine: KnnVc, samples: int) -> None:
    found = list(engine.convert(hum(31)[:samples], kept(engine, hum(1, seed=1))))
    assert sum(len(each.samples) for each in found) == round(samples * 22_050 / RATE)


def test_each_frame_becomes_the_mean_of_its_four_nearest() -> None:
    rng = np.random.default_rng(5)
    given, some = rng.normal(size=(7, 8)), rng.normal(size=(50, 8))
    query, pool = (matching.normalized(each, each.mean(axis=0), each.std(axis=0)) for each in (given, some))
    values = rng.normal(size=(50, 3))
    # A frame is compared with those beside it: the mean of up to five similarities.
    alone = query @ pool.T
    expected = []
    for row in range(7):
        beside = [
            [alone[row + away, place + away] for away in range(-2, 3) if 0 <= row + away < 7 and 0 <= place + away < 50]
            for place in range(50)
        ]
        alike = np.array([np.mean(each) for each in beside])
        expected.append((values[np.argsort(-alike)[:4]].mean(axis=0), np.sort(alike)[-4:].mean()))
    found, nearness = matching.matched(query, pool, values)
    assert np.allclose(found, [each for each, _ in expected]) and np.allclose(nearness, [each for _, each in expected])
    assert np.allclose(matching.matched(query, pool[:2], values[:2])[0], values[:2].mean(axis=0))


def test_rows_are_interpolated_between_their_middles() -> None:
    rows = np.array([[0.0], [1.0], [2.0]], np.float32)
    assert matching.at_times(rows, 1, 0.5, 6)[:, 0].tolist() == [0, 0.25, 0.75, 1.25, 1.75, 2]


def test_filters_of_another_rate_cover_its_frequencies() -> None:
    filters = mel_filters(80, 22_050, 1024, 8000.0)
    assert filters.shape == (80, 513)
    assert not filters[:, 373:].any() and filters[:, 1:371].sum(axis=0).min() > 0
    assert np.array_equal(mel_filters(80), mel_filters(80, RATE, FFT, RATE / 2))


def test_windows_of_a_stream_join_where_the_whole_has_its_samples(engine: KnnVc) -> None:
    source, reference = hum(3), kept(engine, hum(4, seed=1))
    whole = np.concatenate([each.samples for each in engine.convert(source, reference)])
    lengths = []
    for first in range(0, len(source), RATE // 2):
        start = max(0, first - RATE)
        window = ConversionWindow(first - start, first - start + RATE // 2, start)
        part = np.concatenate([each.samples for each in engine.convert(source[start:], reference, window=window)])
        lengths.append(len(part))
    assert sum(lengths) == len(whole) and set(lengths) <= {11_025, 11_024, 11_026}


def test_a_window_that_knows_everything_is_a_part_of_the_whole(engine: KnnVc) -> None:
    source, reference = hum(3), kept(engine, hum(4, seed=1))
    whole = np.concatenate([each.samples for each in engine.convert(source, reference)])
    memory = engine._sources.of("known")
    learned = kept(engine, memory.levelled(source, 0, len(source))).astype(np.float32)
    memory.features.add(np.concatenate([learned] * 20))
    first = np.concatenate([each.samples for each in engine.convert(source, reference, source="known")])
    window = ConversionWindow(RATE, 2 * RATE)
    part = np.concatenate([each.samples for each in engine.convert(source, reference, source="known", window=window)])
    assert len(first) == len(whole) and len(part) == 22_050
    # The spectrogram of the window has its frames at other times.
    assert np.corrcoef(part, first[22_050 : 2 * 22_050])[0, 1] > 0.95


def test_what_is_known_of_a_speaker_replaces_the_target_bit_by_bit() -> None:
    rng, memory = np.random.default_rng(6), RunningStatistics()
    mean, spread = np.zeros(4, np.float32), np.ones(4, np.float32)
    assert memory.statistics(mean, spread) == (mean, spread)
    distances = []
    for _ in range(4):
        memory.add(rng.normal(5, 2, (50, 4)).astype(np.float32))
        near, wide = memory.statistics(mean, spread)
        distances.append((np.abs(near - 5).max(), np.abs(wide - 2).max()))
    assert distances[0][0] > 2 and distances[-1][0] < 0.6 and distances[-1][1] < 0.5
    assert [each[0] for each in distances] == sorted((each[0] for each in distances), reverse=True)


def test_speakers_are_known_by_name_and_the_oldest_is_forgotten() -> None:
    memories = SourceMemories()
    first = memories.of("first")
    assert memories.of("first") is first and memories.of("") is not memories.of("")
    for number in range(64):
        memories.of(f"other {number}")
    assert memories.of("first") is not first


def test_the_envelope_of_the_source_is_mixed_in_without_its_harmonics() -> None:
    rng = np.random.default_rng(7)
    pool = matching.TargetPools(4).of(rng.normal(2, 3, (50, 4 + 80)).astype(np.float32))
    found, own = pool.bands[:6], rng.normal(-1, 2, (6, 80)).astype(np.float32)
    mean, spread = own.mean(axis=0), own.std(axis=0)
    shares = np.array([0.7, 0.7, 0.7, 0.7, 0.7, 0], np.float32)
    # A source whose envelope is that of the target already changes nothing.
    same, plain = (found - pool.mean[4:]) / (pool.spread[4:] + 1e-5), (np.zeros(80), np.ones(80) - 1e-5)
    assert np.allclose(matching.articulated(found, same, plain, pool, shares), found, atol=1e-3)
    changed = matching.articulated(found, own, (mean, spread), pool, shares) - found
    coefficients = np.abs(np.fft.rfft(np.concatenate([changed, changed[:, ::-1]], axis=1), axis=1))
    assert coefficients[:, : matching.ENVELOPE].max() > 1 and coefficients[:, matching.ENVELOPE :].max() < 1e-3
    assert not changed[5].any()


def test_where_the_target_has_nothing_alike_more_of_the_source_is_mixed_in() -> None:
    nearness = np.array([0.9] * 5 + [0.5 - 0.13] * 5 + [0.1] * 5, np.float32)
    shares = matching.articulation(nearness, 0.5, 0.1)
    assert np.allclose(shares[:4], 0.4) and np.allclose(shares[6:], 0.7, atol=1e-6)
    assert 0.4 < shares[4] < shares[5] < 0.7
