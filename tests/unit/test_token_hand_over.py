"""Hand-over of tokens from the library's thread to the client: several at once, in order, none late."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import anyio
import pytest

from chatapi.engines import Stop, never
from chatapi.engines.llm.context_size import ContextSize
from chatapi.engines.llm.llama_cpp import generation
from chatapi.engines.llm.llama_cpp.generation import HOLD_SECONDS, LlamaGeneration, RejectedByLibrary
from chatapi.engines.llm.llama_cpp.sharing import SharedContext
from chatapi.errors import NotReady
from chatapi.observability.metrics import Metrics
from chatapi.runtime.admission import Admission, Priority
from chatapi.services.turns.run import AHEAD, Emit, TurnLimits, TurnRun

pytestmark = pytest.mark.anyio

LIMITS = TurnLimits(seconds=60, voice_input=False, voice_reply=False)


class Library:
    """Calls back with texts, `seconds` apart on a clock that only it moves; None is the chunk with the role."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, texts: Sequence[str | None], seconds: float) -> None:
        self._texts, self._seconds = texts, seconds
        self.now = 100.0
        self.calls = 0
        self.error: Exception | None = None
        monkeypatch.setattr(generation, "time", SimpleNamespace(monotonic=lambda: self.now))

    def __call__(self, _: str, callback: Callable[[str], bool]) -> None:
        for text in self._texts:
            self.now += self._seconds if text is not None else 0
            self.calls += 1
            if callback(json.dumps({"choices": [{"delta": {"content": text}}]})):
                return
        if self.error is not None:
            raise self.error


def generated(library: Library, completions: int = 1, stop: Stop = never) -> LlamaGeneration:
    share = SharedContext(ContextSize(4096, 4096, "f16", 0, "", "")).share(10, 200)
    run = LlamaGeneration(stop, lambda: completions, share)
    run.start(library, "{}")
    return run


def handed_over(run: LlamaGeneration) -> list[list[str | None]]:
    """The texts of each hand-over."""
    found: list[list[str | None]] = []
    while (item := run._chunks.get()) is not None:
        assert isinstance(item, list)
        found.append([each["choices"][0]["delta"]["content"] for each in item])
    return found


def test_first_text_and_clause_ends_are_handed_over_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library(monkeypatch, [None, "A", "b", "c", ".", "D", "e"], HOLD_SECONDS / 100)
    assert handed_over(generated(library)) == [[None], ["A"], ["b", "c", "."], ["D", "e"]]


def test_chunks_are_held_no_longer_than_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library(monkeypatch, [None, *"abcdefg"], HOLD_SECONDS * 0.4)
    assert handed_over(generated(library)) == [[None], ["a"], ["b", "c", "d"], ["e", "f", "g"]]


def test_slow_model_hands_over_every_token(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library(monkeypatch, [None, *"abcd"], HOLD_SECONDS * 1.1)
    assert handed_over(generated(library)) == [[None], *([each] for each in "abcd")]


def test_several_completions_hand_over_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library(monkeypatch, [None, *"abcdefg"], HOLD_SECONDS * 1.1)
    assert handed_over(generated(library, completions=8)) == [[None], ["a"], ["b", "c", "d"], ["e", "f", "g"]]


def test_error_follows_the_chunks_that_were_held(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library(monkeypatch, [None, *"abc"], 0.0001)
    library.error = ValueError("wrong")
    chunks, seen = generated(library).chunks(), []
    with pytest.raises(RejectedByLibrary, match="wrong"):
        seen.extend(chunk["choices"][0]["delta"]["content"] for chunk in chunks)
    assert seen == [None, "a", "b", "c"]


def test_cancelled_completion_ends_at_the_next_token(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library(monkeypatch, [None, *"abcdefg"], 0.0001)
    run = generated(library, stop=lambda: library.calls > 3)
    assert handed_over(run) == [[None], ["a"], ["b"]]
    assert library.calls == 4


async def test_reader_that_lags_finds_items_pending_and_the_writer_waits() -> None:
    emitted, run = [], TurnRun(Admission("queue", 1), Metrics(), LIMITS)

    async def work(emit: Emit[int]) -> None:
        for number in range(3 * AHEAD):
            await emit(number)
            emitted.append(number)

    async with run.stream(work, Priority.REQUEST) as items:
        assert await items.__anext__() == 0
        await anyio.wait_all_tasks_blocked()
        assert items.pending
        assert AHEAD <= len(emitted) <= AHEAD + 2
        assert [item async for item in items] == list(range(1, 3 * AHEAD))
        assert not items.pending


async def test_error_of_a_turn_is_raised_after_its_items() -> None:
    async def work(emit: Emit[int]) -> None:
        await emit(1)
        await emit(2)
        raise NotReady("later")

    seen = []
    async with TurnRun(Admission("queue", 1), Metrics(), LIMITS).stream(work, Priority.REQUEST) as items:
        with pytest.raises(NotReady, match="later"):
            seen.append(await items.__anext__())
            seen.append(await items.__anext__())
            await items.__anext__()
    assert seen == [1, 2]


async def test_deadline_ends_a_turn_that_never_waits() -> None:
    async def work(emit: Emit[int]) -> None:
        while True:
            await emit(0)

    limits = TurnLimits(seconds=0.2, voice_input=False, voice_reply=False)
    with pytest.raises(Exception, match="took longer than its limit"):
        async with TurnRun(Admission("queue", 1), Metrics(), limits).stream(work, Priority.REQUEST) as items:
            async for _ in items:
                pass
