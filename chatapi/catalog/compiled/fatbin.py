"""NVIDIA's fat binaries in a library: the GPUs that its CUDA code is for.

They are found by their magic and read entry by entry. `cuobjdump` does not find them, because TVM stores them in its
own blob. The layout is that of fatBinaryHeader in CUDA's fatbinary.h, and of the entries as `fatbinary` of CUDA 13.5
writes them.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from mmap import mmap

MAGIC = struct.pack("<I", 0xBA55ED50)
_IMAGE = struct.Struct("<IHHQ")
"""Magic, version, bytes of this header, bytes that follow it."""
_ENTRY = struct.Struct("<HHIQIIHHI")
"""Kind, version, bytes of this header, bytes of code, compressed bytes, options, minor, major, architecture."""
_PTX, _CUBIN = 1, 2
_SOURCE = re.compile(rb'extern "C" __global__ void')
"""How the kernels start that TVM writes as CUDA source (src/target/source/codegen_cuda.cc)."""
_PTX_TEXT = re.compile(rb"\n\.target sm_(\d+[a-z]?)")


@dataclass(frozen=True)
class Code:
    """The GPU code of a library."""

    cubins: frozenset[str]
    """GPUs, such as sm_87, for which every fat binary in it has machine code."""
    partly: frozenset[str]
    """GPUs for which only some of its fat binaries have machine code."""
    ptx: frozenset[str]
    """GPUs for which it has PTX; a driver compiles it while loading, for these and later GPUs."""
    source: bool
    """Whether it has only CUDA source, which nothing here can compile while loading."""
    damaged: bool
    """Whether a fat binary is shorter than its header says."""


NONE = Code(frozenset(), frozenset(), frozenset(), source=False, damaged=False)


def code(data: mmap) -> Code:
    """Finds the GPU code in the bytes of a library."""
    images = [_entries(data, start) for start in _found(data)]
    cubins = [{arch for kind, arch in image or () if kind == _CUBIN} for image in images]
    ptx = {arch for image in images for kind, arch in image or () if kind == _PTX}
    if not images:
        ptx = {f"sm_{found[1].decode()}" for found in _PTX_TEXT.finditer(data)}
    common = frozenset(set.intersection(*cubins) if cubins else ())
    return Code(
        common,
        frozenset(set().union(*cubins)) - common,
        frozenset(ptx),
        source=not images and not ptx and _SOURCE.search(data) is not None,
        damaged=None in images,
    )


def _found(data: mmap) -> Iterator[int]:
    start = data.find(MAGIC)
    while start >= 0:
        # Version 1 and a header of 16 bytes; otherwise the magic is there by chance.
        if start + _IMAGE.size <= len(data) and _IMAGE.unpack_from(data, start)[1:3] == (1, _IMAGE.size):
            yield start
        start = data.find(MAGIC, start + 1)


def _entries(data: mmap, start: int) -> list[tuple[int, str]] | None:
    """Kind and GPU of each entry of the fat binary at `start`; None where it is truncated."""
    at = start + _IMAGE.size
    end = at + _IMAGE.unpack_from(data, start)[3]
    found = []
    while at < end:
        if end > len(data) or at + _ENTRY.size > end:
            return None
        kind, _, header, size, *_, arch = _ENTRY.unpack_from(data, at)
        if header < _ENTRY.size or at + header + size > end:
            return None
        found.append((kind, f"sm_{arch}"))
        at += header + size
    return found
