"""The parrot, a language model that repeats the question."""

from collections.abc import Iterator, Sequence

from chatapi.catalog import InstalledModel
from chatapi.engines import ChatOnly, PromptMessage, Sampling, Stop, TokenChunk, TokenUsage, never
from chatapi.settings import Settings
from chatapi_parrot.settings import ParrotSettings


class Parrot(ChatOnly):
    """Repeats the question after a phrase."""

    context = 4096

    def __init__(self, settings: Settings, models: Sequence[InstalledModel]) -> None:
        table = settings.table(ParrotSettings)
        self.slots, self._phrase = table.slots, table.phrase

    def generate(
        self, messages: Sequence[PromptMessage], sampling: Sampling, stop: Stop = never
    ) -> Iterator[TokenChunk]:
        words = f"{self._phrase} {messages[-1].text}".split()
        for number, word in enumerate(words[: sampling.max_tokens]):
            if stop():
                return
            yield TokenChunk(f" {word}" if number else word)
        usage = TokenUsage(prompt_tokens=len(messages), completion_tokens=min(len(words), sampling.max_tokens))
        yield TokenChunk("", "length" if len(words) > sampling.max_tokens else "stop", usage)
