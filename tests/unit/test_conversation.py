"""Turns of stored conversations: limits, history, preemption and engine failures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import anyio
import pytest

from chatapi.audio import Audio
from chatapi.engines import PromptMessage, Sampling, Stop, TokenChunk
from chatapi.errors import ChatapiError, DeadlineExceeded, EngineFailed, TooLarge
from chatapi.events import TextDelta, TurnEnded
from chatapi.runtime.admission import Priority
from chatapi.services.turns.chat_completion import ChatMessage, ChatTurn
from chatapi.services.turns.completion import Turn
from conftest import RunAppliance, answer, until


@pytest.mark.anyio
async def test_turn_ends_at_its_deadline(fake_appliance: RunAppliance) -> None:
    async with fake_appliance("fake.delay=0.2", "limits.turn_seconds=0.3") as appliance:
        with pytest.raises(DeadlineExceeded):
            await answer(appliance, Turn(prompt="one two three four"))
        await until(lambda: appliance.engines.llm.admission.used == 0)


@pytest.mark.anyio
async def test_full_context_drops_the_oldest_exchanges_and_keeps_the_system_prompt(
    fake_appliance: RunAppliance,
) -> None:
    async with fake_appliance("llama_cpp.context=260", "llm.max_tokens=60") as appliance:
        conversation, used = None, []
        for number in range(12):
            prompt = f"number {number} " + "word " * 20
            ended = await answer(appliance, Turn(prompt=prompt, conversation=conversation))
            conversation = ended.conversation
            used.append(ended.prompt_tokens)
        conversation_state = await appliance.history.call(lambda history: history.recall(conversation))
        everything = await appliance.history.call(lambda history: history.recall(conversation, everything=True))
        assert max(used) <= 200
        assert len(everything.exchanges) == 12 > len(conversation_state.exchanges) >= 1
        assert conversation_state.exchanges[-1].asked.startswith("number 11")


@pytest.mark.anyio
async def test_prompt_beyond_the_context_is_rejected_with_both_numbers(fake_appliance: RunAppliance) -> None:
    async with fake_appliance("llama_cpp.context=300") as appliance:
        with pytest.raises(TooLarge, match="context has 300"):
            await answer(appliance, Turn(prompt="word " * 290))


@pytest.mark.anyio
async def test_conversation_answers_one_turn_at_a_time(fake_appliance: RunAppliance) -> None:
    async with fake_appliance("fake.delay=0.02") as appliance:
        first = await answer(appliance, Turn(prompt="a"))
        rejected: list[ChatapiError] = []

        async def again() -> None:
            try:
                await answer(appliance, Turn(prompt="b c d e f", conversation=first.conversation))
            except ChatapiError as error:
                rejected.append(error)

        async with anyio.create_task_group() as group:
            group.start_soon(again)
            group.start_soon(again)
        assert [error.code for error in rejected] == ["conversation_busy"]


@pytest.mark.anyio
async def test_synthesis_failure_ends_the_turn_with_its_error(fake_appliance: RunAppliance) -> None:
    async with fake_appliance() as appliance:

        def broken(*_: object, **options: object) -> Iterator[Audio]:
            raise ZeroDivisionError("synthesis is broken")
            yield

        appliance.engines.tts.engine.synthesize = broken  # type: ignore[method-assign]
        with pytest.raises(EngineFailed, match="the tts engine failed; the log says why"):
            await answer(appliance, Turn(prompt="hello", speak=True))
        await until(lambda: appliance.admission.used == appliance.engines.llm.admission.used == 0)


@pytest.mark.anyio
async def test_answer_preempted_by_a_live_turn_continues_where_it_was(fake_appliance: RunAppliance) -> None:
    async with fake_appliance("llama_cpp.slots=1", "fake.delay=0.02") as appliance:
        replies: dict[str, tuple[str, TurnEnded]] = {}

        async def ask(name: str, prompt: str, priority: Priority) -> None:
            async with appliance.completions.run(Turn(prompt=prompt, priority=priority)) as events:
                found = []
                async for event in events:
                    found.append(event)
                    if isinstance(event, TextDelta):
                        answering.set()
            ended = found[-1]
            assert isinstance(ended, TurnEnded)
            replies[name] = "".join(event.text for event in found if isinstance(event, TextDelta)), ended

        words, answering = " ".join(f"word{number}" for number in range(40)), anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(ask, "request", words, Priority.REQUEST)
            await answering.wait()
            group.start_soon(ask, "live", "stop", Priority.LIVE)
        assert list(replies) == ["live", "request"]
        assert replies["request"][0] == f"You said: {words}."
        assert replies["request"][1].completion_tokens == 42


@pytest.mark.anyio
async def test_preempted_answer_continues_when_its_limit_is_the_context(fake_appliance: RunAppliance) -> None:
    async with fake_appliance("llama_cpp.slots=1", "fake.delay=0.01", "llama_cpp.context=256") as appliance:
        words = " ".join(f"word{number}" for number in range(100))
        turn = ChatTurn((ChatMessage("user", (words,)),))
        async with appliance.chat.run(turn) as events:
            text = (await anext(events)).text  # type: ignore[union-attr]
            await answer(appliance, Turn(prompt="stop", priority=Priority.LIVE, max_tokens=8))
            text += "".join([event.text async for event in events if isinstance(event, TextDelta)])
        assert text == f"You said: {words}."


@pytest.mark.anyio
async def test_schema_description_joins_the_callers_system_message(fake_appliance: RunAppliance) -> None:
    async with fake_appliance() as appliance:
        engine, prompts = appliance.engines.llm.engine, []
        generate = engine.generate

        def recorded(messages: Sequence[PromptMessage], sampling: Sampling, stop: Stop) -> Iterator[TokenChunk]:
            prompts.append([(message.role, message.text) for message in messages])
            return generate(messages, sampling, stop)

        engine.generate = recorded  # type: ignore[method-assign]
        question = ChatMessage("user", ("hello",))
        for messages in ((ChatMessage("system", ("Be brief.",)), question), (question,)):
            async with appliance.chat.run(ChatTurn(messages, schema_description="Give a recipe.")) as events:
                [event async for event in events]
    user = ("user", "hello")
    assert prompts == [[("system", "Be brief.\n\nGive a recipe."), user], [("system", "Give a recipe."), user]]
