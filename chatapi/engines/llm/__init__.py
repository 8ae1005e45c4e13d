"""Language model engines, and what they share."""

from __future__ import annotations

from chatapi.engines import LanguageModel, PromptMessage, Sampling, TokenChunk
from chatapi.engines.call import EngineCall
from chatapi.engines.role import EngineEntry, Role
from chatapi.settings import LlmSettings, Settings


def _warm_up(engine: LanguageModel, settings: Settings) -> EngineCall[TokenChunk]:
    messages = [PromptMessage("system", settings.llm.system_prompt), PromptMessage("user", "Hello")]
    return EngineCall.of(LanguageModel.generate, messages, Sampling(max_tokens=1))


def _probe(engine: LanguageModel) -> EngineCall[TokenChunk]:
    # Without the system prompt, so that its prefix cache stays.
    return EngineCall.of(LanguageModel.generate, [PromptMessage("user", "Hi")], Sampling(max_tokens=1))


ROLE: Role[LanguageModel] = Role(
    name="llm",
    title="language model",
    protocol=LanguageModel,
    settings=LlmSettings,
    engines={
        "llama_cpp": EngineEntry("chatapi.engines.llm.llama_cpp:LlamaCpp", "xllamacpp", "pip install xllamacpp"),
        "mlc": EngineEntry("chatapi.engines.llm.mlc:Mlc", "mlc_llm", "take the image based on jetson-containers' mlc"),
        "openai_upstream": EngineEntry(
            "chatapi.engines.llm.openai_upstream:OpenAIUpstream", needs_model=False, remote=True
        ),
        # It takes the place of llama_cpp.
        "fake": EngineEntry("chatapi.engines.fake:FakeLanguageModel", needs_model=False, slots_of="llama_cpp"),
    },
    warm_up=_warm_up,
    probe=_probe,
    memory_rank=10,
    essential=True,
    counts_pace=True,
)
