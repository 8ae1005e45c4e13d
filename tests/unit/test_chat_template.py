"""A model's chat template, read from its file, with the last message left open."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from chatapi.engines.llm.chat_template import KEY, ChatTemplate, chat_template

CHATML = (
    "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ALTERNATING = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %}{{ m.content }}</s>{% endif %}{% endfor %}"
)


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


USER = message("user", "What is the capital of")


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def gguf(folder: Path, *keys: tuple[str, int, bytes]) -> Path:
    file = folder / "model.gguf"
    body = b"".join(text(name) + struct.pack("<I", kind) + value for name, kind, value in keys)
    file.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(keys)) + body)
    return file


BEFORE = (
    ("general.name", 8, text("tiny")),
    ("tokenizer.tokens", 9, struct.pack("<IQ", 8, 2) + text("a") + text("b")),
    ("tokenizer.scores", 9, struct.pack("<IQ", 6, 3) + bytes(12)),
    ("general.count", 4, bytes(4)),
)


def test_template_is_found_after_keys_of_every_type(tmp_path: Path) -> None:
    found = chat_template(gguf(tmp_path, *BEFORE, (KEY, 8, text(CHATML))))
    assert found is not None
    assert found.opened([message("system", "Be brief."), USER]) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is the capital of",
        "<|im_end|>\n",
    )


@pytest.mark.parametrize("keys", [BEFORE, (*BEFORE, (KEY, 8, text("{% for %}"))), ((KEY, 4, bytes(4)),)])
def test_file_without_a_usable_template_has_none(tmp_path: Path, keys: tuple[tuple[str, int, bytes], ...]) -> None:
    assert chat_template(gguf(tmp_path, *keys)) is None


def test_truncated_file_has_no_template(tmp_path: Path) -> None:
    file = gguf(tmp_path, *BEFORE, (KEY, 8, text(CHATML)))
    file.write_bytes(file.read_bytes()[:90])
    assert chat_template(file) is None


def test_template_that_rejects_the_messages_returns_none() -> None:
    template = ChatTemplate(ALTERNATING)
    assert template.opened([USER]) == ("[INST] What is the capital of", " [/INST]")
    assert template.opened([message("system", "Be brief."), USER]) is None


def test_template_without_the_last_message_returns_none() -> None:
    assert ChatTemplate("{{ messages[0].content }}").opened([message("system", "x"), USER]) is None


@pytest.mark.parametrize(
    ("end", "opened"),
    [
        ("<|im_start|>assistant\n<think>\n", "<think>\n"),
        ("[THINK]", "[THINK]"),
        ("<|im_start|>assistant\n", ""),
        ("{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}", ""),
        ("{% if enable_thinking %}<think>{% endif %}", ""),
        ("{{ raise_exception('no') }}", ""),
    ],
)
def test_template_that_opens_reasoning_is_recognized(end: str, opened: str) -> None:
    template = ChatTemplate(f"{{{{ messages[0].content }}}}{{% if add_generation_prompt %}}{end}{{% endif %}}")
    assert template.opened_reasoning() == opened
