"""The body of `POST /v1/completions`: its schema, and how it is parsed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import ConfigDict, Discriminator, Field, Tag

from chatapi.interfaces.http.ignored import IgnoredParameters
from chatapi.interfaces.http.openai.chat_messages import text_or_parts
from chatapi.interfaces.http.openai.chat_parameters import MOST_CHOICES
from chatapi.interfaces.http.openai.generation_parameters import GenerationParameters
from chatapi.interfaces.http.openai.parameter_parsing import invalid_parameter, parse_object
from chatapi.interfaces.http.openai.parameter_table import COMPLETIONS


class TextCompletionRequest(GenerationParameters):
    """A text to continue. Nothing of it is stored."""

    model_config = ConfigDict(json_schema_extra=COMPLETIONS.add_ignored)

    prompt: Annotated[
        Annotated[str, Tag("=text")]
        | Annotated[list[str], Field(min_length=1, max_length=MOST_CHOICES), Tag("=parts")],
        Discriminator(text_or_parts),
    ]
    """The text, or several texts, each of which is continued."""
    model: Annotated[str, Field(max_length=200)] = "default"
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 16
    """Longest continuation, in tokens; limited by the remaining context."""
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] = 1
    """Number of continuations of each text."""
    echo: bool = False
    """Whether the text precedes its continuation in the result."""
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    """Most likely tokens of each position that are returned beside the generated one."""

    @property
    def prompts(self) -> list[str]:
        """The texts to continue."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt


def parse_body(values: Mapping[str, Any], ignored: IgnoredParameters) -> TextCompletionRequest:
    """Parses a JSON object; adds the names of what has no effect to `ignored`.

    Raises Unprocessable with the invalid `param` in its details.
    """
    if values.get("suffix"):
        message = "suffix is not supported: the models continue a text, and fill no gaps"
        raise invalid_parameter("suffix", message, "unsupported_parameter")
    prompt = values.get("prompt")
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], str):
        message = "prompt is a list of tokens, which is not supported; send text"
        raise invalid_parameter("prompt", message, "unsupported_value")
    body = parse_object(TextCompletionRequest, values, COMPLETIONS, ignored)
    if len(body.prompts) * body.n > MOST_CHOICES:
        message = f"{len(body.prompts)} texts with n={body.n} are more than {MOST_CHOICES} completions"
        raise invalid_parameter("n", message, "invalid_value")
    if body.stream_options is not None and not body.stream:
        ignored.add("stream_options")
    return body
