"""The tokenizer.json that faster-whisper needs, made from the vocabulary of an installed CTranslate2 model."""

from __future__ import annotations

import json
import re
from pathlib import Path

END = "<|endoftext|>"
SPECIAL = re.compile(r"<\|[a-z]+\|>")
"""Special tokens, without those of the timestamps, as in the published files."""


def folder(model: Path, place: Path) -> Path:
    """A folder in `place` with links to a model's files and its tokenizer."""
    made = place / model.name
    made.mkdir()
    for each in model.iterdir():
        (made / each.name).symlink_to(each)
    lines = (model / "vocabulary.txt").read_text(encoding="utf-8").split("\n")
    (made / "tokenizer.json").write_text(json.dumps(document(lines), ensure_ascii=False), encoding="utf-8")
    return made


def document(lines: list[str]) -> dict[str, object]:
    """The tokenizer; `lines`: the tokens by number, as GPT-2 writes their bytes."""
    first = lines.index(END)
    ranks = {token: number for number, token in enumerate(lines[:first])}
    special = [
        {"id": number, "content": token, "single_word": False, "lstrip": False, "rstrip": False}
        | {"normalized": False, "special": True}
        for number, token in enumerate(lines)
        if number >= first and SPECIAL.fullmatch(token)
    ]
    byte_level = {"type": "ByteLevel", "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": {**byte_level, "add_prefix_space": False},
        "post_processor": None,
        "decoder": {**byte_level, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "vocab": ranks,
            "merges": [" ".join(pair) for token in ranks if (pair := merged(token, ranks))],
        },
    }


def merged(token: str, ranks: dict[str, int]) -> list[str]:
    """The two parts that byte-pair encoding joins to this token; empty where it is a single byte."""
    parts = list(token)
    while len(parts) > 2:
        pairs = [ranks.get(a + b, len(ranks)) for a, b in zip(parts, parts[1:])]  # noqa: B905, RUF007 - one shorter
        place = min(range(len(pairs)), key=pairs.__getitem__)
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return parts if len(parts) == 2 else []
