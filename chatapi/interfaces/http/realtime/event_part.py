"""The base of all objects inside of client events, and how they are validated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from chatapi.errors import Unprocessable
from chatapi.interfaces.http.ignored import IgnoredParameters
from chatapi.interfaces.http.openai.parameter_parsing import ignore_inside

TAGS = frozenset(
    ["server_vad", "semantic_vad", "str", "int", "literal['inf']", "constrained-int", "message", "function_call",
     "function_call_output", "item_reference", "literal['auto','none','required']", "ChosenFunction", "input_text",
     "output_text", "input_audio", "output_audio"]
)  # fmt: skip
"""Tags that pydantic adds to the path of a fault in a union."""

NAME = r"^[a-zA-Z0-9_-]{1,64}$"
"""Pattern of OpenAI's function names."""
LONGEST_MS = 86_400_000
"""Longest audio position, in milliseconds: one day."""

REASONS = {
    "tools.type": "only tools of type function are supported, no MCP servers",
    "tool_choice": 'it must be auto, none, required, or a function: {"type": "function", "name": its name}',
    "prompt": "prompt templates are not supported; send `instructions`",
    "conversation": "it must be auto, for a response in the conversation, or none",
    "content.type": "it must be input_text, input_audio, output_text or output_audio; images are not supported",
}
"""Field -> why its value is invalid."""

Text = Annotated[str, Field(max_length=20_000)]
Instructions = Annotated[str, Field(max_length=512 << 10)]
"""As long as an event may be; `limits.system_chars` decides."""
Id = Annotated[str, Field(max_length=512)]

Model = TypeVar("Model", bound=BaseModel)


class EventPart(BaseModel):
    """An object inside of a client event. Null is as omitted; unknown fields stay until they are named as ignored."""

    model_config = ConfigDict(extra="allow")
    NULLS: ClassVar[frozenset[str]] = frozenset()
    """Fields in which null has a meaning of its own."""

    @model_validator(mode="before")
    @classmethod
    def _omit_nulls(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {name: value for name, value in values.items() if value is not None or name in cls.NULLS}


def parsed(model: type[Model], document: Mapping[str, Any], ignored: IgnoredParameters, path: str = "") -> Model:
    """The document at this path as a model; adds the names of its unknown fields to `ignored`, and drops them.

    Raises Unprocessable that names the invalid or misspelled field.
    """
    try:
        found = model.model_validate(document)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        param = ".".join(filter(None, [path, *(str(step) for step in fault["loc"] if step not in TAGS)]))
        raise Unprocessable(_fault_message(param, fault["msg"]), details={"param": param}) from None
    ignore_inside(found, ignored, path)
    _drop_unknown(found)
    return found


def _drop_unknown(value: Any) -> None:
    """Drops the unknown fields of a model and of those inside of it: a session's would be kept for ever."""
    if isinstance(value, BaseModel):
        if value.__pydantic_extra__:
            value.__pydantic_fields_set__.difference_update(value.__pydantic_extra__)
            value.__pydantic_extra__.clear()
        inside: Iterable[Any] = [getattr(value, name) for name in value.__pydantic_fields_set__]
    else:
        inside = value if isinstance(value, list) else ()
    for each in inside:
        _drop_unknown(each)


def _fault_message(param: str, message: str) -> str:
    """The error message, with the reason from `REASONS` when there is one."""
    names = [name for name in param.split(".") if not name.isdigit()] or [""]
    reason = REASONS.get(".".join(names[-2:])) or REASONS.get(names[-1])
    return f"{param}: {reason or message}"
