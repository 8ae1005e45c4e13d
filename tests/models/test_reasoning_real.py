"""A real model whose chat template opens the reasoning: its answer begins with reasoning, which is recognized."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from answers import generate
from chatapi.engines import PromptMessage, Sampling
from chatapi.settings import LlamaCppSettings, Settings
from conftest import installed_model

pytest.importorskip("xllamacpp")
from chatapi.engines.llm.llama_cpp import LlamaCpp

pytestmark = pytest.mark.real
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
QUESTION = PromptMessage("user", "What is the capital of France?")


def grafted(folder: Path, template: str) -> Path:
    """The tiny model with another chat template, which must not be longer than its own."""
    file = next(iter(installed_model("smollm2-135m-instruct").files.values()))
    content = file.read_bytes()
    start = content.index(b"{% for message in messages %}")
    size = int.from_bytes(content[start - 8 : start], "little")
    padded = template.encode() + b"{#" + b" " * (size - len(template.encode()) - 4) + b"#}"
    assert len(padded) == size
    (folder / "thinking.gguf").write_bytes(content[:start] + padded + content[start + size :])
    return folder / "thinking.gguf"


def test_answer_begins_with_the_reasoning_that_the_template_opens(tmp_path: Path) -> None:
    path = grafted(tmp_path, THINKING)
    model = SimpleNamespace(name="thinking", folder=tmp_path, files={"model": path}, options={})
    engine = LlamaCpp(Settings(llama_cpp=LlamaCppSettings(context=1024, slots=1)), [model])  # type: ignore[list-item]
    try:
        sampling = Sampling(20, temperature=0)
        chunks = list(engine.generate([QUESTION], sampling))
        assert chunks[0].text == "<think>\n" and len(chunks) > 2
        read = list(generate(engine, [QUESTION], sampling))
        assert "".join(chunk.text for chunk in read) == ""
        assert "".join(chunk.reasoning for chunk in read) == "\n" + "".join(chunk.text for chunk in chunks[1:])
        # A continued answer has the marker already, and one that follows a schema has no reasoning.
        begun = PromptMessage("assistant", "<think>\nEasy.\n</think>\n\nThe capital is")
        assert not "".join(c.text for c in generate(engine, [QUESTION, begun], sampling)).startswith("<think>")
        schema = {"type": "object", "properties": {"x": {"const": "y"}}, "required": ["x"]}
        [*whole, _] = generate(engine, [QUESTION], Sampling(40, temperature=0, schema=schema))
        assert "".join(chunk.text for chunk in whole).replace(" ", "").replace("\n", "") == '{"x":"y"}'
    finally:
        engine.close()
