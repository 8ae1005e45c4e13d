"""The certain text of an answer, and whether a marker that follows it is only mentioned."""

from __future__ import annotations

FENCE = "```"
QUOTES = "\"'“‘«("
BEFORE_QUOTES = " \n\t([{:,="
"""Characters after which a quotation mark opens."""
SENTENCE_ENDS = '.!?:…。！？)"”’*'


class VisibleText:
    """Text as it becomes certain."""

    def __init__(self) -> None:
        self.withdrawn = False
        """Whether text that `taken` had returned was withdrawn."""
        self._is_out = False
        self._reset()

    def _reset(self) -> None:
        self.started = False
        """Whether there was any that is not white space, since `withdraw`."""
        self.strikes = False
        """Whether text is being struck out in HTML."""
        self._new: list[str] = []
        self._tail = " \n"
        """The last characters."""
        self._line_start = ""
        """The first characters of the last line."""
        self._in_fence = self._in_code = False

    def add(self, text: str) -> None:
        """Adds text."""
        if not text:
            return
        self._new.append(text)
        self.started = self.started or not text.isspace()
        self._tail = (self._tail + text[-3:])[-3:]
        for number, line in enumerate(text.split("\n")):
            if number:
                self._end_line()
            self._line_start = (self._line_start + line[:8]).lstrip()[:3]
            self._in_code ^= bool(line.count("`") % 2)
        lower = text.lower()
        if "<s>" in lower or "</s>" in lower:
            self.strikes = lower.rfind("<s>") > lower.rfind("</s>")

    def taken(self) -> str:
        """The text since the last call."""
        text = "".join(self._new)
        self._new = []
        self._is_out = self._is_out or bool(text.strip())
        return text

    def withdraw(self) -> str:
        """Withdraws all text so far; returns what was not taken yet."""
        text = "".join(self._new)
        self.withdrawn = self.withdrawn or self._is_out
        self._reset()
        return text

    @property
    def ends_with_space(self) -> bool:
        """Whether the last character is white space."""
        return self._tail[-1].isspace()

    @property
    def quotes(self) -> bool:
        """Whether what follows is code or in quotes."""
        opened = self.started and self._tail[-1] in QUOTES and self._tail[-2] in BEFORE_QUOTES
        return opened or self._in_fence or self._in_code or self._line_start == FENCE

    @property
    def at_line_start(self) -> bool:
        """Whether what follows is the first of a line."""
        return not self._line_start

    @property
    def in_sentence(self) -> bool:
        """Whether what follows stands in the middle of a sentence."""
        line = self._tail.rstrip(" \t")
        return self.started and line[-1:] not in tuple("\n" + SENTENCE_ENDS)

    def ends_where_reasoning_may_start(self, after: str) -> bool:
        """Whether a marker that is followed by `after` is one, and is not only mentioned."""
        if self.at_line_start or not self.ends_with_space:
            return True
        if not self.in_sentence:
            return not (after[:1] == " " and after[1:2].islower())
        return after[:1] in ("", "\n") or after[0].isalnum()

    def _end_line(self) -> None:
        if self._line_start == FENCE:
            self._in_fence = not self._in_fence
        self._line_start, self._in_code = "", False
