"""Instructor in its modes for OpenAI's servers."""

from __future__ import annotations

from typing import Any

import instructor
from features import FAKE, REAL, expect, feature, main
from openai import OpenAI
from pydantic import BaseModel


class Person(BaseModel):
    name: str


def extract(url: str, mode: instructor.Mode, text: str = "My name is Ada.", **more: Any) -> Any:
    client = instructor.from_openai(OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0), mode=mode)
    messages: Any = [{"role": "user", "content": text}]
    return client.chat.completions.create(
        model="gpt-4o", messages=messages, response_model=Person, max_retries=2, **more
    )


@feature("tools")
def _tools() -> None:
    found = extract(REAL, instructor.Mode.TOOLS)
    expect(isinstance(found, Person) and found.name, found)


@feature("strict tools")
def _strict() -> None:
    found = extract(REAL, instructor.Mode.TOOLS_STRICT)
    expect(isinstance(found, Person) and found.name, found)


@feature("JSON schema")
def _schema() -> None:
    found = extract(REAL, instructor.Mode.JSON_SCHEMA)
    expect(isinstance(found, Person) and found.name, found)


@feature("JSON")
def _json() -> None:
    found = extract(FAKE, instructor.Mode.JSON_SCHEMA, "Ada")
    expect(found.name == "Ada", found)


@feature("JSON in Markdown")
def _markdown() -> None:
    found = extract(FAKE, instructor.Mode.MD_JSON, '```json\n{"name": "Ada"}\n```')
    expect(found.name == "Ada", found)


@feature("responses, tools")
def _responses() -> None:
    client = instructor.from_openai(
        OpenAI(base_url=f"{REAL}/v1", api_key="none", max_retries=0), mode=instructor.Mode.RESPONSES_TOOLS
    )
    found = client.responses.create(model="gpt-4o", input="My name is Ada.", response_model=Person, max_retries=2)
    expect(isinstance(found, Person) and found.name, found)


@feature("partial objects, streamed")
def _partial() -> None:
    client = instructor.from_openai(OpenAI(base_url=f"{REAL}/v1", api_key="none", max_retries=0))
    messages: Any = [{"role": "user", "content": "My name is Ada."}]
    found = list(client.chat.completions.create_partial(model="gpt-4o", messages=messages, response_model=Person))
    expect(found and found[-1].name, found)


main()
