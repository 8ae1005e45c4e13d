"""Texts that crash espeak-ng are synthesized, and ordinary ones stay unchanged."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import pytest

from chatapi.system import sandbox
from chatapi.text import espeak
from chatapi.text.espeak import guarded

pytest.importorskip("piper")

T = TypeVar("T")

HOSTILE = [
    "b." * 97,
    "p.m. " * 50,
    "s'" * 75,
    "U.S.A." * 70,
    "ä." * 49,
    "б." * 61,
    "中." * 40,
    "i.e., " * 50,
    "a." * 200,
]
PIECES = [
    "b.", "p.m. ", "s'", "U.S.A.", "e.g. ", "1.", "... ", ". ", "J. R. R. ", "b.c!", "ä.", "б.", "中.", "a-", "'",
    "don't ", ",", "\n", "1.5 ", "ก.", "ا.", "(a.)", '"c."', "h'", "@a.", "#a.", "%.",
]  # fmt: skip
VOICES = ["en-us", "en-gb-x-rp", "de", "fr", "es", "pl", "it"]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:6])
@pytest.mark.parametrize("voice", ["en-us", "de"])
def test_hostile_text_has_phonemes(voice: str, text: str) -> None:
    assert any(espeak.phonemes(voice, text[:400]))


def crash_of(call: Callable[[], T]) -> T:
    """The result of a call during which a child crashes. Each try has a new child, because what an overrun destroys
    depends on the addresses of its heap: nine of ten crash.
    """
    for _ in range(10):
        sandbox.shared().close()
        before = sandbox.shared().crashes
        found = call()
        if sandbox.shared().crashes > before:
            return found
    pytest.fail("no child crashed")


def unguarded() -> None:
    with suppress(sandbox.ChildCrashed):
        sandbox.shared().call("chatapi.text.phonemizer:phonemes", "en-us", "b." * 300, None)


def test_unguarded_text_crashes_one_call() -> None:
    """When this test fails, espeak-ng is fixed, and the guard can be removed."""
    crash_of(unguarded)
    assert espeak.phonemes("en-us", "Hello.")


def test_guarded_text_does_not_crash_the_child() -> None:
    rng = random.Random(13)
    before = sandbox.shared().crashes
    for _ in range(500):
        few = rng.sample(PIECES, rng.choice([1, 1, 2, 3]))
        text = "".join(rng.choice(few) for _ in range(rng.randint(5, 300)))[:400]
        espeak.phonemes(rng.choice(VOICES), text)
    assert sandbox.shared().crashes == before


def test_text_that_crashes_despite_the_guard_is_split_into_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(espeak, "guarded", lambda text: text)
    assert crash_of(lambda: espeak.phonemes("en-us", "b." * 300)) == espeak.phonemes("en-us", " ".join("b" * 300))


@pytest.mark.parametrize(
    "text",
    [
        "At 5 p.m. in the U.S., e.g. at example.com, Dr. J. R. R. Tolkien paid $5.99.",
        "See www.example.co.uk or mail a.b@c.d.example; version 1.2.3.4 of the U.S.A. vs. the U.K.",
        "z. B. am 1. Mai, d. h. u. a. im Rahmen der Donaudampfschifffahrt.",
        "Wait... what? No.",
        "これはとても長い日本語の文章であり、単語の間に空白がないので、四十文字を超えても切ってはいけません。",
        "",
    ],
)
def test_ordinary_text_is_not_changed(text: str) -> None:
    assert guarded(text) == text


def test_only_the_dense_part_loses_its_dots() -> None:
    text = "Mr. A. Smith came at 5 p.m. today. " + "Nothing happened for a long while after that. " * 3 + "b." * 60
    assert guarded(text).startswith("Mr. A. Smith came at 5 p.m. today. ")
    assert "b." not in guarded(text)[-100:-2]


def test_unknown_voice_fails_without_a_crash() -> None:
    with pytest.raises(sandbox.CallFailed):
        espeak.phonemes("xx-nothing", "Hello.")
