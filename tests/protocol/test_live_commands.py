"""Commands beside live conversation in Realtime sessions: their events, and what the settings have them do."""

from __future__ import annotations

from pathlib import Path

import anyio
import numpy as np
import pytest

from chatapi import settings
from conftest import FAKE_ENGINES, RunningServer, serving
from realtime_client import SERVER_VAD, silence, speech, talking

pytestmark = pytest.mark.anyio


async def test_a_command_is_an_event_only_for_sessions_that_listen(shared_server: RunningServer) -> None:
    async with talking(shared_server) as client:
        await client.detect(None)
        await client.say(silence(0.2), speech(1.5))
        assert "chatapi.command" not in await client.rest()
        await client.update(chatapi={"commands": True})
        await client.say(silence(1.2), speech(1.5))
        found = await client.until("chatapi.command")
        assert found["label"] == "beep"
        # It was said within the second clip, which begins 1.7 s after the session's first sample.
        assert 1600 <= found["audio_start_ms"] < found["audio_end_ms"] <= 4400
        assert 0.9 <= found["probability"] <= 1


async def test_a_command_with_an_action_speaks_a_phrase_and_is_not_answered(tmp_path: Path) -> None:
    chosen = [*FAKE_ENGINES, f"data={tmp_path}", "commands.actions=beep=say Good morning."]
    with serving(settings.load(chosen, environ={}).settings) as server:
        async with talking(server) as client:
            await client.detect(SERVER_VAD, chatapi={"commands": True})
            # In real time, as people speak: what is left of the command after its detection is no barge-in.
            for part in np.array_split(np.concatenate([silence(0.3), speech(0.8), silence(0.8)]), 19):
                await client.say(part)
                await anyio.sleep(0.1)
            await client.until("chatapi.command")
            done = (await client.until("response.done"))["response"]
            assert (done["status"], done["output"][0]["content"][0]["transcript"]) == ("completed", "Good morning.")


async def test_again_repeats_the_last_answer(tmp_path: Path) -> None:
    chosen = [*FAKE_ENGINES, f"data={tmp_path}", "commands.actions=beep=again"]
    with serving(settings.load(chosen, environ={}).settings) as server:
        async with talking(server) as client:
            await client.write("hello")
            await client.send("response.create")
            first = (await client.until("response.done"))["response"]["output"][0]["content"][0]["transcript"]
            await client.detect(None, chatapi={"commands": True})
            await client.say(silence(0.3), speech(1.5))
            await client.until("chatapi.command")
            again = (await client.until("response.done"))["response"]["output"][0]["content"][0]["transcript"]
            assert again == first == "You said: hello."
