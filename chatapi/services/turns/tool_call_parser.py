"""Functions that a model may call, for models that know of none: told in words, and read out of what they write.

The words are those that most open models were taught: a call is a JSON object with a name and arguments, between
`<tool_call>` and `</tool_call>`. Where a call is required the engine is held to a JSON schema, so that it is a call,
and its arguments fit.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from chatapi.engines import Capability, LanguageModel, PromptMessage, Sampling, Stop, TokenChunk, Tool, never
from chatapi.errors import Unprocessable
from chatapi.events import Token, ToolCall

OPEN, CLOSE = "<tool_call>", "</tool_call>"


def generate(
    engine: LanguageModel, messages: Sequence[PromptMessage], sampling: Sampling, stop: Stop = never
) -> Iterator[TokenChunk]:
    """As `LanguageModel.generate`, with `sampling.tools` and their messages, for any engine that follows schemas.

    While a call is being written its pieces are empty, so that it is seen that the engine is at work.

    Raises Unprocessable (invalid_json_schema) also for a tool's parameters.
    """
    if "tools" in engine.can:
        yield from engine.generate(messages, sampling, stop)
        return
    tools = possible(sampling)
    told = _told(messages, tools, sampling)
    alone = tools[0] if len(tools) == 1 and sampling.tool_choice != "auto" else None
    plain = replace(sampling, tools=(), schema=_schema(tools, sampling))
    pieces = engine.generate(told, plain, stop)
    try:
        if not tools:
            yield from pieces
        elif alone is not None:
            yield from _arguments(pieces, alone.name)
        else:
            yield from _read(pieces, ToolCallReader([tool.name for tool in tools]), sampling.parallel)
    except Unprocessable as error:
        if tools and sampling.schema is None and error.code == "invalid_json_schema":
            raise Unprocessable(error.message, code=error.code, details={"param": "tools"}) from error
        raise
    finally:
        # An engine is stopped by closing what it gives; Python would do that only when nobody holds it any more.
        if (close := getattr(pieces, "close", None)) is not None:
            close()


def whole(
    engine: LanguageModel, messages: Sequence[PromptMessage], sampling: Sampling, stop: Stop = never
) -> Iterator[float]:
    """As `LanguageModel.whole`, of a prompt that `generate` would have written for."""
    told = messages if "tools" in engine.can else _told(messages, possible(sampling), sampling)
    yield from engine.whole(told, stop)


def check(sampling: Sampling) -> None:
    """Tools have names of their own, and one that is chosen is there. Raises Unprocessable with the `param`."""
    names = [tool.name for tool in sampling.tools]
    if len(set(names)) < len(names):
        raise _wrong("tools", "two of the tools have the same name", "invalid_value")
    choice = sampling.tool_choice
    if choice.startswith(":") and choice[1:] not in names:
        raise _wrong("tool_choice", f"tool_choice is {choice[1:]!r}, which is none of the tools", "invalid_value")
    if choice == "required" and not names:
        raise _wrong("tool_choice", "tool_choice is required and there are no tools", "invalid_value")


def length(tools: Sequence[Tool]) -> int:
    """Characters that describe them."""
    return sum(len(tool.description) + len(json.dumps(tool.parameters)) for tool in tools)


def followed(sampling: Sampling, can: Container[Capability]) -> bool:
    """Whether an engine of these skills can be held to the choice among the tools."""
    return not sampling.tools or sampling.tool_choice in ("auto", "none") or "tools" in can or "schema" in can


def possible(sampling: Sampling) -> tuple[Tool, ...]:
    """The tools that may be called."""
    if sampling.tool_choice == "none":
        return ()
    return tuple(tool for tool in sampling.tools if sampling.tool_choice in ("auto", "required", f":{tool.name}"))


class ToolCallReader:
    """Fed with an answer as it is written, tells words from calls."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._held = ""
        """Neither given out as words nor known to be a call."""
        self._words = self._calling = False

    def feed(self, text: str) -> str:
        """What is certainly words now."""
        self._held += text
        if self._calling:
            return ""
        if not self._words and self._held.lstrip().startswith("{"):
            self._calling = True
            return ""
        at = self._held.find(OPEN)
        self._calling = at >= 0
        kept = len(self._held) - at if self._calling else self._mark_begun()
        given, self._held = self._held[: len(self._held) - kept], self._held[len(self._held) - kept :]
        if not self._words and not given.strip():
            self._held = given + self._held
            return ""
        self._words = True
        return given

    def finish(self) -> tuple[str, list[ToolCall]]:
        """The words that are left, and the calls."""
        calls = _calls(self._held, self._names) if self._calling else []
        return ("" if calls else self._held), calls

    def _mark_begun(self) -> int:
        """Characters at the end that may be the beginning of the mark."""
        return next((size for size in range(len(OPEN) - 1, 0, -1) if self._held.endswith(OPEN[:size])), 0)


def _calls(text: str, names: Sequence[str]) -> list[ToolCall]:
    """Every call in it; none at all where something in it is none."""
    found, at, decoder = [], text.find("{"), json.JSONDecoder()
    while at >= 0:
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            return []
        arguments = value.get("arguments", value.get("parameters"))
        if value.get("name") not in names or not isinstance(arguments, dict):
            return []
        found.append(_call(value["name"], json.dumps(arguments, ensure_ascii=False)))
        at = text.find("{", end)
    return found


def _call(name: str, arguments: str) -> ToolCall:
    return ToolCall(f"call_{secrets.token_hex(12)}", name, arguments)


def _arguments(pieces: Iterator[TokenChunk], name: str) -> Iterator[TokenChunk]:
    """The whole answer is one function's arguments; one that was cut is given as it is."""
    text = ""
    for piece in pieces:
        text += piece.text
        if piece.finish_reason is not None:
            reason = "tool_calls" if piece.finish_reason == "stop" else piece.finish_reason
            yield replace(piece, text="", tokens=(), finish_reason=reason, calls=(_call(name, text.strip()),))
        else:
            yield TokenChunk("")


def _read(pieces: Iterator[TokenChunk], reader: ToolCallReader, parallel: bool) -> Iterator[TokenChunk]:
    held: list[Token] = []
    for piece in pieces:
        words, calls = reader.feed(piece.text), list[ToolCall]()
        if piece.finish_reason is not None:
            rest, calls = reader.finish()
            words += rest
        held += piece.tokens
        tokens = tuple(held) if words else ()
        held = [] if words else held
        if piece.finish_reason is None:
            yield TokenChunk(words, tokens=tokens)
        else:
            reason = "tool_calls" if calls else piece.finish_reason
            given = calls if parallel else calls[:1]
            yield replace(piece, text=words, tokens=tokens, finish_reason=reason, calls=tuple(given))


def _schema(tools: Sequence[Tool], sampling: Sampling) -> Mapping[str, Any] | None:
    """What the whole answer has to fit."""
    if not tools or (sampling.tool_choice == "auto" and sampling.schema is None):
        return sampling.schema
    if len(tools) == 1 and sampling.tool_choice != "auto":
        return tools[0].parameters
    places: dict[str, Any] = {str(at): tool.parameters for at, tool in enumerate(tools)}
    kinds: list[dict[str, Any]] = [
        {
            "type": "object",
            "properties": {"name": {"const": tool.name}, "arguments": {"$ref": f"#/$defs/{at}"}},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for at, tool in enumerate(tools)
    ]
    if sampling.tool_choice == "auto" and sampling.schema is not None:
        places["answer"] = sampling.schema
        kinds.append({"$ref": "#/$defs/answer"})
    return {"anyOf": kinds, "$defs": {name: _moved(schema, f"#/$defs/{name}") for name, schema in places.items()}}


def _moved(schema: Any, place: str) -> Any:
    """A schema whose references to its own parts hold where it stands now."""
    if isinstance(schema, list):
        return [_moved(each, place) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    return {
        key: place + value[1:]
        if key == "$ref" and isinstance(value, str) and value.startswith("#")
        else _moved(value, place)
        for key, value in schema.items()
    }


def _told(messages: Sequence[PromptMessage], tools: Sequence[Tool], sampling: Sampling) -> list[PromptMessage]:
    """The conversation in words alone, with the functions in its system prompt."""
    told: list[PromptMessage] = []
    for message in messages:
        if message.role == "tool":
            text = f"<tool_response>\n{message.text}\n</tool_response>"
            if told and told[-1].role == "user" and told[-1].text.startswith("<tool_response>"):
                told[-1] = PromptMessage("user", f"{told[-1].text}\n{text}")
            else:
                told.append(PromptMessage("user", text))
        else:
            calls = "\n".join(_written(call) for call in message.calls)
            told.append(PromptMessage(message.role, "\n".join(part for part in (message.text, calls) if part)))
    if tools:
        before = told.pop(0).text + "\n\n" if told and told[0].role == "system" else ""
        told.insert(0, PromptMessage("system", before + _described(tools, sampling)))
    return told


def _written(call: ToolCall) -> str:
    return f'{OPEN}\n{{"name": {json.dumps(call.name)}, "arguments": {call.arguments}}}\n{CLOSE}'


def _described(tools: Sequence[Tool], sampling: Sampling) -> str:
    known = "\n".join(
        json.dumps(
            {"name": tool.name, "description": tool.description, "parameters": tool.parameters}, ensure_ascii=False
        )
        for tool in tools
    )
    if sampling.tool_choice != "auto":
        asked = (
            f"Answer with nothing but the arguments of {tools[0].name}, as a JSON object."
            if len(tools) == 1
            else 'Answer with nothing but the call of one of them: {"name": its name, "arguments": its arguments}'
        )
    else:
        asked = (
            "Where one of them helps, answer with nothing but its call:\n"
            f'{OPEN}\n{{"name": its name, "arguments": its arguments}}\n{CLOSE}\n'
            "Its result follows in <tool_response>. Where none helps, answer in words."
        )
    return f"You can have these functions called, each with the JSON schema of its arguments:\n{known}\n{asked}"


def _wrong(param: str, told: str, code: str) -> Unprocessable:
    return Unprocessable(told, code=code, details={"param": param})
