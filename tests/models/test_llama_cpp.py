"""llama.cpp with a real, tiny model where it is installed, and errors before a model is loaded."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from chatapi.engines import ContextOverflow, PromptMessage, Sampling, TokenChunk
from chatapi.errors import EngineFailed, ModelError
from chatapi.settings import SYSTEM, LlmSettings, Settings
from chatapi.settings import LlamaCppSettings as Table
from conftest import installed_model

pytest.importorskip("xllamacpp")
from chatapi.engines.llm.llama_cpp import LlamaCpp
from chatapi.engines.llm.llama_cpp.sharing import STEP

CONTEXT = 1024
PARIS = "What is the capital of France?"


def model(path: Path | None = None, **options: object) -> SimpleNamespace:
    """A model as the catalog returns it."""
    file = path or next(iter(installed_model("smollm2-135m-instruct").files.values()))
    return SimpleNamespace(name="tiny", folder=file.parent, files={"model": file}, options=options)


@pytest.fixture(scope="module")
def llama() -> Iterator[LlamaCpp]:
    engine = LlamaCpp(Settings(llama_cpp=Table(context=CONTEXT, slots=2)), [model()])
    yield engine
    engine.close()


def chat(*texts: str) -> list[PromptMessage]:
    """The system prompt, then messages of user and assistant in turn."""
    roles = ("user", "assistant")
    return [
        PromptMessage("system", SYSTEM),
        *(PromptMessage(roles[at % 2], content) for at, content in enumerate(texts)),
    ]


def text(pieces: list[TokenChunk]) -> str:
    return "".join(piece.text for piece in pieces)


def exact(max_tokens: int, *stop_texts: str) -> Sampling:
    return Sampling(max_tokens, temperature=0, stop_texts=stop_texts)


@pytest.mark.parametrize("content", [b"", b"not a model at all", b"PK\x03\x04"])
def test_invalid_file_is_rejected_by_name(tmp_path: Path, content: bytes):
    path = tmp_path / "broken.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"broken\.gguf is not a GGUF file"):
        LlamaCpp(Settings(), [model(path)])


def test_damaged_model_is_rejected_by_name_without_output_of_the_library(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + bytes(range(256)) * 4)
    with pytest.raises(
        ModelError, match=r"cannot load .*broken\.gguf: it is damaged.*context of 4096 tokens in 8 slots"
    ):
        LlamaCpp(Settings(), [model(path)])
    assert capfd.readouterr() == ("", "")


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(ModelError, match=r"gone\.gguf cannot be read: No such file"):
        LlamaCpp(Settings(), [model(tmp_path / "gone.gguf")])


def test_a_model_without_a_gguf_file_is_named(tmp_path: Path):
    with pytest.raises(ModelError, match=r"tiny has no \.gguf file among: model\.bin"):
        LlamaCpp(Settings(), [model(tmp_path / "model.bin")])


def test_no_model_at_all_is_an_error():
    with pytest.raises(ModelError, match="given none"):
        LlamaCpp(Settings(), [])


@pytest.mark.real
def test_a_completion_has_a_token_per_chunk_a_finish_reason_and_usage(llama: LlamaCpp):
    pieces = list(llama.generate(chat(PARIS), exact(30)))
    assert "Paris" in text(pieces)
    assert len(pieces) > 5
    assert all(piece.text and piece.finish_reason is None for piece in pieces[:-1])
    assert pieces[-1].finish_reason == "stop"
    assert pieces[-1].usage is not None
    # The end token counts too.
    assert pieces[-1].usage.completion_tokens in (len(pieces) - 1, len(pieces))


@pytest.mark.real
def test_truncated_answer_has_the_finish_reason_length(llama: LlamaCpp):
    pieces = list(llama.generate(chat("Tell me a long story about a dragon."), exact(5)))
    assert pieces[-1].finish_reason == "length"
    assert pieces[-1].usage is not None
    assert pieces[-1].usage.completion_tokens == 5


@pytest.mark.real
def test_the_same_seed_gives_the_same_answer(llama: LlamaCpp):
    sampling = Sampling(12, temperature=1.5, seed=7)
    first, second = (text(list(llama.generate(chat("Tell me a story."), sampling))) for _ in range(2))
    assert first == second


@pytest.mark.real
def test_generation_ends_before_a_stop_text(llama: LlamaCpp):
    whole = text(list(llama.generate(chat(PARIS), exact(30))))
    pieces = list(llama.generate(chat(PARIS), exact(30, " Paris", "never said")))
    assert text(pieces) == whole.partition(" Paris")[0]
    assert pieces[-1].finish_reason == "stop"


@pytest.mark.real
def test_system_prompt_is_cached_in_every_slot_before_the_first_question():
    engine = LlamaCpp(Settings(llama_cpp=Table(context=512, slots=2)), [model()])
    assert engine._second_slot is not None
    engine._second_slot.join(60)
    both = [engine.generate(chat(question), exact(8)) for question in ("Hello!", "Who are you?")]
    for answer in both:
        next(answer)
    ends = [list(answer)[-1].usage for answer in both]
    engine.close()
    for usage in ends:
        assert usage is not None
        assert usage.cached_tokens > usage.prompt_tokens / 2


@pytest.mark.real
def test_second_turn_reuses_the_prompt_cache(llama: LlamaCpp):
    first = list(llama.generate(chat("Tell me about the sea."), exact(40)))
    turns = chat("Tell me about the sea.", text(first), "And about the sky?")
    usages = first[-1].usage, list(llama.generate(turns, exact(3)))[-1].usage
    assert usages[0] is not None
    assert usages[1] is not None
    assert usages[1].cached_tokens > usages[0].prompt_tokens


@pytest.mark.real
@pytest.mark.parametrize("words", [CONTEXT - 100, 3 * CONTEXT])
def test_an_overflow_is_raised_before_the_first_chunk_with_its_size(llama: LlamaCpp, words: int):
    answer = llama.generate(chat("word " * words), exact(100))
    with pytest.raises(ContextOverflow) as raised:
        next(answer)
    assert raised.value.context == CONTEXT
    assert words + 100 < raised.value.needed < words + 250


@pytest.mark.real
def test_a_completion_fits_exactly_the_size_in_the_overflow(llama: LlamaCpp):
    messages = chat("word " * 300)
    with pytest.raises(ContextOverflow) as raised:
        next(llama.generate(messages, exact(CONTEXT)))
    room = CONTEXT - (raised.value.needed - CONTEXT)
    next(llama.generate(messages, exact(room)))
    with pytest.raises(ContextOverflow):
        next(llama.generate(messages, exact(room + 1)))


@pytest.mark.real
def test_stop_ends_a_long_prompt_between_its_steps(llama: LlamaCpp):
    calls = []

    def stop() -> bool:
        # Polled before and after the prompt is counted, and from then on by each step.
        calls.append(True)
        return len(calls) > 3

    assert list(llama.generate(chat("boat " * 700), exact(20), stop)) == []
    assert len(calls) < 700 / STEP
    assert text(list(llama.generate(chat(PARIS), exact(10)))) != ""


@pytest.mark.real
def test_stop_ends_an_answer(llama: LlamaCpp):
    wanted = threading.Event()
    received: list[TokenChunk] = []
    for piece in llama.generate(chat("Tell me a very long story."), exact(400), wanted.is_set):
        received.append(piece)
        if len(received) == 5:
            wanted.set()
    assert len(received) == 5


@pytest.mark.real
def test_cancelled_completions_free_their_slots(llama: LlamaCpp):
    for _ in range(5):
        answer = llama.generate(chat("Tell me a very long story."), exact(400))
        next(answer)
        answer.close()  # type: ignore[attr-defined]
    assert [thread.name for thread in threading.enumerate() if thread.name == "llama_cpp"] == []
    assert text(list(llama.generate(chat(PARIS), exact(10)))) != ""


@pytest.mark.real
def test_exception_of_stop_reaches_the_caller(llama: LlamaCpp):
    def stop() -> bool:
        raise RuntimeError("the caller's own mistake")

    with pytest.raises(RuntimeError, match="own mistake"):
        list(llama.generate(chat(PARIS), exact(10), stop))


@pytest.mark.real
def test_characters_of_several_bytes_are_complete(llama: LlamaCpp):
    pieces = list(llama.generate(chat("Repeat: 😀🎉 日本語 Zoë"), Sampling(80, temperature=1.0, seed=1)))
    answer = text(pieces)
    assert "\ufffd" not in answer
    assert not answer.isascii()
    answer.encode()


@pytest.mark.real
def test_two_completions_run_at_once(llama: LlamaCpp):
    first = llama.generate(chat("Tell me a long story about a king."), exact(40))
    second = llama.generate(chat(PARIS), exact(20))
    next(first)
    assert "Paris" in text(list(second))
    assert len(list(first)) > 5


@pytest.mark.real
def test_library_prints_nothing_and_opens_no_port(capfd: pytest.CaptureFixture[str]):
    listening = set(ports())
    engine = LlamaCpp(Settings(llama_cpp=Table(context=512, slots=1)), [model()])
    list(engine.generate(chat(PARIS), exact(5)))
    with pytest.raises(ContextOverflow):
        list(engine.generate(chat("a " * 600), exact(5)))
    assert set(ports()) <= listening
    engine.close()
    assert capfd.readouterr() == ("", "")


def ports() -> Iterator[str]:
    """The listening TCP sockets of this process."""
    own = {str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()}
    for table in ("/proc/self/net/tcp", "/proc/self/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == "0A" and f"socket:[{columns[9]}]" in own:
                yield columns[1]


@pytest.mark.real
def test_close_ends_answers_in_progress_and_a_closed_engine_raises():
    engine = LlamaCpp(Settings(llama_cpp=Table(context=512, slots=1)), [model()])
    answer = engine.generate(chat("Tell me a very long story."), exact(300))
    next(answer)
    engine.close()
    assert len(list(answer)) < 300
    with pytest.raises(EngineFailed, match="was closed"):
        list(engine.generate(chat(PARIS), exact(5)))


@pytest.mark.real
def test_a_system_prompt_that_leaves_no_room_is_rejected_at_once():
    settings = Settings(llm=LlmSettings(system_prompt="word " * 400), llama_cpp=Table(context=256, slots=1))
    with pytest.raises(ModelError, match=r"llm\.system_prompt alone needs 4\d\d tokens and llama_cpp\.context is 256"):
        LlamaCpp(settings, [model()])


@pytest.mark.real
def test_options_of_a_model_change_the_sampling():
    wild = {"repeat_penalty": 5.0, "repeat_last_n": 256, "dry_multiplier": 0.0}
    engine = LlamaCpp(Settings(llama_cpp=Table(context=512, slots=1)), [model(**wild)])
    answer = text(list(engine.generate(chat("Say: yes yes yes yes yes"), exact(30))))
    engine.close()
    words = answer.lower().split()
    assert len(set(words)) > len(words) * 0.9


@pytest.mark.real
def test_an_incomplete_sentence_has_a_lower_end_of_turn_probability(llama: LlamaCpp):
    def probability(text: str) -> float:
        messages = [PromptMessage("system", "Be brief."), PromptMessage("user", text)]
        return next(iter(llama.end_of_turn_probability(messages)))

    assert probability("What is the capital of France") > 5 * probability("What is the capital of")
    assert probability("Set a timer for ten minutes") > 5 * probability("Set a timer for")
    assert 0 <= probability("Why") <= 1
    assert list(llama.end_of_turn_probability([PromptMessage("user", "Why")], lambda: True)) == []


@pytest.mark.real
def test_a_last_assistant_message_is_continued(llama: LlamaCpp):
    messages = [PromptMessage("user", "Count from one to five in words.")]
    sampling = Sampling(max_tokens=20, temperature=0)
    text = "".join(
        piece.text for piece in llama.generate([*messages, PromptMessage("assistant", "One, two,")], sampling)
    )
    assert text.lstrip().lower().startswith("three")


CUT = """
import os, sys
from pathlib import Path
from types import SimpleNamespace
from chatapi.engines import PromptMessage, Sampling
from chatapi.engines.llm.llama_cpp import LlamaCpp
from chatapi.settings import LlamaCppSettings as Table, Settings
file = Path(sys.argv[1])
model = SimpleNamespace(name="tiny", folder=file.parent, files={"model": file}, options={})
engine = LlamaCpp(Settings(llama_cpp=Table(context=512, slots=1)), [model])
os.truncate(file, 1 << 20)
pieces = list(engine.generate([PromptMessage("user", "Where is Rome?")], Sampling(8, temperature=0)))
print("answered", pieces[-1].finish_reason)
"""


@pytest.mark.real
def test_truncating_the_file_of_a_loaded_model_does_not_stop_it(tmp_path: Path):
    file = tmp_path / "model.gguf"
    shutil.copyfile(next(iter(installed_model("smollm2-135m-instruct").files.values())), file)
    ran = subprocess.run([sys.executable, "-c", CUT, str(file)], capture_output=True, text=True, timeout=240)
    assert (ran.returncode, ran.stdout.split()[:1]) == (0, ["answered"]), ran.stderr[-2000:]


class StopCounter:
    """A `Stop` that counts its calls."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> bool:
        self.times += 1
        return False


LONG = "The sea is wide and the sky is high. " * 60
"""More than four steps of a prompt, with words that no other test uses."""


@pytest.mark.real
@pytest.mark.parametrize("role", ["generate", "end_of_turn_probability"])
def test_every_step_of_a_long_prompt_is_a_sign_of_life(llama: LlamaCpp, role: str):
    stop = StopCounter()
    messages = [PromptMessage("system", f"{role}: {LONG}"), PromptMessage("user", "What is the capital of")]
    items = (
        llama.generate(messages, exact(2), stop)
        if role == "generate"
        else llama.end_of_turn_probability(messages, stop)
    )
    next(iter(items))
    assert stop.times >= 4
    if role == "generate":
        items.close()


@pytest.mark.real
def test_a_step_of_one_answer_is_a_sign_of_life_of_all(llama: LlamaCpp):
    stop = StopCounter()
    beside = llama.generate(chat(f"waiting: {LONG}"), exact(2), stop)
    next(beside)
    before = stop.times
    list(llama.generate(chat(PARIS), exact(6)))
    assert stop.times > before + 3
    beside.close()
