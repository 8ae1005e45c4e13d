"""Chooses the slot for a prompt: that with the longest common prefix, unless another client loses much of its prompt.

The library's own choice is the slot with the longest common prefix. Two clients with the same tools and different
system prompts would then take each other's slot with every request. Lengths are those of texts, in characters: the
library's tokens are not known before it has the prompt.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from chatapi.engines import PromptMessage

LEAST = 16
"""Shortest common prefix that counts, in characters."""
LITTLE = 600
"""Characters of another prompt that may be lost: they are read again in less than a second."""
SAVED_SHARE = 0.5
"""Share of a slot's prompt below which the library saves the prompt before it keeps so little of it (llama.cpp b11549,
get_available_slot)."""
SAVED_CHARS = 6000
"""Length up to which a saved prompt fits the memory for saved prompts beside some others."""


@dataclass
class Slot:
    """A slot of the library."""

    number: int
    text: str = ""
    """The prompt that it computed last, without the answer."""
    used: int = 0
    """When it was used last, as a count of uses."""
    busy: bool = False


class Slots:
    """The slots and what each holds."""

    def __init__(self, count: int) -> None:
        self._lock = threading.Lock()
        self._slots = [Slot(number) for number in range(count)]
        self._uses = 0

    @contextmanager
    def taken(self, text: str, unused: bool = False) -> Iterator[int]:
        """The number of the slot for this prompt, for the time of the block; -1: all are busy, so the library waits.
        `unused`: rather one that has no prompt yet."""
        with self._lock:
            new = next((slot for slot in self._slots if not slot.busy and not slot.text), None) if unused else None
            slot = new or self._choose(text)
            if slot is not None:
                self._uses += 1
                slot.text, slot.used, slot.busy = text, self._uses, True
        try:
            yield -1 if slot is None else slot.number
        finally:
            if slot is not None:
                slot.busy = False

    def _choose(self, text: str) -> Slot | None:
        idle = [slot for slot in self._slots if not slot.busy]
        if not idle:
            return None
        common = {slot.number: _common(slot.text, text) for slot in idle}
        best = max(idle, key=lambda slot: (common[slot.number], slot.used))
        if common[best.number] >= LEAST and _may_lose(best.text, common[best.number]):
            return best
        # A long prompt takes long to read again, and one used just now is likely to come again.
        return min(idle, key=lambda slot: len(slot.text) / (self._uses + 1 - slot.used))


def _may_lose(text: str, kept: int) -> bool:
    """Whether a slot's prompt may be cut to its first characters."""
    saved = kept < SAVED_SHARE * len(text) and len(text) <= SAVED_CHARS
    return saved or len(text) - kept <= LITTLE


def _common(one: str, other: str) -> int:
    """Length of the common prefix."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one.startswith(other[low:middle], low):
            low = middle
        else:
            high = middle - 1
    return low


def prompt_text(messages: Sequence[PromptMessage]) -> str:
    """The messages as one text, which begins as the prompt of an earlier turn of the conversation."""
    return "".join(f"{message.role}\n{message.text}\n" for message in messages)
