"""llama.cpp's context: long prompts, prompts of several clients that stay cached, and the memory of the KV cache."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from openai import OpenAI

import assist
from chatapi.engines import ContextOverflow, PromptMessage, Sampling, TokenUsage
from chatapi.settings import LlamaCppSettings as Table
from chatapi.settings import Settings
from conftest import installed_model, serving

pytest.importorskip("xllamacpp")
from chatapi.engines.llm.llama_cpp import LlamaCpp

pytestmark = pytest.mark.real
ONE, OTHER, BRIEF = "The lamp in the kitchen is on. " * 30, "A stone lies in the river here. " * 30, "You are brief."


def engine(**table: Any) -> LlamaCpp:
    path = next(iter(installed_model("smollm2-135m-instruct").files.values()))
    model: Any = SimpleNamespace(name="tiny", folder=path.parent, files={"model": path}, options={})
    return LlamaCpp(Settings(llama_cpp=Table(**table)), [model])


@pytest.fixture(scope="module")
def llama() -> Iterator[LlamaCpp]:
    found = engine(context=2048, slots=4)
    yield found
    found.close()


def usage(llama: LlamaCpp, system: str, question: str, max_tokens: int = 2) -> TokenUsage:
    messages = [PromptMessage("system", system), PromptMessage("user", question)]
    *_, last = llama.generate(messages, Sampling(max_tokens, temperature=0))
    assert last.usage is not None
    return last.usage


def test_prompts_of_clients_that_alternate_stay_cached(llama: LlamaCpp) -> None:
    systems = (ONE, OTHER, BRIEF + " Truly.")
    for system in systems:
        usage(llama, system, "What is on?")
    for question in ("Who is there?", "Where is it?"):
        for system in systems:
            counts = usage(llama, system, question)
            assert counts.prompt_tokens - counts.cached_tokens < 16, system


def test_clients_with_the_same_beginning_do_not_take_each_others_slot(llama: LlamaCpp) -> None:
    homes = [f"{ONE} {home * 40}" for home in ("The house is red. ", "My flat is blue. ")]
    for home in homes:
        usage(llama, home, "What is on?")
    for home in homes:
        counts = usage(llama, home, "Who is there?")
        assert counts.prompt_tokens - counts.cached_tokens < 16


def test_a_short_prompt_is_read_before_the_rest_of_a_long_one(llama: LlamaCpp) -> None:
    long = "Birds fly south in the cold months of the year. " * 120
    reading, ended, found = threading.Event(), list[str](), list[TokenUsage]()

    def stop() -> bool:
        reading.set()
        return False

    def read() -> None:
        messages = [PromptMessage("system", long), PromptMessage("user", "Why?")]
        *_, last = llama.generate(messages, Sampling(2, temperature=0), stop)
        ended.append("long")
        found.append(last.usage or TokenUsage())

    thread = threading.Thread(target=read)
    thread.start()
    assert reading.wait(60)
    usage(llama, BRIEF, "Is a short prompt first?")
    ended.append("short")
    thread.join(300)
    assert ended == ["short", "long"]
    # What it read before it was paused was not in the cache when it came.
    assert found[0].cached_tokens < 64 < found[0].prompt_tokens


def test_overflow_names_the_setting_and_the_models_length(llama: LlamaCpp) -> None:
    with pytest.raises(ContextOverflow) as raised:
        usage(llama, "word " * 2100, "Hello")
    assert raised.value.context == 2048
    assert raised.value.remedy == "llama_cpp.context raises it up to 8192, for which the model was trained"


LOADED = """
import re, sys
from pathlib import Path
from types import SimpleNamespace
from chatapi.engines.llm.llama_cpp import LlamaCpp
from chatapi.settings import LlamaCppSettings as Table, Settings
file = Path(sys.argv[1])
model = SimpleNamespace(name="tiny", folder=file.parent, files={"model": file}, options={})
engine = LlamaCpp(Settings(llama_cpp=Table(slots=2, kv_cache="f16")), [model])
used = re.search(r"^Pss_Anon: +([0-9]+)", Path("/proc/self/smaps_rollup").read_text(), re.MULTILINE)
print(engine.context, int(used[1]) << 10)
"""


def test_context_is_the_models_training_length_and_takes_memory_only_when_it_is_used() -> None:
    file = next(iter(installed_model("smollm2-135m-instruct").files.values()))
    ran = subprocess.run([sys.executable, "-c", LOADED, str(file)], capture_output=True, text=True, timeout=240)
    assert ran.returncode == 0, ran.stderr[-2000:]
    context, used = map(int, ran.stdout.split())
    # The KV cache of two contexts has 377 MB, the model's file 98 MB.
    assert (context, used < 250e6) == (8192, True), used


@pytest.mark.slow
def test_request_of_40_devices_and_14_tools_fits_and_is_read_once(fake_settings: Callable[..., Settings]) -> None:
    model = ("llm.engine=llama_cpp", "llm.model=smollm2-135m-instruct", "limits.turn_seconds=1200")
    first, second = (assist.request(time=time, question=text) for time, text in (("14:23:05", ""), ("14:25:40", "Hi")))
    assert first["messages"][0]["content"].count("- names:") == 40
    assert (len(first["messages"][0]["content"]), len(first["tools"])) == (assist.SYSTEM_CHARS, 14)
    assert len(json.dumps(first["tools"])) >= assist.TOOLS_CHARS
    second["tools"].reverse()
    with serving(fake_settings(*model)) as server:
        with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=1200) as client:
            counts = [client.chat.completions.create(**each, max_tokens=4).usage for each in (first, second)]
            chunks = list(client.chat.completions.create(**second, max_tokens=4, stream=True,
                                                         stream_options={"include_usage": True}))  # fmt: skip
            response = client.responses.create(
                model="default",
                instructions=second["messages"][0]["content"],
                input="Hi",
                tools=[{"type": "function", **tool["function"]} for tool in second["tools"]],
                max_output_tokens=16,
            )
    cached = [each.prompt_tokens_details.cached_tokens for each in (*counts, chunks[-1].usage)]
    assert cached[0] == 0 and counts[0].prompt_tokens > 5000
    assert all(each > 0.97 * counts[1].prompt_tokens for each in cached[1:])
    assert response.usage is not None
    assert response.usage.input_tokens_details.cached_tokens > 0.97 * response.usage.input_tokens
