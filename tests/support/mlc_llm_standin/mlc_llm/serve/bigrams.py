"""A language model as small as can be: what follows a token is what followed it in a few sentences."""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise

END = "<|im_end|>"
START = "<|im_start|>assistant\n"
SENTENCES = (
    "The sea is wide and blue.",
    "The sky is clear.",
    "The ships are far away and slow.",
    "Water falls as rain.",
    "Paris is the capital of France.",
    "A whale sings below.",
)
_PIECES = re.compile(r"<\|im_start\|>\w+\n|<\|im_end\|>|\s?\w+|\s|[^\w\s]")


class Tokenizer:
    """Words with the space before them, marks and the template's own marks; numbers are given as they come."""

    def __init__(self, tokenizer_path: str = "") -> None:
        self._ids: dict[str, int] = {}
        self._texts: list[str] = []

    def encode(self, text: str) -> list[int]:
        return [self.id(piece) for piece in _PIECES.findall(text)]

    def decode(self, token_ids: list[int]) -> str:
        return "".join(self._texts[token] for token in token_ids)

    def id(self, piece: str) -> int:
        if piece not in self._ids:
            self._ids[piece] = len(self._texts)
            self._texts.append(piece)
        return self._ids[piece]


class Bigrams:
    """Probabilities of the next token."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._follow: defaultdict[int, Counter[int]] = defaultdict(Counter)
        for sentence in SENTENCES:
            tokens = tokenizer.encode(f"{START}{sentence}{END}")
            for before, after in pairwise(tokens):
                self._follow[before][after] += 1
        self._else = Counter({tokenizer.id(" and"): 3, tokenizer.id("."): 1})
        self.end = tokenizer.id(END)

    def next(self, last: int) -> list[tuple[int, float]]:
        """Tokens and their probabilities, the likeliest first."""
        found = self._follow.get(last) or self._else
        total = sum(found.values())
        return [(token, count / total) for token, count in found.most_common()]


def drawn(likely: Sequence[tuple[int, float]], temperature: float, rng: random.Random) -> int:
    """One of them: the likeliest at temperature 0."""
    if temperature < 1e-5:
        return likely[0][0]
    weights = [probability ** (1 / temperature) for _, probability in likely]
    return rng.choices([token for token, _ in likely], weights)[0]
