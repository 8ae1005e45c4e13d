"""Engines of a plug-in that need a model, whose one file says what they answer: for tests that swap models."""

from __future__ import annotations

import ctypes
import hashlib
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from chatapi.audio import Audio
from chatapi.catalog import Catalog, InstalledModel
from chatapi.engines import ChatOnly, PromptMessage, Sampling, Stop, TokenChunk, TokenUsage, Voice, never, registry
from chatapi.engines.role import EngineEntry
from chatapi.errors import ModelError
from chatapi.settings import Settings
from chatapi.system import memory
from fake_plugins import PlugIns

LLM = EngineEntry("reading_engine:Reader")
TTS = EngineEntry("reading_engine:Hummer", needs_model=False)
RATE = 8000
"""Sample rate of the voice, in Hz, which no other fake voice has."""


class Reader(ChatOnly):
    """Answers every message with ten times the text of its model's file; `broken` and `crash` are files that it cannot
    load."""

    alive = most = 0
    held_back: threading.Event | None = None
    """No model of this process is loaded before it is set; None: at once."""
    context: int
    """As many tokens longer as bytes are expected that another engine gives back."""

    def __init__(self, settings: Settings, models: Sequence[InstalledModel]) -> None:
        if Reader.held_back is not None:
            Reader.held_back.wait(60)
        self.slots = 2
        self.context = 4096 + memory.expected()
        self._delay = settings.fake.delay
        self._text = models[0].files["text"].read_text()
        if self._text.startswith("broken"):
            raise ModelError(f"{models[0].name} cannot be read", code="model_damaged")
        if self._text.startswith("crash"):
            ctypes.string_at(0)
        Reader.alive += 1
        Reader.most = max(Reader.most, Reader.alive)

    def generate(
        self, messages: Sequence[PromptMessage], sampling: Sampling, stop: Stop = never
    ) -> Iterator[TokenChunk]:
        for number in range(10):
            if stop():
                return
            time.sleep(self._delay)
            yield TokenChunk(f"{self._text}. " if number % 2 else f"{self._text} ")
        yield TokenChunk("", "stop", TokenUsage(1, 10))

    def close(self) -> None:
        Reader.alive -= 1


class Hummer:
    """Hums each sentence."""

    voices = (Voice("hum", "en", RATE),)
    is_warm = True

    def __init__(self, settings: Settings, models: Sequence[InstalledModel]) -> None:
        """Needs no model."""

    def synthesize(self, text: str, voice: str, stop: Stop = never, speed: float = 1.0) -> Iterator[Audio]:
        assert voice == "hum"
        yield Audio(np.full(RATE, 0.1, np.float32), RATE)


def install(plug_ins: PlugIns) -> None:
    """Make the engines known to this process and to its children."""
    points = {"llm.reading": "reading_engine:LLM", "tts.humming": "reading_engine:TTS"}
    plug_ins.add("chatapi-reading", {"chatapi.engines": points}, {})
    registry.reset()
    Reader.alive = Reader.most = 0
    Reader.held_back = None


def add_model(data: Path, name: str, text: str, memory: int = 1000, fetch: bool = True) -> None:
    """Write a model's manifest, and install it."""
    source = data.with_name("sources") / name
    source.mkdir(parents=True, exist_ok=True)
    (source / "text").write_text(text)
    (data / "manifests").mkdir(parents=True, exist_ok=True)
    (data / "manifests" / f"{name}.toml").write_text(
        f"""
        name = "{name}"
        role = "llm"
        engine = "reading"
        title = "A text"
        licence = "MIT"
        homepage = "here"
        languages = ["en"]
        memory = {memory}
        quality = 1
        [files.text]
        size = {len(text.encode())}
        sha256 = "{hashlib.sha256(text.encode()).hexdigest()}"
        [[sources]]
        kind = "path"
        path = "{source}"
        """
    )
    if fetch:
        Catalog(data).fetch(name)
