"""Settings that change while the appliance runs: each is seen by the part that uses it."""

from __future__ import annotations

import io
import logging
import math
import wave
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from chatapi import settings
from chatapi.appliance import Appliance
from chatapi.audio import RATE
from chatapi.engines import registry
from chatapi.errors import Busy, DeadlineExceeded, SettingsError, TooLarge
from chatapi.events import TurnEnded
from chatapi.observability import logs
from chatapi.services.live.turn_detector import TurnDetector
from chatapi.services.transcription.transcriber import TranscriptionRequest
from chatapi.services.turns.chat_completion import ChatMessage, ChatTurn
from chatapi.services.turns.completion import Turn
from chatapi.services.turns.generation import GenerationOptions
from chatapi.setting_changes import CHOOSING, SettingChanges
from chatapi.storage import setting_overrides
from chatapi.storage.history import ConversationState
from conftest import FAKE_ENGINES

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def changing(data: Path, *overrides: str) -> AsyncIterator[tuple[Appliance, SettingChanges]]:
    environ = {f"CHATAPI_{engine.replace('.', '_').upper().replace('=FAKE', '')}": "fake" for engine in FAKE_ENGINES}
    sources = settings.load(overrides, environ={**environ, "CHATAPI_DATA": str(data)})
    loaded = setting_overrides.applied(sources)
    async with Appliance(loaded.settings).running() as appliance:
        await appliance.load()
        yield appliance, SettingChanges(appliance, loaded)


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("chatapi")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


def recording(seconds: float) -> io.BytesIO:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE)
        out.writeframes(bytes(2 * int(seconds * RATE)))
    file.seek(0)
    return file


async def completion_times_out(appliance: Appliance) -> bool:
    try:
        async with appliance.completions.run(Turn(prompt="hello")) as events:
            async for _ in events:
                pass
    except DeadlineExceeded:
        return True
    return False


async def audio_is_too_long(appliance: Appliance) -> bool:
    try:
        await appliance.transcriber.decode_file(recording(0.5))
    except TooLarge:
        return True
    return False


async def file_is_too_long(appliance: Appliance) -> bool:
    try:
        async with appliance.transcription_service.transcribe_file(recording(0.5), TranscriptionRequest()) as chunks:
            async for _ in chunks:
                pass
    except TooLarge:
        return True
    return False


async def second_session_is_rejected(appliance: Appliance) -> bool:
    async with appliance.live.session():
        try:
            async with appliance.live.session():
                return False
        except Busy:
            return True


def of_detector(read: Callable[[TurnDetector], Any]) -> Callable[[Appliance], Awaitable[Any]]:
    async def seen(appliance: Appliance) -> Any:
        async with appliance.live.session() as (session, _):
            return read(session._tracker.detector)

    return seen


async def system_prompt(appliance: Appliance) -> str:
    return appliance.generator.question(ConversationState("c", None, ()), "hello").system


async def words_of_the_text_system_prompt(appliance: Appliance) -> int:
    turn = ChatTurn((ChatMessage("user", ("hello",)),), has_default_system=True)
    async with appliance.chat.run(turn) as events:
        last = [event async for event in events][-1]
    assert isinstance(last, TurnEnded)
    return last.prompt_tokens - 1


async def max_tokens(appliance: Appliance) -> int:
    return appliance.generator.sampling(GenerationOptions()).max_tokens


async def temperature(appliance: Appliance) -> float:
    return appliance.generator.sampling(GenerationOptions()).temperature


async def no_answer(appliance: Appliance) -> str:
    return appliance.generator.no_answer


async def debug_is_logged(_: Appliance) -> bool:
    (handler,) = logging.getLogger().handlers
    return handler.level <= logging.DEBUG and logging.getLogger("chatapi.appliance").isEnabledFor(logging.DEBUG)


def frames(milliseconds: int) -> int:
    return math.ceil(milliseconds / 32)


Seen = Callable[[Appliance], Awaitable[Any]]
LIVE: dict[str, tuple[Any, Seen, Any]] = {
    "limits.turn_seconds": (1e-6, completion_times_out, True),
    "limits.audio_seconds": (0.25, audio_is_too_long, True),
    "limits.file_seconds": (0.25, file_is_too_long, True),
    "live.sessions": (1, second_session_is_rejected, True),
    "live.min_endpointing_delay_ms": (640, of_detector(lambda it: it._endpointing.rules.min_delay), frames(640)),
    "live.max_endpointing_delay_ms": (3200, of_detector(lambda it: it._endpointing.rules.max_delay), frames(3200)),
    "live.onset_ms": (320, of_detector(lambda it: it._endpointing.rules.onset), frames(320)),
    "live.min_interruption_ms": (640, of_detector(lambda it: it._endpointing.rules.interruption), frames(640)),
    "live.turn_seconds": (7.0, of_detector(lambda it: it._settings.turn_seconds), 7.0),
    "live.partial_ms": (450, of_detector(lambda it: it._settings.partial_ms), 450),
    "llm.system_prompt": ("Be brief.", system_prompt, "Be brief."),
    # The fake language model counts a word as a token.
    "llm.text_system_prompt": ("Be as brief as you can.", words_of_the_text_system_prompt, 6),
    "llm.max_tokens": (17, max_tokens, 17),
    "llm.temperature": (1.5, temperature, 1.5),
    "llm.no_answer": ("Pardon?", no_answer, "Pardon?"),
    "log.level": ("debug", debug_is_logged, True),
}
"""Dotted key -> its new value, what the part that uses it shows, and what that is after the change."""


def test_every_setting_declared_live_has_a_case() -> None:
    # What swaps an engine is tested in `test_engine_swap`.
    choosing = {f"{role}.{name}" for role in registry.roles() for name in CHOOSING}
    assert set(LIVE) == {key for key in settings.dotted_keys() if settings.is_live(key) and key not in choosing}


@pytest.mark.parametrize("key", LIVE)
async def test_a_live_setting_is_seen_by_the_part_that_uses_it(data: Path, key: str) -> None:
    value, seen, expected = LIVE[key]
    logs.configure(settings.LogSettings())
    async with changing(data) as (appliance, changes):
        before = await seen(appliance)
        assert before != expected
        applied = await changes.apply({key: value})
        assert (applied.active, applied.restart) == ((key,), ())
        assert await seen(appliance) == expected
        await changes.apply({key: None})
        assert await seen(appliance) == before


async def test_a_restart_setting_is_stored_and_not_used_yet(data: Path) -> None:
    async with changing(data) as (appliance, changes):
        applied = await changes.apply({"limits.queue": 3, "llm.max_tokens": 9})
        assert (applied.active, applied.restart) == (("llm.max_tokens",), ("limits.queue",))
        assert (appliance.settings.limits.queue, appliance.settings.llm.max_tokens) == (16, 9)
    async with changing(data) as (appliance, _):
        assert (appliance.settings.limits.queue, appliance.settings.llm.max_tokens) == (3, 9)


async def test_the_command_line_hides_a_change(data: Path) -> None:
    async with changing(data, "llm.max_tokens=5") as (appliance, changes):
        applied = await changes.apply({"llm.max_tokens": 9})
        assert (applied.hidden, applied.active) == (("llm.max_tokens",), ())
        assert appliance.generator.sampling(GenerationOptions()).max_tokens == 5


async def test_one_wrong_value_changes_nothing(data: Path) -> None:
    async with changing(data) as (appliance, changes):
        with pytest.raises(SettingsError, match="temperature must be at most 2"):
            await changes.apply({"llm.max_tokens": 9, "llm.temperature": 3})
        assert appliance.settings.llm.max_tokens == 200
        assert not (data / "overrides.toml").exists()
