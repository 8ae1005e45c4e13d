"""llama.cpp with a real model whose chat template takes users and assistants in turn."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from chatapi.engines import PromptMessage, Sampling
from chatapi.settings import LlamaCppSettings as Table
from chatapi.settings import Settings
from conftest import installed_model

pytest.importorskip("xllamacpp")
from chatapi.engines.llm.llama_cpp import LlamaCpp

STRICT = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('order') }}"
    "{% endif %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
)
"""A template that takes users and assistants in turn, and no system message."""


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaCpp]:
    """The model with that template in its file, in place of its own."""
    file = tmp_path_factory.mktemp("strict") / "strict.gguf"
    content = next(iter(installed_model("smollm2-135m-instruct").files.values())).read_bytes()
    key = b"tokenizer.chat_template" + (8).to_bytes(4, "little")
    at = content.index(key) + len(key)
    length = int.from_bytes(content[at : at + 8], "little")
    assert len(STRICT) <= length
    file.write_bytes(content[: at + 8] + STRICT.ljust(length).encode() + content[at + 8 + length :])
    model = SimpleNamespace(name="strict", folder=file.parent, files={"model": file}, options={})
    engine = LlamaCpp(Settings(llama_cpp=Table(context=1024, slots=1)), [model])
    yield engine
    engine.close()
    file.unlink()


@pytest.mark.real
@pytest.mark.parametrize("order", ["SU", "UU", "SUU", "UASU", "SAU", "SSU", "UAAU", "US", "AU", "S", "UA"])
def test_template_that_wants_alternating_roles_takes_messages_in_any_order(strict: LlamaCpp, order: str):
    roles = {"S": "system", "U": "user", "A": "assistant"}
    messages = [PromptMessage(roles[letter], f"{letter}{at}") for at, letter in enumerate(order)]
    *_, last = strict.generate(messages, Sampling(3, temperature=0))
    assert last.finish_reason in ("stop", "length")
