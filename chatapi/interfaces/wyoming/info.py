"""The response to `describe`: programs, models and voices that are available now."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from chatapi.appliance import Appliance
from chatapi.auth import KeyHolder, operation
from chatapi.catalog import Manifest
from chatapi.engines import registry
from chatapi.errors import ChatapiError
from chatapi.system.version import version

PROGRAM = "chatapi"
DIGITS = 12
"""Hexadecimal digits of a model's sha256 that serve as its version."""


SERVICES = {"asr": "transcribe", "tts": "synthesize", "handle": "transcript", "wake": "detect"}
"""Service in `info` -> the event that requests it."""


async def info(appliance: Appliance, holder: KeyHolder) -> dict[str, Any]:
    """The data of `info`: the services that this client may use. Raises NotReady while the models are loading."""
    services = {
        "asr": [_transcription(appliance)],
        "tts": [_synthesis(appliance)],
        "handle": [_handling(appliance)],
        "wake": await _wake(appliance),
    }
    return {
        name: programs if holder.may(operation("wyoming", SERVICES[name]).scopes) else []
        for name, programs in services.items()
    }


def _transcription(appliance: Appliance) -> dict[str, Any]:
    return _program(
        "transcribes speech",
        models=[_model(appliance, "asr", list(appliance.engines.asr.engine.languages))],
        supports_transcript_streaming=True,
        requires_external_vad=True,
    )


def _synthesis(appliance: Appliance) -> dict[str, Any]:
    manifests, voices = appliance.catalog.manifests, appliance.synthesis.voices()
    # A stored voice speaks with the TTS engine's voice for the language.
    every = sorted({voice.language for voice in voices})
    return _program(
        "synthesizes speech",
        voices=[
            {
                **_artifact(voice.name, manifests.get(voice.name)),
                "languages": every if voice.base else [voice.language],
            }
            for voice in voices
        ],
        supports_synthesize_streaming=True,
    )


def _handling(appliance: Appliance) -> dict[str, Any]:
    # A language model has no list of languages, so these are the languages of ASR and TTS.
    synthesized = (voice.language for voice in appliance.synthesis.voices())
    return _program(
        "responds with a language model",
        models=[_model(appliance, "llm", sorted({*appliance.engines.asr.engine.languages, *synthesized}))],
        supports_handled_streaming=True,
        supports_home_control=False,
    )


async def _wake(appliance: Appliance) -> list[dict[str, Any]]:
    """The wake-word programs; empty when the box has no wake word."""
    if not has_wake_word(appliance):
        return []
    try:
        detector = await appliance.engines.wake_word.open()
    except ChatapiError:
        return []
    name = wake_word(appliance)
    manifest = appliance.catalog.manifests.get(name)
    languages = list(manifest.languages) if manifest else ["en"]
    model = {**_artifact(name, manifest), "languages": languages, "phrase": detector.words}
    return [_program("detects its wake word", models=[model])]


def has_wake_word(appliance: Appliance) -> bool:
    """Whether the engine and, if it needs one, a model are installed."""
    table = appliance.settings.wake_word
    if not registry.installed("wake_word", table.engine):
        return False
    if not registry.entry("wake_word", table.engine).needs_model:
        return True
    names = [m.name for m in appliance.catalog.manifests.values() if (m.role, m.engine) == ("wake_word", table.engine)]
    wanted = names if table.model == "auto" else [table.model]
    return any(appliance.catalog.installed(name) for name in wanted if name in names)


def wake_word(appliance: Appliance) -> str:
    """The name of the wake-word model, once it is loaded."""
    return appliance.active.get("wake_word", appliance.settings.wake_word.engine)


def _model(appliance: Appliance, role: str, languages: list[str]) -> dict[str, Any]:
    name = appliance.active.get(role, getattr(appliance.settings, role).engine)
    return {**_artifact(name, appliance.catalog.manifests.get(name)), "languages": languages}


def _program(description: str, **more: Any) -> dict[str, Any]:
    return {
        "name": PROGRAM,
        "attribution": {"name": PROGRAM, "url": ""},
        "installed": True,
        "description": f"chatapi {description}",
        "version": version(),
        **more,
    }


def _artifact(name: str, manifest: Manifest | None) -> dict[str, Any]:
    if manifest is None:
        return {
            "name": name,
            "attribution": {"name": PROGRAM, "url": ""},
            "installed": True,
            "description": name,
            "version": None,
        }
    digests = [file.sha256 for file in manifest.files.values() if file.sha256]
    return {
        "name": name,
        "attribution": {"name": _owner(manifest.homepage), "url": manifest.homepage},
        "installed": True,
        "description": f"{manifest.title} ({manifest.licence})",
        "version": digests[0][:DIGITS] if digests else None,
    }


def _owner(homepage: str) -> str:
    """The owner of a page: the first path segment on GitHub and similar sites, else the host."""
    url = urlsplit(homepage)
    parts = [part for part in url.path.split("/") if part]
    shared = url.hostname in ("github.com", "huggingface.co", "gitlab.com")
    return parts[0] if shared and parts else url.hostname or homepage
