"""The settings tables of engines."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr, field_validator

from chatapi.settings.network import Table

LEAST_CONTEXT = 256
"""Shortest context that can be set, in tokens."""


class WhisperCppSettings(Table):
    """The whisper.cpp engine."""

    threads: int = Field(0, ge=0)
    """Number of threads; 0: one per core, up to 8."""
    trim: bool = True
    """Shorten the encoder's window for short clips, as far as no words are lost."""


class CTranslate2Settings(Table):
    """The CTranslate2 engine: Whisper on a CPU, or on an NVIDIA GPU."""

    slots: int = Field(2, ge=1, le=16)
    """Number of recordings, or parts of one, transcribed at once."""
    threads: int = Field(0, ge=0)
    """Number of threads shared by the slots, at least one per slot; 0: one per core, up to 8."""
    trim: bool = True
    """Shorten the encoder's window for short clips, as far as no words are lost."""
    beams: int = Field(5, ge=1, le=20)
    """Beam size: number of hypotheses followed at once; more are slower and more accurate."""
    compute: Literal["int8", "int8_float16", "float16", "float32"] = "int8"
    """Compute type; those with float16 need a GPU, so that auto does not fall back to the CPU with them."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """auto: the GPU if CTranslate2 sees one and it works, else the CPU; cuda needs CTranslate2 built with CUDA, and
    cuBLAS of CUDA 12."""


class LlamaCppSettings(Table):
    """The llama.cpp engine."""

    threads: int = Field(0, ge=0)
    """Number of threads; 0: all cores for reading a prompt, up to 8; as many for generation where there are at most 4,
    else half of them."""
    context: int = Field(0, le=1 << 24)
    """Context, in tokens: prompt and answer together, at most what the model was trained for; 0: that, up to 16384, if
    a quarter of the free memory holds it."""
    slots: int = Field(8, ge=1, le=64)
    """Number of answers generated at once; they share the memory of two full contexts."""
    gpu_layers: int = -1
    """Number of layers on the GPU, if there is one; -1: all that fit."""
    kv_cache: Literal["auto", "f16", "q8_0"] = "auto"
    """Type of the KV cache; q8_0 takes half the memory of f16 and reads long prompts more slowly; auto: f16 where the
    context fits the memory."""

    @field_validator("context")
    @classmethod
    def _context(cls, value: int) -> int:
        if 0 < value < LEAST_CONTEXT or value < 0:
            raise ValueError(f"must be 0 or at least {LEAST_CONTEXT}")
        return value


class MlcSettings(Table):
    """The MLC engine: a language model compiled for this board's GPU by `chatapi compile`."""

    device: str = Field("cuda", pattern=r"^(cuda|cpu|auto|vulkan|opencl|rocm|metal)(:\d+)?$")
    """TVM device: cuda, cuda:0, cpu, or auto: the first GPU."""
    context: int = Field(4096, ge=256)
    """Context of each slot, in tokens: prompt and answer together; at most what the model was compiled for."""
    slots: int = Field(2, ge=1, le=64)
    """Number of answers generated at once, in one batch; at most what the model was compiled for."""


class OpenAIUpstreamSettings(Table):
    """An upstream chat server with an OpenAI-compatible HTTP API: `mlc_llm serve`, vLLM, Ollama."""

    url: str = "http://127.0.0.1:11434/v1"
    """Base URL of the server, up to /v1."""
    model: str = ""
    """The model's name on that server; empty: the first one it lists."""
    api_key: SecretStr | None = None
    """API key of that server, if it requires one."""
    context: int = Field(4096, ge=256)
    """Context, in tokens: prompt and answer together."""
    slots: int = Field(4, ge=1, le=64)
    """Number of answers requested at once."""
    timeout: float = Field(30, gt=0)
    """Longest wait for the next tokens, in seconds."""


class OnnxSettings(Table):
    """ONNX Runtime, which runs Piper's voices and the end-of-turn detector."""

    provider: Literal["auto", "tensorrt", "cuda", "cpu"] = "auto"
    """Execution provider; if it is missing or does not start, the next in this list is used."""


class PiperSettings(Table):
    """The Piper engine."""

    slots: int = Field(2, ge=1, le=16)
    """Number of texts synthesized at once."""
    threads: int = Field(0, ge=0)
    """Number of threads for each text; 0: one per core, up to 4."""
    speed: float = Field(1.0, ge=0.25, le=4)
    """Speed of speech, relative to the voice's own; 1.2 is a fifth faster."""


class CoquiSettings(Table):
    """The Coqui TTS engine."""

    device: Literal["auto", "cuda", "cpu"] = "auto"
    """Torch device; auto: the GPU if torch has one."""
    speed: float = Field(1.0, ge=0.25, le=4)
    """Speed of speech with a VITS model, relative to the voice's own; 1.2 is a fifth faster."""
