"""containers/monitoring/, checked by Prometheus: every panel has data about a server under load."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import yaml
from websockets.sync.client import connect

import fake_jetson
import reading_engine
from chatapi import settings
from chatapi.audio import RATE, Audio, wav
from chatapi.engines import PromptMessage, Sampling, registry
from chatapi.engines.registry import load
from chatapi.jobs import JobRequest, JobStore
from chatapi.observability.metrics import Metrics
from chatapi.settings import MlcSettings, Settings
from conftest import FAKE_ENGINES, RunningServer, serving, tone
from fake_plugins import plug_ins_in
from hls_tree_server import TreeServer, segment, serving_trees
from mlc_model import compiled_model, mlc_llm
from paths import ROOT
from reading_engine import add_model
from realtime_client import SERVER_VAD, silence, speech, talking
from running_interface import running_jobs
from test_metrics import FakeAudioDevice

MONITORING = ROOT / "containers/monitoring"
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
PROMETHEUS, PROMTOOL = (shutil.which(name, path=PATH) for name in ("prometheus", "promtool"))
DASHBOARD: dict[str, Any] = json.loads((MONITORING / "grafana/dashboards/chatapi.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
RULES = [rule for group in yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
KEY = "the server's own key"
READING = ("llm.engine=reading", "llm.model=one")
# Nobody listens there; what is not delivered is counted.
WEBHOOK = ("webhook.url=http://127.0.0.1:9", "webhook.private=true", f"webhook.secret=whsec_{'A' * 43}=")
needs_prometheus = pytest.mark.skipif(
    PROMETHEUS is None or PROMTOOL is None, reason="Debian's prometheus is not installed: ./run.sh test installs it"
)


def configured(folder: Path, port: int) -> Path:
    """Writes the released configuration with another address and short intervals."""
    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    config["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{port}"]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    shutil.copy(MONITORING / "alerts.yml", folder)
    (folder / "chatapi.key").write_text(KEY)
    return folder / "prometheus.yml"


class PrometheusClient:
    """Queries a Prometheus."""

    def __init__(self, port: int) -> None:
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20)
        self.at: float | None = None
        """The time that queries are about, in seconds since 1970; None: now."""

    def query(self, query: str) -> list[float]:
        """The values of all series of the result, without NaN."""
        moment = {} if self.at is None else {"time": str(self.at)}
        reply = self._client.post("/api/v1/query", data={"query": query, **moment})
        assert reply.status_code == 200, f"{query}: {reply.text}"
        values = [float(series["value"][1]) for series in reply.json()["data"]["result"]]
        return [value for value in values if value == value]

    def start(self) -> None:
        """Waits until it is ready."""
        deadline = time.monotonic() + 60
        while not self._ready():
            assert time.monotonic() < deadline, "Prometheus does not start"
            time.sleep(0.05)

    def _ready(self) -> bool:
        try:
            return self._client.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def until(self, query: str, wanted: Callable[[float], bool]) -> None:
        """Waits until a scrape makes a value of the query true."""
        deadline = time.monotonic() + 60
        while not any(map(wanted, found := self.query(query))):
            assert time.monotonic() < deadline, f"{query}: {found}"
            time.sleep(0.1)

    def close(self) -> None:
        self._client.close()


@contextmanager
def prometheus(folder: Path, server: RunningServer) -> Iterator[PrometheusClient]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert PROMETHEUS is not None
    command = [PROMETHEUS, f"--config.file={configured(folder, server.port)}", f"--storage.tsdb.path={folder / 'data'}",
               f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]  # fmt: skip
    with (folder / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as running:
        client = PrometheusClient(port)
        try:
            client.start()
            client.until("chatapi_ready", lambda ready: ready == 1)
            yield client
        except AssertionError:
            print((folder / "log").read_text())
            raise
        finally:
            client.close()
            running.terminate()


WATCHING = ("monitoring.private_urls=true",)
LOUD = segment(10, 3000, 0.3)


async def talk(server: RunningServer) -> None:
    """A live conversation of one turn, through the Realtime API."""
    async with talking(server, key=KEY) as client:
        await client.detect(SERVER_VAD)
        await client.say(silence(0.2), speech(0.5), silence(0.5))
        await client.until("response.done")


def convert_voices(server: RunningServer) -> None:
    """A stored voice, a converted recording, and a live conversion."""
    clip = ("clip.wav", wav(Audio(tone(4), RATE)), "audio/wav")
    if not server.client.get("/voices").json()["voices"]:
        form = {"name": "high", "consent": "my own voice"}
        assert server.client.post("/voices", data=form, files={"clips": clip}).status_code == 201
    reply = server.client.post("/conversions", data={"voice": "high"}, files={"source": clip})
    assert reply.status_code == 200
    url = f"{server.url.replace('http', 'ws')}/conversions/live"
    with connect(url, additional_headers={"Authorization": f"Bearer {KEY}"}) as socket:
        socket.send(json.dumps({"type": "start", "voice": "high"}))
        socket.send(bytes(2 * RATE))
        socket.send(json.dumps({"type": "end"}))
        while '"done"' not in str(socket.recv()):
            pass


def watch_places(server: RunningServer, trees: TreeServer) -> None:
    """A live place with calls, and a past minute of one in which a segment is missing."""
    shared = {"hls_base_url": trees.base, "inference_segment_size": 10}
    folder = trees.folder("rpi_watched", time.time() - 60)
    # The server's clock is ahead, so that there is enough audio at once.
    for content in [LOUD] * 12:
        folder.add(content)
    live = {"hls_hydrophone_id": "rpi_watched", "hls_stream_type": "LiveHLS", "hls_live_delay_buffer": 0}
    server.client.post("/monitors", json=shared | live).raise_for_status()
    # Two seconds before 2020-11-30 00:00 US/Pacific.
    folder = trees.folder("rpi_past", 1_606_723_198)
    for content in (LOUD, LOUD, LOUD, None, LOUD, LOUD, LOUD):
        folder.add(content)
    past = {
        "hls_hydrophone_id": "rpi_past", "hls_stream_type": "DateRangeHLS",
        "hls_start_time_pst": "2020-11-30 00:00", "hls_end_time_pst": "2020-11-30 00:01",
    }  # fmt: skip
    server.client.post("/monitors", json=shared | past).raise_for_status()


def generate_traffic(server: RunningServer) -> None:
    """Text and voice in, text and voice out, a rejected request, conversions, a command, and a live turn."""
    convert_voices(server)
    audio = wav(Audio(tone(0.5), RATE))
    assert server.client.post("/commands/classify", content=audio, headers={"content-type": "audio/wav"}).is_success
    for query in ("", "?reply=voice"):
        headers = {"content-type": "audio/wav"}
        assert server.client.post(f"/completion{query}", content=audio, headers=headers).status_code == 200
    for reply in ("text", "voice"):
        body = {"prompt": "one two three four five six", "reply": reply}
        assert server.client.post("/completion", json=body).status_code == 200
    assert server.client.post("/completion", json={"prompt": " "}).status_code == 422
    anyio.run(talk, server)


@pytest.fixture(scope="module")
def mlc_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The MLC engine on its stand-in."""
    data = tmp_path_factory.mktemp("mlc")
    with mlc_llm():
        engine = load("llm", "mlc")(Settings(data=data, mlc=MlcSettings(context=512)), [compiled_model(data)])
        yield engine
        engine.close()


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An LLM with a model, which fake engines do not have."""
    with pytest.MonkeyPatch.context() as patch:
        reading_engine.install(plug_ins_in(tmp_path_factory.mktemp("plugged") / "in", patch))
        yield
    registry.reset()


@pytest.fixture(scope="module")
def prometheus_with_data(
    tmp_path_factory: pytest.TempPathFactory, mlc_engine: Any, reading: None
) -> Iterator[PrometheusClient]:
    """A Prometheus that scraped a server under load on a simulated Jetson for a while."""
    folder = tmp_path_factory.mktemp("watched")
    data = tmp_path_factory.mktemp("data") / "data"
    add_model(data, "one", "uno")
    given = [*FAKE_ENGINES, *READING, *WATCHING, f"data={data}", f"server.api_key={KEY}", *WEBHOOK]
    chosen = settings.load(given, environ={}).settings
    with closing(JobStore(data)) as store:
        store.add(JobRequest("work"))
    with serving(chosen, root=fake_jetson.board(tmp_path_factory.mktemp("jetson"))) as server:
        server.client.headers["authorization"] = f"Bearer {KEY}"
        server.appliance.microphone = FakeAudioDevice()
        server.appliance.metrics.engine_counts.source = mlc_engine.counts
        with prometheus(folder, server) as client, running_jobs(server), serving_trees() as trees:
            watch_places(server, trees)
            for watched in ("detections", "missing_seconds"):
                client.until(f"sum(chatapi_monitor_{watched}_total)", lambda seen: seen >= 1)
            for turns in (5, 10):
                generate_traffic(server)
                list(mlc_engine.generate([PromptMessage("user", "Tell me about the sea.")], Sampling(max_tokens=5)))
                client.until("sum(chatapi_turns_total)", lambda seen, turns=turns: seen >= turns)
                client.until("chatapi_live_stage_seconds_count{stage='end'}", lambda seen, n=turns / 5: seen >= n)
            # A later scrape must change nothing.
            client.at = time.time()
            yield client


@needs_prometheus
@pytest.mark.parametrize("panel", PANELS, ids=[panel["title"] for panel in PANELS])
def test_every_panel_query_returns_data(panel: dict[str, Any], prometheus_with_data: PrometheusClient) -> None:
    for target in panel["targets"]:
        query = target["expr"].replace("$__rate_interval", "1m").replace("$instance", ".*")
        assert "$" not in query
        assert prometheus_with_data.query(query), query


@needs_prometheus
@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_every_alert_uses_exported_metrics(rule: dict[str, Any], prometheus_with_data: PrometheusClient) -> None:
    for metric in set(re.findall(r"\b(?:chatapi_\w+|up)\b", rule["expr"])):
        assert prometheus_with_data.query(f"count({metric})"), metric


@needs_prometheus
def test_promtool_accepts_the_configuration_and_the_rules(tmp_path: Path) -> None:
    for name in ("prometheus.yml", "alerts.yml"):
        shutil.copy(MONITORING / name, tmp_path)
    (tmp_path / "chatapi.key").touch()
    assert PROMTOOL is not None
    checked = subprocess.run(
        [PROMTOOL, "check", "config", tmp_path / "prometheus.yml"], check=False, capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(RULES)} rules found" in checked.stdout


@needs_prometheus
def test_alerts_pass_their_unit_tests() -> None:
    assert PROMTOOL is not None
    completed = subprocess.run(
        [PROMTOOL, "test", "rules", MONITORING / "alerts_test.yml"], check=False, capture_output=True, text=True
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr


def test_every_alert_has_a_unit_test() -> None:
    cases = yaml.safe_load((MONITORING / "alerts_test.yml").read_text())["tests"]
    fired = {case["alertname"] for test in cases for case in test["alert_rule_test"] if case["exp_alerts"]}
    assert fired == {rule["alert"] for rule in RULES}
    assert all(set(rule["annotations"]) == {"summary", "description"} for rule in RULES)


# Grafana


def test_dashboard_file_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("dashboard", MONITORING / "dashboard.py")
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules["dashboard"] = made
    spec.loader.exec_module(made)
    assert made.TARGET.read_text() == made.text(), "run: python3 containers/monitoring/dashboard.py"


def test_every_metric_is_in_the_dashboard() -> None:
    queries = " ".join(target["expr"] for panel in PANELS for target in panel["targets"])
    metrics = {metric.name for metric in Metrics().registry.collect() if metric.name.startswith("chatapi_")}
    assert {name for name in metrics if name not in queries} == set()


def test_panels_do_not_overlap_and_use_the_selected_datasource() -> None:
    occupied: set[tuple[int, int]] = set()
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    for panel in DASHBOARD["panels"]:
        position = panel["gridPos"]
        cells = {(position["x"] + x, position["y"] + y) for x in range(position["w"]) for y in range(position["h"])}
        assert not cells & occupied and position["x"] + position["w"] <= 24, panel["title"]
        occupied |= cells
    assert {variable["name"] for variable in DASHBOARD["templating"]["list"]} == {"datasource", "instance"}
    assert {panel["datasource"]["uid"] for panel in PANELS} == {"${datasource}"}


def test_compose_mounts_exist_and_grafana_finds_them() -> None:
    composed = yaml.safe_load((MONITORING / "compose.yaml").read_text())
    for name, service in composed["services"].items():
        assert re.fullmatch(r"docker\.io/[\w/]+:v?\d+\.\d+\.\d+", service["image"]), name
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
        for volume in service["volumes"]:
            source = volume.partition(":")[0]
            exists = (MONITORING / source).exists() if source.startswith("./") else source in composed["volumes"]
            assert exists, volume
    inside = dict(volume.split(":")[1::-1] for volume in composed["services"]["grafana"]["volumes"] if "./" in volume)
    provisioning = MONITORING / inside["/etc/grafana/provisioning"]
    provided = yaml.safe_load((provisioning / "dashboards/chatapi.yml").read_text())["providers"][0]
    assert (MONITORING / inside[provided["options"]["path"]] / "chatapi.json").exists()
    source = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())["datasources"][0]
    command = composed["services"]["prometheus"]["command"]
    assert f"--web.listen-address={source['url'].removeprefix('http://')}" in command
    scraped = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    key = f"/etc/prometheus/{scraped['scrape_configs'][0]['authorization']['credentials_file']}"
    assert composed["services"]["prometheus"]["configs"] == [{"source": "key", "target": key}]
    assert composed["configs"].keys() == {"key"}
