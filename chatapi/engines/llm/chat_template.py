"""The chat template of a GGUF model: prompts that end within the last message.

GGUF (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), little-endian: magic; u32 version; u64 tensors; u64
keys; each key: its name, u32 type, value. A string is a u64 length and its bytes; an array a u32 type, a u64 count and
its values.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

KEY = "tokenizer.chat_template"
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of each of GGUF's plain types."""
STRING, ARRAY = 8, 9
KEYS_BYTES = 64 << 20
"""Most bytes that are read of the file, which starts with its keys; the largest vocabularies take some 20 MB. A memory
map of the whole file would end the process if the file were truncated meanwhile."""
END_MARK = "\x02here\x03"
"""Marks the end of the last message; no template and no user's text contains it."""


class ChatTemplate:
    """Renders messages as llama.cpp does, but leaves the last one open."""

    def __init__(self, source: str) -> None:
        """Raises jinja2.TemplateError when the template is invalid."""
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _raise
        self._template = environment.from_string(source)

    def opened(self, messages: Sequence[Mapping[str, str]]) -> tuple[str, str] | None:
        """The prompt up to the end of the last message's text, and what would follow it; None where the template cannot
        render it.

        A message has a `role` and a `content`.
        """
        last = messages[-1]
        marked = [*messages[:-1], {**last, "content": last["content"] + END_MARK}]
        try:
            # The tokenizer adds the beginning-of-text token itself.
            text = self._template.render(messages=marked, bos_token="", eos_token="", add_generation_prompt=False)
        except jinja2.TemplateError:
            return None
        before, found, after = text.partition(END_MARK)
        return (before, after) if found else None


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def chat_template(path: Path) -> ChatTemplate | None:
    """The chat template of a GGUF file; None where it has none, or none that can be used."""
    with path.open("rb") as file:
        data = file.read(KEYS_BYTES)
    try:
        source = _value(data, KEY)
        return ChatTemplate(source) if source is not None else None
    except (struct.error, UnicodeDecodeError, KeyError, jinja2.TemplateError):
        return None


def _value(data: bytes, key: str) -> str | None:
    """The string value of a key."""
    (keys,) = struct.unpack_from("<Q", data, 16)
    at = 24
    for _ in range(keys):
        name, at = _string(data, at)
        (kind,) = struct.unpack_from("<I", data, at)
        if name == key.encode() and kind == STRING:
            return _string(data, at + 4)[0].decode("utf-8")
        at = _after(data, at + 4, kind)
    return None


def _string(data: bytes, at: int) -> tuple[bytes, int]:
    (length,) = struct.unpack_from("<Q", data, at)
    end = at + 8 + length
    return data[at + 8 : end], end


def _after(data: bytes, at: int, kind: int) -> int:
    """Offset of the end of the value that starts at `at`."""
    if kind == STRING:
        return at + 8 + int(struct.unpack_from("<Q", data, at)[0])
    if kind != ARRAY:
        return at + SIZES[kind]
    of, count = struct.unpack_from("<IQ", data, at)
    at += 12
    if of not in (STRING, ARRAY):
        return at + int(count) * SIZES[of]
    for _ in range(count):
        at = _after(data, at, of)
    return at
