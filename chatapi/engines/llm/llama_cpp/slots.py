"""Chooses the slot for a prompt: that with the longest common prefix, unless another client loses much of its prompt.

The library's own choice is the slot with the longest common prefix. Two clients with the same tools and different
system prompts would then take each other's slot with every request. In a slot that the caller chooses, the library
(llama.cpp b11549) neither saves a prompt that it cuts nor restores a saved one, so only little may be cut there.
Lengths are those of texts, in characters: the library's tokens are not known before it has the prompt.
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
        """The number of the slot for this prompt, for the time of the block; -1: the library chooses, because all are
        busy, or there is only one, whose prompts it then saves and restores. `unused`: rather one that has no prompt
        yet."""
        with self._lock:
            new = next((slot for slot in self._slots if not slot.busy and not slot.text), None) if unused else None
            slot = new or self._choose(text)
            if slot is not None:
                self._uses += 1
                slot.text, slot.used, slot.busy = text, self._uses, True
        try:
            yield -1 if slot is None or len(self._slots) == 1 else slot.number
        finally:
            if slot is not None:
                slot.busy = False

    def _choose(self, text: str) -> Slot | None:
        idle = [slot for slot in self._slots if not slot.busy]
        if not idle:
            return None
        common = {slot.number: _common(slot.text, text) for slot in idle}
        fitting = [slot for slot in idle if LEAST <= common[slot.number] >= len(slot.text) - LITTLE]
        if fitting:
            return max(fitting, key=lambda slot: (common[slot.number], slot.used))
        # A long prompt takes long to read again, and one used just now is likely to come again.
        return min(idle, key=lambda slot: len(slot.text) / (self._uses + 1 - slot.used))


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
