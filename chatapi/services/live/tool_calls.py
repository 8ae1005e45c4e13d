"""The tool calls of a session's answers, and their results."""

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

MAX_PENDING = 128
"""Most calls without a result, and most results without an answer; the oldest calls are dropped."""


class SessionTools:
    """Pending tool calls and results of one session."""

    def __init__(self, generator: Generator, settings: Settings) -> None:
        self.results: tuple[ToolResult, ...] = ()
        """Results that no answer has used yet."""
        self._generator = generator
        self._engine = settings.llm.engine
        self._limits = settings.limits
        self._pending: OrderedDict[str, ToolCall] = OrderedDict()

    def check(self, sampling: Sampling) -> None:
        """Raises Unprocessable, with the `param`, for tools that are not supported."""
        tool_call_parser.check(sampling)
        length = tool_call_parser.description_length(sampling.tools)
        if length > (limit := self._limits.tools_chars):
            message = f"tools has {length} characters; the limit is {limit} (limits.tools_chars)"
            raise Unprocessable(message, code="string_above_max_length", details={"param": "tools"})
        if not tool_call_parser.can_enforce_choice(sampling, self._generator.capabilities):
            message = f"the engine {self._engine} cannot force a tool call; tool_choice can be auto or none"
            raise Unprocessable(message, code="unsupported_parameter", details={"param": "tool_choice"})

    def add_calls(self, calls: Iterable[ToolCall]) -> None:
        """Adds calls that may get a result."""
        for call in calls:
            self._pending[call.id] = call
        while len(self._pending) > MAX_PENDING:
            self._pending.popitem(last=False)

    def add_result(self, call_id: str, output: str) -> None:
        """Adds the result of a call. Raises NotFound (call_not_found) and TooLarge."""
        if call_id not in self._pending:
            raise NotFound(
                f"no tool call {call_id!r} is pending; send one result for each call, with its call_id",
                code="call_not_found",
                details={"param": "item.call_id"},
            )
        if len(output) > (limit := self._limits.message_chars):
            raise TooLarge(
                f"the output has {len(output)} characters; the limit is {limit} (limits.message_chars)",
                code="string_above_max_length",
                details={"param": "item.output"},
            )
        if len(self.results) >= MAX_PENDING:
            raise TooLarge(
                f"{MAX_PENDING} tool results are waiting for a response; create one", code="too_many_results"
            )
        self.results += (ToolResult(self._pending.pop(call_id), output),)

    def remove(self, call_id: str) -> None:
        """Removes a call and its result."""
        self._pending.pop(call_id, None)
        self.results = tuple(result for result in self.results if result.call.id != call_id)

    def clear_results(self) -> None:
        """Removes the results, which an answer uses now."""
        self.results = ()
