"""Which transcripts count as a command that is understood, and which clips of the corpus are fair."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from chatapi.bench import corpus
from chatapi.bench.commands import is_fair, understood
from chatapi.bench.corpus import ShortCommand
from paths import CORPUS


@pytest.mark.parametrize(
    ("text", "transcript", "right"),
    [
        ("Two.", "2", True),
        ("Two.", "to", True),
        ("Weather.", "Whether?", True),
        ("Good night.", "Goodnight.", True),
        ("Goodbye.", "Good bye!", True),
        ("Two.", "10.", False),
        ("Lights on.", "Light on.", False),
        ("Stop.", "", False),
        ("Stop.", "Stop it.", False),
    ],
)
def test_command_is_understood_up_to_homophones_and_spaces(text: str, transcript: str, right: bool) -> None:
    assert understood(text, transcript) is right


@pytest.mark.parametrize(
    ("judged", "fair"),
    [(("Stop.", "Stop", "up"), True), (("Stop.", "Top", "up"), False), (("", "", ""), False), ((), False)],
)
def test_command_that_two_of_three_recognizers_understand_is_fair(judged: tuple[str, ...], fair: bool) -> None:
    clip = ShortCommand(np.zeros(1, np.float32), "Stop.", "voice", True, "tune", judged)
    assert is_fair(clip) is fair
    assert not is_fair(dataclasses.replace(clip, text="Go."))


def test_clear_voices_were_chosen_by_half_of_their_words() -> None:
    clear = [clip for clip in corpus.commands(CORPUS) if clip.clear]
    voices = {clip.voice for clip in clear}
    assert len(voices) >= 8
    for voice in voices:
        chosen_by = [clip for clip in clear if clip.voice == voice and clip.split == "tune"]
        assert len({clip.text for clip in clear if clip.voice == voice}) >= 12
        # Ten of twelve; the recorded person says eight of fifteen.
        assert sum(map(is_fair, chosen_by)) >= len(chosen_by) * 10 / 12
