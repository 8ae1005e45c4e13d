"""LlamaIndex's language models for OpenAI's servers."""

from __future__ import annotations

from typing import Any

from features import CALL, FAKE, expect, feature, main
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai import OpenAI
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

called: list[str] = []


def weather(city: str) -> str:
    """The weather of a city."""
    called.append(city)
    return "sunny"


class Person(BaseModel):
    """A person."""

    name: str


def like(**options: Any) -> OpenAILike:
    return OpenAILike(model="default", api_base=f"{FAKE}/v1", api_key="none", max_retries=0, **options)


def chat_model() -> OpenAILike:
    return like(is_chat_model=True, is_function_calling_model=True, context_window=1500)


@feature("chat")
def _chat() -> None:
    text = OpenAI(model="gpt-4o", api_base=f"{FAKE}/v1", api_key="none").chat([ChatMessage("Hello box")])
    expect(text.message.content == "You said: Hello box.", text)


@feature("chat, streamed")
def _streamed() -> None:
    text = "".join(part.delta or "" for part in chat_model().stream_chat([ChatMessage("Hello box")]))
    expect(text == "You said: Hello box.", text)


@feature("completion")
def _completion() -> None:
    text = like(is_chat_model=False, context_window=1500).complete("Hello").text
    expect(text, text)


@feature("agent, tools")
async def _agent() -> None:
    called.clear()
    result = await FunctionAgent(tools=[weather], llm=chat_model()).run(CALL)
    expect(called == ["Rome"] and "sunny" in str(result), (called, str(result)))


@feature("structured output")
def _structured() -> None:
    llm = OpenAI(model="gpt-4o", api_base=f"{FAKE}/v1", api_key="none").as_structured_llm(Person)
    found = llm.complete("Ada").raw
    expect(isinstance(found, Person), found)


main()
