"""ELF headers of shared libraries, read without loading them: the machine a library is for, and whether it is
complete."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from mmap import mmap

MACHINES = {62: "x86_64", 183: "aarch64"}
"""e_machine -> the machine as uname names it (elf.h: EM_X86_64, EM_AARCH64)."""
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
"""Elf64_Ehdr of the System V ABI, little-endian: both machines are."""
_SEGMENT = struct.Struct("<IIQQQQQQ")
"""Elf64_Phdr: p_offset is the third, p_filesz the sixth."""
_SECTION = 64
"""Bytes of an Elf64_Shdr."""
_LOADED = 1
"""PT_LOAD."""
_SHARED = 3
"""ET_DYN."""


@dataclass(frozen=True)
class Header:
    """The header of a 64-bit shared library."""

    machine: str
    """As uname names it; "ELF machine N" for one not in `MACHINES`."""
    shared: bool
    """Whether it is a shared library, not a program or an object file."""
    bytes: int
    """Least size of the file in bytes, by its segments and sections."""


def header(data: mmap | bytes) -> Header | None:
    """Parses the header of a file; None where it is not a 64-bit little-endian ELF file."""
    if len(data) < 20 or data[:6] != b"\x7fELF\x02\x01":
        return None
    if len(data) < _HEADER.size:
        return Header(_machine(data[18:20]), True, _HEADER.size)
    fields = _HEADER.unpack_from(data)
    segments, sections, segment_size, segment_count, section_count = (fields[i] for i in (5, 6, 9, 10, 12))
    end = max(_HEADER.size, segments + segment_size * segment_count, sections + _SECTION * section_count)
    if segment_size >= _SEGMENT.size:
        for index in range(segment_count):
            start = segments + index * segment_size
            if start + _SEGMENT.size > len(data):
                break
            kind, _, offset, _, _, size, _, _ = _SEGMENT.unpack_from(data, start)
            end = max(end, offset + size if kind == _LOADED else 0)
    return Header(_machine(data[18:20]), fields[1] == _SHARED, end)


def _machine(field: bytes) -> str:
    number = int.from_bytes(field, "little")
    return MACHINES.get(number, f"ELF machine {number}")
