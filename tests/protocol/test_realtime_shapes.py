"""Sessions of `/v1/realtime` as clients write them: with nulls, unknown fields, and fields of OpenAI's beta."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from conftest import RunningServer
from realtime_client import Client, Event, raw, receive_event, silence, speech, talking

pytestmark = pytest.mark.anyio


async def update(client: Client, session: Event) -> Event:
    await client.send("session.update", session=session)
    found = await client.until("session.updated", "error")
    return found.get("session", found)


async def test_session_has_no_null_where_clients_expect_a_value(shared_server: RunningServer) -> None:
    def nulls(value: Any, path: str = "session") -> set[str]:
        inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        return {path} if value is None else {each for name, part in inside for each in nulls(part, f"{path}.{name}")}

    async with raw(shared_server) as plain:
        created = (await receive_event(plain, "session.created"))["session"]
        assert nulls(created) == set()
        assert created["audio"]["input"]["transcription"] == {"model": "default"}
        off = {"audio": {"input": {"turn_detection": None, "transcription": None}}}
        await plain.send(json.dumps({"type": "session.update", "session": off}))
        updated = (await receive_event(plain, "session.updated"))["session"]
        assert nulls(updated) == {"session.audio.input.turn_detection", "session.audio.input.transcription"}


async def test_unknown_fields_are_ignored_and_named(
    shared_server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    session = {
        "extensions": {"a": 1},
        "expires_at": 12,
        "audio": {"input": {"echo": True, "transcription": {"delay": "low"}}},
        "tools": [{"type": "function", "name": "light", "parameters": {}, "annotations": {"a": 1}}],
        "nothing": None,
    }
    with caplog.at_level(logging.INFO, logger="chatapi"):
        async with talking(shared_server) as client:
            updated = await update(client, session)
            names = "audio.input.transcription.delay, audio.input.echo, extensions, expires_at, tools[].annotations"
            found = updated["chatapi"]["ignored"]
            assert sorted(found.split(", ")) == sorted(f"session.{name}" for name in names.split(", "))
            # They are not kept.
            assert "ignored" not in (await update(client, {"instructions": "Be brief."})).get("chatapi", {})
            await client.send("response.create", response={"commentary": 1, "output_modalities": ["text"]}, more=1)
            assert (await client.until("response.done", "error"))["type"] == "response.done"
    assert f"ignored parameters: {found}" in caplog.messages
    assert "ignored parameters: more, response.commentary" in caplog.messages


async def test_fields_without_an_effect_are_kept_and_named(shared_server: RunningServer) -> None:
    listening = {
        "noise_reduction": {"type": "near_field"},
        "transcription": {"model": "gpt-4o-transcribe", "prompt": "Names: Ada.", "delay": "low"},
        "turn_detection": {"type": "server_vad", "prefix_padding_ms": 100},
    }
    session = {"tracing": "auto", "truncation": "auto", "include": None, "audio": {"input": listening}}
    async with talking(shared_server) as client:
        updated = await update(client, session)
        names = ("noise_reduction", "transcription.delay", "turn_detection.prefix_padding_ms")
        expected = {"session.tracing", "session.truncation", *(f"session.audio.input.{name}" for name in names)}
        assert set(updated["chatapi"]["ignored"].split(", ")) == expected
        assert updated["audio"]["input"]["transcription"]["prompt"] == "Names: Ada." and updated["tracing"] == "auto"
        # An update without them does not name them again.
        assert "ignored" not in (await update(client, {"instructions": "Be brief."})).get("chatapi", {})


async def test_misspelled_field_is_rejected_with_the_right_name(shared_server: RunningServer) -> None:
    async with talking(shared_server) as client:
        error = (await update(client, {"instruction": "Be brief."}))["error"]
        assert (error["code"], error["param"]) == ("unknown_parameter", "session.instruction")
        assert "is instructions meant?" in error["message"]


async def test_null_changes_nothing(shared_server: RunningServer) -> None:
    async with talking(shared_server) as client:
        given = {
            "instructions": "Be brief.",
            "max_output_tokens": 50,
            "audio": {"output": {"speed": 1.2, "voice": "alloy"}, "input": {"turn_detection": {"type": "server_vad"}}},
        }
        before = await update(client, given)
        empty = dict.fromkeys(
            ("instructions", "max_output_tokens", "tools", "tool_choice", "output_modalities", "prompt", "truncation"),
            None,
        )
        audio = {"output": {"speed": None, "voice": None, "format": None}, "input": {"format": None}}
        after = await update(client, {**empty, "audio": audio, "type": None})
        assert after == before and after["instructions"] == "Be brief."
        assert await update(client, {"audio": None}) == before
        await client.send("response.create", response=dict.fromkeys(("audio", "conversation", "input", "metadata")))
        assert (await client.until("response.done", "error"))["type"] == "response.done"


async def test_session_of_the_beta_is_accepted(shared_server: RunningServer) -> None:
    session = {
        "modalities": ["text", "audio"],
        "voice": "alloy",
        "input_audio_format": "g711_ulaw",
        "output_audio_format": "g711_alaw",
        "input_audio_transcription": {"model": "whisper-1"},
        "turn_detection": {"type": "server_vad", "silence_duration_ms": 200, "threshold": None},
        "temperature": 0.8,
        "max_response_output_tokens": 77,
    }
    async with talking(shared_server) as client:
        updated = await update(client, session)
        assert (updated["output_modalities"], updated["max_output_tokens"]) == (["audio"], 77)
        assert updated["audio"]["input"]["format"] == {"type": "audio/pcmu"}
        assert updated["audio"]["input"]["turn_detection"]["silence_duration_ms"] == 200
        assert (updated["audio"]["output"]["format"], updated["audio"]["output"]["voice"]) == (
            {"type": "audio/pcma"},
            "alloy",
        )
        assert "chatapi" not in updated
        await client.send("response.create", response={"modalities": ["text"], "max_response_output_tokens": 2})
        response = (await client.until("response.done"))["response"]
        assert (response["output_modalities"], response["max_output_tokens"]) == (["text"], 2)


@pytest.mark.parametrize(
    ("sent", "kind"),
    [
        (False, None),
        ("none", None),
        ({"type": "none"}, None),
        ({}, "server_vad"),
        ({"silence_duration_ms": 300}, "server_vad"),
        ({"type": "semantic_vad", "eagerness": None, "threshold": 0.4}, "semantic_vad"),
    ],
)
async def test_turn_detection_is_understood_in_every_shape(
    shared_server: RunningServer, sent: Any, kind: str | None
) -> None:
    async with talking(shared_server) as client:
        found = (await update(client, {"audio": {"input": {"turn_detection": sent}}}))["audio"]["input"]
        assert (found["turn_detection"] and found["turn_detection"]["type"]) == kind


async def test_text_items_and_turns_work_after_a_session_full_of_nulls(shared_server: RunningServer) -> None:
    async with talking(shared_server) as client:
        await update(client, {"turn_detection": {"type": "server_vad", "silence_duration_ms": 200}, "tracing": None})
        await client.say(silence(0.3), speech(1.0), silence(0.8))
        assert (await client.until("response.done"))["response"]["status"] == "completed"


async def test_voice_that_is_gone_with_its_engine_is_no_fault_of_later_events(
    shared_server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = shared_server.appliance.engines.tts.engine
    first, last = engine.voices[0], engine.voices[-1]
    async with talking(shared_server) as client:
        voice: Event = {"audio": {"output": {"voice": last.name}}}
        assert (await update(client, voice))["audio"]["output"]["voice"] == last.name
        monkeypatch.setattr(engine, "voices", (first,))
        assert (await update(client, {"instructions": "Be brief."}))["instructions"] == "Be brief."
        await client.write("hello")
        await client.send("response.create")
        assert (await client.until("response.done"))["response"]["status"] == "completed"
        await update(client, {"audio": {"output": {"voice": first.name}}})
        await client.send("session.update", session=voice)
        assert (await client.until("error"))["error"]["code"] == "unknown_voice"


async def test_instructions_have_the_limit_of_system_prompts(shared_server: RunningServer) -> None:
    limit = shared_server.appliance.settings.limits.system_chars
    async with talking(shared_server) as client:
        assert (await update(client, {"instructions": "x" * limit}))["instructions"] == "x" * limit
        for kind, field in (("session.update", "session"), ("response.create", "response")):
            await client.send(kind, **{field: {"instructions": "x" * (limit + 1)}})
            error = (await client.until("error"))["error"]
            assert (error["code"], error["param"]) == ("string_above_max_length", "instructions")
            assert "limits.system_chars" in error["message"]
