"""Model libraries for tests: small ones written byte by byte, and real ones that TVM builds for two machines."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

METADATA: Mapping[str, Any] = {
    "model_type": "mistral",
    "quantization": "q4f16_1",
    "context_window_size": 4096,
    "sliding_window_size": -1,
    "attention_sink_size": 4,
    "prefill_chunk_size": 1024,
    "tensor_parallel_shards": 1,
    "pipeline_parallel_stages": 1,
    "kv_state_kind": "kv_cache",
    "max_batch_size": 4,
    "params": [{"name": "w", "shape": [64, 64], "dtype": "float16", "preprocs": [], "pipeline_stages": [0]}],
    "kv_cache": {"num_hidden_layers": 32, "head_dim": 128, "num_attention_heads": 32, "num_key_value_heads": 8},
    "memory_usage": {"batch_decode": 1_000_000, "prefill": 80_000_000},
}
"""The metadata that mlc_llm 79d603f writes (interface/compile.py), with the sizes of Mistral 7B and one weight."""
MACHINES = {"x86_64": 62, "aarch64": 183}


def fat_binary(cubins: Sequence[int] = (87,), ptx: Sequence[int] = ()) -> bytes:
    """A fat binary as `fatbinary --create` of CUDA 13.5 writes it: a header of 16 bytes, entries with headers of 64."""
    entries = b""
    for kind, archs, code in (
        (2, cubins, b"\x7fELF cubin".ljust(32, b"\0")),
        (1, ptx, b".version 8.5".ljust(24, b"\0")),
    ):
        for arch in archs:
            head = struct.pack("<HHIQIIHHI", kind, 0x101, 64, len(code), 0, 0, 8, 1, arch)
            entries += head.ljust(64, b"\0") + code
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(entries)) + entries


def library(
    machine: str = "aarch64", code: bytes | None = None, metadata: Mapping[str, Any] | None = METADATA, tvm: bool = True
) -> bytes:
    """A shared library with the data of MLC and without executable code."""
    inside = b"__tvm_ffi__library_bin\0" if tvm else b"\0"
    inside += (json.dumps(metadata).encode() + b"\0" if metadata else b"") + (fat_binary() if code is None else code)
    offset = 64 + 56
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    head = struct.pack("<16sHHIQQQIHHHHHH", ident, 3, MACHINES[machine], 1, 0, 64, 0, 0, 64, 56, 1, 64, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, offset, 0, 0, len(inside), len(inside), 4096)
    return head + segment + inside
