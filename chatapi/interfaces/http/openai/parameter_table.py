"""How each endpoint treats the parameters that it does not implement: the one table, which the documentation shows.

What only tunes style or bookkeeping is ignored, and so is what no line knows: a header of the response names it. What
the box cannot do and would change the result is rejected by name. Implemented are the fields of the request model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class IgnoredParameter:
    """A parameter that has no effect here."""

    why: str
    honoured: tuple[Any, ...] = ()
    """Values that ask for what the box does anyway; the header does not name them."""

    def honours(self, value: Any) -> bool:
        """Whether the box does what the value asks for."""
        return any(type(value) is type(each) and value == each for each in self.honoured)


@dataclass(frozen=True)
class Endpoint:
    """The parameters of one endpoint that it does not implement."""

    ignored: Mapping[str, IgnoredParameter]
    rejected: Mapping[str, str]
    """Name -> the reason or the remedy."""

    def add_ignored(self, schema: dict[str, Any]) -> None:
        """Adds the ignored parameters to the OpenAPI schema of the request."""
        for name, ignored in self.ignored.items():
            schema["properties"][name] = {"description": f"Ignored: {ignored.why}."}


_ACCOUNTS = IgnoredParameter("the box keeps no accounts")
_SAMPLER = IgnoredParameter("the engines have no such sampler")
_OTHER_SERVER = IgnoredParameter("an option of another server")
_CLIENT = IgnoredParameter("a setting of OpenAI's Python client")
_CACHE = IgnoredParameter("the prefixes of all prompts are cached while memory permits")

CLIENT_SETTINGS = ("extra_headers", "extra_query", "extra_body", "timeout")
"""Parameters of OpenAI's Python client that it never sends by these names."""

EVERYWHERE: Mapping[str, IgnoredParameter] = {
    "user": _ACCOUNTS,
    "safety_identifier": _ACCOUNTS,
    "metadata": IgnoredParameter("it labels stored objects"),
    "service_tier": IgnoredParameter("there is only one service tier", ("auto", "default")),
    **dict.fromkeys(CLIENT_SETTINGS, _CLIENT),
}
"""Ignored by every endpoint that does not implement them."""

_TEXT: Mapping[str, IgnoredParameter] = {
    **EVERYWHERE,
    "store": IgnoredParameter("nothing is stored", (False,)),
    "prompt_cache_key": _CACHE,
    "prompt_cache_retention": _CACHE,
    "prompt_cache_options": _CACHE,
    "prediction": IgnoredParameter("a hint that only speeds up the same completion"),
    "verbosity": IgnoredParameter("the model has one verbosity", ("medium",)),
    "reasoning_effort": IgnoredParameter("the model decides whether it reasons", ("none",)),
    **dict.fromkeys(
        ("top_k", "min_p", "typical_p", "top_a", "tfs_z", "repeat_penalty", "repetition_penalty", "repeat_last_n",
         "no_repeat_ngram_size", "mirostat", "mirostat_tau", "mirostat_eta", "min_tokens", "ignore_eos",
         "stop_token_ids", "skip_special_tokens", "length_penalty", "use_beam_search", "samplers", "dynatemp_range"),
        _SAMPLER,
    ),
    **dict.fromkeys(
        ("models", "provider", "transforms", "plugins", "route", "usage", "reasoning", "include_reasoning", "thinking",
         "think", "enable_thinking", "keep_alive", "options", "chat_template_kwargs", "cache_prompt", "prompt_logprobs",
         "return_token_ids", "add_generation_prompt", "continue_final_message", "priority", "request_id"),
        _OTHER_SERVER,
    ),
}  # fmt: skip
_ANSWER_LENGTH = dict.fromkeys(
    ("max_new_tokens", "max_output_tokens", "max_tokens_to_sample", "n_predict", "num_predict"), "send it as max_tokens"
)
_CONSTRAINTS = dict.fromkeys(
    ("guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs", "grammar", "json_schema",
     "format"),
    "send a JSON schema as response_format",
)  # fmt: skip

CHAT = Endpoint(
    ignored=_TEXT,
    rejected={
        "functions": "send them as tools",
        "function_call": "send it as tool_choice",
        "web_search_options": "the box has no web search",
        "moderation": "the box has no moderation model",
        "prompt": "send it as messages",
        "input": "send it as messages",
        "stop_sequences": "send them as stop",
        **_ANSWER_LENGTH,
        **_CONSTRAINTS,
    },
)
COMPLETIONS = Endpoint(
    ignored={
        **_TEXT,
        "best_of": IgnoredParameter("every completion is returned", (1,)),
        "suffix": IgnoredParameter("an empty one asks for nothing", ("",)),
    },
    rejected={
        "messages": "send them to /v1/chat/completions",
        "tools": "send them to /v1/chat/completions",
        "response_format": "send it to /v1/chat/completions",
        "stop_sequences": "send them as stop",
        **_ANSWER_LENGTH,
        **dict.fromkeys(_CONSTRAINTS, "send response_format to /v1/chat/completions"),
    },
)
RESPONSES = Endpoint(
    ignored={
        **{name: each for name, each in _TEXT.items() if name not in ("store", "metadata", "prediction")},
        "reasoning": IgnoredParameter("the model decides whether it reasons"),
        "truncation": IgnoredParameter("input that does not fit is an error", ("disabled",)),
        "background": IgnoredParameter("a response is sent when it is complete, or streamed", (False,)),
        "max_tool_calls": IgnoredParameter("it limits tools that OpenAI's servers run"),
        "stream_options": IgnoredParameter("streams have no obfuscation"),
        "context_management": IgnoredParameter("no context is compressed"),
        "access_programs": _OTHER_SERVER,
        "background_options": _OTHER_SERVER,
        "image": _OTHER_SERVER,
    },
    rejected={
        "prompt": "the box stores no prompts; send instructions and input",
        "moderation": "the box has no moderation model",
        "messages": "send them as input",
        "response_format": "send it as text.format",
        **dict.fromkeys(("max_tokens", "max_completion_tokens"), "send it as max_output_tokens"),
    },
)
CONVERSATIONS = Endpoint(
    ignored={**EVERYWHERE, "include": IgnoredParameter("items are returned as they are kept")},
    rejected={"messages": "send them as items", "input": "send it as items"},
)
SPEECH = Endpoint(
    ignored={
        **EVERYWHERE,
        "instructions": IgnoredParameter("voices cannot be instructed"),
        "language": IgnoredParameter("the voice has a language"),
        "lang_code": IgnoredParameter("the voice has a language"),
        "stream": IgnoredParameter("speech is always streamed", (True, False)),
        "sample_rate": IgnoredParameter("the file states its sample rate; pcm has 24 kHz", (24_000,)),
        "volume_multiplier": IgnoredParameter("the volume is the player's"),
        "normalization_options": IgnoredParameter("text is always normalized"),
        "return_download_link": _OTHER_SERVER,
    },
    rejected={
        "text": "send it as input",
        "voice_id": "send it as voice",
        "format": "send it as response_format",
        "ref_audio": "voices cannot be cloned",
        "ref_text": "voices cannot be cloned",
    },
)
_RECORDING: Mapping[str, IgnoredParameter] = {
    **EVERYWHERE,
    "vad_filter": IgnoredParameter("silence is always left out", ("true",)),
    "beam_size": IgnoredParameter("the search of the engine is fixed"),
}
TRANSCRIPTIONS = Endpoint(
    ignored=_RECORDING,
    rejected={
        "diarize": "send it as speakers",
        "task": "send the recording to /v1/audio/translations to translate it",
        "url": "send the recording as file",
        "language_code": "send it as language",
        "lang": "send it as language",
    },
)
TRANSLATIONS = Endpoint(
    ignored={
        **_RECORDING,
        "language": IgnoredParameter("the spoken language is detected"),
    },
    rejected={"url": "send the recording as file"},
)

ENDPOINTS: Mapping[str, Endpoint] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": COMPLETIONS,
    "/v1/responses": RESPONSES,
    "/v1/audio/speech": SPEECH,
    "/v1/audio/transcriptions": TRANSCRIPTIONS,
    "/v1/audio/translations": TRANSLATIONS,
}
"""Path -> the treatment of what its request model does not have."""
