"""Tool calls: for engines without native support tools are described in the prompt; calls are parsed from the text.

The format is the one that most open models are trained on: a call is a JSON object with a name and arguments between
`<tool_call>` and `</tool_call>`. Where a call is required, a JSON schema constrains the output to a valid call. Models
write others too, also those of servers with native support; `tool_call_formats` knows them.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from typing import Any

from chatapi.engines import Capability, LanguageModel, PromptMessage, Sampling, TokenChunk, Tool
from chatapi.engines.call import EngineCall
from chatapi.errors import Unprocessable
from chatapi.events import Token, ToolCall
from chatapi.services.turns.reasoning import ReasoningFilter
from chatapi.services.turns.tool_call_text import CLOSE, OPEN, ToolCallText
from chatapi.services.turns.tool_descriptions import described

DEFAULT_SAMPLING = Sampling()


def generate(
    messages: Sequence[PromptMessage], sampling: Sampling, capabilities: Container[Capability]
) -> tuple[EngineCall[TokenChunk], AnswerReader]:
    """The call of `LanguageModel.generate` with `sampling.tools` and tool messages, for an engine with these
    capabilities, and the reader of its chunks; without native support of tools it must support schemas."""
    if "tools" in capabilities:
        reader = AnswerReader(selectable_tools(sampling), sampling, native=True)
        return EngineCall.of(LanguageModel.generate, messages, sampling), reader
    tools = selectable_tools(sampling)
    plain_messages = _plain_messages(messages, tools, sampling)
    plain_sampling = replace(sampling, tools=(), schema=_schema(tools, sampling))
    return EngineCall.of(LanguageModel.generate, plain_messages, plain_sampling), AnswerReader(tools, sampling)


def end_of_turn_probability(
    messages: Sequence[PromptMessage], sampling: Sampling, capabilities: Container[Capability]
) -> EngineCall[float]:
    """The call of `LanguageModel.end_of_turn_probability` for the prompt that `generate` builds."""
    native = "tools" in capabilities
    prompt = messages if native else _plain_messages(messages, selectable_tools(sampling), sampling)
    return EngineCall.of(LanguageModel.end_of_turn_probability, prompt)


def check(sampling: Sampling) -> None:
    """Check that tool names are unique and that a chosen tool exists. Raises Unprocessable with the `param`."""
    names = [tool.name for tool in sampling.tools]
    if len(set(names)) < len(names):
        raise _unprocessable("tools", "two of the tools have the same name", "invalid_value")
    choice = sampling.tool_choice
    if choice.startswith(":") and choice[1:] not in names:
        message = f"tool_choice is {choice[1:]!r}, which is not one of the tools"
        raise _unprocessable("tool_choice", message, "invalid_value")
    if choice == "required" and not names:
        raise _unprocessable("tool_choice", "tool_choice is required, but there are no tools", "invalid_value")


def description_length(tools: Sequence[Tool]) -> int:
    """Length of the tools' descriptions and parameters, in characters."""
    return sum(len(tool.description) + len(json.dumps(tool.parameters)) for tool in tools)


def can_enforce_choice(sampling: Sampling, capabilities: Container[Capability]) -> bool:
    """Whether an engine with these capabilities can be held to `tool_choice`."""
    if not sampling.tools or sampling.tool_choice in ("auto", "none"):
        return True
    return "tools" in capabilities or "schema" in capabilities


def selectable_tools(sampling: Sampling) -> tuple[Tool, ...]:
    """The tools that `tool_choice` allows the model to call."""
    if sampling.tool_choice == "none":
        return ()
    return tuple(tool for tool in sampling.tools if sampling.tool_choice in ("auto", "required", f":{tool.name}"))


class AnswerReader:
    """Reads the chunks of one answer: separates its reasoning, and turns the calls in its text into tool calls.

    While a call is generated the chunks are empty, which shows that the engine is at work.
    """

    def __init__(self, tools: Sequence[Tool], sampling: Sampling = DEFAULT_SAMPLING, *, native: bool = False) -> None:
        """`tools`: those that may be called; `native`: the engine knows them, and the prompt does not describe them."""
        self.reasoning = ReasoningFilter(structured=sampling.schema is not None)
        """The filter that the chunks pass first; that of the whole answer, where this is a part of one."""
        self.problem = ""
        """After the last chunk: why something that the model meant as a call is none, and nothing else is."""
        self._sampling = sampling
        self._tools = () if native else tools
        chosen = len(tools) == 1 and sampling.tool_choice != "auto" and not native
        self._only = tools[0].name if chosen else None
        """The tool whose arguments are the whole answer."""
        self._text = ToolCallText(tools, strict=sampling.schema is not None)
        self._arguments = ""
        self._held: list[Token] = []

    def read(self, chunk: TokenChunk) -> TokenChunk:
        """The next chunk, with the text that is no call, and with all calls when it is the last one."""
        chunk = self.reasoning.read(chunk)
        return self._read_calls(chunk) if self._only is None else self._read_arguments(chunk, self._only)

    def require_valid(self, error: Unprocessable) -> None:
        """Raises Unprocessable (invalid_json_schema) for the `tools` if the error is about the schema of their
        parameters."""
        if self._tools and self._sampling.schema is None and error.code == "invalid_json_schema":
            raise Unprocessable(error.message, code=error.code, details={"param": "tools"}) from error

    def correction(self) -> tuple[PromptMessage, PromptMessage]:
        """What the model wrote instead of a call, and the answer to it, so that it may try again."""
        response = f"<tool_response>\nError: {self.problem}\n</tool_response>"
        return PromptMessage("assistant", self._text.failed_text), PromptMessage("user", response)

    def _read_arguments(self, chunk: TokenChunk, name: str) -> TokenChunk:
        """Takes the whole answer as the arguments of one tool; an answer cut by its limit is passed on as it is."""
        self._arguments += chunk.text
        if chunk.finish_reason is None:
            return TokenChunk("", reasoning=chunk.reasoning)
        reason = "tool_calls" if chunk.finish_reason == "stop" else chunk.finish_reason
        call = _tool_call(name, self._arguments.strip())
        return replace(chunk, text="", tokens=(), finish_reason=reason, calls=(call,))

    def _read_calls(self, chunk: TokenChunk) -> TokenChunk:
        last = chunk.finish_reason is not None
        text = self._text.feed(chunk.text, last=last, cut=chunk.finish_reason == "length")
        self._held += chunk.tokens
        tokens = tuple(self._held) if text else ()
        self._held = [] if text else self._held
        if not last:
            return replace(chunk, text=text, tokens=tokens)
        # An engine with native support may have read the calls itself.
        calls = chunk.calls or self._text.found.calls
        self.problem = "" if calls else self._text.found.problem
        reason = "tool_calls" if calls else chunk.finish_reason
        allowed = calls if self._sampling.parallel else calls[:1]
        return replace(chunk, text=text, tokens=tokens, finish_reason=reason, calls=tuple(allowed))


def _tool_call(name: str, arguments: str) -> ToolCall:
    return ToolCall(f"call_{secrets.token_hex(12)}", name, arguments)


def _schema(tools: Sequence[Tool], sampling: Sampling) -> Mapping[str, Any] | None:
    """The JSON schema of the whole answer, text or call."""
    if not tools or (sampling.tool_choice == "auto" and sampling.schema is None):
        return sampling.schema
    if len(tools) == 1 and sampling.tool_choice != "auto":
        return tools[0].parameters
    definitions: dict[str, Any] = {str(index): tool.parameters for index, tool in enumerate(tools)}
    alternatives: list[dict[str, Any]] = [
        {
            "type": "object",
            "properties": {"name": {"const": tool.name}, "arguments": {"$ref": f"#/$defs/{index}"}},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for index, tool in enumerate(tools)
    ]
    if sampling.tool_choice == "auto" and sampling.schema is not None:
        definitions["answer"] = sampling.schema
        alternatives.append({"$ref": "#/$defs/answer"})
    moved = {name: _rebase(schema, f"#/$defs/{name}") for name, schema in definitions.items()}
    return {"anyOf": alternatives, "$defs": moved}


def _rebase(schema: Any, pointer: str) -> Any:
    """A schema with its internal references rewritten for its new place in a document."""
    if isinstance(schema, list):
        return [_rebase(item, pointer) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    return {
        key: pointer + value[1:]
        if key == "$ref" and isinstance(value, str) and value.startswith("#")
        else _rebase(value, pointer)
        for key, value in schema.items()
    }


def _plain_messages(
    messages: Sequence[PromptMessage], tools: Sequence[Tool], sampling: Sampling
) -> list[PromptMessage]:
    """The conversation as text only, with the tools described in its system prompt."""
    plain: list[PromptMessage] = []
    for message in messages:
        if message.role == "tool":
            text = f"<tool_response>\n{message.text}\n</tool_response>"
            if plain and plain[-1].role == "user" and plain[-1].text.startswith("<tool_response>"):
                plain[-1] = PromptMessage("user", f"{plain[-1].text}\n{text}")
            else:
                plain.append(PromptMessage("user", text))
        else:
            calls = "\n".join(_as_text(call) for call in message.calls)
            plain.append(PromptMessage(message.role, "\n".join(part for part in (message.text, calls) if part)))
    if tools:
        system = plain.pop(0).text if plain and plain[0].role == "system" else ""
        plain.insert(0, PromptMessage("system", _tool_prompt(tools, system, sampling)))
    return plain


def _as_text(call: ToolCall) -> str:
    return f'{OPEN}\n{{"name": {json.dumps(call.name)}, "arguments": {call.arguments}}}\n{CLOSE}'


def _tool_prompt(tools: Sequence[Tool], system: str, sampling: Sampling) -> str:
    """The system prompt with the tools before it: clients put the time at its end, and what follows on a change has to
    be computed again."""
    if sampling.tool_choice != "auto":
        instruction = (
            f"Answer with nothing but the arguments of {tools[0].name}, as a JSON object."
            if len(tools) == 1
            else 'Answer with nothing but the call of one of them: {"name": its name, "arguments": its arguments}'
        )
    else:
        instruction = (
            "Where one of them helps, answer with nothing but its call:\n"
            f'{OPEN}\n{{"name": its name, "arguments": its arguments}}\n{CLOSE}\n'
            "Its result follows in <tool_response>. Where none helps, answer in words."
        )
    introduction = "You can have these functions called, each with the JSON schema of its arguments:"
    parts = (f"{introduction}\n{described(tools)}", system, instruction)
    return "\n\n".join(part for part in parts if part)


def _unprocessable(param: str, message: str, code: str) -> Unprocessable:
    return Unprocessable(message, code=code, details={"param": param})
