"""Runtimes are told to sleep while they are loaded, and nothing of it stays behind."""

from __future__ import annotations

import os

import pytest

from chatapi.system.openmp import SLEEPING, sleeping


def test_the_environment_is_as_before_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SLEEPING:
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    with sleeping():
        assert {name: os.environ[name] for name in SLEEPING} == SLEEPING
    assert dict(os.environ) == before


def test_what_the_user_has_set_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    before = dict(os.environ)
    with sleeping():
        assert dict(os.environ) == before
