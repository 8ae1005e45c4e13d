"""Another program's Whisper behind a bare FastAPI route, as in many deployments; it runs with the peers' own Python.

python whisper_route.py faster-whisper|pywhispercpp MODEL PORT

MODEL is a file for pywhispercpp; for faster-whisper, a folder or a package with a folder `model`.
"""

import io
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np
import uvicorn
from fastapi import FastAPI, Form, UploadFile

RATE = 16_000
FRAMES_A_SECOND, ALL_FRAMES, MARGIN = 50, 1500, 64
"""Of the encoder; the trimmed window has this margin after the clip."""


def faster_whisper(model: str) -> Callable[[bytes, int], str]:
    from faster_whisper import WhisperModel

    folder = Path(model) if Path(model).is_dir() else files(model) / "model"
    loaded = WhisperModel(str(folder), device="cpu", compute_type="int8")

    def transcribe(body: bytes, beams: int) -> str:
        segments, _ = loaded.transcribe(io.BytesIO(body), language="en", beam_size=beams)
        return "".join(segment.text for segment in segments)

    return transcribe


def pywhispercpp(model: str) -> Callable[[bytes, int], str]:
    from faster_whisper import decode_audio
    from pywhispercpp.model import Model

    loaded = Model(model, redirect_whispercpp_logs_to=None, print_progress=False, language="en")

    def transcribe(body: bytes, beams: int) -> str:
        del beams
        samples = np.asarray(decode_audio(io.BytesIO(body), sampling_rate=RATE), np.float32)
        frames = len(samples) * FRAMES_A_SECOND // RATE + MARGIN
        window = 0 if frames > ALL_FRAMES else frames
        return " ".join(segment.text for segment in loaded.transcribe(samples, audio_ctx=window))

    return transcribe


transcribe = {"faster-whisper": faster_whisper, "pywhispercpp": pywhispercpp}[sys.argv[1]](sys.argv[2])
app = FastAPI()


@app.get("/health")
def health() -> dict[str, str]:
    return {}


@app.post("/v1/audio/transcriptions")
def transcriptions(file: UploadFile, beams: int = Form(5)) -> dict[str, str]:
    return {"text": transcribe(file.file.read(), beams).strip()}


uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[3]), log_level="error")
