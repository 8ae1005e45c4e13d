"""Signed links: for one path, for reading, for a few minutes, and only as long as their key is valid."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest

from chatapi import auth
from chatapi.auth.keyring import Keyring
from chatapi.auth.scopes import ANYBODY, SETTINGS
from chatapi.auth.signed_links import LINK_SECONDS
from chatapi.errors import Unauthorized

PATH = "/jobs/j0/audio"


def query_of(url: str) -> Mapping[str, str]:
    return dict(parse_qsl(urlsplit(url).query))


class Clock:
    """Seconds since 1970, as the test sets them."""

    def __init__(self) -> None:
        self.seconds = 1.8e9

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def ring(data: Path, clock: Clock, own: str | None = None) -> Keyring:
    return Keyring(data, own, now=clock)


def test_link_acts_for_its_key_with_the_scopes_that_it_has(tmp_path: Path, clock: Clock) -> None:
    key = auth.add(tmp_path, "kitchen", ["transcribe"])
    keyring = ring(tmp_path, clock)
    maker = keyring.authenticate([key.encode()], "-")
    url, expires = keyring.links.create(maker, PATH)
    assert urlsplit(url).path == PATH and expires == clock.seconds + LINK_SECONDS
    for method in ("GET", "HEAD"):
        assert keyring.follow_link(method, PATH, query_of(url)) == maker


def test_link_is_for_reading_one_path_until_it_expires(tmp_path: Path, clock: Clock) -> None:
    keyring = ring(tmp_path, clock, "sesame")
    query = query_of(keyring.links.create(SETTINGS, PATH)[0])
    for method, path in (("POST", PATH), ("DELETE", PATH), ("GET", "/jobs/j1/audio"), ("GET", "/jobs/j0/result")):
        assert keyring.follow_link(method, path, query) is None
    later = str(int(query["expires"]) + 1)
    for wrong in (
        {"expires": later},
        {"holder": "0123abcd"},
        {"signature": "0" * 64},
        {"signature": "ä"},
        {"signature": ""},
    ):
        assert keyring.follow_link("GET", PATH, {**query, **wrong}) is None
    assert keyring.follow_link("GET", PATH, {}) is None
    clock.seconds += LINK_SECONDS - 1
    assert keyring.follow_link("GET", PATH, query) is SETTINGS
    clock.seconds += 1
    with pytest.raises(Unauthorized, match="has expired"):
        keyring.follow_link("GET", PATH, query)


def test_link_ends_with_its_key_and_with_the_server(tmp_path: Path, clock: Clock) -> None:
    key = auth.add(tmp_path, "kitchen", ["transcribe"])
    keyring = ring(tmp_path, clock)
    query = query_of(keyring.links.create(keyring.authenticate([key.encode()], "-"), PATH)[0])
    assert keyring.follow_link("GET", PATH, query) is not None
    assert ring(tmp_path, clock).follow_link("GET", PATH, query) is None
    auth.revoke(tmp_path, "kitchen")
    assert keyring.follow_link("GET", PATH, query) is None


def test_link_from_before_the_first_key_does_not_open_anything(tmp_path: Path, clock: Clock) -> None:
    keyring = ring(tmp_path, clock)
    query = query_of(keyring.links.create(ANYBODY, PATH)[0])
    auth.add(tmp_path, "kitchen", ["transcribe"])
    assert keyring.follow_link("GET", PATH, query) is None
