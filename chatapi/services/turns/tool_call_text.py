"""Tool calls in the text of an answer, as it is generated: text that is certainly no call is returned at once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from chatapi.engines import Tool
from chatapi.services.turns import lenient_json, tool_call_formats
from chatapi.services.turns.tool_call_formats import FoundCalls, ToolNames

OPEN, CLOSE = "<tool_call>", "</tool_call>"
"""Markers of a call as the prompt describes it."""
MARKERS: dict[str, str] = {
    OPEN: CLOSE,
    "<tool_calls>": "</tool_calls>",
    "<toolcall>": "</toolcall>",
    "<tool_use>": "</tool_use>",
    "<tool_code>": "</tool_code>",
    "<function_call>": "</function_call>",
    "<function_calls>": "</function_calls>",
    "<functioncall>": "</functioncall>",
    "<function=": "</function>",
    "<invoke name=": "</invoke>",
    "<minimax:tool_call>": "</minimax:tool_call>",
    "<start_function_call>": "<end_function_call>",
    "<|tool_call|>": "<|/tool_call|>",
    "<|tool_call>": "<tool_call|>",
    "<|tool_calls_section_begin|>": "<|tool_calls_section_end|>",
    "<|tool_call_begin|>": "<|tool_call_end|>",
    "<｜tool▁calls▁begin｜>": "<｜tool▁calls▁end｜>",
    "<|start_action|>": "<|end_action|>",
    "<|action_start|>": "<|action_end|>",
    "<|python_tag|>": "",
    "[tool_calls]": "",
    "functools[": "",
}
"""Marker of a call, in lower case -> the marker after it; empty: the call ends with the answer."""
LONGEST = max(map(len, MARKERS))
KEYS = (*tool_call_formats.NAMES, *tool_call_formats.WRAPPERS, *tool_call_formats.ARGUMENTS, "type", "id")
LOOKAHEAD = 2
MOST = 32_768
"""Most characters of a call; more are text."""
START = 80
"""Characters from which it is certain whether a call begins."""
FENCE = "```"

_TRIGGER = re.compile(r"[<\[{`f]")
_FENCED = re.compile(r"```[\w-]{0,20}[ \t]{0,4}\r?\n?\s{0,20}")
_FENCE_END = re.compile(r"\s{0,20}```[ \t]{0,4}")
_JSON_START = re.compile(r"(?:\[\s{0,20})?\{\s{0,20}(?:[\"']?(?P<key>[A-Za-z_]{0,20})(?P<after>[\"':\s])?)?")

_NAMED = re.compile(r"[\"'](?:name|function|tool|tool_name)[\"']\s{0,9}:\s{0,9}[\"']([\w.-]{1,64})[\"']")
_MENTIONED = re.compile(r" [a-z]|[.,;:)?!`]")
"""What follows a marker that is only mentioned in a sentence."""
_CLOSERS = re.compile(r"[}\]`]")

_State = Literal["text", "marked", "candidate", "whole"]


class ToolCallText:
    """Separates text from tool calls in one answer."""

    def __init__(self, tools: Sequence[Tool], *, strict: bool = False) -> None:
        """`strict`: the answer may be JSON of its own."""
        self._names = ToolNames(tools)
        self._strict = strict
        starts = [f"{name}{end}".casefold() for name in self._names.tools for end in ("(", ".call(")]
        self._starts = (*starts, *(f"print({start}" for start in starts))
        self.found = FoundCalls()
        """The calls so far, or the first problem."""
        self.failed_text = ""
        """What was meant as a call and is none."""
        self._held = ""
        self._state: _State = "text"
        self._closing = ""
        self._searched = 0
        """Where the search for the end of a call continues."""
        self._has_text = self._is_cut = False
        self._space = ""
        """White space before the text."""
        self._before = "\n"
        """The last character of the text."""

    def feed(self, text: str, *, last: bool = False, cut: bool = False) -> str:
        """The text that is certainly no call. With `last`, all of it: the answer has ended, or with `cut` its limit has
        cut it."""
        self._held += text
        self._is_cut = cut
        given: list[str] = []
        while self._held and (step := self._step(last)) is not None:
            if not step:
                continue
            self._before = step[-1]
            if step.isspace() and not self._has_text:
                # White space before a call goes with it.
                self._space += step
            elif not self._in_call:
                given += (self._space, step)
                self._space, self._has_text = "", True
        return "".join(given) + (self._space if last and not self._in_call else "")

    @property
    def _in_call(self) -> bool:
        """Whether there was a call: what a model writes after it is a hallucinated result."""
        return bool(self.found.calls or self.found.problem)

    def _step(self, last: bool) -> str | None:
        """The next part of the text, which may be empty; None where more has to come."""
        if self._state == "marked":
            return self._marked(last)
        if self._state == "candidate":
            return self._candidate(last)
        if self._state == "whole":
            return self._whole() if last else None
        if self._starts and not (self._has_text or self._in_call):
            if self._is_whole():
                self._state = "whole"
                return ""
            if not last and self._may_be_whole():
                return None
        found = _TRIGGER.search(self._held)
        if found is None:
            return self._given(len(self._held))
        if found.start():
            return self._given(found.start())
        return self._at_trigger(last)

    def _given(self, count: int) -> str:
        text, self._held = self._held[:count], self._held[count:]
        return text

    def _start(self) -> str:
        """The start of the answer, without what may precede a call in Python."""
        fence = _FENCED.match(self._held.lstrip())
        return self._held.lstrip()[fence.end() if fence else 0 :].lstrip("[( \n").casefold()

    def _is_whole(self) -> bool:
        """Whether the answer begins as a call in Python, which then is the whole answer."""
        return self._start().startswith(self._starts)

    def _may_be_whole(self) -> bool:
        start = self._start()
        if not start:
            return not self._held.strip()
        return any(each.startswith(start) for each in self._starts)

    def _whole(self) -> str:
        found = tool_call_formats.pythonic(_FENCED.sub("", self._held.strip(), count=1), self._names)
        self._state = "text"
        if found.calls:
            self._add(found)
            return self._drop(len(self._held))
        self._starts = ()
        return ""

    def _at_trigger(self, last: bool) -> str | None:
        """At a character that may begin a call."""
        start = self._held[: LONGEST + START]
        lower = start.lower()
        quoted = self._before in "`\"'" and self._has_text
        marker = next((each for each in MARKERS if lower.startswith(each)), None)
        if marker is not None and not quoted:
            after = start[len(marker) :]
            if self._has_text and len(after) < LOOKAHEAD and not last:
                return None
            if self._has_text and _MENTIONED.match(after):
                return self._given(len(marker))
            self._state, self._closing, self._searched = "marked", MARKERS[marker], 0
            return ""
        partial = not quoted and any(len(lower) < len(each) and each.startswith(lower) for each in MARKERS)
        certain = self._begins_candidate(start)
        if certain:
            self._state, self._searched = "candidate", 0
            return ""
        waits = not last and (partial or certain is None)
        return None if waits else self._given(1)

    def _begins_candidate(self, start: str) -> bool | None:
        """Whether a call in JSON begins here, perhaps in a fence; None: not certain yet."""
        if not self._names.tools:
            return False
        body = start
        if start[0] == "`":
            fence = _FENCED.match(start)
            if fence is None:
                return None if FENCE.startswith(start) else False
            body = start[fence.end() :]
            if not body:
                return None if len(start) < START else False
        lower = body.lower()
        if body is not start and any(lower.startswith(marker) for marker in MARKERS):
            return True
        found = _JSON_START.match(body)
        if found is None:
            waits = body[0] == "[" and not body[1:].strip() and len(body) < START
            markers = body is not start and any(marker.startswith(lower) for marker in MARKERS)
            return None if waits or markers else False
        key, ended = found["key"] or "", found["after"] is not None
        if found.end() < len(body) or ended:
            return ended and key in KEYS
        return None if any(each.startswith(key) for each in KEYS) and len(body) < START else False

    def _candidate(self, last: bool) -> str | None:
        """Reads JSON that may be a call; it is text where it is none."""
        fence = _FENCED.match(self._held) if self._held[0] == "`" else None
        start = fence.end() if fence else 0
        if fence and self._held[start] not in "{[":
            self._held, self._state = self._held[start:], "text"
            return ""
        if len(self._held) > MOST:
            return self._is_text(len(self._held))
        closes = _CLOSERS.search(self._held, self._searched)
        self._searched = len(self._held)
        if closes is None and not last:
            return None
        read = lenient_json.read(self._held, start)
        if not last and (read is None or not read.complete):
            return None
        ends = read is not None and read.complete
        if read is None or not (ends or (last and not self._is_cut)):
            return self._unreadable(start)
        found = tool_call_formats.bare(read.value, self._names, strict=self._strict)
        if not (found.calls or found.problem):
            return self._is_text(read.end)
        if fence and ends and not last and not _FENCE_END.match(self._held, read.end):
            self._searched = 0
            return None
        end = _FENCE_END.match(self._held, read.end) if fence else None
        self._state = "text"
        return self._add(found, end.end() if end else read.end)

    def _unreadable(self, start: int) -> str:
        """At the end of an answer that cut its JSON: it was meant as a call if it names a tool."""
        named = _NAMED.search(self._held, start)
        if named is None or self._names.known(named[1]) is None:
            return self._is_text(len(self._held))
        self._state = "text"
        return self._add(FoundCalls(problem=tool_call_formats.CUT), len(self._held))

    def _is_text(self, count: int) -> str:
        self._state = "text"
        return self._given(count)

    def _marked(self, last: bool) -> str | None:
        """Reads what is between the markers of a call."""
        end = self._held.lower().find(self._closing, max(0, self._searched - LONGEST)) if self._closing else -1
        self._searched = len(self._held)
        if end < 0 and not last:
            return None
        size = len(self._held) if end < 0 else end + len(self._closing)
        text = self._held[:size]
        self._state = "text"
        if not self._names.tools:
            return self._drop(size)
        return self._add(tool_call_formats.marked(text, self._names, cut=end < 0 and self._is_cut), size)

    def _add(self, found: FoundCalls, size: int = 0) -> str:
        """Keeps what was found in the next `size` characters, which are no text."""
        if found.problem and not self.failed_text:
            self.failed_text = self._held[:size]
        calls = self.found.calls + found.calls
        self.found = FoundCalls(calls, "" if calls else self.found.problem or found.problem)
        return self._drop(size)

    def _drop(self, size: int) -> str:
        self._held = self._held[size:]
        return ""
