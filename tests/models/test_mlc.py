"""The MLC engine, with a stand-in for mlc_llm (tests/support/mlc_llm_standin)."""

from __future__ import annotations

import importlib.util
import inspect
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from chatapi.engines import ContextOverflow, PromptMessage, Sampling
from chatapi.engines.registry import load
from chatapi.errors import EngineFailed, ModelError, SettingsError, Unprocessable
from chatapi.settings import LlmSettings, MlcSettings, Settings
from mlc_model import LIBRARY, METADATA, compiled_model, mlc_llm

SYSTEM = PromptMessage("system", "You answer in one short sentence.")
HELLO = [SYSTEM, PromptMessage("user", "Tell me about the sea.")]
GREEDY = Sampling(max_tokens=30, temperature=0)
Build = Callable[..., Any]

# Of https://github.com/mlc-ai/mlc-llm at 79d603f085f50500e9509fa01785ffa7ecfaaa93.
SIGNATURES = {
    # python/mlc_llm/serve/engine.py
    "AsyncMLCEngine.__init__": "model device model_lib= mode= engine_config= enable_tracing=",
    "AsyncMLCEngine.abort": "request_id",
    "AsyncMLCEngine.metrics": "",
    "AsyncMLCEngine.terminate": "",
    "AsyncCompletion.create": "prompt= model= best_of= echo= frequency_penalty= presence_penalty= logprobs= "
    "logit_bias= max_tokens= n= seed= stop= stream= stream_options= suffix= temperature= top_p= user= response_format= "
    "request_id= extra_body=",
    # python/mlc_llm/protocol/conversation_protocol.py
    "Conversation.as_prompt": "config",
    # python/mlc_llm/tokenizers/tokenizers.py
    "Tokenizer.encode": "text",
    "Tokenizer.decode": "token_ids",
    # python/mlc_llm/serve/config.py
    "EngineConfig.__init__": "model model_lib additional_models mode tensor_parallel_shards "
    "pipeline_parallel_stages opt gpu_memory_utilization kv_cache_page_size "
    "max_num_sequence max_total_sequence_length max_single_sequence_length "
    "prefill_chunk_size sliding_window_size attention_sink_size max_history_size "
    "kv_state_kind speculative_mode spec_draft_length spec_tree_width prefix_cache_mode "
    "prefix_cache_max_num_recycling_seqs prefill_mode verbose",
}
"""Name to parameters; keyword-only ones end in `=`."""
ASK_REAL = """
import inspect, json, sys
from mlc_llm.serve import engine, config
from mlc_llm.protocol.conversation_protocol import Conversation
from mlc_llm.tokenizers import Tokenizer
names = {**vars(engine), **vars(config), "Conversation": Conversation, "Tokenizer": Tokenizer}
def parameters(dotted):
    owner, method = dotted.split(".")
    found = list(inspect.signature(getattr(names[owner], method)).parameters.values())[1:]
    return " ".join(each.name + "=" * (each.kind is each.KEYWORD_ONLY) for each in found)
json.dump({dotted: parameters(dotted) for dotted in json.loads(sys.argv[1])}, sys.stdout)
"""


@pytest.fixture(autouse=True)
def _stand_in() -> Iterator[None]:
    with mlc_llm():
        yield


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Build]:
    """Builds engines; closes all of them at the end and checks that no thread is left."""
    before = set(threading.enumerate())
    built = []

    def make(library: bytes | None = None, system: str = SYSTEM.text, **table: Any) -> Any:
        prompt, mlc = LlmSettings(system_prompt=system), MlcSettings(**{"context": 512, **table})
        settings = Settings(data=tmp_path, mlc=mlc, llm=prompt)
        engine = load("llm", "mlc")(settings, [compiled_model(tmp_path, library)])
        built.append(engine)
        return engine

    yield make
    for engine in built:
        engine.close()
    assert [each for each in set(threading.enumerate()) - before if not each.daemon] == []


def text(engine: Any, messages: list[PromptMessage], sampling: Sampling = GREEDY) -> str:
    return "".join(piece.text for piece in engine.generate(messages, sampling))


def test_the_stand_in_has_the_signatures_of_mlc_llm() -> None:
    from mlc_llm.protocol.conversation_protocol import Conversation
    from mlc_llm.serve.bigrams import Tokenizer
    from mlc_llm.serve.config import EngineConfig
    from mlc_llm.serve.engine import AsyncCompletion, AsyncMLCEngine

    for dotted, parameters in SIGNATURES.items():
        owner, method = dotted.split(".")
        classes = (AsyncMLCEngine, AsyncCompletion, Conversation, Tokenizer, EngineConfig)
        found = next(getattr(each, method) for each in classes if each.__name__ == owner)
        stated = list(inspect.signature(found).parameters.values())[1:]
        assert " ".join(each.name + "=" * (each.kind is each.KEYWORD_ONLY) for each in stated) == parameters, dotted


def test_mlc_llm_has_these_signatures_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [each for each in sys.path if "mlc_llm_standin" not in each])
    if importlib.util.find_spec("mlc_llm") is None:
        pytest.skip("mlc_llm is not installed")
    output = subprocess.run(
        [sys.executable, "-c", ASK_REAL, json.dumps(list(SIGNATURES))], check=True, capture_output=True
    )
    assert json.loads(output.stdout) == SIGNATURES


def test_a_completion_has_text_and_a_finish_reason(build: Build) -> None:
    pieces = list(build().generate(HELLO, GREEDY))
    assert len(pieces) > 3
    assert "".join(piece.text for piece in pieces).startswith("The sea is")
    assert pieces[-1].finish_reason == "stop"
    assert [piece.finish_reason for piece in build().generate(HELLO, Sampling(max_tokens=2, temperature=0))][
        -1
    ] == "length"


def test_generation_ends_before_a_stop_text(build: Build) -> None:
    answer = text(build(), HELLO, Sampling(temperature=0, stop_texts=(" wide",)))
    assert answer == "The sea is"


def test_sampling_parameters_reach_the_engine(build: Build) -> None:
    engine = build()
    sampling = Sampling(5, 0.0, None, (), 0.5, 1.0, -1.0, {3: 5.0}, schema={"type": "object"})
    list(engine.generate(HELLO, sampling))
    list(engine.generate(HELLO, GREEDY))
    request, plain = engine._engine.seen[-2:]
    assert (request.top_p, request.frequency_penalty, request.presence_penalty) == (0.5, 1.0, -1.0)
    assert request.logit_bias == {3: 5.0}
    assert request.response_format == {"type": "json_object", "schema": '{"type": "object"}'}
    assert (plain.top_p, plain.logit_bias, plain.response_format) == (0.9, None, None)
    with pytest.raises(Unprocessable, match="no type 'x'"):
        list(engine.generate(HELLO, Sampling(schema={"type": "x"})))


def test_the_same_seed_gives_the_same_answer(build: Build) -> None:
    engine = build()
    answers = [text(engine, HELLO, Sampling(temperature=1.5, seed=seed)) for seed in (1, 1, 2, 3, 4, 5)]
    assert answers[0] == answers[1]
    assert len(set(answers)) > 1


def test_next_turn_reuses_the_prompt_cache(build: Build) -> None:
    engine = build()
    *_, first = engine.generate(HELLO, GREEDY)
    *_, second = engine.generate(
        [*HELLO, PromptMessage("assistant", "Wide."), PromptMessage("user", "And the sky?")], GREEDY
    )
    assert first.usage.prompt_tokens < second.usage.prompt_tokens
    assert second.usage.cached_tokens >= first.usage.prompt_tokens - 5


def test_a_last_assistant_message_is_continued(build: Build) -> None:
    assert text(build(), [*HELLO, PromptMessage("assistant", "Paris is the")]).startswith(" capital of France")


def test_reasoning_that_the_template_opens_is_part_of_the_answer(build: Build) -> None:
    engine = build()
    engine._engine.conv_template.role_empty_sep = "\n<think>\n"
    assert text(engine, HELLO).startswith("<think>\n")
    assert not text(engine, [*HELLO, PromptMessage("assistant", "Paris is the")]).startswith("<think>")


def test_a_complete_sentence_has_a_higher_end_of_turn_probability(build: Build) -> None:
    engine = build()

    def probability(sentence: str) -> float:
        [found] = engine.end_of_turn_probability([SYSTEM, PromptMessage("user", sentence)])
        return float(found)

    assert probability("Paris is the capital of France") > 0.9
    assert probability("Paris is the capital") < 0.1
    assert list(engine.end_of_turn_probability(HELLO, lambda: True)) == []


def test_a_cancelled_request_is_aborted(build: Build) -> None:
    engine = build()
    answer = engine.generate(HELLO, GREEDY)
    next(answer)
    engine._engine.paused.set()
    answer.close()
    engine._engine.paused.clear()
    assert len(engine._engine.aborted) >= 1
    assert engine._engine._batch == {} and engine._engine._streams == {}
    assert text(engine, HELLO)


def test_stop_is_polled_while_the_engine_is_silent(build: Build) -> None:
    engine = build()
    engine._engine.paused.set()
    since = time.monotonic()
    assert list(engine.generate(HELLO, GREEDY, lambda: time.monotonic() - since > 0.2)) == []
    assert time.monotonic() - since < 20
    engine._engine.paused.clear()


def test_concurrent_answers_are_generated_in_one_batch(build: Build) -> None:
    engine = build(slots=4)
    engine._engine.paused.set()
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(text, engine, HELLO) for _ in range(4)]
        while len(engine._engine._batch) < 4:
            time.sleep(0.005)
        engine._engine.paused.clear()
        assert len({each.result(20) for each in answers}) == 1
    assert engine._engine.widest == 4


def test_an_overflow_is_counted_by_the_models_own_tokenizer(build: Build) -> None:
    engine = build()
    *_, last = engine.generate(HELLO, GREEDY)
    with pytest.raises(ContextOverflow) as raised:
        next(engine.generate(HELLO, Sampling(max_tokens=512)))
    assert (raised.value.needed, raised.value.context) == (last.usage.prompt_tokens + 512, 512)


def test_an_error_of_the_engine_is_reported(build: Build) -> None:
    with pytest.raises(EngineFailed, match="MLC failed"):
        list(build().generate(HELLO, Sampling(max_tokens=2, temperature="hot")))  # type: ignore[arg-type]


def test_template_without_a_system_prompt_and_with_prefix_tokens_works(tmp_path: Path) -> None:
    model = compiled_model(tmp_path, system_template="", system_prefix_token_ids=[0])
    engine = load("llm", "mlc")(Settings(data=tmp_path, mlc=MlcSettings(context=512)), [model])
    assert text(engine, HELLO).startswith("The sea")
    assert engine._engine.seen[-1].prompt[0] == 0
    engine.close()


@pytest.mark.parametrize(("slots", "mode", "tokens"), [(1, "interactive", 512), (3, "local", 1536)])
def test_the_cache_has_room_for_every_slot(build: Build, slots: int, mode: str, tokens: int) -> None:
    inner = build(slots=slots)._engine
    config = inner.engine_config
    assert (inner.mode, inner.device) == (mode, "cuda")
    assert (config.max_num_sequence, config.max_total_sequence_length) == (slots, tokens)
    assert (config.max_single_sequence_length, config.prefix_cache_mode) == (512, "radix")


@pytest.mark.parametrize(
    ("library", "message"),
    [
        (LIBRARY + b"large", "Insufficient GPU memory error: The available single GPU memory is 100.000 MB"),
        (LIBRARY[:-9], "lib.so is truncated: it has"),
        (
            b"not a library",
            "is not a shared library for Linux; compile it again on this board with: chatapi compile tiny",
        ),
    ],
)
def test_model_that_cannot_be_loaded_is_reported_at_once(build: Build, library: bytes, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build(library)


def test_invalid_chat_config_is_reported(tmp_path: Path) -> None:
    model = compiled_model(tmp_path)
    config = tmp_path / "compiled" / model.name / "weights" / "mlc-chat-config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "conv_template": {}}), encoding="utf-8")
    with pytest.raises(ModelError, match=r"MLC cannot load .*tiny: \d validation errors for Conversation"):
        load("llm", "mlc")(Settings(data=tmp_path), [model])


@pytest.mark.parametrize("missing", ["made.json", "lib.so", "weights/mlc-chat-config.json"])
def test_a_model_that_is_not_compiled_names_the_command(tmp_path: Path, missing: str) -> None:
    model = compiled_model(tmp_path)
    (tmp_path / "compiled" / model.name / missing).unlink()
    with pytest.raises(ModelError, match=f"{missing} is missing; make it with: chatapi compile tiny"):
        load("llm", "mlc")(Settings(data=tmp_path), [model])


def test_a_system_prompt_that_is_too_long_is_reported(build: Build) -> None:
    with pytest.raises(ModelError, match=r"llm\.system_prompt alone needs \d+ tokens and the model's context is 512"):
        build(system="sea " * 600)


def test_closed_engine_raises(build: Build) -> None:
    engine = build()
    engine.close()
    engine.close()
    with pytest.raises(EngineFailed, match="closed"):
        list(engine.generate(HELLO, GREEDY))


def test_the_cache_is_as_large_as_the_memory_allows() -> None:
    from chatapi.catalog.compiled import HEADROOM, fitting

    weights, each = 4_000_000_000, 131_073.25
    free = int(weights + 155_000_000 + HEADROOM + each * 3000)
    assert 2999 <= fitting(METADATA, weights, free, 2048) <= 3000
    with pytest.raises(
        ModelError, match=r"needs 5\.1 GB of memory with a context of 4096 tokens, and 5\.0 GB are free"
    ):
        fitting(METADATA, weights, free, 4096)
    assert fitting({}, weights, 0, 4096) > 1 << 40


def test_cache_on_a_board_is_limited_to_the_free_memory_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from chatapi.catalog.compiled import HEADROOM
    from chatapi.engines.llm.mlc.loading import configured

    compiled_model(tmp_path)
    proc = tmp_path / "root" / "proc"
    (proc / "device-tree").mkdir(parents=True)
    (proc / "device-tree" / "compatible").write_text("nvidia,p3767-0003\0nvidia,tegra234\0")
    free = (HEADROOM + 155_000_000 + 5000 * 131_074) // 1024
    (proc / "meminfo").write_text(f"MemTotal:  7800000 kB\nMemAvailable:  {free} kB\n")
    folder = tmp_path / "compiled" / "tiny"
    config = configured(folder, METADATA, MlcSettings(context=4096, slots=2), tmp_path / "root")
    assert 4980 <= (config.max_total_sequence_length or 0) <= 5000
    assert caplog.messages == [
        f"the memory holds {config.max_total_sequence_length} tokens of the 8192 that 2 slots may need"
    ]
    elsewhere = configured(folder, METADATA, MlcSettings(context=4096, slots=20), tmp_path)
    assert (elsewhere.max_total_sequence_length, elsewhere.max_num_sequence) == (81_920, 8)


def test_missing_or_broken_library_names_the_image_to_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [each for each in sys.path if "mlc_llm_standin" not in each])
    if importlib.util.find_spec("mlc_llm") is None:
        with pytest.raises(
            SettingsError, match=r"library that is not installed: take the image .* jetson-containers' mlc"
        ):
            load("llm", "mlc")
    (tmp_path / "mlc_llm").mkdir()
    (tmp_path / "mlc_llm" / "__init__.py").write_text("raise OSError('libtvm.so: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SettingsError, match=r"cannot be loaded \(libtvm\.so: cannot open shared object file\)"):
        load("llm", "mlc")
