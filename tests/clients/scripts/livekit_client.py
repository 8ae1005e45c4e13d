"""LiveKit's agents with their plugin for OpenAI: STT, TTS, LLM, RealtimeModel and AgentSession."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from features import CALL, FAKE, FOX, QUESTION, REAL, expect, expect_fox, expect_speech, feature, main, pcm_of
from livekit import rtc
from livekit.agents import Agent, AgentSession, ChatContext, function_tool, llm, stt
from livekit.agents.utils import http_context
from livekit.plugins import openai, silero

called: list[str] = []


@function_tool
async def weather(city: str) -> str:
    """The weather of a city."""
    called.append(city)
    return "sunny"


def to(url: str, **options: Any) -> dict[str, Any]:
    return {"base_url": f"{url}/v1", "api_key": "none", **options}


def frames(path: Any, rate: int = 24_000, silence: float = 0) -> list[rtc.AudioFrame]:
    """A recording in frames of 50 ms."""
    data, step = pcm_of(path, rate) + bytes(int(rate * silence) * 2), rate // 20 * 2
    parts = [data[first : first + step] for first in range(0, len(data) - step, step)]
    return [rtc.AudioFrame(part, rate, 1, step // 2) for part in parts]


@feature("STT, recognize")
async def _recognize() -> None:
    event = await openai.STT(**to(REAL)).recognize(buffer=frames(FOX))
    expect_fox(event.alternatives[0].text)


@feature("STT, languages and keywords")
async def _keywords() -> None:
    given = to(REAL, model="gpt-transcribe", language=["en"], keywords=["fox"])
    event = await openai.STT(**given).recognize(buffer=frames(FOX))
    expect_fox(event.alternatives[0].text)


async def _streamed(recognizer: openai.STT) -> str:
    """The text of a stream that gets audio at the pace of a microphone."""
    async with http_context.open():
        stream = recognizer.stream()

        async def push() -> None:
            for frame in frames(FOX, silence=3):
                stream.push_frame(frame)
                await asyncio.sleep(0.045)

        pushing, text = asyncio.create_task(push()), ""
        async for event in stream:
            if event.type == stt.SpeechEventType.FINAL_TRANSCRIPT:
                text += f" {event.alternatives[0].text}"
                break
        pushing.cancel()
        await stream.aclose()
    return text


@feature("STT, stream with the server's turn detection")
async def _stream() -> None:
    expect_fox(await _streamed(openai.STT(**to(REAL, use_realtime=True))))


@feature("STT, stream with turn detection by Silero")
async def _stream_vad() -> None:
    given = to(REAL, model="gpt-realtime-whisper", vad=silero.VAD.load())
    expect_fox(await _streamed(openai.STT(**given)))


@feature("TTS")
async def _tts() -> None:
    async with openai.TTS(**to(REAL)).synthesize("The quick brown fox jumps over the lazy dog.") as stream:
        heard = [event.frame async for event in stream]
    data = b"".join(bytes(frame.data) for frame in heard)
    expect_speech(data, heard[0].sample_rate, 1.5, 6)


@feature("TTS, formats")
async def _formats() -> None:
    for form in ("mp3", "opus", "aac", "flac", "wav", "pcm"):
        async with openai.TTS(**to(REAL, response_format=form)).synthesize("Good morning.") as stream:
            heard = [event.frame async for event in stream]
        expect_speech(b"".join(bytes(frame.data) for frame in heard), heard[0].sample_rate, 0.4, 4)


@feature("TTS, 👍")
async def _emoji() -> None:
    async with openai.TTS(**to(REAL)).synthesize("👍") as stream:
        expect([event async for event in stream], "no audio")


async def _chat(model: llm.LLM, text: str, tools: list[Any] | None = None) -> tuple[str, list[Any]]:
    context = ChatContext.empty()
    context.add_message(role="user", content=text)
    said, calls = "", []
    async with http_context.open(), model.chat(chat_ctx=context, tools=tools or []) as stream:
        async for chunk in stream:
            said += (chunk.delta and chunk.delta.content) or ""
            calls += (chunk.delta and chunk.delta.tool_calls) or []
    return said, calls


@feature("LLM, chat completions")
async def _llm() -> None:
    expect((await _chat(openai.LLM(**to(FAKE)), "Hello box"))[0] == "You said: Hello box.", "another text")


@feature("LLM, tools")
async def _llm_tools() -> None:
    calls = (await _chat(openai.LLM(**to(FAKE)), CALL, [weather]))[1]
    expect(calls and calls[0].name == "weather", calls)


@feature("LLM, responses over HTTP")
async def _responses() -> None:
    found = await _chat(openai.responses.LLM(**to(FAKE, use_websocket=False)), "Hello box")
    expect(found[0] == "You said: Hello box.", found)


@feature("LLM, responses over WebSocket")
async def _responses_socket() -> None:
    # The plugin takes the whole address of the WebSocket.
    found = await _chat(openai.responses.LLM(base_url=f"{FAKE}/v1/responses", api_key="none"), "Hello box")
    expect(found[0] == "You said: Hello box.", found)


async def _run(session: AgentSession[None], text: str) -> list[Any]:
    """The events of a turn of an agent with a tool."""
    called.clear()
    async with http_context.open(), session:
        await session.start(Agent(instructions="Be brief.", tools=[weather]))
        result = await asyncio.wait_for(session.run(user_input=text), 60)
        return list(result.events)


@feature("AgentSession, text and tools")
async def _agent() -> None:
    events = await _run(AgentSession(llm=openai.LLM(**to(FAKE))), CALL)
    expect(called == ["Rome"] and "sunny" in str(events[-1].item), events)


@feature("RealtimeModel, text")
async def _realtime_text() -> None:
    model = openai.realtime.RealtimeModel(**to(REAL, modalities=["text"]))
    events = await _run(AgentSession(llm=model), "Say hello.")
    expect(events and events[-1].item.text_content, events)


@feature("RealtimeModel, tools")
async def _realtime_tools() -> None:
    model = openai.realtime.RealtimeModel(**to(FAKE, modalities=["text"], tool_choice="auto"))
    await _run(AgentSession(llm=model), CALL)
    expect(called == ["Rome"], called)


@feature("RealtimeModel, voice")
async def _realtime_voice() -> None:
    async with http_context.open():
        session = openai.realtime.RealtimeModel(**to(REAL)).session()
        generated: asyncio.Queue[Any] = asyncio.Queue()
        session.on("generation_created", generated.put_nowait)
        await session.update_instructions("Be brief.")

        async def push() -> None:
            for frame in frames(QUESTION, silence=4):
                session.push_audio(frame)
                await asyncio.sleep(0.045)

        pushing, data, rate = asyncio.create_task(push()), b"", 24_000
        async for part in _sound(await asyncio.wait_for(generated.get(), 60)):
            data, rate = data + bytes(part.data), part.sample_rate
        pushing.cancel()
        await session.aclose()
    expect_speech(data, rate, 0.3, 90)


async def _sound(generation: Any) -> AsyncIterator[Any]:
    async for message in generation.message_stream:
        async for part in message.audio_stream:
            yield part
        return


@feature("RealtimeModel, history")
async def _history() -> None:
    async with http_context.open():
        session = openai.realtime.RealtimeModel(**to(FAKE, modalities=["text"])).session()
        context = ChatContext.empty()
        for role, text in (("user", "My name is Ada."), ("assistant", "Hello Ada."), ("user", "Again.")):
            context.add_message(role=role, content=text)
        await session.update_chat_ctx(context)
        # One is put between the others.
        context.items.insert(1, llm.ChatMessage(role="user", content=["Yes."]))
        await session.update_chat_ctx(context)
        expect(len(session.chat_ctx.items) == 4, session.chat_ctx.items)
        await session.aclose()


main()
