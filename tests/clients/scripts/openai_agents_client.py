"""OpenAI's Agents SDK for Python: agents over Responses, the voice pipeline, and Realtime."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
from agents import (
    Agent,
    OpenAIChatCompletionsModel,
    OpenAIConversationsSession,
    Runner,
    SQLiteSession,
    function_tool,
    set_default_openai_client,
    set_tracing_disabled,
)
from agents.realtime import RealtimeAgent, RealtimeRunner
from agents.voice import (
    AudioInput,
    OpenAIVoiceModelProvider,
    SingleAgentVoiceWorkflow,
    StreamedAudioInput,
    VoicePipeline,
    VoicePipelineConfig,
)
from features import CALL, FAKE, QUESTION, REAL, expect, expect_speech, feature, main, pcm_of
from openai import AsyncOpenAI
from pydantic import BaseModel

set_tracing_disabled(True)
called: list[str] = []


def use(url: str) -> AsyncOpenAI:
    """Makes a server the default of the SDK."""
    client = AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    set_default_openai_client(client, use_for_tracing=False)
    return client


@function_tool
def weather(city: str) -> str:
    """The weather of a city."""
    called.append(city)
    return "sunny"


class Person(BaseModel):
    name: str


@feature("agent")
async def _agent() -> None:
    use(FAKE)
    result = await Runner.run(Agent(name="box", instructions="Be brief."), "Hello box")
    expect(result.final_output == "You said: Hello box.", result.final_output)


@feature("agent, streamed")
async def _streamed() -> None:
    use(FAKE)
    result = Runner.run_streamed(Agent(name="box"), "Hello box")
    deltas = [event.data.delta async for event in result.stream_events()
              if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"]  # fmt: skip
    expect("".join(deltas) == result.final_output == "You said: Hello box.", deltas)


@feature("agent, tools")
async def _tools() -> None:
    use(FAKE)
    called.clear()
    result = await Runner.run(Agent(name="box", tools=[weather]), CALL)
    expect(called == ["Rome"] and "sunny" in result.final_output, (called, result.final_output))


@feature("agent, handoff")
async def _handoff() -> None:
    use(FAKE)
    other = Agent(name="other", handoff_description="Knows all.")
    call = '<tool_call>{"name": "transfer_to_other", "arguments": {}}</tool_call>'
    result = await Runner.run(Agent(name="box", handoffs=[other]), call, max_turns=3)
    expect(result.last_agent.name == "other", result.last_agent.name)


@feature("agent, structured output")
async def _structured() -> None:
    use(FAKE)
    result = await Runner.run(Agent(name="box", output_type=Person), "Ada")
    expect(result.final_output == Person(name="Ada"), result.final_output)


@feature("agent, session")
async def _session() -> None:
    use(FAKE)
    session = SQLiteSession("box")
    for text in ("Hello box", "And again"):
        result = await Runner.run(Agent(name="box"), text, session=session)
    expect(result.final_output == "You said: And again.", result.final_output)
    expect(len(await session.get_items()) == 4, await session.get_items())


@feature("agent, session on the server")
async def _server_session() -> None:
    client = use(FAKE)
    session = OpenAIConversationsSession(openai_client=client)
    for text in ("Hello box", CALL, "And again"):
        result = await Runner.run(Agent(name="box", tools=[weather]), text, session=session)
    expect(result.final_output == "You said: And again.", result.final_output)
    expect(len(await session.get_items()) == 9, await session.get_items())
    last = await session.pop_item()
    expect(last is not None and len(await session.get_items()) == 8, last)
    await session.clear_session()


@feature("agent, conversation of the server")
async def _conversation() -> None:
    conversation = (await use(FAKE).conversations.create()).id
    for text in ("Hello box", "And again"):
        result = await Runner.run(Agent(name="box"), text, conversation_id=conversation)
    expect(result.final_output == "You said: And again.", result.final_output)
    items = [item async for item in use(FAKE).conversations.items.list(conversation)]
    expect(len(items) == 4, items)


@feature("agent, chat completions")
async def _chat() -> None:
    called.clear()
    model = OpenAIChatCompletionsModel("gpt-4o", use(FAKE))
    result = await Runner.run(Agent(name="box", model=model, tools=[weather]), CALL)
    expect(called == ["Rome"] and "sunny" in result.final_output, (called, result.final_output))


def _pipeline() -> VoicePipeline:
    provider = OpenAIVoiceModelProvider(openai_client=use(REAL))
    workflow = SingleAgentVoiceWorkflow(Agent(name="box", instructions="Be brief."))
    return VoicePipeline(workflow=workflow, config=VoicePipelineConfig(model_provider=provider, tracing_disabled=True))


async def _heard(result: Any) -> bytes:
    """The audio that a pipeline's result plays, up to the end of its first turn."""
    audio = b""
    async for event in result.stream():
        if event.type == "voice_stream_event_audio" and event.data is not None:
            audio += event.data.tobytes()
        if event.type == "voice_stream_event_error":
            raise event.error
        if event.type == "voice_stream_event_lifecycle" and event.event == "turn_ended":
            break
    return audio


@feature("voice pipeline")
async def _voice() -> None:
    samples = np.frombuffer(pcm_of(QUESTION, 24_000), np.int16)
    expect_speech(await _heard(await _pipeline().run(AudioInput(buffer=samples))), 24_000, 0.3, 90)


@feature("voice pipeline, streamed")
async def _voice_streamed() -> None:
    samples = np.frombuffer(pcm_of(QUESTION, 24_000) + bytes(24_000 * 2 * 2), np.int16)
    stream = StreamedAudioInput()

    async def speak() -> None:
        for first in range(0, len(samples), 2400):
            await stream.add_audio(samples[first : first + 2400])
            await asyncio.sleep(0.05)

    speaking = asyncio.create_task(speak())
    expect_speech(await _heard(await _pipeline().run(stream)), 24_000, 0.3, 90)
    speaking.cancel()


def _runner(url: str, tools: list[Any], **settings: Any) -> Any:
    agent = RealtimeAgent(name="box", instructions="Be brief.", tools=tools)
    runner = RealtimeRunner(agent, config={"model_settings": {"model_name": "gpt-realtime", **settings}})
    address = url.replace("http", "ws", 1) + "/v1/realtime?model=gpt-realtime"
    return runner.run(model_config={"api_key": "none", "url": address})


@feature("realtime, voice")
async def _realtime() -> None:
    audio, asked = b"", ""
    async with await _runner(REAL, []) as session:
        sound = pcm_of(QUESTION, 24_000) + bytes(24_000 * 2 * 2)
        for first in range(0, len(sound), 4800):
            await session.send_audio(sound[first : first + 4800])
        async for event in session:
            if event.type == "audio":
                audio += event.audio.data
            if event.type == "error":
                raise RuntimeError(str(event.error))
            if event.type == "raw_model_event" and event.data.type == "input_audio_transcription_completed":
                asked = event.data.transcript
            if event.type == "audio_end":
                break
    expect("paris" in asked.lower() or "france" in asked.lower(), asked)
    expect_speech(audio, 24_000, 0.3, 90)


@feature("realtime, tools")
async def _realtime_tools() -> None:
    called.clear()
    async with await _runner(FAKE, [weather], modalities=["text"]) as session:
        await session.send_message(CALL)
        async for event in session:
            if event.type == "error":
                raise RuntimeError(str(event.error))
            if event.type == "tool_end":
                expect(called == ["Rome"], called)
                return


main()
