"""One conversation used by several turns at once: requests and live sessions, on the fake engines."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from chatapi.appliance import Appliance
from chatapi.errors import Busy, DeadlineExceeded, NotFound
from chatapi.events import Failed, LiveEvent, ResponseStarted, TurnEnded
from chatapi.services.live import LiveSession
from chatapi.services.turns.completion import Turn
from chatapi.storage.history import ConversationState
from conftest import RunAppliance, answer, until

pytestmark = pytest.mark.anyio
ID = "kitchen"


@asynccontextmanager
async def live(appliance: Appliance, conversation: str = ID) -> AsyncIterator[tuple[LiveSession, list[LiveEvent]]]:
    """A live session of the conversation, with the events it has sent so far."""
    seen: list[LiveEvent] = []
    async with appliance.live.session(conversation=conversation) as (session, events):

        async def collect() -> None:
            async for event in events:
                seen.append(event)  # noqa: PERF401 - it is read while it grows

        async with anyio.create_task_group() as group:
            group.start_soon(collect)
            yield session, seen
            group.cancel_scope.cancel()


def ended(events: list[LiveEvent]) -> int:
    return sum(isinstance(event, TurnEnded) for event in events)


async def ask(appliance: Appliance, prompt: str) -> None:
    await answer(appliance, Turn(prompt=prompt, conversation=ID, create_missing=True))


async def stored(appliance: Appliance) -> ConversationState:
    return await appliance.history.call(lambda history: history.recall(ID))


async def test_response_is_no_conversation_even_of_a_client_that_names_its_own(fake_appliance: RunAppliance) -> None:
    async with fake_appliance() as appliance:
        with pytest.raises(NotFound, match="the id of a response"):
            await answer(appliance, Turn(prompt="more", conversation="resp_0", create_missing=True))
        with pytest.raises(NotFound, match="the id of a response"):
            async with live(appliance, "resp_0"):
                pass


async def test_live_session_and_requests_share_one_history(fake_appliance: RunAppliance) -> None:
    async with fake_appliance() as appliance:
        await ask(appliance, "first")
        async with live(appliance) as (session, events):
            await session.respond("second")
            await until(lambda: ended(events) == 1)
            await ask(appliance, "third")
            prompt = [message.text for message in session.prompt_messages()]
            assert prompt[1:] == [
                "first", "You said: first.", "second", "You said: second.", "third", "You said: third.",
            ]  # fmt: skip
            await session.respond("fourth")
            await until(lambda: ended(events) == 2)
        kept = await stored(appliance)
        assert [exchange.asked for exchange in kept.exchanges] == ["first", "second", "third", "fourth"]


async def test_two_live_sessions_of_one_conversation_see_each_others_changes(fake_appliance: RunAppliance) -> None:
    async with fake_appliance() as appliance:
        await ask(appliance, "first")
        async with live(appliance) as (one, events), live(appliance) as (other, _):
            await one.respond("second")
            await until(lambda: ended(events) == 1)
            number = one.conversation_state.exchanges[-1].number
            assert other.conversation_state.exchanges == one.conversation_state.exchanges
            await one.context.amend(number, "You said")
            assert other.conversation_state.exchanges[-1].answered == "You said"
            await one.context.remove(number)
            assert [exchange.asked for exchange in other.conversation_state.exchanges] == ["first"]


async def test_request_during_a_live_answer_is_rejected_as_busy(fake_appliance: RunAppliance) -> None:
    async with fake_appliance("fake.delay=0.05") as appliance:
        await ask(appliance, "first")
        async with live(appliance) as (session, events):
            await session.respond("one two three four five six")
            with pytest.raises(Busy) as busy:
                await ask(appliance, "not now")
            assert busy.value.code == "conversation_busy"
            await until(lambda: ended(events) == 1)
            await ask(appliance, "now")


async def test_live_turn_waits_for_a_request_of_its_conversation(
    fake_appliance: RunAppliance,
) -> None:
    async with fake_appliance("fake.delay=0.05") as appliance:
        await ask(appliance, "first")
        async with live(appliance) as (session, events), anyio.create_task_group() as group:
            group.start_soon(ask, appliance, "a request of six words")
            await until(lambda: appliance.admission.used == 1)
            await session.respond("live")
            await until(lambda: ended(events) == 1)
            assert [exchange.asked for exchange in session.conversation_state.exchanges] == [
                "first", "a request of six words", "live",
            ]  # fmt: skip
        assert (await stored(appliance)).exchanges[-1].asked == "live"


async def test_other_conversations_answer_at_the_same_time(fake_appliance: RunAppliance) -> None:
    async with fake_appliance("fake.delay=0.05") as appliance:
        await ask(appliance, "first")
        async with live(appliance) as (session, events):
            # Requests yield to live turns, and get half the time.
            await session.respond("one two three four five six seven eight " * 10)
            await answer(appliance, Turn(prompt="hello", conversation="hall", create_missing=True))
            assert ended(events) == 0
            await until(lambda: ended(events) == 1)


async def test_live_turns_hold_slots_of_the_queue_and_never_wait_for_one(fake_appliance: RunAppliance) -> None:
    async with fake_appliance("fake.delay=0.05", "limits.concurrent=1") as appliance:
        await ask(appliance, "first")
        async with appliance.admission.admitted(), live(appliance) as (session, events):
            await session.respond("one two three")
            await until(lambda: appliance.admission.used == 2)
            await until(lambda: ended(events) == 1)
        await until(lambda: appliance.admission.used == 0)


async def test_live_turn_ends_at_its_deadline_and_the_session_goes_on(fake_appliance: RunAppliance) -> None:
    async with fake_appliance("limits.turn_seconds=1", "fake.delay=0.1") as appliance:
        await ask(appliance, "first")
        async with live(appliance) as (session, events):
            await session.respond("word " * 20)
            await until(lambda: ended(events) == 1)
            errors = [event.error for event in events if isinstance(event, Failed)]
            assert len(errors) == 1 and isinstance(errors[0], DeadlineExceeded)
            await session.respond("five")
            await until(lambda: ended(events) == 2)
            assert session.conversation_state.exchanges[-1].answered == "You said: five."


async def test_events_of_an_answer_carry_its_id(fake_appliance: RunAppliance) -> None:
    async with fake_appliance() as appliance:
        await ask(appliance, "first")
        async with live(appliance) as (session, events):
            for count, text in enumerate(("one", "two"), start=1):
                await session.respond(text)
                await until(lambda count=count: ended(events) == count)
            started = [event for event in events if isinstance(event, ResponseStarted)]
            assert len({event.response for event in started}) == 2 and all(event.response for event in started)
            of_second = [type(event) for event in events if getattr(event, "response", "") == started[1].response]
            assert of_second[0] is ResponseStarted and of_second[-1] is TurnEnded and len(of_second) > 3
            found = session.find_answer(started[0].response)
            assert found is not None and found.asked == "one"


async def test_a_live_session_forgets_a_conversation_that_is_deleted(fake_appliance: RunAppliance) -> None:
    async with fake_appliance() as appliance:
        await ask(appliance, "my secret")
        async with live(appliance) as (session, events):
            await appliance.conversations.remove(ID)
            await session.respond("second")
            await until(lambda: ended(events) == 1)
            assert "my secret" not in [message.text for message in session.prompt_messages()]
        assert [exchange.asked for exchange in (await stored(appliance)).exchanges] == ["second"]


async def test_a_deletion_waits_for_the_turn_that_holds_the_conversation(fake_appliance: RunAppliance) -> None:
    async with fake_appliance() as appliance:
        await ask(appliance, "first")
        async with anyio.create_task_group() as group:
            async with appliance.conversations.turn(ID):
                group.start_soon(appliance.conversations.remove, ID)
                await anyio.wait_all_tasks_blocked()
                await stored(appliance)
        with pytest.raises(NotFound):
            await stored(appliance)
