"""The context of llama.cpp: its size by model and memory, the shares of completions in it, and their slots."""

from __future__ import annotations

import mmap
import re
import struct
import threading
from pathlib import Path

import numpy as np
import pytest

from chatapi.engines import ContextOverflow, never
from chatapi.engines.llm import gguf
from chatapi.engines.llm.context_size import LEAST, ContextSize, choose
from chatapi.engines.llm.llama_cpp.sharing import ANSWER, MARGIN, Full, Paused, Share, SharedContext
from chatapi.engines.llm.llama_cpp.slots import LITTLE, Slots
from chatapi.settings import LlamaCppSettings
from chatapi.system import memory

PLENTY = 64 << 30
SMOL = {"context_length": 8192, "block_count": 30, "embedding_length": 576, "attention.head_count": 9,
        "attention.head_count_kv": 3}  # fmt: skip
"""SmolLM2 135M: 2 * 30 * 3 * 64 elements per token."""
TOKEN = 2 * 30 * 3 * 64 * 2
"""Its bytes per token in f16."""


def string(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def key(name: str, value: int | list[int]) -> bytes:
    if isinstance(value, list):
        return string(name) + struct.pack(f"<IIQ{len(value)}I", 9, 4, len(value), *value)
    return string(name) + struct.pack("<II", 4, value)


def model(folder: Path, keys: dict[str, int | list[int]], before: int = 0) -> Path:
    """A file with these keys of an architecture; `before`: entries of a vocabulary in front of them."""
    body = string("general.architecture") + struct.pack("<I", 8) + string("llama")
    body += string("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, before) + string("word") * before
    body += b"".join(key(f"llama.{name}", value) for name, value in keys.items())
    file = folder / "model.gguf"
    file.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 2 + len(keys)) + body)
    return file


def chosen(folder: Path, free: int = PLENTY, trained: int = 8192, **table: object) -> ContextSize:
    file = model(folder, {**SMOL, "context_length": trained})
    return choose(LlamaCppSettings.model_validate(table), file, free)


def test_training_length_is_the_context_where_the_memory_holds_it(tmp_path: Path) -> None:
    found = chosen(tmp_path)
    assert (found.tokens, found.pool, found.kv_cache) == (8192, 16384, "f16")
    assert found.bytes_of(8192) == 8192 * TOKEN
    assert str(found).startswith("8192 tokens (the model was trained for 8192), 16384 for all answers at once, f16")


def test_little_memory_takes_the_smaller_type_first_and_then_tokens(tmp_path: Path) -> None:
    smaller = chosen(tmp_path, free=4 * 8192 * TOKEN * 2 // 3)
    assert (smaller.tokens, smaller.kv_cache) == (8192, "q8_0")
    short = chosen(tmp_path, free=4 * 3000 * TOKEN * 34 // 64)
    assert (short.tokens, short.kv_cache) == (2816, "q8_0")
    assert "of memory are free" in short.reason and short.remedy.startswith("llama_cpp.context")
    assert chosen(tmp_path, free=0).tokens == LEAST


@pytest.mark.parametrize(
    ("trained", "configured", "tokens", "reason"),
    [
        (131_072, 0, 16384, "llama_cpp.context raises it"),
        (131_072, 100_000, 100_000, "llama_cpp.context"),
        (8192, 20_000, 8192, "the model was trained for 8192"),
        (2048, 0, 2048, "the model was trained for 2048"),
        (8192, 300, 300, "llama_cpp.context"),
    ],
)
def test_setting_overrides_up_to_the_training_length(
    tmp_path: Path, trained: int, configured: int, tokens: int, reason: str
) -> None:
    found = chosen(tmp_path, trained=trained, context=configured)
    assert (found.tokens, found.reason) == (tokens, reason)


def test_short_contexts_have_room_for_every_slot(tmp_path: Path) -> None:
    assert chosen(tmp_path, context=300, slots=4).pool == 1200
    assert chosen(tmp_path, context=8192, slots=1).pool == 8192


def test_setting_below_the_least_is_rejected() -> None:
    with pytest.raises(ValueError, match="must be 0 or at least 256"):
        LlamaCppSettings(context=100)


def test_layers_with_heads_of_their_own_are_added_up(tmp_path: Path) -> None:
    keys = {**SMOL, "block_count": 3, "attention.head_count_kv": [1, 0, 2], "attention.key_length": 128,
            "attention.value_length": 64}  # fmt: skip
    assert choose(LlamaCppSettings(kv_cache="f16"), model(tmp_path, keys), PLENTY).token_bytes == 3 * (128 + 64) * 2


def test_file_without_sizes_gets_a_common_context(tmp_path: Path) -> None:
    found = choose(LlamaCppSettings(), model(tmp_path, {}), PLENTY)
    assert (found.tokens, found.bytes_of(4096)) == (4096, 0)


def test_keys_behind_a_large_vocabulary_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf, "FIRST_BYTES", 1 << 20)
    file = model(tmp_path, SMOL, before=200_000)
    assert file.stat().st_size > 2 * gguf.FIRST_BYTES
    assert gguf.metadata(file, lambda key: key.endswith("block_count")) == {"llama.block_count": 30}


@pytest.mark.parametrize("size", [0, 10, 23, 60, 100, 200])
def test_truncated_file_has_no_metadata(tmp_path: Path, size: int) -> None:
    file = model(tmp_path, SMOL)
    file.write_bytes(file.read_bytes()[:size])
    assert gguf.metadata(file, lambda key: True) == {}


def test_absurd_length_in_a_file_is_no_error(tmp_path: Path) -> None:
    file = tmp_path / "absurd.gguf"
    file.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 9) + struct.pack("<Q", 2**64 - 1) + b"abc")
    assert gguf.metadata(file, lambda key: True) == {}


def shared(pool: int = 16384, tokens: int = 8192) -> SharedContext:
    return SharedContext(ContextSize(tokens, pool, "f16", TOKEN, "", "llama_cpp.context raises it"))


def running(context: SharedContext, prompt: int, unread: int | None = None, max_tokens: int = 100) -> Share:
    share = context.share(prompt, max_tokens)
    assert share.wait(never)
    if unread is not None:
        share.read(prompt, prompt - unread, 0)
    return share


def test_prompt_beyond_the_context_is_an_overflow_with_the_remedy() -> None:
    with pytest.raises(ContextOverflow) as raised:
        running(shared(), 8000, unread=8000, max_tokens=193)
    assert (raised.value.needed, raised.value.remedy) == (8193, "llama_cpp.context raises it")


def test_long_prompt_pauses_for_a_new_one_and_goes_on_when_that_is_read() -> None:
    context = shared()
    long = running(context, 6000, unread=6000)
    short = running(context, 50)
    with pytest.raises(Paused):
        long.read(6000, 128, 0)
    assert not context.admits(long)
    short.read(50, 0, 0)
    assert not context.admits(long)
    short.read(50, 50, 0)
    assert context.admits(long)


def test_short_rest_of_a_prompt_is_read_whoever_comes() -> None:
    context = shared()
    almost = running(context, 6000, unread=6000)
    running(context, 50)
    almost.read(6000, 6000 - MARGIN, 0)


def test_longer_prompt_that_comes_later_waits_for_the_shorter_one() -> None:
    context = shared()
    first = running(context, 3000, unread=2000)
    later = running(context, 6000)
    with pytest.raises(Paused):
        later.read(6000, 0, 0)
    first.read(3000, 1128, 0)
    assert not context.admits(later)
    first.end()
    assert context.admits(later)


def test_prompt_without_room_waits_until_another_ends() -> None:
    context = shared(pool=10_000)
    one = running(context, 6000, unread=0)
    other = context.share(6000, 100)
    waited = threading.Event()
    thread = threading.Thread(target=lambda: other.wait(never) and waited.set())
    thread.start()
    assert not waited.wait(0.2)
    one.end()
    thread.join(60)
    assert waited.is_set()


def test_waiting_prompt_that_is_no_longer_wanted_stops_waiting() -> None:
    context = shared(pool=10_000)
    running(context, 6000, unread=0)
    assert not context.share(6000, 100).wait(lambda: True)


def test_estimate_that_was_too_low_is_corrected_before_the_cache_overflows() -> None:
    context = shared(pool=10_000)
    running(context, 6000, unread=0)
    underestimated = running(context, 100)
    with pytest.raises(Paused):
        underestimated.read(5000, 0, 0)


def test_answer_ends_when_the_others_need_the_rest() -> None:
    context = shared(pool=2000 + 2 * ANSWER)
    one, other = (running(context, 1000, unread=0, max_tokens=4000) for _ in range(2))
    with pytest.raises(Full):
        for _ in range(5000):
            one.write()
    assert one.written == ANSWER
    other.end()
    for _ in range(1000):
        one.write()


def slot(slots: Slots, text: str) -> int:
    with slots.taken(text) as number:
        return number


def test_conversation_returns_to_its_slot_however_long_its_answers_are() -> None:
    slots = Slots(4)
    texts = [f"{name}: " + name * 2000 for name in "abc"]
    first = [slot(slots, text) for text in texts]
    assert len(set(first)) == 3
    assert [slot(slots, text + "answer" * 500 + "next") for text in reversed(texts)] == first[::-1]


def test_unused_slot_is_taken_on_request_while_there_is_one() -> None:
    slots, text = Slots(2), "You are a friendly assistant."
    assert slot(slots, text) == slot(slots, text) == 0
    with slots.taken("Another.", unused=True) as number:
        assert number == 1
    with slots.taken(text, unused=True) as number:
        assert number == 0


def test_client_with_the_same_tools_gets_a_slot_of_its_own() -> None:
    slots, tools = Slots(4), "tool " * 2000
    one = slot(slots, tools + "my home " * 1000)
    other = slot(slots, tools + "our flat " * 1000)
    assert one != other
    assert slot(slots, tools + "my home " * 1000 + "?") == one


def test_short_prompt_after_the_same_beginning_takes_over_the_slot() -> None:
    slots, system = Slots(4), "You are a friendly assistant. " * 5
    assert slot(slots, system + "a" * LITTLE) == slot(slots, system + "b")


def test_short_prompt_leaves_a_conversation_its_slot_and_takes_another_with_the_same_beginning() -> None:
    slots, system = Slots(4), "You are a friendly assistant. " * 5
    with slots.taken(system + "a") as first, slots.taken(system + "b") as second:
        assert first != second
    long = slot(slots, system + "b" + "c" * 2 * LITTLE)
    assert long == second
    assert slot(slots, system + "d") == first
    assert slot(slots, system + "b" + "c" * 2 * LITTLE + "e") == long


def test_only_slot_is_left_to_the_library_which_saves_its_prompts() -> None:
    assert slot(Slots(1), "You are a friendly assistant.") == -1


def test_slot_used_longest_ago_is_taken_for_a_new_prompt() -> None:
    slots = Slots(2)
    first, second = (slot(slots, letter * 1000) for letter in "ab")
    assert slot(slots, "c" * 1000) == first
    with slots.taken("d" * 1000) as taken, slots.taken("b" * 1000) as other, slots.taken("e") as none:
        assert (taken, other, none) == (second, first, -1)


def test_questions_of_their_own_leave_a_long_prompt_its_slot() -> None:
    slots, long = Slots(4), "device " * 2000
    kept = slot(slots, long)
    assert all(slot(slots, f"{number} is a number of its own") != kept for number in range(1000, 1020))
    assert slot(slots, long + "?") == kept


def resident(address: int) -> int:
    """Bytes in memory of the mapping at an address."""
    text = Path("/proc/self/smaps").read_text()
    mapping = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) .*\n(?:(?![0-9a-f]+-)[^\n]*\n)*?Rss: +(\d+) kB", re.MULTILINE)
    for found in mapping.finditer(text):
        if int(found[1], 16) <= address < int(found[2], 16):
            return int(found[3]) << 10
    return 0


def test_pages_of_zeros_are_released_and_the_rest_stays() -> None:
    size = 40 << 20
    before = memory.anonymous()
    # As an allocator does: other bytes around the block.
    block = mmap.mmap(-1, size + 2 * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    view = np.frombuffer(block, np.uint8)
    view[:] = 0
    view[:64] = view[-64:] = 7
    address = view.ctypes.data
    assert memory.release_zeros(size // 2, before) == 0
    full = resident(address)
    assert memory.release_zeros(size, before) == size
    assert resident(address) <= full - size + (1 << 20)
    assert view[:64].sum() == view[-64:].sum() == 7 * 64 and not view[64:-64].any()
    view[size // 2] = 1
    assert memory.release_zeros(size, before) == 0
