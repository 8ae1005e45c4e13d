"""Monitors over HTTP: places added and paused, states and spectra as events, coverage, detections and their moderation,
mutes, and what a restart keeps."""

from __future__ import annotations

import base64
import io
import json
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from chatapi.audio.decode import decode
from chatapi.auth import key_store
from chatapi.services.stream_monitoring import spectrum
from chatapi.services.stream_monitoring.monitored_place import COLUMNS_PER_SECOND
from chatapi.settings import Settings
from conftest import TIMEOUT, RunningServer, serving
from hls_tree_server import TreeServer, segment, serving_trees

PLACE = "rpi_orcasound_lab"
EPOCH = 1_606_723_198
"""Two seconds before 2020-11-30 00:00 US/Pacific."""
START = EPOCH + 2.0
LOUD, QUIET = segment(10, 3000, 0.3), segment(10, 0, 0.0005)
OTHER = segment(10, 700, 0.3)


@pytest.fixture
def trees() -> Iterator[TreeServer]:
    with serving_trees() as served:
        yield served


@pytest.fixture
def make_server(fake_settings: Callable[..., Settings]) -> Callable[..., Any]:
    def make(*more: str) -> Any:
        words = ("monitoring.private_urls=true", "sound_detector.engine=fake", *more)
        return serving(fake_settings(*words))

    return make


def past(trees: TreeServer, **more: object) -> dict[str, object]:
    """Two minutes of the past."""
    return {
        "hls_hydrophone_id": PLACE, "hls_stream_type": "DateRangeHLS", "hls_base_url": trees.base,
        "hls_start_time_pst": "2020-11-30 00:00", "hls_end_time_pst": "2020-11-30 00:02",
        "inference_segment_size": 20, **more,
    }  # fmt: skip


def live(trees: TreeServer, place: str = PLACE) -> dict[str, object]:
    return {
        "hls_hydrophone_id": place, "hls_stream_type": "LiveHLS", "hls_base_url": trees.base,
        "inference_segment_size": 10, "hls_live_delay_buffer": 0,
    }  # fmt: skip


def fill(trees: TreeServer, *contents: bytes | None) -> None:
    folder = trees.folder(PLACE, EPOCH)
    for each in contents:
        folder.add(each)


def waited(client: httpx.Client, path: str, condition: Callable[[Any], bool]) -> Any:
    """The document at a path, once the condition is true."""
    until = time.monotonic() + TIMEOUT
    while True:
        answer = client.get(path)
        if answer.status_code == 200 and condition(answer.json()):
            return answer.json()
        assert time.monotonic() < until, answer.text
        time.sleep(0.05)


def ended(server: RunningServer) -> Any:
    return waited(server.client, f"/monitors/{PLACE}", lambda found: found["state"] == "ended")


def stored(server: RunningServer, count: int) -> list[dict[str, Any]]:
    """The detections, once all are stored."""
    found = waited(
        server.client,
        "/detections",
        lambda given: len(given["detections"]) == count and all(each["stored"] for each in given["detections"]),
    )
    detections: list[dict[str, Any]] = found["detections"]
    return detections


def unpacked(archive: bytes) -> dict[str, bytes]:
    """Name -> content of the files of a tar archive."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        return {each.name: opened.extractfile(each).read() for each in opened}  # type: ignore[union-attr]  # all are files


@contextmanager
def events(server: RunningServer) -> Iterator[Iterator[tuple[str, Any]]]:
    with httpx.stream("GET", f"{server.url}/monitors/all/events", timeout=TIMEOUT) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")

        def parsed() -> Iterator[tuple[str, Any]]:
            name = ""
            for line in answer.iter_lines():
                if line.startswith("event: "):
                    name = line[7:]
                elif line.startswith("data: "):
                    yield name, json.loads(line[6:])

        yield parsed()


def test_a_recording_is_monitored_and_its_detections_can_be_heard(
    make_server: Callable[..., Any], trees: TreeServer
) -> None:
    fill(trees, *[QUIET] * 4, LOUD, *[QUIET] * 3, None, *[QUIET] * 3)
    with make_server() as server:
        assert server.client.get("/monitors").json() == {
            "monitors": [],
            "ignored": [],
            "faults": [],
            "waiting": 0,
            "fault": "",
        }
        assert server.client.get("/detections").json() == {"detections": [], "next": None, "counts": {}}
        answer = server.client.post("/monitors", json=past(trees, mystery=1))
        assert answer.status_code == 201 and answer.headers["location"] == f"/monitors/{PLACE}"
        assert answer.json()["ignored"] == ["mystery is not known"]
        found = ended(server)
        assert found["name"] == "Orcasound Lab" and found["origin"] == "client" and found["live"] is False
        assert found["heard_seconds"] == pytest.approx(110, abs=0.2)
        assert found["missing_seconds"] == {"not_found": pytest.approx(10, abs=0.01)}
        assert found["detections"] == 1 and found["scored_until"] == pytest.approx(START + 120, abs=0.1)
        [detection] = stored(server, 1)
        assert detection["start"] == pytest.approx(START + 40, abs=0.1) and detection["seconds"] == 20
        assert (detection["model"], detection["state"], detection["mute"]) == ("fake", "unreviewed", "")
        path = f"/detections/{detection['id']}"
        assert server.client.get(path).json() == detection
        sound = server.client.get(f"{path}/audio")
        assert sound.headers["content-type"] == "audio/wav" and decode(sound.content).seconds == 20
        picture = server.client.get(f"{path}/spectrogram")
        assert picture.headers["content-type"] == "image/png" and picture.content.startswith(b"\x89PNG")
        assert server.client.get(f"{path}/record").json()["id"] == detection["id"]
        lines = server.client.get("/metrics").text.splitlines()
        assert f'chatapi_monitor_heard_seconds_total{{place="{PLACE}"}} 110.0' in lines
        assert f'chatapi_monitor_missing_seconds_total{{place="{PLACE}",reason="not_found"}} 10.0' in lines
        assert f'chatapi_monitor_detections_total{{place="{PLACE}"}} 1.0' in lines
        assert f'chatapi_monitor_audio{{place="{PLACE}"}} 1.0' in lines
        assert "chatapi_monitor_waiting_detections 0.0" in lines
        covered = server.client.get(f"/monitors/{PLACE}/coverage?from={START}&to={START + 120}").json()
        assert covered["heard_seconds"] == pytest.approx(110, abs=0.2)
        assert covered["missing_seconds"] == {"not_found": pytest.approx(10, abs=0.01)}
        assert covered["unmonitored_seconds"] == 0 and len(covered["gaps"]) == 1
        assert sum(each["end"] - each["start"] for each in covered["stretches"]) == pytest.approx(120)


def test_events_begin_with_everything_and_have_spectra(make_server: Callable[..., Any], trees: TreeServer) -> None:
    fill(trees, *[QUIET] * 4, LOUD, *[QUIET] * 7)
    with make_server() as server, events(server) as stream:
        assert next(stream) == ("monitors", {"monitors": [], "ignored": [], "faults": [], "waiting": 0, "fault": ""})
        server.client.post("/monitors", json=past(trees))
        seen: list[tuple[str, Any]] = []
        for name, data in stream:
            seen.append((name, data))
            if name == "monitor" and data["state"] == "ended":
                break
        states = [data["state"] for name, data in seen if name == "monitor"]
        assert states[0] == "starting" and "live" in states
        spectra = [data for name, data in seen if name == "spectrum"]
        assert [round(each["start"] - START) for each in spectra] == list(range(0, 120, 10))
        levels = [base64.b64decode(each["levels"]) for each in spectra]
        assert {len(each) for each in levels} == {10 * COLUMNS_PER_SECOND * spectrum.BANDS}
        columns = [each[20 * spectrum.BANDS : 21 * spectrum.BANDS] for each in levels]
        band = columns[4].index(max(columns[4]))
        assert spectrum.band_hertz()[band] == pytest.approx(3000, rel=0.05)
        assert columns[4][band] > columns[3][band] + 50
        with events(server) as late:
            assert next(late)[1]["monitors"][0]["state"] == "ended"
            assert next(late) == ("spectrum", spectra[0])


def test_a_moderation_round_reaches_the_record_and_the_training_set(
    make_server: Callable[..., Any], trees: TreeServer, data: Path
) -> None:
    fill(trees, LOUD, QUIET, LOUD, QUIET, LOUD, *[QUIET] * 7)
    with make_server() as server:
        server.client.post("/monitors", json=past(trees))
        ended(server)
        newest, middle, oldest = stored(server, 3)
        assert newest["start"] > middle["start"] > oldest["start"]
        for each, state, tags in ((oldest, "positive", ["s1", "J pod"]), (middle, "negative", ["boat"])):
            answer = server.client.patch(f"/detections/{each['id']}", json={"state": state, "tags": tags})
            assert answer.status_code == 200 and answer.json()["state"] == state and answer.json()["tags"] == tags
        again = server.client.patch(f"/detections/{middle['id']}", json={"comments": "a winch"}).json()
        assert (again["state"], again["tags"], again["comments"]) == ("negative", ["boat"], "a winch")
        listed = server.client.get("/detections?state=negative").json()
        assert [each["id"] for each in listed["detections"]] == [middle["id"]]
        assert listed["counts"] == {"positive": 1, "negative": 1, "unreviewed": 1}
        page = server.client.get("/detections?limit=2").json()
        rest = server.client.get(f"/detections?limit=2&before={page['next']}").json()
        assert [each["id"] for each in (*page["detections"], *rest["detections"])] == [
            newest["id"], middle["id"], oldest["id"],
        ]  # fmt: skip
        assert rest["next"] is None
        record = waited(server.client, f"/detections/{middle['id']}/record", lambda found: found["reviewed"])
        assert record["SRKWFound"] == "no" and record["tags"] == "boat" and record["comments"] == "a winch"
        assert record["moderator"] and record["dateModerated"].endswith("Z")
        files = unpacked(server.client.get("/detections/export").content)
        names = list(files)
        assert names == [f"wav/{oldest['name']}.wav", f"wav/{middle['name']}.wav", "detections.jsonl", "detections.tsv"]
        assert decode(files[names[0]]).seconds == 20
        rows = [json.loads(line) for line in files["detections.jsonl"].decode().splitlines()]
        assert [(row["state"], row["tags"]) for row in rows] == [("positive", ["s1", "J pod"]), ("negative", ["boat"])]
        assert rows[0]["windows"] and rows[0]["windows"][0]["confidence"] == pytest.approx(0.9)
        for wrong in ({"state": "maybe"}, {"tags": ["a;b"]}, {"tags": ["x"] * 21}, {"unknown": 1}):
            assert server.client.patch(f"/detections/{middle['id']}", json=wrong).status_code in (400, 422)
    stored_record = data / "monitoring" / "detections" / "metadata" / f"{middle['name']}.json"
    assert json.loads(stored_record.read_text())["SRKWFound"] == "no"


def test_a_rejected_kind_of_sound_is_muted_and_heard_again(make_server: Callable[..., Any], trees: TreeServer) -> None:
    fill(trees, QUIET, LOUD, *[QUIET] * 10)
    with make_server() as server:
        server.client.post("/monitors", json=past(trees))
        ended(server)
        [first] = stored(server, 1)
        body = {"detection": first["id"]}
        answer = server.client.post("/mutes", json=body)
        assert answer.status_code == 409 and answer.json()["code"] == "not_rejected"
        server.client.patch(f"/detections/{first['id']}", json={"state": "negative"})
        mute = server.client.post("/mutes", json=body)
        assert mute.status_code == 201 and mute.json()["place"] == PLACE
        assert server.client.post("/mutes", json=body).json()["code"] == "already_muted"
        # The same squeak at 40 s, another sound at 60 s, and both in the clip at 80 s.
        trees.places[PLACE][str(EPOCH)].contents |= {
            "live2.ts": QUIET, "live4.ts": LOUD, "live6.ts": OTHER, "live8.ts": LOUD, "live9.ts": OTHER,
        }  # fmt: skip
        server.client.post(f"/monitors/{PLACE}/resume")
        ended(server)
        # The first clip was judged again and stays what it was.
        found = waited(server.client, f"/monitors/{PLACE}", lambda given: given["muted"] == 2)
        assert found["detections"] == 3
        heard = [round(each["start"] - START) for each in stored(server, 3)]
        assert heard == [80, 60, 0]
        muted = server.client.get("/detections?muted=true").json()["detections"]
        assert [round(each["start"] - START) for each in muted] == [40]
        assert muted[0]["mute"] == mute.json()["id"]
        answer = server.client.get(f"/detections/{muted[0]['id']}/audio")
        assert answer.status_code == 404 and answer.json()["code"] == "clip_not_kept"
        [listed] = server.client.get("/mutes").json()["mutes"]
        assert listed["muted"] == 1 and listed["last"] == pytest.approx(START + 40, abs=0.1)
        assert server.client.delete(f"/mutes/{listed['id']}").status_code == 204
        assert server.client.delete(f"/mutes/{listed['id']}").status_code == 404
        assert server.client.get("/mutes").json() == {"mutes": []}


def test_monitors_go_on_after_a_restart_and_paused_ones_stay_paused(
    make_server: Callable[..., Any], trees: TreeServer
) -> None:
    for place in (PLACE, "rpi_bush_point"):
        folder = trees.folder(place, time.time() - 102)
        for _ in range(10):
            folder.add(LOUD)
    with make_server() as server:
        for place in (PLACE, "rpi_bush_point"):
            assert server.client.post("/monitors", json=live(trees, place)).status_code == 201
        waited(server.client, f"/monitors/{PLACE}", lambda found: found["detections"] >= 1)
        paused = server.client.post("/monitors/rpi_bush_point/pause").json()
        assert paused["state"] == "paused"
        before = waited(server.client, f"/monitors/{PLACE}", lambda found: found["scored_until"] > START)
    with make_server() as server:
        found = waited(server.client, "/monitors", lambda given: len(given["monitors"]) == 2)
        states = {each["id"]: each["state"] for each in found["monitors"]}
        assert states["rpi_bush_point"] == "paused" and states[PLACE] in ("starting", "live")
        for _ in range(3):
            next(iter(trees.places[PLACE].values())).add(LOUD)
        waited(server.client, f"/monitors/{PLACE}", lambda given: (given["scored_until"] or 0) > before["scored_until"])
        resumed = server.client.post("/monitors/rpi_bush_point/resume").json()
        assert resumed["state"] in ("starting", "live")
        assert server.client.delete(f"/monitors/{PLACE}").status_code == 204
        assert server.client.get(f"/monitors/{PLACE}").status_code == 404
        assert server.client.get(f"/monitors/{PLACE}/coverage").status_code == 200
        covered = server.client.get(f"/monitors/{PLACE}/coverage").json()
        # The stretch from the first second that was heard to the last one has no hole.
        inner = [each["state"] for each in covered["stretches"][1:-1]]
        assert "unmonitored" not in inner and "missing" not in inner


def test_a_file_that_changes_is_read_again_and_the_clip_in_progress_is_not_lost(
    make_server: Callable[..., Any], trees: TreeServer, tmp_path: Path
) -> None:
    # The server's clock is ahead, so that all but the last segment counts as complete.
    folder = trees.folder(PLACE, time.time() + 1000)
    for _ in range(4):
        folder.add(LOUD)
    text = (
        "orchestrator_config: {{hls_stream_type: LiveHLS, hls_live_delay_buffer: 0, hls_base_url: '{base}',"
        " inference_segment_size: {seconds}}}\nlocation_config: [{{location_id: {place}}}{more}]\n"
    )
    config = tmp_path / "places.yml"
    config.write_text(text.format(base=trees.base, seconds=20, place=PLACE, more=""))
    with make_server(f"monitoring.configs={config}") as server:
        path = f"/monitors/{PLACE}"
        first = waited(server.client, path, lambda found: found["scored_seconds"] == 20 and found["heard_seconds"] > 25)
        assert first["origin"] == "file"
        answer = server.client.delete(path)
        assert (answer.status_code, answer.json()["code"]) == (409, "monitor_of_file")
        # Ten seconds of a clip are there, when the length of the next clips and a second place come.
        config.write_text(text.format(base=trees.base, seconds=10, place=PLACE, more=", {location_id: rpi_sunset_bay}"))
        waited(server.client, "/monitors", lambda found: len(found["monitors"]) == 2)
        assert server.client.get(path).json()["clip_seconds"] == 10
        for _ in range(3):
            folder.add(LOUD)
        waited(server.client, path, lambda found: found["scored_seconds"] == 60)
        begun = first["scored_until"] - 20
        clips = [(round(each["start"] - begun), each["seconds"]) for each in stored(server, 4)]
        assert clips == [(50, 10), (40, 10), (20, 20), (0, 20)]
        config.write_text("location_config: [")
        found = waited(server.client, "/monitors", lambda given: given["faults"])
        assert "no YAML" in found["faults"][0] and len(found["monitors"]) == 2
        config.write_text(text.format(base=trees.base, seconds=10, place="rpi_sunset_bay", more=""))
        waited(
            server.client, "/monitors", lambda given: [each["id"] for each in given["monitors"]] == ["rpi_sunset_bay"]
        )
        assert server.client.get("/monitors").json()["faults"] == []


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"hls_hydrophone_id": "a", "hls_stream_type": "Other"}, 400, "bad_monitor_config"),
        ({"hls_hydrophone_id": "a", "source_files": "/etc"}, 400, "bad_monitor_config"),
        ({"hls_hydrophone_id": "a", "source_url": "http://127.0.0.1/x"}, 422, "url_not_public"),
        ({"hls_hydrophone_id": "a", "source_url": "file:///etc/passwd"}, 422, "invalid_url"),
        ({"orchestrator_config": {}, "location_config": [{"hls_hydrophone_id": "a"}] * 2}, 400, "bad_monitor_config"),
    ],
)
def test_what_cannot_be_monitored_is_rejected_by_name(
    shared_server: RunningServer, body: dict[str, object], status: int, code: str
) -> None:
    answer = shared_server.client.post("/monitors", json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert shared_server.client.get("/monitors").json()["monitors"] == []


def test_yaml_is_understood_and_aliases_are_not(make_server: Callable[..., Any], trees: TreeServer) -> None:
    text = (
        f"orchestrator_config: {{hls_stream_type: LiveHLS, hls_base_url: '{trees.base}'}}\n"
        "location_config:\n  - {location_id: rpi_bush_point}\n  - {location_id: rpi_sunset_bay}\n"
    )
    headers = {"content-type": "application/yaml"}
    with make_server("monitoring.monitors=2") as server:
        answer = server.client.post("/monitors", content="a: &a [1]\nb: *a\n", headers=headers)
        assert answer.status_code == 400 and "aliases" in answer.json()["detail"]
        answer = server.client.post("/monitors", content=text, headers=headers)
        assert answer.status_code == 201
        assert [each["id"] for each in answer.json()["monitors"]] == ["rpi_bush_point", "rpi_sunset_bay"]
        again = server.client.post("/monitors", content=text, headers=headers)
        assert (again.status_code, again.json()["code"]) == (409, "monitor_exists")
        more = server.client.post("/monitors", json=live(trees))
        assert (more.status_code, more.json()["code"]) == (503, "too_many_monitors")


def test_keys_need_the_scope_moderate(make_server: Callable[..., Any], trees: TreeServer, data: Path) -> None:
    with make_server() as server:
        keys = {scope: key_store.add(data, scope, [scope]) for scope in ("talk", "operate", "moderate")}
        head = {scope: {"authorization": f"Bearer {key}"} for scope, key in keys.items()}
        seen = {scope: server.client.get("/monitors", headers=head[scope]).status_code for scope in keys}
        assert seen == {"talk": 403, "operate": 200, "moderate": 200}
        made = {
            scope: server.client.post("/monitors", json=live(trees), headers=head[scope]).status_code for scope in keys
        }
        assert made == {"talk": 403, "operate": 403, "moderate": 201}
