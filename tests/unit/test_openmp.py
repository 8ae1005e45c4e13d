"""OpenMP runtimes are configured to sleep while they load, and the environment is restored."""

from __future__ import annotations

import os

import pytest

from chatapi.system.openmp import ONE_THREAD, SLEEPING, one_thread, sleeping


def test_environment_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SLEEPING:
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    with sleeping():
        assert {name: os.environ[name] for name in SLEEPING} == SLEEPING
    assert dict(os.environ) == before


def test_one_thread_is_the_limit_only_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_THREAD_LIMIT", raising=False)
    before = dict(os.environ)
    with one_thread():
        assert dict(os.environ) == {**before, **ONE_THREAD}
    assert dict(os.environ) == before


def test_user_settings_have_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    before = dict(os.environ)
    with sleeping():
        assert dict(os.environ) == before
