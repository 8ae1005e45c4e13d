"""The command line of mlc_llm 79d603f (python/mlc_llm/cli), its options with their real names, types and choices."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
import time
from pathlib import Path

TEMPLATES = {"chatml", "mistral_default", "qwen2", "qwen3", "phi-3", "phi-4", "olmo2", "llama-3_1", "LM"}
"""Some of `CONV_TEMPLATES` (interface/gen_config.py)."""
QUANTIZATIONS = ("q0f16", "q3f16_1", "q4f16_0", "q4f16_1", "q4f16_2", "q4f16_ft", "q4bf16_1", "q4f32_1")
SIZES = ("context_window_size", "prefill_chunk_size", "max_batch_size")
OTHER_SIZES = ("sliding_window_size", "attention_sink_size", "tensor_parallel_shards", "pipeline_parallel_stages")


def main() -> None:
    command, arguments = sys.argv[1], sys.argv[2:]
    record = Path(os.environ["STAND_IN_RECORD"])
    with record.open("a", encoding="utf-8") as file:
        file.write(json.dumps([command, *arguments]) + "\n")
    # Both kinds of line ends, as tqdm and the log of the real one mix them.
    print(f"{command} begins\n  0%|          | 0/2\r 50%|#####     | 1/2\r", end="", flush=True)
    if os.environ.get("STAND_IN_HANG") == command:
        Path(f"{record}.new").write_text(str(os.getpid()))
        Path(f"{record}.new").rename(f"{record}.hangs")
        time.sleep(600)
    {"gen_config": gen_config, "convert_weight": convert_weight, "compile": compile_}[command](arguments)
    print(f"{command} ends")


def falter(command: str, output: Path) -> None:
    """Where it is to fail, half of the work done."""
    how = os.environ.get("STAND_IN_FAIL", "").partition(":")
    if how[0] == command:
        output.write_bytes(b"half")
        if how[2] == "kill":
            os.kill(os.getpid(), 9)
        if how[2] == "silent":
            sys.exit(0)
        print("Traceback (most recent call last):\nValueError: the reason of the failure", file=sys.stderr)
        sys.exit(1)


def parser_of(command: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(command, allow_abbrev=False)
    parser.add_argument("source", type=Path)
    parser.add_argument("--quantization", choices=QUANTIZATIONS, required=command != "compile")
    parser.add_argument("--model-type", default="auto")
    parser.add_argument("--output", "-o", type=Path, required=True)
    return parser


def gen_config(arguments: list[str]) -> None:
    parser = parser_of("gen_config")
    parser.add_argument("--conv-template", required=True, choices=sorted(TEMPLATES))
    for name in (*SIZES, *OTHER_SIZES):
        parser.add_argument("--" + name.replace("_", "-"), type=int)
    parsed = parser.parse_args(arguments)
    config = json.loads((parsed.source / "config.json").read_text())
    parsed.output.mkdir(parents=True, exist_ok=True)
    (parsed.output / "tokenizer.json").write_bytes((parsed.source / "tokenizer.json").read_bytes())
    falter("gen_config", parsed.output / "mlc-chat-config.json")
    made = {name: getattr(parsed, name) for name in SIZES}
    made |= {"model_type": config["model_type"], "quantization": parsed.quantization, "model_config": config}
    (parsed.output / "mlc-chat-config.json").write_text(json.dumps(made))


def convert_weight(arguments: list[str]) -> None:
    parser = parser_of("convert_weight")
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "cpu"))
    parser.add_argument("--source", dest="weights", default="auto")
    parser.add_argument("--source-format", choices=("auto", "huggingface-torch", "huggingface-safetensor", "awq"))
    parsed = parser.parse_args(arguments)
    data = (parsed.source / "model.safetensors").read_bytes()
    falter("convert_weight", parsed.output / "params_shard_0.bin")
    (parsed.output / "params_shard_0.bin").write_bytes(data)
    weight = {"name": "w", "shape": [64, 64], "dtype": "float16", "format": "raw", "nbytes": 8192, "byteOffset": 0}
    shard = {"dataPath": "params_shard_0.bin", "format": "raw-shard", "nbytes": len(data), "records": [weight]}
    shard["md5sum"] = hashlib.md5(data).hexdigest()
    (parsed.output / "tensor-cache.json").write_text(json.dumps({"metadata": {}, "records": [shard]}))


def compile_(arguments: list[str]) -> None:
    parser = parser_of("compile")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--host", default="auto")
    parser.add_argument("--opt", default="O2", choices=("O0", "O1", "O2", "O3"))
    parser.add_argument("--system-lib-prefix", default="auto")
    parser.add_argument("--overrides", default="")
    parser.add_argument("--debug-dump", type=Path)
    parsed = parser.parse_args(arguments)
    target = json.loads(parsed.device)
    assert target["kind"] == "cuda"
    assert re.fullmatch(r"sm_\d+", target["arch"])
    assert re.fullmatch(r"\w+-linux-gnu", parsed.host)
    overrides = dict(pair.split("=") for pair in parsed.overrides.split(";") if pair)
    assert set(overrides) <= {*SIZES, *OTHER_SIZES}
    assert (parsed.source / "mlc-chat-config.json").is_file()
    assert parsed.output.parent.is_dir()
    falter("compile", parsed.output)
    parsed.output.write_bytes(Path(os.environ["STAND_IN_LIBRARY"]).read_bytes())


main()
