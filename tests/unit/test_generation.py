"""Generation: a stopped answer continues, or ends with the finish reason of its limit."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from chatapi import settings
from chatapi.appliance import Appliance
from chatapi.engines import Capability, PromptMessage, Sampling, Stop, TokenChunk, TokenUsage, Tool
from chatapi.errors import TooLarge, Unprocessable
from chatapi.events import Event, Speech, TextDelta
from chatapi.services.turns.generation import Generation, GenerationOptions, Generator
from chatapi.services.turns.prompts import FixedPrompt, Prompt, Question
from chatapi.storage.history import ConversationState
from conftest import FAKE_ENGINES, RunAppliance, installed_model, until

pytestmark = pytest.mark.anyio
CONTEXT = 256


def chat_prompt(text: str) -> Prompt:
    """The prompt of a stateless chat."""
    return FixedPrompt((PromptMessage("user", text),))


def conversation_prompt(text: str) -> Prompt:
    """The first question of a stored conversation."""
    return Question(ConversationState("", None, ()), text, "")


async def paused_once(generator: Generator, prompt: Prompt, limit: int) -> tuple[list[str], int, Generation[Prompt]]:
    """The text deltas, how many came before the pause for the first sentence's speech, and the generation."""
    deltas: list[str] = []
    before: list[int] = []
    confirmed = anyio.Event()

    async def send(event: Event) -> None:
        if isinstance(event, TextDelta):
            deltas.append(event.text)
        if isinstance(event, Speech):
            before.append(len(deltas))
            confirmed.set()

    voice = generator.synthesis.voice(None)
    options = GenerationOptions(voice, limit, temperature=0, verbatim=True, confirmed=confirmed)
    generation = await generator.generate(prompt, options, send, lambda stage: None)
    return deltas, before[0], generation


@pytest.mark.parametrize("new_prompt", [chat_prompt, conversation_prompt])
async def test_answer_paused_at_a_full_context_ends_with_the_reason_length(
    fake_appliance: RunAppliance, new_prompt: Callable[[str], Prompt]
) -> None:
    words = " ".join(f"word{number}" for number in range(CONTEXT))
    async with fake_appliance("llama_cpp.context=1000") as appliance:
        deltas, at_pause, generation = await paused_once(appliance.chat.generator, new_prompt(words), 500)
        assert 0 < at_pause < 20 and generation.last.finish_reason == "stop"
    full = new_prompt(" ".join(words.split()[: CONTEXT - at_pause]))
    async with fake_appliance(f"llama_cpp.context={CONTEXT}") as appliance:
        cut, _, generation = await paused_once(appliance.chat.generator, full, at_pause)
        assert cut == deltas[:at_pause]
        assert generation.last.finish_reason == "length" and generation.reply == "".join(cut).rstrip()
        usage = generation.last.usage
        assert usage is not None and (usage.prompt_tokens, usage.completion_tokens) == (CONTEXT - at_pause, at_pause)
        # A prompt that does not fit by itself is rejected.
        with pytest.raises((TooLarge, Unprocessable)):
            await appliance.chat.generator.generate(
                new_prompt(words), GenerationOptions(None, at_pause), _discard, lambda stage: None
            )


async def test_corrected_answer_is_continued_after_its_pause(
    fake_appliance: RunAppliance, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = ['<tool_call>{"name": "nothing"}</tool_call>', "It rains today. And", " it is cold."]
    asked: list[Sequence[PromptMessage]] = []

    def generate(messages: Sequence[PromptMessage], sampling: Sampling, stop: Stop) -> Iterator[TokenChunk]:
        asked.append(messages)
        yield TokenChunk(answers[len(asked) - 1])
        # Time for the pause, which the first sentence causes.
        if len(asked) == 2:
            yield TokenChunk("")
        yield TokenChunk("", "stop", TokenUsage(1, 1))

    async with fake_appliance() as appliance:
        generator, confirmed = appliance.chat.generator, anyio.Event()
        confirmed.set()
        monkeypatch.setattr(appliance.engines.llm.engine, "generate", generate)
        weather = Sampling(tools=(Tool("weather", "Tells it.", {"type": "object"}),))
        options = GenerationOptions(generator.synthesis.voice(None), sampling=weather, confirmed=confirmed)
        generation = await generator.generate(chat_prompt("Is it raining?"), options, _discard, lambda stage: None)
    assert [messages[-1].role for messages in asked] == ["user", "user", "assistant"]
    assert asked[2][-1].text == "It rains today. And"
    assert generation.reply == "It rains today. And it is cold."


async def test_call_is_made_for_the_engine_that_runs_it(
    fake_appliance: RunAppliance, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Container[Capability]] = []

    class Recording(FixedPrompt):
        def generate(self, messages: Any, sampling: Sampling, capabilities: Container[Capability]) -> Any:
            seen.append(capabilities)
            return super().generate(messages, sampling, capabilities)

    async with fake_appliance() as appliance, anyio.create_task_group() as group:
        llm, generator = appliance.engines.llm, appliance.chat.generator
        prompt, options = Recording((PromptMessage("user", "hello"),)), GenerationOptions()
        with llm.lifetime.holding():
            group.start_soon(generator.generate, prompt, options, _discard, lambda stage: None)
            await until(lambda: llm.admission.used == 1)
            monkeypatch.setattr(llm.engine, "capabilities", frozenset({"schema"}))
    assert seen == [{"schema"}]


@pytest.mark.real
async def test_answer_of_a_real_model_paused_at_a_full_context_ends_the_same(data: Path) -> None:
    installed_model("smollm2-135m-instruct")
    ships = " ".join(f"Ship {number} sails." for number in range(CONTEXT // 5))
    prompt = chat_prompt(f"{ships} Tell me a long story about the sea.")

    def appliance(context: int) -> Appliance:
        real = ("llm.engine=llama_cpp", "llm.model=smollm2-135m-instruct", "llama_cpp.slots=1")
        chosen = [*FAKE_ENGINES, *real, f"llama_cpp.context={context}", f"data={data}"]
        return Appliance(settings.load(chosen, environ={}).settings)

    async with appliance(1024).running() as large:
        await large.load()
        _, at_pause, _ = await paused_once(large.chat.generator, prompt, 60)
        plain = await large.chat.generator.generate(
            prompt, GenerationOptions(None, at_pause, 0), _discard, lambda stage: None
        )
    usage = plain.last.usage
    assert usage is not None and plain.last.finish_reason == "length" and usage.prompt_tokens > CONTEXT
    async with appliance(usage.prompt_tokens + at_pause).running() as full:
        await full.load()
        _, _, generation = await paused_once(full.chat.generator, prompt, at_pause)
    ended = generation.last
    assert ended.finish_reason == "length" and ended.usage and ended.usage.completion_tokens == at_pause
    assert generation.reply == plain.reply


async def _discard(event: Event) -> None:
    """Ignores an event."""
