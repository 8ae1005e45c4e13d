"""The formats in which language models write tool calls.

Each model family has its own: Hermes and Qwen, Mistral, Llama 3, Granite, Phi, Command A, DeepSeek, Kimi, GLM, Qwen
Coder, MiniMax, Gemma, gpt-oss; and small models write what looks similar to one of them.
"""

from __future__ import annotations

import ast
import json
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chatapi.engines import Tool
from chatapi.events import ToolCall
from chatapi.services.turns import lenient_json

NAMES = ("name", "function", "tool", "tool_name", "function_name", "recipient_name", "action")
"""Keys of a call's name."""
ARGUMENTS = ("arguments", "parameters", "args", "kwargs", "input", "tool_input", "action_input", "arguments_json")
"""Keys of its arguments."""
WRAPPERS = ("function", "tool_call", "tool_calls", "function_call", "function_calls", "calls")
"""Keys whose value may be calls."""
OTHERS = frozenset(("id", "type", "index", "tool_call_id", "tool_call_name"))
CUT = "the call ends before its arguments do"
"""The problem of a call that was not finished."""
MOST_CALLS = 64
"""Most calls of one answer."""

_TAGGED = re.compile(
    r"<(?:function|invoke name|tool)=[\"']?([\w.-]{1,64})[\"']?\s*>(.*?)(?:</(?:function|invoke|tool)>|\Z)", re.DOTALL
)
_PARAMETER = re.compile(
    r"<(?:parameter(?: name)?|arg)=[\"']?([\w.-]{1,64})[\"']?\s*>(.*?)(?=</(?:parameter|arg)>|<parameter|\Z)", re.DOTALL
)
_KEYED = re.compile(r"<arg_key>\s*(.*?)\s*</arg_key>\s*<arg_value>(.*?)(?:</arg_value>|\Z)", re.DOTALL)
_VALUE = re.compile(r"[{\[](?!ARGS\]|CALL_ID\])")
_NAME_FIRST = re.compile(r"(?:<[^<>]{1,40}>)?\s{0,9}([\w.-]{1,64})\s{0,9}(?=<arg_key>|</|\Z)")
_QUOTE = '<|"|>'
"""Gemma 4's quotation mark."""


@dataclass(frozen=True)
class FoundCalls:
    """What a text holds."""

    calls: tuple[ToolCall, ...] = ()
    problem: str = ""
    """Why what was meant as a call is none; empty: nothing of the kind."""


class ToolNames:
    """The tools that may be called."""

    def __init__(self, tools: Sequence[Tool]) -> None:
        self.tools = {tool.name: tool for tool in tools}
        self._folded = {_folded(name): name for name in self.tools}
        longest_first = sorted(self.tools, key=len, reverse=True)
        alternatives = "|".join(map(re.escape, longest_first)) or "(?!)"
        self.pattern = re.compile(rf"(?<![\w-])({alternatives})(?![\w-])[^{{}}]{{0,80}}\{{", re.IGNORECASE)
        """A name, and an object after it."""

    def known(self, name: str) -> str | None:
        """The tool that a model means by a name: the case, hyphens and a prefix do not matter."""
        if name in self.tools:
            return name
        return self._folded.get(_folded(name.removeprefix("functions.").removeprefix("tools.")))

    def properties(self, name: str) -> list[str]:
        """The names of a tool's arguments, in order."""
        properties = self.tools[name].parameters.get("properties")
        return list(properties) if isinstance(properties, Mapping) else []

    def unknown(self, name: str) -> str:
        """The message to the model about a call of an unknown tool."""
        return f"there is no function {name[:64]!r}; there are: {', '.join(self.tools) or 'none'}"


def _folded(name: str) -> str:
    return name.casefold().replace("-", "_").strip()


def marked(text: str, names: ToolNames, *, cut: bool = False) -> FoundCalls:
    """The calls in a text between the markers of a call; without any there is a problem.

    `cut`: a limit has cut the text, so that what is not complete has lost something.
    """
    if cut:
        found = _json_calls(text, names, complete=True)
        return found if found.calls else FoundCalls(problem=CUT)
    found = FoundCalls()
    readers = (_tagged, _keyed, _json_calls, _named_json, _pythonic_lines)
    for reader in readers:
        now = reader(text, names)
        if now.calls:
            return now
        found = found if found.problem else now
    if found.problem:
        return found
    return FoundCalls(problem="the call could not be read; write its name and its arguments as one JSON object")


def bare(value: Any, names: ToolNames, *, strict: bool) -> FoundCalls:
    """The calls that a JSON value without markers is. Only what has exactly the members of a call is one.

    `strict`: an unknown name makes it an answer in JSON, not a call with a problem.
    """
    values = value if isinstance(value, list) else [value]
    if not values or not all(_has_members_of_a_call(each) for each in values):
        return FoundCalls()
    found = _calls(value, names)
    means_call = not strict and all(any(key in each for key in ARGUMENTS) for each in _flat(values))
    return found if found.calls or means_call else FoundCalls()


def pythonic(text: str, names: ToolNames) -> FoundCalls:
    """The calls that a text is as a whole, written in Python: `weather(city="Oslo")`, or a list of those."""
    source = text.strip().strip("`").strip().rstrip(";")
    try:
        tree = ast.parse(source, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return FoundCalls()
    calls = []
    if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and tree.func.id == "print" and tree.args:
        tree = tree.args[0]
    for node in tree.elts if isinstance(tree, (ast.List, ast.Tuple)) else [tree]:
        call = _python_call(node, names)
        if call is None:
            return FoundCalls()
        calls.append(call)
    return FoundCalls(tuple(calls[:MOST_CALLS]))


def _python_call(node: ast.expr, names: ToolNames) -> ToolCall | None:
    if not isinstance(node, ast.Call):
        return None
    function = node.func
    # Llama 3.1 writes weather.call(city="Oslo").
    if isinstance(function, ast.Attribute) and function.attr == "call":
        function = function.value
    name = names.known(ast.unparse(function))
    if name is None:
        return None
    try:
        arguments = {key.arg: ast.literal_eval(key.value) for key in node.keywords if key.arg is not None}
        values = [ast.literal_eval(value) for value in node.args]
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
    properties = names.properties(name)
    if len(arguments) < len(node.keywords) or len(values) > len(properties):
        return None
    return _call(name, {**dict(zip(properties, values, strict=False)), **arguments})


def _has_members_of_a_call(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    if set(value) <= {"function", *OTHERS} and isinstance(value.get("function"), dict):
        return _has_members_of_a_call(value["function"])
    if len(value) == 1 and isinstance(inner := next(iter(value.values())), list) and set(value) <= set(WRAPPERS):
        return bool(inner) and all(_has_members_of_a_call(each) for each in inner)
    keys = set(value) - OTHERS
    named = [key for key in NAMES if isinstance(value.get(key), str)]
    if not named or value.get("type", "function") not in ("function", "tool_call", "tool_use", "function_call"):
        return False
    return keys <= {named[0], *ARGUMENTS} and not _is_plain(value)


def _is_plain(value: Mapping[str, Any]) -> bool:
    """Whether the arguments are neither an object, nor JSON in a string, nor missing."""
    stated = [value[key] for key in ARGUMENTS if key in value]
    return any(not isinstance(each, (dict, str, type(None))) for each in stated)


def _calls(value: Any, names: ToolNames) -> FoundCalls:
    """The calls of a JSON value; one that is good counts, whatever is wrong with others."""
    calls, problem = [], ""
    for each in _flat(value):
        found = _one(each, names)
        if isinstance(found, ToolCall):
            calls.append(found)
        else:
            problem = problem or found
    return FoundCalls(tuple(calls[:MOST_CALLS]), "" if calls else problem)


def _flat(value: Any, depth: int = 0) -> Iterator[Mapping[str, Any]]:
    if depth > 4:
        return
    if isinstance(value, list):
        for each in value[:MOST_CALLS]:
            yield from _flat(each, depth + 1)
    elif isinstance(value, dict):
        inner = next((value[key] for key in WRAPPERS if isinstance(value.get(key), (dict, list))), None)
        if inner is not None:
            yield from _flat(inner, depth + 1)
        else:
            yield value


def _one(value: Mapping[str, Any], names: ToolNames) -> ToolCall | str:
    """The call of an object, or what is wrong with it."""
    stated = next((value[key] for key in NAMES if isinstance(value.get(key), str)), None)
    if stated is None:
        # {"weather": {"city": "Oslo"}}
        name = names.known(next(iter(value))) if len(value) == 1 else None
        arguments = next(iter(value.values())) if value else None
        return _call(name, arguments) if name and isinstance(arguments, dict) else "the call has no name"
    name = names.known(stated)
    if name is None:
        return names.unknown(stated)
    key = next((key for key in ARGUMENTS if key in value), None)
    if key is not None:
        arguments = _object(value[key])
    else:
        arguments = {key: each for key, each in value.items() if key in names.properties(name)}
    if arguments is None:
        return f"the arguments of {name} are no JSON object"
    return _call(name, arguments)


def _object(value: Any) -> dict[str, Any] | None:
    """The arguments: an object, JSON in a string, or none."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return {}
    if isinstance(value, str):
        found = lenient_json.read(value, len(value) - len(value.lstrip()))
        value = found.value if found is not None and found.complete and not value[found.end :].strip() else None
    return value if isinstance(value, dict) else None


def _json_calls(text: str, names: ToolNames, *, complete: bool = False) -> FoundCalls:
    """Calls in JSON, wherever they stand in the text; with `complete` only those with all their brackets."""
    calls: list[ToolCall] = []
    problem, position = "", 0
    while found := _VALUE.search(text, position):
        read = lenient_json.read(text, found.start())
        if read is None or (complete and not read.complete):
            if found[0] == "{" and not problem:
                problem = CUT
            position = found.end() if found[0] == "[" else len(text)
            continue
        position = max(read.end, found.end())
        now = _calls(read.value, names)
        calls += now.calls
        problem = problem or now.problem
    return FoundCalls(tuple(calls[:MOST_CALLS]), "" if calls else problem)


def _named_json(text: str, names: ToolNames) -> FoundCalls:
    """A name before its arguments in JSON: `[TOOL_CALLS]weather[ARGS]{...}`, `functions.weather:0 ... {...}`."""
    text = text.replace(_QUOTE, '"')
    calls = []
    for found in names.pattern.finditer(text):
        read = lenient_json.read(text, found.end() - 1)
        if read is not None and isinstance(read.value, dict):
            calls.append(_call(names.known(found[1]) or found[1], read.value))
    return FoundCalls(tuple(calls[:MOST_CALLS]))


def _tagged(text: str, names: ToolNames) -> FoundCalls:
    """`<function=weather>{...}</function>`, or with its arguments in tags."""
    calls, problem = [], ""
    for found in _TAGGED.finditer(text):
        name, body = names.known(found[1]), found[2].strip()
        if name is None:
            problem = problem or names.unknown(found[1])
            continue
        pairs = {key: _scalar(value) for key, value in _PARAMETER.findall(body)}
        read = lenient_json.read(body, 0) if body.startswith("{") else None
        if read is not None and isinstance(read.value, dict):
            calls.append(_call(name, read.value))
        elif pairs or not body:
            calls.append(_call(name, pairs))
        else:
            problem = problem or f"the arguments of {name} are no JSON object"
    return FoundCalls(tuple(calls[:MOST_CALLS]), "" if calls else problem)


def _keyed(text: str, names: ToolNames) -> FoundCalls:
    """GLM's: the name, then `<arg_key>` and `<arg_value>`."""
    stated = _NAME_FIRST.match(text)
    if stated is None:
        return FoundCalls()
    name = names.known(stated[1])
    if name is None:
        return FoundCalls(problem=names.unknown(stated[1]))
    return FoundCalls((_call(name, {key: _scalar(value) for key, value in _KEYED.findall(text)}),))


def _pythonic_lines(text: str, names: ToolNames) -> FoundCalls:
    return pythonic(re.sub(r"<[^<>]{0,40}>|```(?:\w+\n)?", "", text), names)


def _scalar(text: str) -> Any:
    """A value in a tag: JSON where it is, otherwise the text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text.strip("\n")


def _call(name: str, arguments: Mapping[str, Any]) -> ToolCall:
    return ToolCall(f"call_{secrets.token_hex(12)}", name, json.dumps(arguments, ensure_ascii=False, default=str))
