"""faster-whisper behind a bare FastAPI route, as in many deployments; it runs with the peers' own Python.

python whisper_route.py MODEL_FOLDER PORT
"""

import io
import sys

import uvicorn
from fastapi import FastAPI, UploadFile
from faster_whisper import WhisperModel

model = WhisperModel(sys.argv[1], device="cpu", compute_type="int8")
app = FastAPI()


@app.get("/health")
def health() -> dict[str, str]:
    return {}


@app.post("/v1/audio/transcriptions")
def transcriptions(file: UploadFile) -> dict[str, str]:
    # Five beams, the default of faster-whisper and of chatapi.
    segments, _ = model.transcribe(io.BytesIO(file.file.read()), language="en")
    return {"text": "".join(segment.text for segment in segments).strip()}


uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="error")
