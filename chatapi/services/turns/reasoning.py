"""The filter of an answer: reasoning is separated from the text, and markers of chat templates are dropped.

It holds back only what may be the beginning of a marker, and its result does not depend on how the answer is split into
chunks. A marker that is merely mentioned, in code, in quotes or in the middle of a sentence, is text.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import replace

from chatapi.engines import TokenChunk, TokenUsage
from chatapi.events import Token
from chatapi.services.turns.template_markers import (
    ANSWERING_ROLES,
    CHANNELS,
    CLOSINGS,
    LONGEST,
    MARKERS,
    MESSAGE,
    OTHER_ROLES,
    REASONING_STARTS,
    START_MARKERS,
    STRIPPED_CHANNEL,
    STRIPPED_FINAL,
    MarkerMeaning,
)
from chatapi.services.turns.visible_text import VisibleText

LEAST_CUT = 3
"""A longer beginning of a marker at the end of an answer is a marker that was cut off, in characters."""
HEADER = 200
"""Most characters of a header of gpt-oss, and of a role's name with the space around it."""

LOOKAHEAD = 2
"""Characters after a marker that tell whether it is only mentioned."""

_TRIGGER = re.compile(r"[<\[◁]")
_ANY_CLOSING = re.compile(
    "|".join(re.escape(marker) for marker, meaning in MARKERS.items() if meaning is MarkerMeaning.CLOSE), re.IGNORECASE
)
_CLOSING = {
    marker: re.compile("|".join(map(re.escape, closings)), re.IGNORECASE) for marker, closings in CLOSINGS.items()
}
_ANALYSIS_END = re.compile(r"<\|(?:end|return|call)\|>|(?=<\|(?:channel|start)\|>)", re.IGNORECASE)
_STRIPPED_END = re.compile(STRIPPED_FINAL)
_ROLE = re.compile(r"\s{0,3}([A-Za-z_]{0,30})(?=[^A-Za-z_])")
_ROLE_START = re.compile(r"\s{0,3}[A-Za-z_]{0,30}")
_RECIPIENT = re.compile(r"to=(?:functions\.)?([\w.-]{1,64})")


class ReasoningFilter:
    """Separates the reasoning of one answer from its text. One per answer, also where it is generated in parts."""

    def __init__(self, *, structured: bool = False, suspicious: bool = False) -> None:
        """`structured`: the answer is JSON, which markers only precede. `suspicious`: the model is known to write
        reasoning without its opening marker, so that text is held until a closing marker, or the end."""
        self.structured = structured
        self._begin(suspicious)

    def restart(self) -> None:
        """Begins anew: the model writes another answer in place of this one."""
        self._begin(self._suspicious or self.unopened)

    def _begin(self, suspicious: bool) -> None:
        self._suspicious = self._certain = suspicious
        self.raw = ""
        """The answer so far as the model wrote it."""
        self.chunks = 0
        """Chunks with text so far."""
        self.unopened = False
        """Whether there was reasoning without an opening marker."""
        self._text = VisibleText()
        self._held, self._at = "", 0
        """Text that is not decided yet, and how much of it is."""
        self._closing: re.Pattern[str] | None = None
        """Inside reasoning: what ends it."""
        self._suspect: re.Pattern[str] | None = _ANY_CLOSING if suspicious else None
        """Where the text may be reasoning, and is held: what would end it."""
        self._searched = 0
        """Where the search for the end of held text continues."""
        self._over = self._in_call = self._skips_space = self._ending = self._had_reasoning = False
        self._mentioned = False
        """Whether the text mentions a marker that opens reasoning."""
        self._gap = ""
        """White space around what was dropped; it is text if more text follows."""
        self._reasoning: list[str] = []
        self._tokens: deque[tuple[int, tuple[Token, ...]]] = deque()
        """Tokens, each chunk's with its place in the answer."""
        self._starts: deque[int] = deque()
        """Places in the answer of chunks with text that are not decided yet."""
        self._text_chunks = self._reasoning_chunks = 0
        """Chunks that begin in text, and those that begin in reasoning; a chunk is about a token."""
        self._taken = 0
        """Characters of the answer that are decided."""
        self._ready: list[Token] = []

    def read(self, chunk: TokenChunk) -> TokenChunk:
        """The next chunk with the text and reasoning that are certain; with all the rest, where it is the last one."""
        if chunk.tokens:
            self._tokens.append((len(self.raw), chunk.tokens))
        if chunk.text:
            self._starts.append(len(self.raw))
        self.raw += chunk.text
        self.chunks += bool(chunk.text)
        self._reasoning_chunks += bool(chunk.reasoning)
        self._held += chunk.text
        self._run()
        if chunk.finish_reason is not None:
            self._finish(cut=chunk.finish_reason == "length")
        text, reasoning = self._text.taken(), chunk.reasoning + "".join(self._reasoning)
        self._reasoning = []
        tokens, self._ready = tuple(self._ready), []
        return replace(chunk, text=text, tokens=tokens, reasoning=reasoning, usage=self._counted(chunk.usage))

    def _counted(self, usage: TokenUsage | None) -> TokenUsage | None:
        """The usage with the tokens of the reasoning, unless the engine has counted them."""
        if usage is None or usage.reasoning_tokens:
            return usage
        return replace(usage, reasoning_tokens=min(self._reasoning_chunks, usage.completion_tokens))

    @property
    def withdrawn(self) -> bool:
        """Whether text that was sent before turned out to be reasoning."""
        return self._text.withdrawn

    def _run(self) -> None:
        while self._at < len(self._held) and self._step():
            pass
        self._held, self._searched = self._held[self._at :], max(0, self._searched - self._at)
        self._at = 0

    def _finish(self, *, cut: bool) -> None:
        if self._suspect is not None and not (cut and self._certain):
            self._suspect, self._certain = None, False
        elif self._suspect is not None:
            self._take(len(self._held), reasoning=True)
        self._ending = True
        self._run()

    def _step(self) -> bool:
        """Decides the next part of the held text; returns whether there was enough of it."""
        if self._over:
            self._take(len(self._held) - self._at)
            return False
        if self._closing is not None:
            return self._think(self._closing)
        if self._suspect is not None:
            return self._wait(self._suspect)
        if self._skips_space and not self._skip():
            return False
        if not self._text.started:
            before = self._at
            if not self._start():
                return False
            if self._at != before or self._suspect is not None:
                return True
        if self.structured and self._text.started:
            self._take(len(self._held) - self._at, text=True)
            return False
        return self._plain()

    def _think(self, closing: re.Pattern[str]) -> bool:
        found = closing.search(self._held, self._at)
        if found is not None:
            self._take(found.start() - self._at, reasoning=True)
            self._take(found.end() - found.start())
            self._closing, self._skips_space, self._had_reasoning = None, True, True
            return True
        kept = 0 if self._ending else min(LONGEST - 1, len(self._held) - self._at)
        self._take(len(self._held) - self._at - kept, reasoning=True)
        return False

    def _wait(self, closing: re.Pattern[str]) -> bool:
        found = closing.search(self._held, max(self._at, self._searched - LONGEST))
        self._searched = len(self._held)
        if found is None:
            return False
        start = self._held[self._at : self._at + HEADER].lstrip().lower()
        opening = next((marker for marker in CLOSINGS if start.startswith(marker)), "")
        self.unopened = closing is _ANY_CLOSING and not opening
        self._take(self._held.index(start[:1], self._at) - self._at + len(opening) if opening else 0)
        self._take(max(0, found.start() - self._at), reasoning=True)
        self._take(found.end() - self._at)
        self._suspect, self._certain, self._skips_space, self._had_reasoning = None, False, True, True
        return True

    def _skip(self) -> bool:
        """Skips white space after what was dropped, unless it separates words."""
        rest = self._held[self._at :]
        space = len(rest) - len(rest.lstrip())
        if self._text.started and not self._text.ends_with_space:
            self._gap += rest[:space]
        self._take(space)
        self._skips_space = space == len(rest)
        return not self._skips_space

    def _start(self) -> bool:
        """Looks for what only the start of an answer has; returns whether there was enough text."""
        rest = self._held[self._at : self._at + LONGEST + HEADER]
        start = rest.lstrip().lower()
        if not start:
            return self._ending
        for marker in START_MARKERS:
            if start.startswith(marker):
                self._take(len(rest) - len(rest.lstrip()) + len(marker))
                self._skips_space = True
                return True
        stripped = rest.lstrip().startswith(STRIPPED_CHANNEL) and rest.lstrip()[len(STRIPPED_CHANNEL) :][:1].isupper()
        if not (self.structured or self._ending) and (stripped or start.startswith(REASONING_STARTS)):
            self._suspect = _STRIPPED_END if stripped else _ANY_CLOSING
            return True
        possible = (*START_MARKERS, *(() if self.structured else (*REASONING_STARTS, STRIPPED_CHANNEL + "x")))
        waits = any(len(start) < len(each) and each.startswith(start) for each in possible)
        return self._ending or not waits

    def _plain(self) -> bool:
        found = _TRIGGER.search(self._held, self._at)
        before = (len(self._held) if found is None else found.start()) - self._at
        if before and found is not None and not self._text.started and not self._held[self._at :][:before].strip():
            # White space before reasoning is dropped with it.
            return self._marker(before)
        if before:
            self._take(before, text=True)
            return found is not None
        return self._marker(0)

    def _marker(self, space: int) -> bool:
        """Decides the text at a character that may begin a marker, after white space at the start of the answer."""
        rest = self._held[self._at + space : self._at + space + LONGEST + HEADER]
        lower = rest.lower()
        marker = next((each for each in MARKERS if lower.startswith(each)), None)
        if marker is not None:
            return (
                self._mention(marker, space) if self._text.quotes else self._act(MARKERS[marker], marker, space, rest)
            )
        if _may_become(lower):
            if not self._ending:
                return False
            if lower.startswith("<|") and len(lower) > LEAST_CUT and not self._text.quotes:
                # The end of the answer cut a marker.
                return self._drop(len(self._held) - self._at)
        self._take(space + 1, text=True)
        return True

    def _mention(self, marker: str, space: int) -> bool:
        """The marker is text."""
        self._mentioned = self._mentioned or MARKERS[marker] is MarkerMeaning.OPEN
        self._take(space + len(marker), text=True)
        return True

    def _act(self, meaning: MarkerMeaning, marker: str, space: int, rest: str) -> bool:
        after = rest[len(marker) :]
        if meaning in (MarkerMeaning.OPEN, MarkerMeaning.CLOSE):
            if len(after) < LOOKAHEAD and not (self._text.at_line_start or self._ending):
                return False
            mentioned = meaning is MarkerMeaning.CLOSE and self._mentioned
            if mentioned or not self._text.ends_where_reasoning_may_start(after):
                return self._mention(marker, space)
            return self._open(marker, space) if meaning is MarkerMeaning.OPEN else self._close(marker, space)
        if meaning is MarkerMeaning.CHANNEL:
            return self._header(marker, space, rest)
        if (marker == "</s>" and self._text.strikes) or (marker == "<s>" and self._text.started):
            # Text that is struck out in HTML.
            self._take(space + len(marker), text=True)
            return True
        if marker == "<|call|>" and self._in_call:
            self._in_call = False
            self._text.add("</function>")
        if meaning is MarkerMeaning.ROLE:
            return self._role(space + len(marker), after)
        self._over = meaning is MarkerMeaning.FOREIGN
        return self._drop(space + len(marker))

    def _open(self, marker: str, space: int) -> bool:
        closing = _CLOSING[marker]
        if self._text.in_sentence:
            # Without an end it was only mentioned; nothing is lost by waiting.
            found = closing.search(self._held, max(self._at, self._searched - LONGEST))
            self._searched = len(self._held)
            if found is None:
                return self._ending and self._mention(marker, space)
        self._drop(space + len(marker))
        self._closing = closing
        return True

    def _close(self, marker: str, space: int) -> bool:
        """What came before is reasoning whose opening marker was in the prompt, unless other reasoning precedes."""
        if not self._had_reasoning:
            self.unopened = self._had_reasoning = True
            self._reasoning.append(self._text.withdraw())
            self._reasoning_chunks, self._text_chunks = self._reasoning_chunks + self._text_chunks, 0
            self._ready.clear()
        return self._drop(space + len(marker))

    def _header(self, marker: str, space: int, rest: str) -> bool:
        """A header of gpt-oss: `<|start|>assistant<|channel|>analysis<|message|>`."""
        end = rest.lower().find(MESSAGE)
        if end < 0:
            if len(rest) <= HEADER and not self._ending:
                return False
            return self._drop(space + len(marker))
        header = rest[:end]
        role = header[len(marker) :].split("<")[0].split() if marker == CHANNELS[1] else []
        recipient = _RECIPIENT.search(header)
        self._drop(space + end + len(MESSAGE))
        if role and (role[0].lower() in OTHER_ROLES or role[0].startswith("functions")):
            self._over = True
        elif "analysis" in header:
            self._closing = _ANALYSIS_END
        elif recipient is not None:
            self._in_call = True
            self._text.add(f"<function={recipient[1]}>")
        return True

    def _role(self, length: int, after: str) -> bool:
        found = _ROLE.match(after)
        if found is None and not self._ending and _ROLE_START.fullmatch(after):
            return False
        name = found[1].lower() if found is not None else after.strip().lower()
        if name in OTHER_ROLES:
            self._over = True
        elif name in ANSWERING_ROLES:
            length += found.end(1) if found is not None else len(after)
        return self._drop(length)

    def _drop(self, count: int) -> bool:
        self._take(count)
        self._skips_space = True
        return True

    def _take(self, count: int, *, text: bool = False, reasoning: bool = False) -> None:
        """Decides the next characters: they are text, reasoning, or dropped."""
        piece = self._held[self._at : self._at + count]
        self._at += count
        self._taken += len(piece)
        self._searched = self._at
        if text and piece:
            self._text.add(self._gap + piece)
            self._gap = ""
        elif reasoning:
            self._reasoning.append(piece)
        while self._starts and self._starts[0] < self._taken:
            self._starts.popleft()
            self._text_chunks += text
            self._reasoning_chunks += reasoning
        while self._tokens and self._tokens[0][0] < self._taken:
            tokens = self._tokens.popleft()[1]
            if text:
                self._ready += tokens


def _may_become(lower: str) -> bool:
    return any(len(lower) < len(marker) and marker.startswith(lower) for marker in MARKERS)
