"""Finds the frames of streams without a container: MP3, AAC in ADTS or LOAS, MPEG-TS, GSM."""

from __future__ import annotations

MPEG_RATES = {
    (version, index): rate // divisor
    for version, divisor in ((3, 1), (2, 2), (0, 4))
    for index, rate in enumerate((44_100, 48_000, 32_000))
}
"""MPEG version (3 is 1, 2 is 2, 0 is 2.5) and index -> sample rate in Hz."""
KBITS = {
    (True, 1): tuple(range(32, 449, 32)),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""Whether it is MPEG 1, and the layer -> kbit/s by index; layer 3 of MPEG 2 has the rates of layer 2."""
TRANSPORT = ((0, 188), (4, 192))
"""Offset of the sync byte of an MPEG-TS packet, and the packet's length; a time stamp precedes the longer one."""
GSM_BYTES, GSM_FRAMES = 33, 16
"""Length of a frame of GSM 06.10, which starts with the four bits of 0xD, and how many tell the format: 0.32 s."""

LONGEST = 3 * 8200
"""Bytes of three LOAS frames."""


def kind(head: bytes) -> str | None:
    """FFmpeg's demuxer for a stream that starts with `head`; None: no frame starts there."""
    for first, step in TRANSPORT:
        if len(head) > first + 2 * step and all(head[first + step * at] == 0x47 for at in range(3)):
            return "mpegts"
    if len(head) < 2:
        return None
    if head[0] >> 4 == 0xD:
        starts = head[: GSM_BYTES * GSM_FRAMES : GSM_BYTES]
        return "gsm" if len(starts) == GSM_FRAMES and all(each >> 4 == 0xD for each in starts) else None
    if head[0] == 0x56 and head[1] & 0xE0 == 0xE0:
        return "loas" if _is_loas(head, frames=3) else None
    if head[0] != 0xFF:
        return None
    if head[1] & 0xF6 == 0xF0:
        return "aac"
    return "mp3" if head[1] & 0xE0 == 0xE0 and head[1] & 0x06 else None


def find(head: bytes) -> int | None:
    """Offset of the first two consecutive frames of MP3, AAC or LOAS, or of three packets of MPEG-TS."""
    return next((at for at in range(len(head)) if start(head, at)), None)


def start(head: bytes, at: int = 0) -> bool:
    """Whether such frames or packets start at an offset."""
    byte = head[at] if at < len(head) else 0
    if byte == 0xFF:
        length = _frame_bytes(head[at : at + 6])
        return bool(length) and kind(head[at + length : at + length + 2]) in ("mp3", "aac")
    return byte in (0x47, 0x56) and kind(head[at : at + LONGEST]) in ("mpegts", "loas")


def _is_loas(head: bytes, frames: int) -> bool:
    """Whether this many frames follow each other, because their sync word is short (ISO/IEC 14496-3, 1.7.2)."""
    at = 0
    for _ in range(frames):
        frame = head[at : at + 3]
        if len(frame) < 3 or frame[0] != 0x56 or frame[1] & 0xE0 != 0xE0:
            return False
        at += 3 + ((frame[1] & 0x1F) << 8 | frame[2])
    return True


def _frame_bytes(header: bytes) -> int:
    """Length in bytes of the frame with this header; 0 where it is invalid (ISO/IEC 11172-3, 2.4.2.3; 13818-7, 6.2)."""
    which = kind(header)
    if which == "aac" and len(header) == 6:
        return (header[3] & 3) << 11 | header[4] << 3 | header[5] >> 5
    if which != "mp3" or len(header) < 4:
        return 0
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    rate, index = MPEG_RATES.get((version, header[2] >> 2 & 3), 0), header[2] >> 4
    table = KBITS.get((version == 3, layer)) or KBITS[(False, 2)]
    if not rate or not 0 < index < 15 or version == 1:
        return 0
    padding = header[2] >> 1 & 1
    bits = table[index - 1] * 1000
    if layer == 1:
        return (12 * bits // rate + padding) * 4
    return (144 if version == 3 or layer == 2 else 72) * bits // rate + padding
