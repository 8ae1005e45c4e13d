"""LiteLLM as a library: completions, the Responses bridge, speech and transcription."""

from __future__ import annotations

import os
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm
from features import CALL, FAKE, FOX, REAL, expect, expect_fox, feature, main

litellm.num_retries = 0
TO: Any = {"model": "openai/default", "api_base": f"{FAKE}/v1", "api_key": "none"}
TOOLS: Any = [{
    "type": "function",
    "function": {
        "name": "weather",
        "description": None,
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}]  # fmt: skip


@feature("completion")
def _completion() -> None:
    found = litellm.completion(messages=[{"role": "user", "content": "Hello box"}], **TO)
    expect(found.choices[0].message.content == "You said: Hello box.", found)


@feature("completion, streamed")
async def _streamed() -> None:
    stream = await litellm.acompletion(messages=[{"role": "user", "content": "Hello box"}], stream=True, **TO)
    text = "".join([part.choices[0].delta.content or "" async for part in stream])
    expect(text == "You said: Hello box.", text)


@feature("tools")
def _tools() -> None:
    messages: list[Any] = [{"role": "user", "content": CALL}]
    message = litellm.completion(messages=messages, tools=TOOLS, **TO).choices[0].message
    [call] = message.tool_calls
    messages += [message, {"role": "tool", "name": "weather", "tool_call_id": call.id, "content": "sunny"}]
    final = litellm.completion(messages=messages, tools=TOOLS, **TO)
    expect("sunny" in final.choices[0].message.content, final)


@feature("responses")
def _responses() -> None:
    found = litellm.responses(input="Hello box", **TO)
    expect(found.output[-1].content[0].text == "You said: Hello box.", found)


@feature("text completion")
def _text() -> None:
    to = {**TO, "model": "text-completion-openai/default"}
    expect(litellm.text_completion(prompt="Hello", **to).choices[0].text, "no text")


@feature("transcription")
def _transcription() -> None:
    to = {**TO, "model": "openai/whisper-1", "api_base": f"{REAL}/v1"}
    with FOX.open("rb") as file:
        expect_fox(litellm.transcription(file=file, **to).text)


@feature("speech")
def _speech() -> None:
    to = {**TO, "model": "openai/tts-1", "api_base": f"{REAL}/v1"}
    data = litellm.speech(input="Good morning.", voice="alloy", **to).content
    expect(len(data) > 5000, len(data))


main()
