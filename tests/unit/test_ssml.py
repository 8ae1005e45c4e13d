"""SSML in texts for synthesis: supported or dropped, never spoken, in any chunks and however malformed."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatapi.text.normalization import normalize
from chatapi.text.speech_parts import SpeechPart, SpeechSplitter, split_text
from chatapi.text.ssml import MOST_PAUSE, MOST_PAUSES, NAMES
from conftest import RunAppliance

PARTS = [
    ('<speak>Hello <break time="1s"/> there</speak>', [SpeechPart("Hello", pause=1.0), SpeechPart("there")]),
    ("One.<break time='500ms'/>Two.", [SpeechPart("One."), SpeechPart("", pause=0.5), SpeechPart("Two.")]),
    ("One. <break/> Two.", [SpeechPart("One."), SpeechPart("", pause=0.5), SpeechPart("Two.")]),
    ("One. <BREAK STRENGTH=strong /> Two.", [SpeechPart("One."), SpeechPart("", pause=0.75), SpeechPart("Two.")]),
    ('One <break strength="none"/> two.', [SpeechPart("One   two.")]),
    ('<prosody rate="slow">One. Two.</prosody> Three.',
     [SpeechPart("One.", 0.75), SpeechPart("Two.", 0.75), SpeechPart("Three.")]),
    ('<prosody rate="+20%">One. <prosody rate="50%">Two.</prosody></prosody>',
     [SpeechPart("One.", 1.2), SpeechPart("Two.", 0.6)]),
    ('<prosody pitch="high">One.</prosody>', [SpeechPart("One.")]),
    ('<say-as interpret-as="characters">ABC</say-as>', [SpeechPart("A B C")]),
    ('<say-as interpret-as="digits">407</say-as>', [SpeechPart("4 0 7")]),
    ('<say-as interpret-as="date" format="mdy">12/25/2024</say-as>', [SpeechPart("12/25/2024")]),
    ('<sub alias="World Wide Web">WWW</sub> is old.', [SpeechPart("World Wide Web is old.")]),
    ("H<sub>2</sub>O", [SpeechPart("H2O")]),
    ('<?xml version="1.0"?><speak version="1.1" xml:lang="en-US"><voice name="a b c">Hi.</voice></speak>',
     [SpeechPart("Hi.")]),
    ('<amazon:effect name="whispered">Psst.</amazon:effect>', [SpeechPart("Psst.")]),
    ("<prosody rate=fast>Hi.</prosody", [SpeechPart("Hi.", 1.25)]),
    ('Hi. <break time="', [SpeechPart("Hi.")]),
    ('<break time="99s"/>' * 9, [SpeechPart("", pause=MOST_PAUSE)] * int(MOST_PAUSES / MOST_PAUSE)),
    ("<speak></speak>", []),
    ("if a<b", [SpeechPart("if a<b")]),
    ("<spe", [SpeechPart("<spe")]),
    ("a <speaker> b", [SpeechPart("a <speaker> b")]),
]  # fmt: skip
SPOKEN = [
    ("if a<b then c", "if a is less than b then c"),
    ("1 < 2 and 3>2", "1 is less than 2 and 3 is greater than 2"),
    ("I love you <3", "I love you"),
    ("Thanks <3!", "Thanks!"),
    ("I <3 you", "I love you"),
    ("it takes <3 minutes", "it takes under 3 minutes"),
    ("the pH is <3.", "the pH is under 3."),
    ("<think>Hm.</think> Yes.", "Hm. Yes."),
    ("<answer>four</answer>", "four"),
    ("<x:y a=\"b\" c='d'>z</x:y><br/>", "z"),
    ("Type cd <folder> now.", "Type cd folder now."),
    ("a List<String> is", "a List String is"),
    ("This is ==marked== text[^1].\n\n[^1]: A note.", "This is marked text. A note."),
]


@pytest.mark.parametrize(("text", "parts"), PARTS)
def test_tags_are_applied_or_dropped(text: str, parts: list[SpeechPart]) -> None:
    assert split_text(text) == parts
    splitter = SpeechSplitter()
    assert [part for char in text for part in splitter.feed(char)] + splitter.finish() == parts


@pytest.mark.parametrize(("text", "spoken"), SPOKEN)
def test_signs_are_spoken_and_tags_are_not(text: str, spoken: str) -> None:
    assert normalize(text) == spoken


TAG = st.sampled_from(
    [f"{start}{name}{end}" for name in NAMES for start in ("<", "</") for end in (">", "/>", " a='b'>", "")]
)


@settings(max_examples=200, deadline=None)
@given(st.lists(TAG | st.text("<>/ab1 .'\"=-", max_size=8), max_size=12))
def test_malformed_tags_never_fail(pieces: list[str]) -> None:
    text = "".join(pieces)
    splitter = SpeechSplitter()
    assert [part for char in text for part in splitter.feed(char)] + splitter.finish() == split_text(text)


@pytest.mark.parametrize("text", ["<speak>", "<", "<prosody rate='fast'>", "</", "<break ", "<a b=c ", "<3 "])
def test_time_grows_with_the_length_of_the_text(text: str) -> None:
    since = time.process_time()
    for part in split_text(text * 10_000):
        normalize(part.text)
    normalize(text * 10_000)
    assert time.process_time() - since < 30


@pytest.mark.anyio
async def test_pauses_and_rates_are_heard(fake_appliance: RunAppliance) -> None:
    async with fake_appliance() as appliance:
        synthesis = appliance.synthesis
        rate = synthesis.voice(None).rate

        async def seconds(text: str) -> float:
            chunks = [chunk async for chunk in synthesis.synthesize_text(text)]
            return sum(len(chunk.samples) for chunk in chunks) / rate

        plain = await seconds("One two.")
        assert await seconds('One <break time="1s"/> two.') == pytest.approx(plain + 1, abs=0.01)
        assert await seconds('<prosody rate="50%">One two.</prosody>') == pytest.approx(2 * plain, rel=0.01)
        assert await seconds("<speak></speak>") == pytest.approx(0.2)
        chunks = [chunk async for chunk in synthesis.synthesize_text('<speak><break time="2s"/></speak>')]
        assert not any(np.any(chunk.samples) for chunk in chunks)
