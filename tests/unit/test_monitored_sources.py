"""Sources of monitored places, against a made hydrophone server with every fault, a broadcaster and files."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Iterator
from contextlib import suppress
from pathlib import Path

import anyio
import numpy as np
import pytest

from broadcaster import broadcasting
from chatapi.audio import Audio, wav
from chatapi.audio.decode import decode
from chatapi.engines import SOUND_RATE
from chatapi.errors import BadInput
from chatapi.services.captions.guarded_http import GuardedHttp
from chatapi.services.stream_monitoring.hls_sources import DateRangeTree, LiveTree, Patience
from chatapi.services.stream_monitoring.hls_tree import HlsTree
from chatapi.services.stream_monitoring.ledger import Position
from chatapi.services.stream_monitoring.other_sources import Broadcast, Recordings, started
from chatapi.services.stream_monitoring.pieces import Found, Missing, Piece, SoundSource
from hls_tree_server import TreeServer, segment, serving_trees, undivided
from media_files import encode

pytestmark = pytest.mark.anyio
PLACE = "rpi_made_bay"
EPOCH = 1_700_000_000
FIRST = EPOCH + 2.0
"""Time of the first sample of the folder."""
QUICK = Patience(delay=0, late=0.3, poll=0.05, backlog=1000)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def server() -> Iterator[TreeServer]:
    with serving_trees() as served:
        yield served


def tree(server: TreeServer) -> HlsTree:
    return HlsTree(GuardedHttp(private=True), server.base, PLACE)


async def take(source: AsyncGenerator[Found, None], count: int) -> list[Found]:
    found = []
    with anyio.fail_after(60):
        async for each in source:
            found.append(each)
            if len(found) == count:
                break
        await source.aclose()
    return found


class Enough(Exception):
    """There are as many pieces as were asked for."""


async def read(source: SoundSource, most: int) -> list[Found]:
    """What a source gives, to its end or until there is enough."""
    found: list[Found] = []

    async def keep(each: Found) -> None:
        found.append(each)
        if len(found) == most:
            raise Enough

    with anyio.fail_after(60), suppress(Enough):
        await source.read(keep)
    return found


def told(found: list[Found]) -> list[tuple[float, float, str]]:
    """Start and end from the folder's first sample, and what it is."""
    return [
        (round(each.start - FIRST, 2), round(each.end - FIRST, 2),
         each.reason if isinstance(each, Missing) else "piece")
        for each in found
    ]  # fmt: skip


async def test_live_segments_have_the_times_of_the_playlist_sums(server: TreeServer) -> None:
    folder = server.folder(PLACE, EPOCH)
    for seconds in (10, 9.5, 10.5):
        folder.add(segment(seconds), seconds)
    downloaded: list[str] = []
    live = LiveTree(tree(server), None, QUICK, downloaded.append, clock=lambda: FIRST + 30)
    found = await take(live.found(), 3)
    assert told(found) == [(0, 10, "piece"), (10, 19.5, "piece"), (19.5, 30, "piece")]
    assert downloaded == ["live0.ts", "live1.ts", "live2.ts"]
    assert live.state == "live"
    assert live.address == f"{server.base}/{PLACE}"
    assert all(abs(len(each.samples) / SOUND_RATE - each.seconds) < 0.1 for each in found if isinstance(each, Piece))


async def test_live_waits_until_a_segment_is_old_enough_and_begins_near_the_present(server: TreeServer) -> None:
    folder = server.folder(PLACE, EPOCH)
    for _ in range(30):
        folder.add(segment(10))
    now = [FIRST + 295.0]
    live = LiveTree(tree(server), None, Patience(10, 0.3, 0.05, backlog=20), clock=lambda: now[0]).found()
    assert told(await anext_of(live, 2)) == [(260, 270, "piece"), (270, 280, "piece")]
    with anyio.move_on_after(0.5) as waited:
        await anext(live)
    assert waited.cancelled_caught


async def anext_of(source: AsyncGenerator[Found, None], count: int) -> list[Found]:
    with anyio.fail_after(60):
        return [await anext(source) for _ in range(count)]


async def test_every_fault_costs_only_its_own_seconds(server: TreeServer) -> None:
    folder = server.folder(PLACE, EPOCH)
    folder.add(segment(10))
    folder.add(None)
    folder.add(segment(10))
    folder.add(b"\x47" + bytes(50_000))
    folder.add(segment(10)[:3000] + b"junk" * 5000)
    folder.add(segment(0.085), 10)
    folder.add(segment(10, level=0))
    folder.add(segment(10))
    found = await take(LiveTree(tree(server), None, QUICK, clock=lambda: FIRST + 100).found(), 10)
    kinds = told(found)
    assert kinds[:3] == [(0, 10, "piece"), (10, 20, "not_found"), (20, 30, "piece")]
    assert kinds[3] == (30, 40, "corrupt")
    # What of a segment that breaks off can be decoded is heard.
    rest = kinds[4:]
    covered = sum(end - start for start, end, _ in kinds)
    assert covered == pytest.approx(kinds[-1][1])
    assert all(before[1] == after[0] for before, after in itertools.pairwise(kinds))
    assert {kind for _, _, kind in rest} >= {"short", "silent"}


async def test_joints_sound_as_in_the_undivided_stream(server: TreeServer, tmp_path: Path) -> None:
    times = np.arange(40 * SOUND_RATE) / SOUND_RATE
    sound = 0.1 * np.sin(2 * np.pi * 1000 * times) + np.random.default_rng(1).normal(0, 0.02, len(times))
    contents = undivided(sound, tmp_path)[:4]
    folder = server.folder(PLACE, EPOCH)
    frames = [round(len(decode(each, None, SOUND_RATE).samples) / 1024) for each in contents]
    for content, count in zip(contents, frames, strict=True):
        folder.add(content, count * 1024 / SOUND_RATE)
    whole = decode(b"".join(contents), None, SOUND_RATE).samples
    found = await take(LiveTree(tree(server), None, QUICK, clock=lambda: FIRST + 100).found(), len(contents))
    heard = np.concatenate([each.samples for each in found if isinstance(each, Piece)])
    assert np.array_equal(heard, whole)
    # By itself the first frame of a segment fades in.
    alone = decode(contents[1], None, SOUND_RATE).samples
    assert np.abs(alone - whole[frames[0] * 1024 :][: len(alone)]).max() > 0.05


async def test_a_late_segment_is_waited_for(server: TreeServer) -> None:
    folder = server.folder(PLACE, EPOCH)
    folder.add(segment(10))
    late = folder.add(None)
    folder.add(segment(10))
    patience = Patience(delay=0, late=1000, poll=0.05)
    live = LiveTree(tree(server), None, patience, clock=lambda: FIRST + 40).found()
    assert told(await anext_of(live, 1)) == [(0, 10, "piece")]
    async with anyio.create_task_group() as group:

        async def upload() -> None:
            await anyio.sleep(0.3)
            folder.contents[late] = segment(10)

        group.start_soon(upload)
        assert told(await anext_of(live, 2)) == [(10, 20, "piece"), (20, 30, "piece")]
    await live.aclose()


async def test_a_restart_finishes_the_folder_and_names_the_gap(server: TreeServer) -> None:
    old = server.folder(PLACE, EPOCH)
    old.add(segment(10))
    live = LiveTree(tree(server), None, QUICK, clock=lambda: FIRST + 60).found()
    assert told(await anext_of(live, 1)) == [(0, 10, "piece")]
    # The last segment of the old folder came in the same moment as the new folder.
    old.add(segment(10))
    server.folder(PLACE, EPOCH + 40).add(segment(10))
    found = await anext_of(live, 3)
    assert told(found) == [(10, 20, "piece"), (20, 40, "restart"), (40, 50, "piece")]
    assert [each.folder for each in found] == [str(EPOCH), str(EPOCH + 40), str(EPOCH + 40)]
    await live.aclose()


async def test_an_outage_loses_nothing_that_the_server_still_has(server: TreeServer) -> None:
    folder = server.folder(PLACE, EPOCH)
    folder.add(segment(10))
    live = LiveTree(tree(server), None, QUICK, clock=lambda: FIRST + 100).found()
    await anext_of(live, 1)
    server.down = 6
    folder.add(segment(10))
    folder.add(segment(10))
    assert told(await anext_of(live, 2)) == [(10, 20, "piece"), (20, 30, "piece")]
    assert server.down == 0
    await live.aclose()


async def test_a_stopped_place_goes_on_where_it_was_through_all_folders(server: TreeServer) -> None:
    for start in (0, 30, 60):
        folder = server.folder(PLACE, EPOCH + start)
        folder.add(segment(10))
        folder.add(segment(10))
    resume = Position(FIRST + 14, str(EPOCH))
    found = await take(LiveTree(tree(server), resume, QUICK, clock=lambda: FIRST + 100).found(), 7)
    assert told(found) == [
        (14, 20, "piece"), (20, 30, "restart"), (30, 40, "piece"), (40, 50, "piece"), (50, 60, "restart"),
        (60, 70, "piece"), (70, 80, "piece"),
    ]  # fmt: skip
    server.lists = False
    found = await take(LiveTree(tree(server), resume, QUICK, clock=lambda: FIRST + 100).found(), 3)
    assert told(found) == [(14, 20, "piece"), (20, 60, "restart"), (60, 70, "piece")]


async def test_a_clock_that_is_behind_does_not_stop_a_place(server: TreeServer) -> None:
    folder = server.folder(PLACE, EPOCH)
    for _ in range(3):
        folder.add(segment(10))
    live = LiveTree(tree(server), None, QUICK, clock=lambda: FIRST - 86_400)
    assert told(await take(live.found(), 2)) == [(0, 10, "piece"), (10, 20, "piece")]


async def test_a_wrong_latest_is_tried_again(server: TreeServer) -> None:
    server.folder(PLACE, EPOCH).add(segment(10))
    server.latest[PLACE] = "<html>"
    live = LiveTree(tree(server), None, QUICK, clock=lambda: FIRST + 20)
    found: list[Found] = []
    async with anyio.create_task_group() as group:

        async def mend() -> None:
            await anyio.sleep(0.3)
            assert "latest.txt" in live.state
            server.latest.clear()

        group.start_soon(mend)
        found = await take(live.found(), 1)
    assert told(found) == [(0, 10, "piece")]


async def test_a_date_range_is_covered_exactly(server: TreeServer) -> None:
    for start in (0, 60):
        folder = server.folder(PLACE, EPOCH + start)
        for number in range(4):
            folder.add(None if (start, number) == (60, 1) else segment(10))
    source = DateRangeTree(tree(server), FIRST + 5, FIRST + 115)
    found = await read(source, 100)
    assert told(found) == [
        (5, 10, "piece"), (10, 20, "piece"), (20, 30, "piece"), (30, 40, "piece"), (40, 60, "restart"),
        (60, 70, "piece"), (70, 80, "not_found"), (80, 90, "piece"), (90, 100, "piece"), (100, 115, "absent"),
    ]  # fmt: skip
    assert len(found[0].samples) == pytest.approx(5 * SOUND_RATE, abs=0.1 * SOUND_RATE)  # type: ignore[union-attr]


async def test_a_date_range_without_recordings_is_absent(server: TreeServer) -> None:
    server.folder("other", EPOCH)
    source = DateRangeTree(tree(server), FIRST, FIRST + 60)
    assert told(await read(source, 100)) == [(0, 60, "absent")]


async def test_a_range_ends_inside_a_segment(server: TreeServer) -> None:
    server.folder(PLACE, EPOCH).add(segment(10))
    source = DateRangeTree(tree(server), FIRST + 2, FIRST + 6)
    [piece] = await read(source, 100)
    assert isinstance(piece, Piece)
    assert len(piece.samples) == 4 * SOUND_RATE


async def test_a_broadcast_that_breaks_off_leaves_a_gap() -> None:
    now = [1000.0]
    sound = np.random.default_rng(1).normal(0, 0.1, 12 * SOUND_RATE).astype(np.float32)
    mp3 = encode([sound], SOUND_RATE, "libmp3lame", "mp3")
    with broadcasting() as radio:
        radio.broadcasts["/live"] = [mp3, mp3]

        def pass_time(path: str) -> None:
            now[0] += 100

        radio.on_request = pass_time
        source = Broadcast(radio.url("/live"), private=True, clock=lambda: now[0])
        found = await read(source, 5)
    gaps = [each for each in found if isinstance(each, Missing)]
    assert [each.reason for each in gaps] == ["unreachable"]
    assert 80 < gaps[0].seconds < 100
    assert all(before.end == pytest.approx(after.start) for before, after in itertools.pairwise(found))


async def test_files_have_the_times_of_their_names(tmp_path: Path) -> None:
    sound = Audio(np.full(12 * SOUND_RATE, 0.1, np.float32), SOUND_RATE)
    for name in ("bay_2026_11_30_06_00_12_PST.wav", "bay_2026_11_30_06_00_00_PST.wav"):
        (tmp_path / name).write_bytes(wav(sound))
    (tmp_path / "notes.txt").write_text("no audio")
    (tmp_path / "bad_2026_11_30_07_00_00_PST.wav").write_bytes(b"RIFF")
    found = await read(Recordings([tmp_path]), 6)
    begun = 1_796_047_200.0
    assert found[0].start == begun and found[3].start == begun + 12
    assert all(before.end == pytest.approx(after.start) for before, after in itertools.pairwise(found))
    assert found[-1].end == pytest.approx(begun + 24)
    with pytest.raises(BadInput, match="nowhere"):
        Recordings([tmp_path / "nowhere"])


@pytest.mark.parametrize(
    ("name", "hours"),
    [("a_2026_07_01_05_00_00_PDT.wav", 12), ("a_2026_07_01_05_00_00.wav", 12), ("a-2026-07-01T12-00-00_UTC.flac", 12),
     ("rpi_orcasound_lab_2026_07_01_04_00_00_PST.wav", 12)],
)  # fmt: skip
def test_the_zone_of_a_named_time(tmp_path: Path, name: str, hours: int) -> None:
    (tmp_path / name).touch()
    assert started(tmp_path / name) == 1_782_864_000 + hours * 3600
