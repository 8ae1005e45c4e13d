"""Redaction of secrets by value and by form; ordinary text stays unchanged."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from chatapi import settings
from chatapi.observability import logs, redaction
from chatapi.observability.redaction import FORMS, SECRET, of_environment, of_settings, redacted, redacted_tree
from chatapi.settings import LogSettings
from paths import ROOT

S = "hunter22"
"""The secret in the texts below."""


def pem(traditional: bool = False) -> str:
    key = rsa.generate_private_key(65537, 1024) if traditional else ec.generate_private_key(ec.SECP256R1())
    form = serialization.PrivateFormat.TraditionalOpenSSL if traditional else serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


@pytest.mark.parametrize(
    "text",
    [
        "https://ada:hunter22@example.com/x",
        "postgres://ada:pa/hunter22?x@db:5432/name",
        "redis://:hunter22@cache",
        "https://hunter22@github.com/a/b.git",
        "amqp://ada:p@hunter22@host/vhost",
        "http://proxy:hunter22@10.0.0.1:3128",
        "GET /v1/realtime?model=default&token=hunter22&x=1",
        "GET /?key=hunter22 HTTP/1.1",
        "https://a.blob.core.windows.net/c/f?sv=2022&se=2026&sig=hunter22%3D",
        "https://s3.amazonaws.com/b?X-Amz-Signature=hunter22&X-Amz-Expires=3",
        "https://host/#access_token=hunter22&state=1",
        "Authorization: Bearer hunter22",
        "authorization: Basic aHVudGVyMjI=hunter22",
        "{'Authorization': 'Bearer hunter22', 'Host': 'a'}",
        "(b'authorization', b'Bearer hunter22')",
        '"Authorization": "hunter22"',
        'Authorization: Digest username="ada", response="hunter22"',
        "Authorization: AWS4-HMAC-SHA256 Credential=AK/2026/us, Signature=hunter22",
        "Proxy-Authorization: Basic hunter22",
        "X-API-Key: hunter22",
        "x-api-key=hunter22",
        "Cookie: session=1; other=hunter22",
        "sent bearer hunter22 to it",
        "password=hunter22",
        "password: hunter22",
        'password = "two words hunter22"',
        '{"password": "hunter22"}',
        '{"body": "{\\"password\\": \\"hunter22\\"}"}',
        "{'client_secret': 'hunter22'}",
        "passphrase='hunter22'",
        "PASSWD: hunter22",
        "db_password=hunter22;",
        "api_key=hunter22",
        'apiKey: "hunter22"',
        "server.api_key=hunter22",
        "access_key: hunter22",
        "aws_secret_access_key = hunter22",
        "AccountKey=hunter22;EndpointSuffix=x",
        "HF_TOKEN=hunter22",
        "export OPENAI_API_KEY='hunter22'",
        "CHATAPI_SERVER_API_KEY=hunter22",
        "DEPLOY_KEY=hunter22",
        "token=hunter22",
        'token: "hunter22"',
        "refresh_token=hunter22",
        "github_token = hunter22",
        "chatapi serve --api-key hunter22 --set x=1",
        "['talk', '--key', 'hunter22']",
        "--password=hunter22",
        "curl -u ada:hunter22 http://host",
    ],
)
def test_secret_is_redacted_and_its_label_stays(text: str) -> None:
    found = redacted(text)
    assert S not in found and SECRET in found
    assert found.split(SECRET)[0] == text[: len(found.split(SECRET)[0])]


@pytest.mark.parametrize(
    "secret",
    [
        "sk-proj-" + "aB3" * 12,
        "sk-ant-api03-" + "aB3_-" * 8,
        "sk_live_" + "aB3" * 8,
        "hf_" + "aBcD" * 8,
        "ghp_" + "aB3" * 12,
        "github_pat_" + "aB3_" * 12,
        "glpat-" + "aB3-" * 5,
        "xoxb-1234567890-" + "aB3" * 8,
        "AKIAIOSFODNN7EXAMPLE",
        "AIza" + "aB3_-" * 7,
        "ya29." + "aB3_-" * 8,
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl-_x",
        "123456789:AA" + "aB3_-" * 7,
        "pypi-" + "aB3_-" * 10,
        "npm_" + "aB3" * 12,
        "nvapi-" + "aB3_-" * 8,
        "gsk_" + "aB3" * 12,
        "SG." + "aB3_-" * 4 + "." + "aB3_-" * 8,
        "chatapi_0badf00d_" + "aB3_-" * 8,
    ],
)
@pytest.mark.parametrize("around", ["{}", "see {}.", "key {}, and", '{{"x": "{}"}}', "(\n{}\n)"])
def test_key_of_a_known_form_is_redacted_anywhere(secret: str, around: str) -> None:
    found = redacted(around.format(secret))
    assert secret[-6:] not in found and SECRET in found
    before, after = around.format("|").split("|")
    assert found.startswith(before) and found.endswith(after)


@pytest.mark.parametrize("traditional", [False, True])
@pytest.mark.parametrize("form", ["plain", "json", "begin lost", "end lost"])
def test_private_key_is_redacted_whole_and_in_part(traditional: bool, form: str) -> None:
    block = pem(traditional)
    middle = block.splitlines()[2]
    text = {
        "plain": f"before\n{block}after",
        "json": json.dumps({"key": block, "next": "after"}),
        "begin lost": f"{block[60:]}after",
        "end lost": f"before\n{block[:-60]}",
    }[form]
    found = redacted(text)
    assert middle not in found and SECRET in found
    assert form == "end lost" or "after" in found
    if form == "json":
        assert json.loads(found)["next"] == "after"


def test_certificate_is_not_redacted() -> None:
    block = "-----BEGIN CERTIFICATE-----\nMIIB+aaaa\n-----END CERTIFICATE-----\n"
    assert redacted(block) == block


@pytest.mark.parametrize(
    "text",
    [
        "the prompt has 9000 characters; the limit is 8000",
        "chatapi ready after 3.2 s: http://127.0.0.1:8000",
        "http://[::1]:8000/v1/models?limit=20&after=x",
        "GET http://server.local:8000/path?mail=ada@example.com 200",
        "write to ada@example.com or see https://example.com/a@b",
        "max_tokens=256 prompt_tokens=12 first_token=0.31 tokens: 57",
        '{"completion_tokens": 5, "first_token": 0.31, "token": 5}',
        "unexpected token: }",
        "the next token is 17",
        "send it as `Authorization: Bearer KEY`; a browser that asks for a name takes the key as the password",
        "no bearer of bad news, a bearer certificate",
        "a password is wanted; the password is wrong",
        "server.api_key is set, server.key = /etc/ssl/key.pem",
        '{"server.api_key": {"value": "(set)", "from": "default"}}',
        "api_key=null password=None token=true secret=false",
        "password=${PASSWORD} token=$TOKEN key=%(key)s api_key: SecretStr",
        "keys kept in /var/lib/chatapi/keys.json: 3 of 4",
        "risk-adjusted sk-learn ask-me-anything-about-the-weather task-1234567890123456",
        "monkey=banana keyboard: qwerty donkey: grey",
        "the model hf_transfer is at huggingface_hub, version 0.31",
        "sha256=3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "request_id=0b1d2c3e-aaaa-bbbb-cccc-0123456789ab at 2026-11-28T16:11:01.123Z",
        "Traceback (most recent call last): File \"/opt/chatapi/auth/keyring.py\", line 77, in admit",
        "key_not_found, secret_name, token_type, password_hash",
        "author: Ada; authority: chatapi on host; authorized: yes",
        "12:34:56 info    listening on https://server.local:8443",
        "ffmpeg -i a.mp3 -u x --user-agent chatapi",
    ],
)  # fmt: skip
def test_ordinary_text_is_unchanged(text: str) -> None:
    assert redacted(text) == text


def test_documents_of_this_project_are_nearly_unchanged() -> None:
    """Only the examples of keys in the documents are redacted."""
    root = ROOT
    for name in (
        "README.md",
        "containers/monitoring/metrics.md",
        "systemd/README.md",
        "chatapi/README.md",
        "tests/README.md",
    ):
        text = (root / name).read_text()
        lines = [(a, b) for a, b in zip(text.splitlines(), redacted(text).splitlines(), strict=True) if a != b]
        assert all("key" in before.lower() or "@" in before for before, _ in lines) and len(lines) <= 4, lines


def test_known_value_is_redacted_plain_and_in_url_and_json_encoding() -> None:
    value = 'p&ss "wörd" 1'
    text = f"{value} p%26ss%20%22w%C3%B6rd%22%201 {json.dumps(value)} {json.dumps(value, ensure_ascii=False)}"
    found = redacted(text, [value])
    assert "rd" not in found and found.count(SECRET) == 4


def test_short_known_value_is_redacted_only_as_a_word() -> None:
    assert redacted("an answer: an, and (an)", ["an"]) == f"{SECRET} answer: {SECRET}, and ({SECRET})"
    assert redacted("nothing", [""]) == "nothing"


def test_secrets_are_found_in_settings_and_the_environment() -> None:
    loaded = settings.load(
        ["server.api_key=of the server", "openai_upstream.url=http://ada:of%20the%20upstream@host/v1"], environ={}
    )
    assert {"of the server", "of the upstream", "of%20the%20upstream"} <= set(of_settings(loaded.settings))
    environ = {"HF_TOKEN": "abcdefgh", "PROXY": "http://a:bcdefghi@h", "HOME": "/root", "SSH_KEY": "/root/.ssh/id"}
    assert set(of_environment(environ)) == {"abcdefgh", "bcdefghi"}


def test_value_of_a_secret_name_is_redacted_completely() -> None:
    tree = {"headers": {"X-Token": "plain words", "Host": "a"}, "count": 3, "args": ["--password", "token=abc12345"]}
    assert redacted_tree(tree) == {
        "headers": {"X-Token": SECRET, "Host": "a"}, "count": 3, "args": ["--password", f"token={SECRET}"],
    }  # fmt: skip


def test_each_form_has_a_unique_name() -> None:
    assert len({name for name, _ in FORMS}) == len(FORMS)


@pytest.mark.parametrize(
    "piece", ["sk-", "a://", "token=", "A_", "eyJ", "-----BEGIN ", "bearer ", "?key=", 'password="']
)
def test_hostile_text_is_redacted_in_linear_time(piece: str) -> None:
    def seconds(size: int) -> float:
        started = time.process_time()
        redacted(piece * (size // len(piece)))
        return time.process_time() - started

    # Quadratic time would be 64 times as long.
    assert seconds(400_000) < 30 * max(seconds(50_000), 0.005)


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield logging.getLogger("chatapi.test")
    root.handlers[:] = before
    root.setLevel(level)


@pytest.mark.parametrize("form", ["json", "human"])
def test_log_lines_contain_no_secret(
    form: str, logger: logging.Logger, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redaction, "_known", {"of the server"})
    logs.configure(LogSettings(format=form))  # type: ignore[arg-type]
    try:
        int("http://ada:hunter22@upstream with of the server")
    except ValueError:
        logger.exception("asked with %s", "Bearer hunter22", extra={"url": "/x?token=hunter22", "password": "plain"})
    logger.warning("all is well", extra={"seconds": 0.2, "model": "tiny", "nested": {"api_key": "plain"}})
    output = capsys.readouterr().err
    assert not any(word in output for word in (S, "of the server", "plain"))
    assert "upstream" in output and "all is well" in output and "tiny" in output and "0.2" in output
    if form == "json":
        lines = [json.loads(line) for line in output.splitlines()]
        assert lines[1]["seconds"] == 0.2 and "ValueError" in lines[0]["exception"]
