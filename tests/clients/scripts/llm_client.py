"""The command `llm` with the box as one of its models (`extra-openai-models.yaml`)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from features import FAKE, WORK, expect, feature, main

HOME = WORK / "llm"
SCHEMA = '{"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}'
HOME.mkdir(exist_ok=True)
(HOME / "extra-openai-models.yaml").write_text(
    f"- model_id: box\n  model_name: default\n  api_base: {FAKE}/v1\n  supports_schema: true\n  supports_tools: true\n"
)
LLM = Path(sys.executable).with_name("llm")


def llm(*words: str, given: str = "") -> str:
    environment = {**os.environ, "LLM_USER_PATH": str(HOME), "OPENAI_API_KEY": "none"}
    done = subprocess.run([LLM, *words], input=given, env=environment, capture_output=True, text=True, timeout=80)
    expect(done.returncode == 0, done.stderr[-300:])
    return done.stdout.strip()


@feature("prompt")
def _prompt() -> None:
    expect(llm("-m", "box", "Hello box") == "You said: Hello box.", llm("-m", "box", "Hello box"))


@feature("prompt without streaming")
def _whole() -> None:
    text = llm("-m", "box", "--no-stream", "-s", "Be brief.", "-o", "temperature", "0.5", "Hello box")
    expect(text == "You said: Hello box.", text)


@feature("conversation")
def _conversation() -> None:
    llm("-m", "box", "Hello box")
    text = llm("-c", "And again")
    expect(text == "You said: And again.", text)


@feature("schema")
def _schema() -> None:
    text = llm("-m", "box", "--schema", SCHEMA, "Ada")
    expect(text.replace(" ", "") == '{"name":"Ada"}', text)


@feature("tools")
def _tools() -> None:
    code = "def weather(city: str) -> str:\n    'The weather of a city.'\n    return 'sunny in ' + city\n"
    call = '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>'
    text = llm("-m", "box", "--functions", code, call)
    expect("sunny in Rome" in text, text)


@feature("long standard input")
def _long() -> None:
    text = llm("-m", "box", "-s", "Summarize.", given="A line of a log file.\n" * 900)
    expect(text.startswith("You said: A line of a log file."), text[:200])


main()
