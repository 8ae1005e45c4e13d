"""Media that crash a decoder, or state more than they contain, cost the sender an error and the server nothing."""

from __future__ import annotations

import struct
from pathlib import Path

import av
import pytest

from chatapi.audio import RATE, Audio, wav
from chatapi.audio.decode import blocks, decode, duration
from chatapi.errors import BadInput, ChatapiError, Unprocessable
from chatapi.system import sandbox
from conftest import RunningServer, encode_audio, tone

NO_CODEC = struct.pack(
    "<4sI4s4sIHHIIHH4sI64s",
    b"RIFF",
    100,
    b"WAVE",
    b"fmt ",
    16,
    0x7FFE,
    1,
    16_000,
    32_000,
    2,
    16,
    b"data",
    64,
    bytes(64),
)
"""A WAV with a format tag of an unknown codec."""


def box(kind: bytes, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return struct.pack(">I4s", 8 + len(content), kind) + content


def table(kind: bytes, *words: int) -> bytes:
    """A box with a version and flags of 0, then 32-bit numbers."""
    return box(kind, struct.pack(f">{len(words) + 1}I", 0, *(word & 0xFFFFFFFF for word in words)))


def mp4(*tables: bytes, tracks: int = 1, behind: bytes = b"") -> bytes:
    """An MP4 of AAC tracks with these sample tables, followed by `behind`."""
    config = bytes.fromhex("0380808022000100048080801440150000000001f4000001f40005808080021408068080800102")
    esds = table(b"esds")[: -0 or None] + config
    esds = struct.pack(">I", len(esds)) + esds[4:]
    entry = bytes(6) + struct.pack(">H8xHHHHI", 1, 1, 16, 0, 0, RATE << 16)
    described = box(b"stsd", struct.pack(">II", 0, 1), box(b"mp4a", entry, esds))
    reference = box(b"dinf", box(b"dref", struct.pack(">II", 0, 1), table(b"url ")))
    matrix = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    media = box(
        b"mdia",
        box(b"mdhd", struct.pack(">5IHH", 0, 0, 0, RATE, 65536, 0x55C4, 0)),
        box(b"hdlr", struct.pack(">II4s12xH", 0, 0, b"soun", 0)),
        box(b"minf", table(b"smhd", 0), reference, box(b"stbl", described, *tables)),
    )
    track = box(
        b"trak", box(b"tkhd", struct.pack(">6I8xHHHH", 7, 0, 0, 1, 0, 1000, 0, 0, 256, 0), matrix, bytes(8)), media
    )
    header = box(b"mvhd", struct.pack(">5IHH8x", 0, 0, 0, 1000, 1000, 1, 256), matrix, bytes(24), struct.pack(">I", 2))
    start = box(b"ftyp", b"isom", struct.pack(">I", 512), b"isommp41") + box(b"mdat", bytes(64))
    return start + box(b"moov", header, *([track] * tracks)) + behind


MANY = 100_000_000
UNIFORM = table(b"stsz", 1, 64)
CHUNK = table(b"stco", 1, 36)
BOMBS = {
    "stsz": mp4(table(b"stts", 1, MANY, 1024), table(b"stsc", 1, 1, MANY, 1), table(b"stsz", 1, MANY), CHUNK),
    "stsz of no size": mp4(table(b"stts", 1, MANY, 1024), table(b"stsc", 1, 1, 1, 1), table(b"stsz", 0, MANY), CHUNK),
    "stsc": mp4(table(b"stts", 1, 64, 1024), table(b"stsc", 1, 1, -1, 1), UNIFORM, CHUNK),
    "stco": mp4(table(b"stts", 1, 64, 1024), table(b"stsc", 1, 1, 64, 1), UNIFORM, table(b"stco", MANY, 36)),
    "stts": mp4(table(b"stts", 1, MANY, 1024), table(b"stsc", 1, 1, 64, 1), UNIFORM, CHUNK),
    "ctts": mp4(
        table(b"stts", 1, 64, 1024), table(b"ctts", MANY, 1, 1), table(b"stsc", 1, 1, 64, 1), UNIFORM, CHUNK
    ),
    "tracks": mp4(
        table(b"stts", 1, 60_000, 1024), table(b"stsc", 1, 1, 60_000, 1), table(b"stsz", 1, 60_000), CHUNK, tracks=60
    ),
    "trun": mp4(
        table(b"stts", 0), table(b"stsc", 0), table(b"stsz", 0, 0), table(b"stco", 0),
        behind=box(b"moof", table(b"mfhd", 1), box(b"traf", table(b"tfhd", 1), table(b"trun", MANY))),
    ),
}  # fmt: skip


def test_a_track_of_unknown_codec_is_rejected() -> None:
    with pytest.raises(BadInput, match="codec of the audio track is not supported") as raised:
        decode(NO_CODEC)
    assert raised.value.code == "bad_audio"


def test_the_duration_of_a_track_of_unknown_codec_is_what_its_header_states() -> None:
    assert duration(NO_CODEC) == pytest.approx(32 / 16_000)


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
def test_tables_that_state_more_than_the_file_contains_are_rejected(bomb: bytes) -> None:
    before = sandbox.shared().crashes
    with pytest.raises(ChatapiError) as raised:
        decode(bomb)
    assert raised.value.code in ("bad_audio", "decoder_out_of_memory")
    assert sandbox.shared().crashes == before


@pytest.mark.parametrize("name", ["stsz", "stsz of no size", "stsc", "stco", "tracks", "trun"])
def test_impossible_tables_are_rejected_before_decoding(name: str) -> None:
    with pytest.raises(BadInput, match="states at least"):
        decode(BOMBS[name])


@pytest.mark.parametrize("cut", [0.999, 0.9, 0.5])
def test_truncated_mp4_with_its_tables_in_front_passes_the_check(cut: float) -> None:
    """The decoder may still report the rest as damaged."""
    whole = encode_audio(tone(20.0, rate=48_000), 48_000, "aac", "mp4")
    tables, media = whole.index(b"moov") - 4, whole.index(b"mdat") - 4
    assert media < tables
    front = whole[:media] + whole[tables:] + whole[media:tables]
    try:
        decode(front[: int(len(front) * cut)])
    except BadInput as error:
        assert "states at least" not in error.message


def test_uncompressed_mov_passes_the_check() -> None:
    """Samples have few bytes there, so that the tables state nearly as many samples as the file has bytes."""
    assert decode(encode_audio(tone(2.0), RATE, "pcm_u8", "mov")).seconds == pytest.approx(2.0)


def test_native_crash_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that really crashes replaces the usual one."""
    shared = sandbox.Sandbox(["chatapi.audio.ffmpeg_decoder"])
    stream = shared.stream
    monkeypatch.setattr(shared, "stream", lambda _, *__, **___: stream("sandboxed:overrun"))
    monkeypatch.setattr(sandbox, "shared", lambda: shared)
    try:
        with pytest.raises(Unprocessable, match="crashes the decoder") as raised:
            decode(wav(Audio(tone(0.1), RATE)))
    finally:
        shared.close()
    assert raised.value.code == "decoder_crashed"


@pytest.mark.slow
def test_four_hours_of_audio_fit_the_memory_of_a_child(tmp_path: Path) -> None:
    file = tmp_path / "long.m4a"
    with av.open(str(file), "w", format="mp4") as out:
        stream = out.add_stream("aac", rate=48_000, layout="mono")
        frame = av.AudioFrame(format="fltp", layout="mono", samples=1024)
        frame.sample_rate, frame.planes[0].update(bytes(4096))  # type: ignore[attr-defined, func-returns-value]
        frame.sample_rate = 48_000
        (packet, *_) = [*stream.encode(frame), *stream.encode(None)]
        content = bytes(packet)
        for number in range(4 * 3600 * 48_000 // 1024):
            again = av.Packet(content)
            again.stream, again.time_base = stream, packet.time_base
            again.pts = again.dts = number * 1024
            again.duration = 1024
            out.mux(again)
    assert duration(file) == pytest.approx(4 * 3600, abs=1)
    decoded = blocks(file)
    assert len(next(decoded)) >= RATE
    decoded.close()


def test_source_stays_open_at_its_position(tmp_path: Path) -> None:
    file = tmp_path / "one.wav"
    file.write_bytes(wav(Audio(tone(0.5), RATE)))
    with file.open("rb") as opened:
        for _ in range(2):
            assert decode(opened).seconds == 0.5
        assert opened.tell() == 0


@pytest.mark.parametrize("file", [NO_CODEC, BOMBS["stsz"], BOMBS["ctts"]], ids=["codec", "stsz", "ctts"])
def test_server_answers_after_media_that_crashes_the_decoder(shared_server: RunningServer, file: bytes) -> None:
    for _ in range(3):
        turn = shared_server.client.post("/completion", content=file, headers={"content-type": "audio/wav"})
        assert turn.status_code in (400, 422)
        assert turn.json()["code"] in ("bad_audio", "decoder_out_of_memory")
        upload = shared_server.client.post(
            "/v1/audio/transcriptions", data={"model": "default"}, files={"file": ("a.wav", file)}
        )
        assert upload.status_code in (400, 422)
    assert shared_server.client.get("/ready").status_code == 200
