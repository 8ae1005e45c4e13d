"""The messages of a chat completion as clients send them, with whatever another server has put into its answers."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator

from chatapi.interfaces.http.openai.parameter_parsing import RequestObject

NAME = r"^[a-zA-Z0-9_-]{1,64}$"
"""Pattern of OpenAI's function and schema names."""


class TextPart(RequestObject):
    """A text part of a message."""

    type: Literal["text", "input_text", "output_text"]
    text: str


class RefusalPart(RequestObject):
    """A refusal of the assistant."""

    type: Literal["refusal"]
    refusal: str


class ReasoningPart(RequestObject):
    """Reasoning of the model in an earlier answer; it is left out of the prompt."""

    type: Literal["thinking", "redacted_thinking", "reasoning"]


class InputAudio(RequestObject):
    """Recorded speech."""

    data: str
    """Base64 of a file, also as a data URI; OpenAI supports WAV and MP3, and FLAC, OGG, MP4 and WebM also work here."""
    format: Annotated[str, Field(max_length=50)] = "wav"
    """Ignored in favour of the file itself."""


class AudioPart(RequestObject):
    """An audio part of a message."""

    type: Literal["input_audio"]
    input_audio: InputAudio


class FunctionCallPart(RequestObject):
    """The function that the assistant calls."""

    name: Annotated[str, Field(pattern=NAME)]
    arguments: str = "{}"
    """Arguments in JSON, as the model wrote them."""

    @field_validator("arguments", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        """Some clients send the arguments as an object, and none as null or as an empty text."""
        if value is None or value == "":
            return "{}"
        return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value


class ToolCallPart(RequestObject):
    """A tool call of the assistant."""

    id: Annotated[str, Field(min_length=1, max_length=200)]
    type: Literal["function"] = "function"
    function: FunctionCallPart


class AssistantAudio(RequestObject):
    """Reference to a spoken answer: by its id for an hour, or by its transcript without a limit."""

    id: Annotated[str, Field(min_length=1, max_length=200)]
    data: str | None = None
    expires_at: int | None = None
    transcript: str | None = None


TAGS = {
    "input_text": "text", "output_text": "text", "redacted_thinking": "thinking", "reasoning": "thinking",
}  # fmt: skip
"""Type of a part -> the type whose model it shares."""


def part_tag(part: Any) -> str | None:
    """The tag of a part's model, for pydantic."""
    kind = part.get("type") if isinstance(part, dict) else getattr(part, "type", None)
    return f"={TAGS.get(kind, kind)}" if isinstance(kind, str) else None


def text_or_parts(content: Any) -> str:
    """The tag of a content's model, for pydantic."""
    return "=parts" if isinstance(content, list) else "=text"


Text = Annotated[TextPart, Tag("=text")]
Texts = Annotated[list[Annotated[Text, Discriminator(part_tag)]], Field(max_length=100)]
UserParts = Annotated[
    list[Annotated[Text | Annotated[AudioPart, Tag("=input_audio")], Discriminator(part_tag)]], Field(max_length=100)
]
AssistantParts = Annotated[
    list[
        Annotated[
            Text | Annotated[RefusalPart, Tag("=refusal")] | Annotated[ReasoningPart, Tag("=thinking")],
            Discriminator(part_tag),
        ]
    ],
    Field(max_length=100),
]
Content = Annotated[Annotated[str, Tag("=text")] | Annotated[Texts, Tag("=parts")], Discriminator(text_or_parts)]
UserContent = Annotated[
    Annotated[str, Tag("=text")] | Annotated[UserParts, Tag("=parts")], Discriminator(text_or_parts)
]
AssistantContent = Annotated[
    Annotated[str, Tag("=text")] | Annotated[AssistantParts, Tag("=parts")], Discriminator(text_or_parts)
]
Name = Annotated[str, Field(pattern=r"^\S{1,64}$")]
"""Name of a participant."""


class SystemMessage(RequestObject):
    """A system prompt, at the start or later; developer is OpenAI's newer name of the role."""

    role: Literal["system", "developer"]
    content: Content | None
    name: Name | None = None


class UserMessage(RequestObject):
    """A message of the user."""

    role: Literal["user"]
    content: UserContent | None
    name: Name | None = None
    """Name of the user; it precedes the content in the prompt."""


class AssistantMessage(RequestObject):
    """A message of the assistant. As the last message it is a prefix that the model continues."""

    role: Literal["assistant"]
    content: AssistantContent | None = None
    refusal: str | None = None
    audio: AssistantAudio | None = None
    tool_calls: list[ToolCallPart] | None = None
    name: Name | None = None
    """Name of the assistant; it precedes the content in the prompt, unless the message is a prefix to continue."""
    function_call: None = None


class ToolMessage(RequestObject):
    """The result of a tool call."""

    role: Literal["tool"]
    content: Content | None
    tool_call_id: Annotated[str, Field(min_length=1, max_length=200)]


def role_tag(message: Any) -> str | None:
    """The tag of a message's model, for pydantic."""
    role = message.get("role") if isinstance(message, dict) else getattr(message, "role", None)
    return f"={role}".replace("developer", "system") if isinstance(role, str) else None


AnyMessage = Annotated[
    Annotated[SystemMessage, Tag("=system")]
    | Annotated[UserMessage, Tag("=user")]
    | Annotated[AssistantMessage, Tag("=assistant")]
    | Annotated[ToolMessage, Tag("=tool")],
    Discriminator(role_tag),
]
