"""The words of the command classifier, and the words that it must not take for them."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent
COMMANDS = ("down", "go", "left", "no", "right", "stop", "up", "yes")
"""The words of TensorFlow's simple-audio tutorial (mini speech commands)."""
UNKNOWN = "unknown"
LABELS = (*COMMANDS, UNKNOWN)
SIMILAR = tuple((HERE / "similar_words.txt").read_text(encoding="utf-8").split())
"""Words that sound like a command."""
OTHERS = tuple(sorted({*(HERE / "other_words.txt").read_text(encoding="utf-8").split(), *SIMILAR}))
"""Common words, and those that sound like a command."""


def heard_in_training(word: str) -> bool:
    """Whether the classifier is trained with this other word. Every third is not: it shows how new words fare."""
    return OTHERS.index(word) % 3 != 2
