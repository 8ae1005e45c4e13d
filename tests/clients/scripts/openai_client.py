"""OpenAI's Python client: HTTP, Responses and the Realtime API."""

from __future__ import annotations

import base64
from typing import Any

from features import (
    CALL,
    FAKE,
    FOX,
    QUESTION,
    REAL,
    expect,
    expect_fox,
    expect_speech,
    expect_wav,
    feature,
    main,
    pcm_of,
)
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

fake = OpenAI(base_url=f"{FAKE}/v1", api_key="none", max_retries=0)
real = OpenAI(base_url=f"{REAL}/v1", api_key="none", max_retries=0)
WEATHER: Any = {
    "name": "weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


class Person(BaseModel):
    name: str


def hello(content: str = "Hello box") -> Any:
    return [{"role": "user", "content": content}]


@feature("chat completions")
def _chat() -> None:
    text = fake.chat.completions.create(model="gpt-5", messages=hello(), reasoning_effort="low", verbosity="low")
    expect(text.choices[0].message.content == "You said: Hello box.", text)


@feature("chat completions, streamed")
def _streamed() -> None:
    with fake.chat.completions.stream(model="gpt-5", messages=hello()) as stream:
        final = stream.get_final_completion()
    expect(final.choices[0].message.content == "You said: Hello box.", final)


@feature("chat completions, tools")
def _tools() -> None:
    messages = hello(CALL)
    tools: Any = [{"type": "function", "function": WEATHER}]
    message = fake.chat.completions.create(model="gpt-5", messages=messages, tools=tools).choices[0].message
    [call] = message.tool_calls or []
    expect(call.type == "function" and call.function.arguments == '{"city": "Rome"}', message)
    messages += [message, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
    final = fake.chat.completions.create(model="gpt-5", messages=messages, tools=tools)
    expect("sunny" in (final.choices[0].message.content or ""), final)


@feature("chat completions, structured output")
def _parsed() -> None:
    parsed = fake.chat.completions.parse(model="gpt-5", messages=hello("Ada"), response_format=Person)
    expect(parsed.choices[0].message.parsed == Person(name="Ada"), parsed)


@feature("chat completions, audio in and out")
def _spoken() -> None:
    sound = {"data": base64.b64encode(QUESTION.read_bytes()).decode(), "format": "wav"}
    message: Any = [{"role": "user", "content": [{"type": "input_audio", "input_audio": sound}]}]
    audio = (
        real.chat.completions.create(
            model="gpt-audio", messages=message, modalities=["text", "audio"], audio={"voice": "alloy", "format": "wav"}
        )
        .choices[0]
        .message.audio
    )
    expect(audio is not None and audio.transcript, audio)
    expect_wav(base64.b64decode(audio.data), 0.3, 90) if audio else None


@feature("completions")
def _completions() -> None:
    expect(fake.completions.create(model="default", prompt="Hello").choices[0].text, "no text")


@feature("responses")
def _responses() -> None:
    response = fake.responses.create(model="gpt-5", input="Hello box", instructions="Be brief.")
    expect(response.output_text == "You said: Hello box.", response)
    second = fake.responses.create(model="gpt-5", input="And again", previous_response_id=response.id)
    expect(second.output_text == "You said: And again.", second)


@feature("responses, streamed")
def _responses_streamed() -> None:
    with fake.responses.stream(model="gpt-5", input="Hello box") as stream:
        final = stream.get_final_response()
    expect(final.output_text == "You said: Hello box.", final)


@feature("responses, tools")
def _responses_tools() -> None:
    tools: Any = [{"type": "function", "strict": False, **WEATHER}]
    response = fake.responses.create(model="gpt-5", input=CALL, tools=tools)
    [call] = [item for item in response.output if item.type == "function_call"]
    result: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}]
    final = fake.responses.create(model="gpt-5", input=result, previous_response_id=response.id, tools=tools)
    expect("sunny" in final.output_text, final)


@feature("responses, structured output")
def _responses_parsed() -> None:
    parsed = fake.responses.parse(model="gpt-5", input="Ada", text_format=Person)
    expect(parsed.output_parsed == Person(name="Ada"), parsed)


@feature("transcription")
def _transcription() -> None:
    with FOX.open("rb") as file:
        expect_fox(real.audio.transcriptions.create(model="gpt-4o-transcribe", file=file, language="en").text)


@feature("transcription, words")
def _words() -> None:
    with FOX.open("rb") as file:
        verbose = real.audio.transcriptions.create(
            model="whisper-1", file=file, response_format="verbose_json", timestamp_granularities=["word"]
        )
    expect_fox(" ".join(word.word for word in verbose.words or []))


@feature("transcription, streamed")
def _transcription_streamed() -> None:
    with FOX.open("rb") as file:
        events = list(real.audio.transcriptions.create(model="gpt-4o-transcribe", file=file, stream=True))
    expect(events[-1].type == "transcript.text.done", events)
    expect_fox("".join(event.delta for event in events if event.type == "transcript.text.delta"))


@feature("speech")
def _speech() -> None:
    text = "The quick brown fox jumps over the lazy dog."
    for style in ("calm", None):
        more: Any = {"instructions": style} if style else {}
        sound = real.audio.speech.create(
            model="gpt-4o-mini-tts", voice="alloy", input=text, response_format="wav", **more
        )
        expect_wav(sound.read(), 1.5, 6)
    again = real.audio.transcriptions.create(model="whisper-1", file=("speech.wav", sound.read()))
    expect_fox(again.text)


@feature("speech, streamed mp3")
def _speech_streamed() -> None:
    with real.audio.speech.with_streaming_response.create(model="tts-1", voice="nova", input="Good morning.") as reply:
        data = b"".join(reply.iter_bytes())
    expect(data[:3] == b"ID3" or data[0] == 0xFF, data[:8])


@feature("speech of 👍")
def _emoji() -> None:
    sound = real.audio.speech.create(model="tts-1", voice="alloy", input="👍", response_format="wav").read()
    expect(sound[:4] == b"RIFF" and len(sound) > 1000, sound[:50])


@feature("models")
def _models() -> None:
    names = [model.id for model in real.models.list()]
    expect(names and all(real.models.retrieve(name).id == name for name in names), names)


async def _send_speech(connection: Any, path: Any) -> None:
    """Sends a recording and two seconds of silence, in blocks of 0.1 s."""
    sound = pcm_of(path, 24_000) + bytes(2 * 24_000 * 2)
    for first in range(0, len(sound), 4800):
        await connection.input_audio_buffer.append(audio=base64.b64encode(sound[first : first + 4800]).decode())


async def _spoken_turn(session: dict[str, Any], path: Any = QUESTION) -> tuple[str, str, bytes]:
    """Sends speech; both transcripts and the audio of the answer."""
    client = AsyncOpenAI(base_url=f"{REAL}/v1", api_key="none")
    asked, answer, audio = "", "", b""
    async with client.realtime.connect(model="gpt-realtime") as connection:
        await connection.session.update(session={"type": "realtime", **session})  # type: ignore[typeddict-item]
        await _send_speech(connection, path)
        async for event in connection:
            if event.type == "error":
                raise RuntimeError(event.error.message)
            if event.type == "conversation.item.input_audio_transcription.completed":
                asked += event.transcript
            if event.type == "response.output_audio.delta":
                audio += base64.b64decode(event.delta)
            if event.type == "response.output_audio_transcript.done":
                answer += event.transcript
            if event.type == "response.done" and event.response.status == "completed":
                return asked, answer, audio
    raise RuntimeError("the connection ended")


@feature("realtime, voice")
async def _realtime_voice() -> None:
    transcription: Any = {"input": {"transcription": {"model": "whisper-1"}}}
    asked, answer, audio = await _spoken_turn({"audio": transcription})
    expect("paris" in asked.lower() or "france" in asked.lower(), asked)
    expect(answer, answer)
    expect_speech(audio, 24_000, 0.3, 90)


@feature("realtime, text and tools")
async def _realtime_tools() -> None:
    client = AsyncOpenAI(base_url=f"{FAKE}/v1", api_key="none")
    async with client.realtime.connect(model="gpt-realtime") as connection:
        tool: Any = {"type": "function", **WEATHER}
        await connection.session.update(
            session={"type": "realtime", "output_modalities": ["text"], "tool_choice": "auto", "tools": [tool]}
        )
        content: Any = [{"type": "input_text", "text": CALL}]
        await connection.conversation.item.create(item={"type": "message", "role": "user", "content": content})
        await connection.response.create()
        async for event in connection:
            if event.type == "error":
                raise RuntimeError(event.error.message)
            if event.type == "response.function_call_arguments.done":
                output: Any = {"type": "function_call_output", "call_id": event.call_id, "output": "sunny"}
                await connection.conversation.item.create(item=output)
            if event.type == "response.done" and "function_call" in [item.type for item in event.response.output or []]:
                await connection.response.create()
            if event.type == "response.output_text.done" and "sunny" in event.text:
                return


@feature("realtime, transcription session")
async def _realtime_transcription() -> None:
    client = AsyncOpenAI(base_url=f"{REAL}/v1", api_key="none")
    async with client.realtime.connect(extra_query={"intent": "transcription"}) as connection:
        session: Any = {
            "type": "transcription",
            "audio": {"input": {"transcription": {"model": "gpt-4o-transcribe", "language": "en"}}},
        }
        await connection.session.update(session=session)
        await _send_speech(connection, FOX)
        async for event in connection:
            if event.type == "error":
                raise RuntimeError(event.error.message)
            if event.type == "conversation.item.input_audio_transcription.completed":
                expect_fox(event.transcript)
                return


@feature("realtime, client secrets")
def _secrets() -> None:
    secret = real.realtime.client_secrets.create(session={"type": "realtime"})
    expect(secret.value, secret)


main()
