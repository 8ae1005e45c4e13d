"""LangChain's chat model and embeddings of OpenAI, and LangGraph's agent."""

from __future__ import annotations

from typing import Any

from features import CALL, FAKE, expect, feature, main
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

called: list[str] = []


@tool
def weather(city: str) -> str:
    """The weather of a city."""
    called.append(city)
    return "sunny"


class Person(BaseModel):
    """A person."""

    name: str


def model(**options: Any) -> ChatOpenAI:
    return ChatOpenAI(model="gpt-4o", base_url=f"{FAKE}/v1", api_key="none", max_retries=0, **options)


@feature("invoke")
def _invoke() -> None:
    message = model().invoke([SystemMessage("Be brief."), HumanMessage("Hello box")])
    expect(message.content == "You said: Hello box.", message)


@feature("stream")
def _stream() -> None:
    parts = [chunk.content for chunk in model().stream("Hello box")]
    expect("".join(parts) == "You said: Hello box." and len(parts) > 2, parts)


@feature("batch")
async def _batch() -> None:
    found = await model().abatch(["One", "Two", "Three"])
    expect([each.content for each in found] == [f"You said: {word}." for word in ("One", "Two", "Three")], found)


@feature("several completions")
def _several() -> None:
    result = model(n=2).generate([[HumanMessage("Hello")]])
    expect(len(result.generations[0]) == 2, result)


@feature("tools")
def _tools() -> None:
    bound = model().bind_tools([weather])
    messages: list[Any] = [HumanMessage(CALL)]
    messages.append(bound.invoke(messages))
    [call] = messages[-1].tool_calls
    messages.append(weather.invoke(call))
    expect("sunny" in str(bound.invoke(messages).content), messages)


@feature("agent of LangGraph")
def _agent() -> None:
    from langchain.agents import create_agent

    called.clear()
    result = create_agent(model(), [weather]).invoke({"messages": [("user", CALL)]})
    expect(called == ["Rome"] and "sunny" in result["messages"][-1].content, result)


@feature("structured output, JSON schema")
def _schema() -> None:
    found = model().with_structured_output(Person).invoke("Ada")
    expect(found == Person(name="Ada"), found)


@feature("structured output, tool")
def _function() -> None:
    found = model().with_structured_output(Person, method="function_calling").invoke("Ada")
    expect(isinstance(found, Person), found)


@feature("structured output, JSON mode")
def _json() -> None:
    found = model(temperature=0).with_structured_output(Person, method="json_mode", include_raw=True).invoke("Ada")
    expect(found["raw"].content.lstrip().startswith("{"), found)


@feature("responses")
def _responses() -> None:
    message = model(use_responses_api=True).invoke("Hello box")
    expect(message.text == "You said: Hello box.", message)
    called.clear()
    bound = model(use_responses_api=True).bind_tools([weather])
    messages: list[Any] = [HumanMessage(CALL)]
    messages.append(bound.invoke(messages))
    messages.append(weather.invoke(messages[-1].tool_calls[0]))
    expect("sunny" in str(bound.invoke(messages).text), messages)


@feature("embeddings")
def _embeddings() -> None:
    from langchain_openai import OpenAIEmbeddings

    # Other servers than OpenAI's get the text, not its tokens.
    options: Any = {"base_url": f"{FAKE}/v1", "api_key": "none", "max_retries": 0, "check_embedding_ctx_length": False}
    found = OpenAIEmbeddings(**options).embed_query("Hello")
    expect(len(found) > 10, found)


main()
