"""Compressed request bodies: decompressed as they arrive, within the limit on the size of a body."""

from __future__ import annotations

import zlib

from chatapi.errors import BadInput, Unsupported

GZIP_OR_ZLIB = zlib.MAX_WBITS | 32
"""Setting of zlib that accepts both formats."""
HEADERS = (0x8, 0xF)
"""Low halves of the first byte of zlib and gzip; no compressor starts a stream without a header with them."""


class Inflater:
    """Decompresses one body. It only computes: run it on a thread."""

    def __init__(self, largest: int, deflate: bool = False) -> None:
        """`largest`: size from which nothing more is decompressed, in bytes. `deflate`: the header of zlib may be
        missing, as some clients leave it out."""
        self._stream = zlib.decompressobj(GZIP_OR_ZLIB)
        self._may_be_raw = deflate
        self._left = largest

    def feed(self, data: bytes, last: bool) -> bytes:
        """The next part of the body; at most one byte more than the largest size in total.

        Raises BadInput (invalid_encoding) for damaged and incomplete data.
        """
        if self._may_be_raw and data:
            self._may_be_raw = False
            if data[0] & 0xF not in HEADERS:
                self._stream = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            part = self._stream.decompress(data, self._left + 1)
        except zlib.error:
            raise BadInput("the compressed body is damaged", code="invalid_encoding") from None
        self._left = max(self._left - len(part), 0)
        if last and not (self._stream.eof or self._stream.unconsumed_tail):
            raise BadInput("the compressed body is incomplete", code="invalid_encoding")
        if self._stream.unused_data:
            raise BadInput("the compressed body has data after its end", code="invalid_encoding")
        return part


def inflater(encoding: str, largest: int) -> Inflater | None:
    """The decompressor for a Content-Encoding; None: the body is not compressed. Raises Unsupported."""
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return None
    if name not in ("gzip", "x-gzip", "deflate"):
        raise Unsupported(
            f"the content encoding {name[:50]} is not supported; send gzip, deflate or no encoding",
            code="unsupported_content_encoding",
        )
    return Inflater(largest, deflate=name == "deflate")
