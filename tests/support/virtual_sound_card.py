"""A virtual sound card without hardware, which the bench uses too, as a fixture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from chatapi.bench import sound_card as bench
from chatapi.bench.sound_card import FEED, MICROPHONE, SPEAKER, SPEAKER_RATE, SoundCard

__all__ = ["FEED", "MICROPHONE", "SPEAKER", "SPEAKER_RATE", "SoundCard", "sound_card"]


@pytest.fixture
def sound_card(tmp_path: Path) -> Iterator[SoundCard]:
    """A sound card with microphone and speaker; skips the test when PulseAudio is not installed."""
    if not bench.installed():
        pytest.skip(bench.INSTALL)
    with bench.sound_card(tmp_path / "sound-card") as made:
        yield made
