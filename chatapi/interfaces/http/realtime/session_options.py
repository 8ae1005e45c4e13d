"""Converts the configuration that a client sent to the options of a live session."""

from __future__ import annotations

from dataclasses import replace

from chatapi.appliance import Appliance
from chatapi.engines import Sampling, Tool, TranscriptionOptions
from chatapi.errors import Unprocessable
from chatapi.interfaces.http import openai_aliases
from chatapi.interfaces.http.realtime.session_config import (
    LOGPROBS,
    InputTranscription,
    SemanticVad,
    ServerVad,
    SessionConfig,
)
from chatapi.services.live import SessionOptions
from chatapi.services.transcription.transcriber import prompt_text
from chatapi.text.language_codes import language_code

ENDPOINTING_FACTORS = {"low": 2.0, "medium": 1.0, "auto": 1.0, "high": 0.5}
"""Eagerness -> factor on the endpointing delay."""


def options(
    config: SessionConfig, appliance: Appliance, tools_follow: bool = True, before: SessionConfig | None = None
) -> SessionOptions:
    """The options of the live session. Raises Unprocessable that names the field.

    `tools_follow`: whether a later update may add the tools that `tool_choice` demands; it has no effect until then.
    `before`: the configuration so far, whose voice may be gone with its engine.
    """
    vad, transcription = config.audio.input.turn_detection, config.audio.input.transcription
    reads_aloud = openai_aliases.is_speech_model(appliance, config.model)
    answers = vad is not None and not config.transcribes_only and not reads_aloud
    session_options = SessionOptions(
        detect=vad is not None,
        semantic=isinstance(vad, SemanticVad),
        converse=not config.transcribes_only,
        answer=answers and vad is not None and vad.create_response,
        interrupt=answers and vad is not None and vad.interrupt_response,
        reads_aloud=reads_aloud,
        speak=config.output_modalities == ["audio"],
        partials=transcription is not None,
        system=config.instructions,
        voice=_voice(config, appliance, before),
        speed=config.audio.output.speed,
        sampling=_sampling(config, tools_follow),
        temperature=config.temperature,
        language=language(transcription, appliance),
        commands=config.chatapi is not None and config.chatapi.commands,
        speakers=config.chatapi is not None and config.chatapi.speakers,
        transcription=_transcription(config),
        max_tokens=None if config.max_output_tokens == "inf" else config.max_output_tokens,
    )
    if isinstance(vad, ServerVad):
        idle = None if vad.idle_timeout_ms is None else vad.idle_timeout_ms / 1000
        return replace(session_options, threshold=vad.threshold, silence_ms=vad.silence_duration_ms, idle_seconds=idle)
    if vad is None:
        return session_options
    return replace(session_options, delay_factor=ENDPOINTING_FACTORS[vad.eagerness])


def _transcription(config: SessionConfig) -> TranscriptionOptions:
    """How the user's speech is transcribed."""
    given = config.audio.input.transcription
    prompt = "" if given is None else prompt_text(given.prompt or "", given.keywords or ())
    return TranscriptionOptions(prompt, tokens=LOGPROBS in (config.include or ()))


def _voice(config: SessionConfig, appliance: Appliance, before: SessionConfig | None) -> str | None:
    """The voice's name; None: the default voice."""
    wanted = config.audio.output.voice
    try:
        return openai_aliases.voice(appliance, wanted)
    except Unprocessable:
        if before is None or before.audio.output.voice != wanted:
            raise
        return None


def language(transcription: InputTranscription | None, appliance: Appliance) -> str | None:
    """The ISO 639-1 code of the language of the input; None: detected. Raises Unprocessable (unknown_language)."""
    known = appliance.engines.asr.engine.languages
    named = transcription.languages if transcription and transcription.languages else []
    written = (transcription.language if transcription else None) or (named[0] if len(named) == 1 else "auto")
    code = language_code(written, known)
    if code.lower() == "auto":
        return None
    if code not in known:
        raise Unprocessable(
            f"language {code!r} is not supported; supported are: {', '.join(known)}", code="unknown_language",
            details={"param": "session.audio.input.transcription.language"},
        )  # fmt: skip
    return code


def _sampling(config: SessionConfig, tools_follow: bool) -> Sampling:
    tools = tuple(Tool(each.name, each.description, each.parameters) for each in config.tools)
    choice = config.tool_choice if isinstance(config.tool_choice, str) else f":{config.tool_choice.name}"
    known = choice[1:] in {tool.name for tool in tools} if choice.startswith(":") else bool(tools)
    if tools_follow and not known and choice != "none":
        choice = "auto"
    return Sampling(tools=tools, tool_choice=choice, parallel=config.parallel_tool_calls is not False)
