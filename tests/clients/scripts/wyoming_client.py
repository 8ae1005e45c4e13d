"""The protocol's own client, with requests as Home Assistant, satellites and other programs write them."""

from __future__ import annotations

from features import FAKE_WYOMING, FOX, REAL_WYOMING, WAKE, expect, expect_fox, expect_speech, feature, main
from wyoming.asr import Transcribe, Transcript
from wyoming.info import Describe, Info
from wyoming.intent import Recognize
from wyoming.ping import Ping
from wyoming.tts import Synthesize, SynthesizeChunk, SynthesizeStart, SynthesizeStop
from wyoming.wake import Detect
from wyoming_requests import ask, audio_of, sound, transcribe

FOX_TEXT = "The quick brown fox jumps over the lazy dog."


@feature("describe, ping")
async def _describe() -> None:
    [event] = await ask(REAL_WYOMING, Describe(), end=["info"])
    info = Info.from_event(event)
    expect(info.asr and info.tts and info.wake and info.handle, info)
    await ask(REAL_WYOMING, Ping("a"), end=["pong"])


@feature("speech to text")
async def _transcribe() -> None:
    for language in (None, "en", "en-US", "english"):
        expect_fox(await transcribe(REAL_WYOMING, FOX, language=language))


@feature("speech to text, streamed")
async def _streamed() -> None:
    events = await ask(REAL_WYOMING, Transcribe(), *sound(FOX), end=["transcript-stop"])
    expect_fox("".join(event.data["text"] for event in events if event.type == "transcript-chunk"))


@feature("speech to text, another server's model")
async def _model() -> None:
    expect_fox(await transcribe(REAL_WYOMING, FOX, name="base-int8"))


@feature("speech to text without audio-start")
async def _without_start() -> None:
    events = await ask(REAL_WYOMING, Transcribe(), *sound(FOX)[1:], end=["transcript"])
    expect_fox(events[-1].data["text"])


@feature("text to speech")
async def _synthesize() -> None:
    said = await ask(REAL_WYOMING, Synthesize(FOX_TEXT), end=["audio-stop"])
    expect_speech(*audio_of(said), 1.5, 6)


@feature("text to speech, streamed")
async def _synthesize_streamed() -> None:
    parts = [SynthesizeChunk(f"{word} ") for word in FOX_TEXT.split()]
    said = await ask(REAL_WYOMING, SynthesizeStart(), *parts, SynthesizeStop(), end=["synthesize-stopped"])
    expect_speech(*audio_of(said), 1.5, 6)


@feature("text to speech, 👍")
async def _emoji() -> None:
    for text in ("👍", "...", ""):
        audio_of(await ask(REAL_WYOMING, Synthesize(text), end=["audio-stop"]))


@feature("wake word")
async def _wake() -> None:
    [found] = await ask(REAL_WYOMING, Detect(["okay_nabu"]), *sound(WAKE)[:-1], end=["detection"])
    expect(found.data["name"] == "okay_nabu", found.data)


@feature("wake word without audio-start")
async def _wake_without_start() -> None:
    await ask(REAL_WYOMING, Detect(["ok_nabu"]), *sound(WAKE)[1:-1], end=["detection"])


@feature("conversation")
async def _conversation() -> None:
    events = await ask(FAKE_WYOMING, Transcript("Hello box"), end=["handled"])
    expect(events[-1].data["text"] == "You said: Hello box.", events[-1].data)


@feature("intents are answered as not recognized")
async def _intent() -> None:
    await ask(REAL_WYOMING, Recognize("turn on the light"), end=["not-recognized"])


main()
