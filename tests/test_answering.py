"""Answering: one that was stopped goes on, or ends as its limit says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from chatapi import settings
from chatapi.appliance import Appliance
from chatapi.engines import PromptMessage
from chatapi.errors import TooLarge, Unprocessable
from chatapi.events import Event, Speech, TextDelta
from chatapi.services.turns.chat_completion import FixedPrompt
from chatapi.services.turns.generation import Generation, GenerationOptions, Generator
from chatapi.services.turns.prompts import Prompt, Question
from chatapi.storage.history import ConversationState
from conftest import ECHO, Running, model

pytestmark = pytest.mark.anyio
CONTEXT = 256


def given(text: str) -> Prompt:
    """As a caller of chat keeps it."""
    return FixedPrompt((PromptMessage("user", text),))


def asked(text: str) -> Prompt:
    """As the first question of a conversation of ours."""
    return Question(ConversationState("", None, ()), text, "")


async def stopped_once(generator: Generator, prompt: Prompt, limit: int) -> tuple[list[str], int, Generation[Prompt]]:
    """What was written, how much of it before the writing rested until the first piece was spoken, and the answer."""
    written: list[str] = []
    before: list[int] = []
    going = anyio.Event()

    async def send(event: Event) -> None:
        if isinstance(event, TextDelta):
            written.append(event.text)
        if isinstance(event, Speech):
            before.append(len(written))
            going.set()

    voice = generator.synthesis.voice(None)
    generation_options = GenerationOptions(voice, limit, temperature=0, verbatim=True, go=going)
    answered = await generator.answer(prompt, generation_options, send, lambda stage: None)
    return written, before[0], answered


@pytest.mark.parametrize("form", [given, asked])
async def test_an_answer_stopped_where_the_context_is_full_ends_as_if_its_limit_had_cut_it(
    echo: Running, form: Callable[[str], Prompt]
) -> None:
    words = " ".join(f"word{number}" for number in range(CONTEXT))
    async with echo("llama_cpp.context=1000") as appliance:
        whole, rested, answered = await stopped_once(appliance.chat.generator, form(words), 500)
        assert 0 < rested < 20 and answered.last.finish_reason == "stop"
    full = form(" ".join(words.split()[: CONTEXT - rested]))
    async with echo(f"llama_cpp.context={CONTEXT}") as appliance:
        written, _, answered = await stopped_once(appliance.chat.generator, full, rested)
        assert written == whole[:rested]
        assert answered.last.finish_reason == "length" and answered.reply == "".join(written).rstrip()
        usage = answered.last.usage
        assert usage is not None and (usage.prompt_tokens, usage.completion_tokens) == (CONTEXT - rested, rested)
        # One that nothing was written of is refused as ever.
        with pytest.raises((TooLarge, Unprocessable)):
            await appliance.chat.generator.answer(
                form(words), GenerationOptions(None, rested), _nobody, lambda stage: None
            )


@pytest.mark.real
async def test_so_does_a_real_models(data: Path) -> None:
    model("smollm2-135m-instruct")
    prompt = given("Read these words: " + "word " * CONTEXT + ". Now tell me a long story about the sea.")

    def appliance(context: int) -> Appliance:
        real = ("llm.engine=llama_cpp", "llm.model=smollm2-135m-instruct", "llama_cpp.slots=1")
        chosen = [*ECHO, *real, f"llama_cpp.context={context}", f"data={data}"]
        return Appliance(settings.load(chosen, environ={}).settings)

    async with appliance(1024).running() as roomy:
        await roomy.load()
        _, rested, _ = await stopped_once(roomy.chat.generator, prompt, 60)
        plain = await roomy.chat.generator.answer(
            prompt, GenerationOptions(None, rested, 0), _nobody, lambda stage: None
        )
    usage = plain.last.usage
    assert usage is not None and plain.last.finish_reason == "length" and usage.prompt_tokens > CONTEXT
    async with appliance(usage.prompt_tokens + rested).running() as full:
        await full.load()
        written, _, answered = await stopped_once(full.chat.generator, prompt, rested)
    assert answered.last.finish_reason == "length" and len(written) == rested
    assert answered.reply == plain.reply


async def _nobody(event: Event) -> None:
    """Takes what it is told and does nothing with it."""
