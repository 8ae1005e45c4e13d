"""Wyoming-OpenAI, which lets Home Assistant use the box over OpenAI's interfaces."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from features import FOX, REAL, expect_fox, expect_speech, feature, main
from wyoming.tts import Synthesize, SynthesizeChunk, SynthesizeStart, SynthesizeStop, SynthesizeVoice
from wyoming_requests import ask, audio_of, free_uri, running, transcribe

TEXT = "The quick brown fox jumps over the lazy dog."


@asynccontextmanager
async def proxy(tts: tuple[str, ...] = ("--tts-models", "tts-1")) -> AsyncIterator[str]:
    """The proxy, with speech recognition of every kind; its address."""
    uri, box = free_uri(), f"{REAL}/v1"
    options = [
        "--uri", uri, "--languages", "en",
        "--stt-openai-url", box, "--stt-openai-key", "none", "--stt-models", "whisper-1",
        "--stt-streaming-models", "gpt-4o-transcribe", "--stt-realtime-models", "gpt-4o-mini-transcribe",
        "--tts-openai-url", box, "--tts-openai-key", "none", "--tts-voices", "alloy", *tts,
    ]  # fmt: skip
    async with running("wyoming_openai", *options, uri=uri):
        yield uri


async def transcribed(model: str) -> None:
    async with proxy() as uri:
        expect_fox(await transcribe(uri, FOX, name=model, language="en"))


@feature("speech to text")
async def _stt() -> None:
    await transcribed("whisper-1")


@feature("speech to text, streamed")
async def _stt_streamed() -> None:
    await transcribed("gpt-4o-transcribe")


@feature("speech to text, realtime")
async def _stt_realtime() -> None:
    await transcribed("gpt-4o-mini-transcribe")


async def spoken(*tts: str) -> None:
    async with proxy(tts) as uri:
        said = await ask(uri, Synthesize(TEXT, SynthesizeVoice("alloy")), end=["audio-stop"])
        expect_speech(*audio_of(said), 1.5, 6)


@feature("text to speech")
async def _tts() -> None:
    await spoken("--tts-models", "tts-1")


@feature("text to speech, realtime")
async def _tts_realtime() -> None:
    # A TTS model reads the text; a language model would answer it.
    await spoken("--tts-realtime-models", "tts-1")


@feature("text to speech, streamed")
async def _tts_streamed() -> None:
    async with proxy(("--tts-streaming-models", "gpt-4o-mini-tts")) as uri:
        voice = SynthesizeStart(voice=SynthesizeVoice("alloy"))
        parts = [SynthesizeChunk(f"{word} ") for word in TEXT.split()]
        said = await ask(uri, voice, *parts, Synthesize(TEXT), SynthesizeStop(), end=["synthesize-stopped"])
        expect_speech(*audio_of(said), 1.5, 6)


@feature("text to speech, 👍")
async def _emoji() -> None:
    async with proxy() as uri:
        audio_of(await ask(uri, Synthesize("👍", SynthesizeVoice("alloy")), end=["audio-stop"]))


main()
