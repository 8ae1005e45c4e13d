"""The chat template of a GGUF model: prompts that end within the last message."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from chatapi.engines.llm import gguf

KEY = "tokenizer.chat_template"
END_MARK = "\x02here\x03"
"""Marks the end of the last message; no template and no user's text contains it."""
_OPENED_REASONING = re.compile(
    r"(?:<(?:think|thinking|thought|reasoning|seed:think)>|\[THINK\]|◁think▷|<\|START_THINKING\|>"
    r"|<\|channel\|>analysis<\|message\|>)\s*\Z",
    re.IGNORECASE,
)


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

    def opened_reasoning(self) -> str:
        """The marker that opens reasoning at the end of every prompt, with the white space after it; empty: none.

        The model's answer then begins with its reasoning.
        """
        try:
            text = self._template.render(
                messages=[{"role": "user", "content": "Hello"}], bos_token="", eos_token="",
                add_generation_prompt=True, enable_thinking=False,
            )  # fmt: skip
        except jinja2.TemplateError:
            return ""
        return opened_reasoning(text)


def opened_reasoning(prompt: str) -> str:
    """The marker that opens reasoning at the end of a prompt, with the white space after it; empty: none."""
    found = _OPENED_REASONING.search(prompt[-200:])
    return found[0] if found else ""


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def chat_template(path: Path) -> ChatTemplate | None:
    """The chat template of a GGUF file; None where it has none, or none that can be used."""
    source = gguf.metadata(path, lambda key: key == KEY).get(KEY)
    try:
        return ChatTemplate(source) if isinstance(source, str) else None
    except jinja2.TemplateError:
        return None
