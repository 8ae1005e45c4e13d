"""The audit log, and API keys that must never appear in logs or responses."""

from __future__ import annotations

import base64
import logging
import stat
from pathlib import Path

import anyio
import pytest
import websockets
from websockets.asyncio.client import connect

from chatapi.observability import logs
from chatapi.settings import LogSettings
from chatapi.storage.layout import DataDirectory
from secured_server import SecuredServer, key_protocol, secured

__all__ = ["secured"]


def test_no_key_is_logged_or_returned(secured: SecuredServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "chatapi")
    client, right, wrong = secured.server.client, secured.keys["talk"], "chatapi_0badf00d_" + "SeCrEt0" * 5
    for key in (right, wrong):
        basic = base64.b64encode(f"me:{key}".encode()).decode()
        for headers in (
            {"Authorization": f"Bearer {key}"},
            {"Authorization": f"Basic {basic}"},
            {"Authorization": key},
            {"X-API-Key": key},
            {"X-Request-Id": key},
            {"Cookie": f"key={key}"},
            {"Origin": "https://evil.example", "X-API-Key": key},
            {"Host": "evil.example", "X-API-Key": key},
        ):
            for path in ("/health", f"/models?key={key}", "/v1/realtime", "/v1/audio/speech"):
                reply = client.get(path, headers=headers)
                assert key not in reply.text and key not in str(reply.headers)
        assert client.get(f"/{key}").status_code == 401
        anyio.run(_rejected_websocket, secured.server.port, key)
        secret = key.rpartition("_")[2][-20:]
        assert secret not in caplog.text and basic not in caplog.text
        assert not any(secret in str(vars(record)) for record in caplog.records)
        assert secret not in secured.log.read_text()


async def _rejected_websocket(port: int, key: str) -> None:
    with pytest.raises(websockets.InvalidStatus):
        async with connect(f"ws://127.0.0.1:{port}/metrics?key={key}", subprotocols=[key_protocol(key)]):
            pass


def test_audit_log_has_requests_and_never_content(secured: SecuredServer) -> None:
    completion = secured.server.client.post(
        "/completion", json={"prompt": "my heart aches"}, headers={"X-API-Key": secured.keys["talk"]}
    )
    other, rejected = secured.get("/conversations/c0ffee", "talk"), secured.get("/metrics", "talk")
    turn, conversation, metrics = (
        secured.audited(reply.headers["x-request-id"]) for reply in (completion, other, rejected)
    )
    assert turn["key"] == "for-talk" and turn["route"] == "/completion" and turn["method"] == "POST"
    assert turn["status"] == 200 and turn["peer"] == "127.0.0.1" and turn["seconds"] > 0
    assert (conversation["route"], conversation["status"]) == ("/conversations/{conversation}", 404)
    assert (metrics["route"], metrics["status"], metrics["key"]) == ("/metrics", 403, "for-talk")
    text = secured.log.read_text()
    assert "heart" not in text and completion.json()["conversation"] not in text and "c0ffee" not in text
    assert stat.S_IMODE(secured.log.stat().st_mode) == 0o600


def test_audit_log_is_rotated(tmp_path: Path) -> None:
    audit = logging.getLogger(logs.AUDIT)
    with logs.auditing(LogSettings(audit=True), DataDirectory(tmp_path).audit_log, largest=2000):
        for number in range(200):
            audit.info("request", extra={"key": f"key-{number}"})
    found = sorted(tmp_path.glob("audit.log*"))
    assert len(found) == 1 + logs.OLDER and all(file.stat().st_size <= 2000 for file in found)
    assert "key-199" in (tmp_path / "audit.log").read_text()
    with logs.auditing(LogSettings(), DataDirectory(tmp_path / "off").audit_log):
        audit.info("request")
    assert not (tmp_path / "off").exists()


def test_unwritable_audit_log_is_reported_and_requests_continue(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    audit = logging.getLogger(logs.AUDIT)
    (tmp_path / "file").write_text("")
    with logs.auditing(LogSettings(audit=True), DataDirectory(tmp_path / "file").audit_log):
        assert "audit.log cannot be written" in caplog.text and "log.audit = false" in caplog.text
        audit.info("request", extra={"key": "lost"})
    (tmp_path / "audit.log").mkdir()
    with logs.auditing(LogSettings(audit=True), DataDirectory(tmp_path).audit_log):
        audit.info("request", extra={"key": "kitchen"})
    assert "kitchen" in (tmp_path / "audit.log").read_text()
    assert [path.is_dir() for path in tmp_path.glob("audit.damaged-*")] == [True]


def test_audit_log_resumes_once_it_is_writable(tmp_path: Path) -> None:
    audit = logging.getLogger(logs.AUDIT)
    (tmp_path / "data").write_text("in the way")
    with logs.auditing(LogSettings(audit=True), DataDirectory(tmp_path / "data").audit_log):
        (tmp_path / "data").unlink()
        (tmp_path / "data").mkdir()
        audit.info("request", extra={"key": "kitchen"})
    assert "kitchen" in (tmp_path / "data" / "audit.log").read_text()
