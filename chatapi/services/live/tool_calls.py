"""Functions that a live conversation's answers want called, and what whoever calls them says they gave."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from chatapi.engines import Sampling
from chatapi.errors import NotFound, TooLarge, Unprocessable
from chatapi.events import ToolCall
from chatapi.services.turns import tool_call_parser
from chatapi.services.turns.generation import Generator
from chatapi.settings import Settings
from chatapi.storage.history import ToolResult

MOST = 128
"""Calls that may wait for what they give, and results for an answer; the oldest calls are forgotten."""


class SessionTools:
    """Of one session."""

    def __init__(self, generator: Generator, settings: Settings) -> None:
        self.results: tuple[ToolResult, ...] = ()
        """What was given and not answered yet."""
        self._answering = generator
        self._engine = settings.llm.engine
        self._most_chars = settings.limits.prompt_chars
        self._wanted: OrderedDict[str, ToolCall] = OrderedDict()

    def check(self, sampling: Sampling) -> None:
        """Whether these tools can be offered. Raises Unprocessable with the `param`."""
        tool_call_parser.check(sampling)
        length = tool_call_parser.description_length(sampling.tools)
        if length > self._most_chars:
            told = f"tools has {length} characters; at most {self._most_chars} are taken (limits.prompt_chars)"
            raise Unprocessable(told, code="string_above_max_length", details={"param": "tools"})
        if not tool_call_parser.can_enforce_choice(sampling, self._answering.capabilities):
            told = f"the engine {self._engine} cannot be made to call a function; tool_choice can be auto or none"
            raise Unprocessable(told, code="unsupported_parameter", details={"param": "tool_choice"})

    def want(self, calls: Iterable[ToolCall]) -> None:
        """They are to be called, and may be answered for."""
        for call in calls:
            self._wanted[call.id] = call
        while len(self._wanted) > MOST:
            self._wanted.popitem(last=False)

    def give(self, call: str, output: str) -> None:
        """What a call gave. Raises NotFound (call_not_found) and TooLarge."""
        if call not in self._wanted:
            raise NotFound(
                f"no call {call!r} waits for what it gives; each is answered for once, by the call_id it came with",
                code="call_not_found",
                details={"param": "item.call_id"},
            )
        if len(output) > self._most_chars:
            raise TooLarge(
                f"the output has {len(output)} characters; at most {self._most_chars} are taken (limits.prompt_chars)",
                code="string_above_max_length",
                details={"param": "item.output"},
            )
        if len(self.results) >= MOST:
            raise TooLarge(f"{MOST} results wait for an answer already; ask for one", code="too_many_results")
        self.results += (ToolResult(self._wanted.pop(call), output),)

    def forget(self, call: str) -> None:
        """It was never called."""
        self._wanted.pop(call, None)
        self.results = tuple(result for result in self.results if result.call.id != call)

    def take(self) -> None:
        """They are answered."""
        self.results = ()
