"""Home Assistant core with the box as its Wyoming service, and as the server of its OpenAI conversation agent."""

from __future__ import annotations

from typing import Any

from features import FAKE_WYOMING, FOX, QUESTION, REAL_WYOMING, WAKE_QUESTION, expect, expect_fox, feature, main, pcm_of
from home_assistant_server import LAMPS, home_assistant, stop

SILENCE = bytes(16_000 * 2 * 3)
TURN_ON = '<tool_call>{"name": "HassTurnOn", "arguments": {"name": "Kitchen lamp"}}</tool_call>'
MP3 = (b"ID3", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2")


def port(uri: str) -> int:
    return int(uri.rpartition(":")[2])


@feature("config flow")
def _flow() -> None:
    entry = home_assistant().configure("wyoming", {"host": "127.0.0.1", "port": port(REAL_WYOMING)})
    expect(entry["title"] == "chatapi", entry)


@feature("entities: stt, tts, wake_word, conversation")
def _entities() -> None:
    for domain in ("stt", "tts", "wake_word", "conversation"):
        home_assistant().entity(domain)


@feature("speech to text (REST)")
def _stt() -> None:
    kind = "format=wav; codec=pcm; sample_rate=16000; bit_rate=16; channel=1; language=en"
    path = f"/api/stt/{home_assistant().entity('stt')}"
    expect_fox(home_assistant().call("POST", path, pcm_of(FOX), X_Speech_Content=kind)["text"])


def spoken(message: str) -> bytes:
    """The file that the proxy gives a media player."""
    asked = {"engine_id": home_assistant().entity("tts"), "message": message, "language": "en"}
    made = home_assistant().call("POST", "/api/tts_get_url", asked)
    data: bytes = home_assistant().call("GET", made["path"], raw=True)
    return data


@feature("text to speech (tts_proxy)")
def _tts() -> None:
    data = spoken("The quick brown fox jumps over the lazy dog.")
    expect(data.startswith(MP3) and len(data) > 8000, (data[:4], len(data)))


@feature("text to speech of 👍 (tts_proxy)")
def _emoji() -> None:
    data = spoken("👍")
    expect(data.startswith(MP3) and len(data) > 200, (data[:4], len(data)))


@feature("voices")
async def _voices() -> None:
    async with home_assistant().socket() as socket:
        engine = home_assistant().entity("tts")
        found = await socket.command("tts/engine/voices", engine_id=engine, language="en")
        expect(found["voices"], found)


@feature("conversation, continued")
def _conversation() -> None:
    agent = home_assistant().entity("conversation")
    asked: dict[str, Any] = {"text": "What is the capital of France?", "agent_id": agent, "language": "en"}
    found = home_assistant().call("POST", "/api/conversation/process", asked)
    expect(found["response"]["speech"]["plain"]["speech"], found)
    again = {**asked, "text": "And of Italy?", "conversation_id": found["conversation_id"]}
    second = home_assistant().call("POST", "/api/conversation/process", again)
    expect(second["conversation_id"] == found["conversation_id"], second)


async def pipeline(**more: Any) -> str:
    """A pipeline of the box's services; its id."""
    fields: dict[str, Any] = {
        "name": "Box", "language": "en", "conversation_engine": home_assistant().entity("conversation"),
        "conversation_language": "en", "stt_engine": home_assistant().entity("stt"), "stt_language": "en",
        "tts_engine": home_assistant().entity("tts"), "tts_language": "en", "tts_voice": None,
        "wake_word_entity": home_assistant().entity("wake_word"), "wake_word_id": "okay_nabu", **more,
    }  # fmt: skip
    async with home_assistant().socket() as socket:
        return str((await socket.command("assist_pipeline/pipeline/create", **fields))["id"])


async def spoken_turn(sound: bytes, start: str, end: str = "tts") -> dict[str, Any]:
    name = await pipeline()
    async with home_assistant().socket() as socket:
        options = {"start_stage": start, "end_stage": end, "pipeline": name, "input": {"sample_rate": 16_000}}
        return await socket.pipeline(sound, **options)


@feature("pipeline from speech to speech")
async def _pipeline() -> None:
    found = await spoken_turn(pcm_of(QUESTION) + SILENCE, "stt")
    expect("france" in found["stt-end"]["stt_output"]["text"].lower(), found["stt-end"])
    path = found["tts-end"]["tts_output"]["url"]
    expect(home_assistant().call("GET", path, raw=True), path)


@feature("pipeline from the wake word to speech")
async def _wake() -> None:
    found = await spoken_turn(pcm_of(WAKE_QUESTION) + SILENCE, "wake_word")
    expect(found["wake_word-end"]["wake_word_output"]["wake_word_id"] == "okay_nabu", found)
    expect(found["tts-end"]["tts_output"]["url"], found)


@feature("silence is reported as no text")
async def _silence() -> None:
    try:
        found = await spoken_turn(SILENCE + SILENCE, "stt")
    except Exception as error:
        expect("stt-no-text-recognized" in str(error), error)
    else:
        expect(False, found)


@feature("pipeline from text to speech")
async def _intent() -> None:
    name = await pipeline()
    async with home_assistant().socket() as socket:
        options = {"start_stage": "intent", "end_stage": "tts", "pipeline": name, "input": {"text": "Say hello."}}
        found = await socket.pipeline(**options)
        expect(home_assistant().call("GET", found["tts-end"]["tts_output"]["url"], raw=True), found)


def _lamp() -> str:
    return str(home_assistant().call("GET", "/api/states/input_boolean.lamp")["state"])


async def _expose() -> None:
    """Lets Assist control the lamps."""
    names = [f"input_boolean.{key}" for key in ("lamp", *LAMPS)]
    async with home_assistant().socket() as socket:
        exposed = {"assistants": ["conversation"], "entity_ids": names, "should_expose": True}
        await socket.command("homeassistant/expose_entity", **exposed)


def _process(text: str, agent: str) -> Any:
    asked = {"text": text, "agent_id": agent, "language": "en"}
    return home_assistant().call("POST", "/api/conversation/process", asked)


@feature("device control by Home Assistant's own sentences, and the rest by the server")
async def _local() -> None:
    await _expose()
    name = await pipeline(prefer_local_intents=True)
    for text, state in (("turn on the kitchen lamp", "on"), ("turn off the kitchen lamp", "off")):
        async with home_assistant().socket() as socket:
            await socket.pipeline(start_stage="intent", end_stage="intent", pipeline=name, input={"text": text})
        expect(_lamp() == state, (text, _lamp()))
    async with home_assistant().socket() as socket:
        options = {"start_stage": "intent", "end_stage": "intent", "pipeline": name, "input": {"text": "Say hello."}}
        found = await socket.pipeline(**options)
    expect(not found["intent-end"]["processed_locally"], found)


@feature("device control by the Wyoming conversation agent")
def _no_control() -> None:
    home_assistant().configure("wyoming", {"host": "127.0.0.1", "port": port(FAKE_WYOMING)})
    agent = [name for name in home_assistant().entities() if name.startswith("conversation.chatapi")][-1]
    _process(TURN_ON, agent)
    expect(_lamp() == "on", "the lamp stays off: the agent has no tools of Home Assistant")


@feature("device control by the OpenAI conversation agent with Assist's tools, 41 devices")
async def _control() -> None:
    await _expose()
    home_assistant().configure("openai_conversation", {"api_key": "none"})
    found = _process(TURN_ON, home_assistant().entity("conversation", "openai"))
    expect(_lamp() == "on", found["response"]["speech"])


main(stop)
