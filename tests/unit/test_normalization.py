"""Text normalization: texts and their expected form, phonemes and transcripts of real voices."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import soxr
from hypothesis import given
from hypothesis import strategies as st

from chatapi.text.normalization import normalize
from chatapi.text.sentence_splitter import SentenceSplitter
from conftest import installed_model

MARKUP = [
    ("**Bold**, *italic*, __both__ and ~~not~~.", "Bold, italic, both and not."),
    ("**An unclosed start.", "An unclosed start."),
    ("a snake_case name", "a snake case name"),
    ("# A title", "A title."),
    ("# Title\n\nSome text.\n\n- one\n- two", "Title. Some text. one. two."),
    ("- [x] done\n* next", "done. next."),
    ("1. Boil\n2) Drink", "1: Boil. 2: Drink."),
    ("> A quote", "A quote."),
    ("One\n\n---\n\nTwo", "One. Two"),
    ("See [our page](https://example.com/x) and ![a cat](cat.png).", "See our page and a cat."),
    ("| City | Sun |\n|---|:-:|\n| Oslo | no |", "City, Sun. Oslo, no."),
    ("Use `print(x)` here.", "Use print x here."),
    ("Like so:\n```python\nx = 1\ny = 2\n```\nDone.", "Like so: code. Done."),
    ("Run ```ls``` now.", "Run ls now."),
    ("<b>Tom</b> &amp; Jerry<br>ran", "Tom and Jerry. ran"),
    (r"\(x^2 \times 3\) is $\frac{1}{2}$", "x squared times 3 is one half"),
    ("Not [1] a [[fəˈniːm]].", "Not a fəˈniːm."),
    ("Great! 😊👍🏽 Bye 👨‍👩‍👧 :)", "Great! Bye"),
    ("Settings → Wi-Fi → On", "Settings, Wi-Fi, On"),
    ("Paris (France) has file(s).", "Paris, France, has files."),
    ("wait... what", "wait, what"),
    ("Well… Yes...", "Well. Yes."),
    ("Really...?", "Really?"),
    ("This line is long enough to have been wrapped by an\neditor somewhere.",
     "This line is long enough to have been wrapped by an editor somewhere."),
    ("**", ""),
    ("---", ""),
    ("😊", ""),
    ("", ""),
]  # fmt: skip
ADDRESSES = [
    ("www.example.com", "example dot com"),
    ("Go to https://example.com/a/b-c?x=1#y.", "Go to example dot com slash a slash b c."),
    ("python.org", "python dot org"),
    ("jo.doe_1@mail.example.org", "jo dot doe 1 at mail dot example dot org"),
    ("192.168.1.1", "192 dot 168 dot 1 dot 1"),
]
MONEY = [
    ("$5.50", "5 dollars and 50 cents"),
    ("$1, $0.99, $1.01 or $1,250.00.", "1 dollar, 99 cents, 1 dollar and 1 cent or 1,250 dollars."),
    ("€3", "3 euros"),
    ("£2m", "2 million pounds"),
    ("$1.5 billion", "1.5 billion dollars"),
    ("$5-10", "5 to 10 dollars"),
    ("US$20/month", "20 US dollars per month"),
    ("20 EUR or 5€", "20 euros or 5 euros"),
    ("-$5", "minus 5 dollars"),
    ("50¢", "50 cents"),
    ("$", ""),
]
QUANTITIES = [
    ("50% of 7.5 %", "50 percent of 7.5 percent"),
    ("20°C or 68 °F", "20 degrees Celsius or 68 degrees Fahrenheit"),
    ("-1 °C", "minus 1 degree Celsius"),
    ("1 kg, 2 kg.", "1 kilogram, 2 kilograms."),
    ("a 5-kg bag", "a 5 kilogram bag"),
    ("10 km/h, 9.8 m/s², 5 mg/dL", "10 kilometers per hour, 9.8 meters per second squared, 5 milligrams per deciliter"),
    ("12 m² at 3.2 GHz", "12 square meters at 3.2 gigahertz"),
    ("16 GB in 100 ms", "16 gigabytes in 100 milliseconds"),
    ("5 ft 10 in, 6'2\"", "5 feet 10 inches, 6 foot 2"),
    ("a 20 oz. cup, 2 oz. Then", "a 20 ounce cup, 2 ounces. Then"),
    ("5-10 km", "5 to 10 kilometers"),
    ("20–25°C", "20 to 25 degrees Celsius"),
    ("5 - 3 = 2", "5 minus 3 equals 2"),
    ("1/2 cup, 3/4, 2½ tsp", "one half cup, three quarters, 2 and a half teaspoons"),
    ("24/7", "24 7"),
    ("8/10", "8 out of 10"),
    ("1920x1080", "1920 by 1080"),
    ("3x as fast", "3 times as fast"),
    ("16:9", "16 to 9"),
    ("1,000,000 and 3.14 and 42", "1,000,000 and 3.14 and 42"),
]
TIMES = [
    ("10:30", "10 30"),
    ("7:00 pm", "7 PM"),
    ("7:00", "7 o'clock"),
    ("10:05 a.m. today", "10 oh 5 AM today"),
    ("at 7 p.m. The end", "at 7 PM. The end"),
    ("9am–5pm", "9 AM to 5 PM"),
    ("14:30-15:45", "14 30 to 15 45"),
    ("2026-11-21", "November 21st, twenty twenty-six"),
    ("21/11/2026", "November 21st, twenty twenty-six"),
    ("11/21/2026", "November 21st, twenty twenty-six"),
    ("03/04/2026", "March 4th, twenty twenty-six"),
    ("Nov. 3, 1998", "November 3rd, nineteen ninety-eight"),
    ("since Sept 2012", "since September twenty twelve"),
    ("1905", "nineteen oh five"),
    ("2048 tokens, 1320 miles", "2048 tokens, 1320 miles"),
    ("from 1066 and in 1137-1402", "from 1066 and in eleven thirty-seven to fourteen oh two"),
    ("1990-1995", "nineteen ninety to nineteen ninety-five"),
    ("the 1990s and the '80s", "the nineteen nineties and the eighties"),
    ("in 30s", "in 30 seconds"),
]
WORDS = [
    ("Dr. Smith, Mr. Lee", "Doctor Smith, Mister Lee"),
    ("St. Paul on Main St. today", "Saint Paul on Main Street today"),
    ("Sugar, e.g. honey, i.e. sweets", "Sugar, for example honey, that is sweets"),
    ("cats vs. dogs, etc.", "cats versus dogs, et cetera."),
    ("milk, etc. and so on", "milk, et cetera and so on"),
    ("approx. 5, ~5, ±5", "approximately 5, about 5, plus or minus 5"),
    ("Acme Inc. is here", "Acme Incorporated is here"),
    ("the U.S. Army of the U.S. The end", "the US Army of the US. The end"),
    ("J. K. Rowling, John F. Kennedy", "J K Rowling, John F Kennedy"),
    ("plan B. Oranges", "plan B. Oranges"),
    ("Henry VIII, World War II, Malcolm X", "Henry the 8th, World War 2, Malcolm X"),
    ("No. 5, #1, p. 3", "number 5, number 1, page 3"),
    ("555-0123 or (555) 123-4567", "5 5 5, 0 1 2 3 or 5 5 5, 1 2 3, 4 5 6 7"),
    ("+44 20 7946 0958", "plus 4 4, 2 0, 7 9 4 6, 0 9 5 8"),
    ("500-1000", "500 to 1000"),
    ("C# & C++", "C sharp and C plus plus"),
    ("a + b = c", "a plus b equals c"),
    ("x^2 + y² ≥ 3", "x squared plus y squared is at least 3"),
    ("and/or, he/she, TCP/IP", "and or, he or she, TCP IP"),
    ("2 * 3 < 7", "2 times 3 is less than 7"),
    ("@bob #fun", "at bob hashtag fun"),
    ("GPT-4, COVID-19 and NASA", "GPT-4, COVID-19 and NASA"),
]


@pytest.mark.parametrize(("text", "expected"), [*MARKUP, *ADDRESSES, *MONEY, *QUANTITIES, *TIMES, *WORDS])
def test_english_text_is_normalized(text: str, expected: str) -> None:
    assert normalize(text) == expected


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("**5 kg** bei 20 °C", "de", "5 Kilogramm bei 20 Grad Celsius"),
        ("5,50 € auf www.beispiel.de", "de-AT", "5,50 € auf beispiel Punkt de"),
        ("$5 et 50 % 😊", "fr", "5 dollars et 50 pour cent"),
        ("3 € y 10 km/h", "es", "3 euros y 10 kilómetros por hora"),
        ("me@x.it e 30 cm", "it", "me chiocciola x punto it e 30 centimetri"),
        ("你好，**世界**！😊", "zh", "你好，世界！"),
        ("नमस्ते **दुनिया**।", "hi", "नमस्ते दुनिया।"),
        ("- Dr. No, 1/2", "nl", "Dr. No, 1/2."),
    ],
)
def test_other_languages_lose_markup_and_keep_the_rest(text: str, language: str, expected: str) -> None:
    assert normalize(text, language) == expected


@pytest.mark.parametrize(
    ("text", "spoken"),
    [("To Mark I wrote.", "To Mark I wrote."), ("A Mark V", "A Mark 5")],
)
def test_mark_is_a_name_before_i(text: str, spoken: str) -> None:
    assert normalize(text) == spoken


PLAIN = st.sampled_from(
    ["the", "cat", "sat", "on", "and", "ran", "away", "with", "today", "however", "to", "me", "Paris", "Ann", "it's",
     "well-known", "people's", "don't", "I", "a", "will", "Mark", "of", "people", "is", "has", "7", "42", "1,000",
     "3.14"]
)  # fmt: skip


@given(st.lists(st.tuples(PLAIN, st.sampled_from(["", "", "", ",", ".", "?", "!", ";", ":"])), min_size=1))
def test_plain_prose_is_unchanged(words: list[tuple[str, str]]) -> None:
    text = " ".join(["So", *(word + mark for word, mark in words)])
    assert normalize(text) == text


@given(st.text(max_size=200), st.sampled_from(["en", "de", "zh", "xx", ""]))
def test_any_text_becomes_one_line_without_markup(text: str, language: str) -> None:
    normalized = normalize(text, language)
    assert normalized == " ".join(normalized.split())
    assert not set(normalized) & set("*`[]{}\\_|")
    assert normalized == "" or any(char.isalnum() for char in normalized)


@given(st.text(alphabet="ab1259 .,:;/-–$€%°C*_#[]()<>&+=^~@!?'\"\n|`x…AMpst", max_size=120))
def test_text_dense_with_symbols_loses_its_symbols(text: str) -> None:
    normalized = normalize(text)
    assert not set(normalized) & set("*`[]{}\\_|$€%°#<>^~=&")


REPEATED = ["*", "$", "1/", "1.", "1,", "1-", "1 ", "1:", "[", "](", "![a](", "<", "<a ", "<b x=", "&#", "_", "~",
            "`", "\\", "\\(", "#", "|", "| ", "- ", "\n", "\n- ", ". ", "...", "… ", "a.", "a@", "www.",
            "https://a/", "(", "a (", ") ", "—", " - ", "😊", "😊\u200d", "A. ", "J. K", "plan B. Or ", "+1 ",
            "+1(22)", "0123 ", "US$", "5 km/", "'90s", "5/5 ", "May 5 ", "1 - ", "x^(", "e.g.", "Main St. ",
            "\\frac{a}{", "$a", "```", "10:30-", "5%-", "XVI ", "9", "é", " ", "5m ", "1h", "PT1M", "5'", "5\"",
            "'5\" ", "60s and ", "the 60s ", "1 of ", "+1 555 ", "1-800-A", "code 1 2", "Mon-", "12/25/24 ",
            "2026-08-29T", "°C-", "5 in ", "order 1 ", "is <3 ", "C:\\a\\", "sensor.a", "NNW ", "King A I ", "5 a ",
            "1.5", "1,5 ", "call 911 ", "45:30 ", "took ", "score 1:1 ", "A1", "5e5", "10⁶", "the 5 km a ", "1-",
            "5 - 3 ", "2024-25 ", "in Dec ", "the 5 ", "0", "10.0.0.", "ABC-", "\u2212"]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("unit", REPEATED)
def test_long_repetition_is_normalized_in_linear_time(unit: str) -> None:
    """A quadratic pattern would take minutes for 100 kB; all of these take well under a second."""
    normalized = normalize(unit * (100_000 // len(unit)))
    assert not set(normalized) & set("*`[]{}\\_|")


def test_sentences_of_an_answer_lose_their_markup() -> None:
    splitter = SentenceSplitter()
    text = "**Sure, here are. Two.** steps:\n1. *Mix. Well.*\n```sh\na. b\n```\nSee [the. page](https://example.com)."
    normalized = [normalize(piece) for piece in [*splitter.feed(text), *splitter.finish()]]
    assert normalized == ["Sure, here are.", "Two. steps:", "1: Mix.", "Well.", "code.", "See the.", "page."]


PHONEMES = [
    ("$5.50", "fˈaɪv dˈɑːlɚz ænd fˈɪfti sˈɛnts"),
    ("**Hi**", "hˈaɪ"),
    ("Dr. Smith", "dˈɑːktɚ smˈɪθ"),
    ("10 km/h", "tˈɛn kɪlˈɑːmɪɾɚz pɜːɹ ˈaʊɚ"),
    ("in 1998", "ɪn nˈaɪntiːn nˈaɪntiʲˈeɪt"),
    ("7:00 pm", "sˈɛvən pˌiːʲˈɛm"),
    ("Henry VIII", "hˈɛnɹi ðɪʲ ˈeɪtθ"),
    ("555-0123", "fˈaɪv fˈaɪv fˈaɪv, zˈiəɹoʊ wˈʌn tˈuː θɹˈiː"),
    ("U.S. Army", "jˌuːˈɛs ˈɑːɹmi"),
    ("wait... what", "wˈeɪt, wˌʌt"),
    ("1. Go", "wˈʌn: ɡˈoʊ."),
    ("-5 °C", "mˈaɪnəs fˈaɪv dᵻɡɹˈiːz sˈɛlsɪʲəs"),
    ("and/or", "ænd ɔːɹ"),
    ("e.g. tea", "fɔːɹ ɛɡzˈæmpəl tˈiː"),
]


@pytest.fixture(scope="module")
def phonemes() -> Callable[[str], str]:
    """The phonemes of an English text for Piper's voices; a bar ends a sentence."""
    phonemizer = pytest.importorskip("piper.phonemize_espeak").EspeakPhonemizer()
    return lambda text: "|".join("".join(sentence) for sentence in phonemizer.phonemize("en-us", text))


@pytest.mark.parametrize(("text", "expected"), PHONEMES)
def test_voice_pronounces_the_normalized_text(phonemes: Callable[[str], str], text: str, expected: str) -> None:
    assert phonemes(normalize(text)) == expected
    assert phonemes(text) != expected


ROUND_TRIPS = [
    ("It costs $5.50, or €3 with a card.", ["it costs $5.50 or"], ["dollar"]),
    ("**Great!** 😊 It's 20°C and 68 °F outside.", ["degrees celsius", "degrees fahrenheit"], ["asterisk", "smiling"]),
    ("The train leaves at 7:00 pm, i.e. in 10 min.", ["7 p.m.", "that is in 10 minutes"], ["0-0"]),
    ("Visit https://www.example.com/help or mail me@example.org.", ["visit example.com"], ["https", "colon"]),
    ("He was born in 1905 and died on 2026-11-21.", ["1905", "november 21"], ["2026-11", "dash"]),
    ("Henry VIII came before World War II.", ["henry"], ["roman"]),
    ("Drive 10 km/h for 5-10 km, then stop.", ["kilometers per hour", "5 to 10 kilometers"], ["slash"]),
    ("Call 555-0123, No. 5 on the list.", ["555-0123", "number 5"], ["hundred"]),
    ("- 2 kg apples\n- 1 kg pears", ["apples"], ["minus"]),
    ("x^2 + 3 = 12, so x = ±3.", ["x squared plus 3 equals 12"], []),
    ("The laptop has 16 GB of RAM & costs £2k.", ["16 gigabytes of ram and", "2000 pounds"], ["pound 2"]),
    ("| City | Temp |\n|---|---|\n| Oslo | -5 °C |", ["degrees celsius"], ["dash", "vertical"]),
    ("Well... cats vs. dogs is a fun debate (really).", ["cats versus dogs"], ["v s"]),
    ("Use this:\n```python\nprint(1)\nprint(2)\n```\nAbout 50% of it.", ["code"], ["python"]),
    ("In the 1990s J. K. Rowling wrote for ~5 years.", ["in the 1990s", "about 5 years"], ["tilde", "hey"]),
]
"""Texts with phrases that the transcript of their synthesis must have and must not have."""


@pytest.fixture(scope="module")
def transcribe() -> Callable[[str], str]:
    """Synthesizes a text and transcribes it, in lower case with small numbers as digits."""
    piper, whisper = pytest.importorskip("piper"), pytest.importorskip("pywhispercpp.model")
    voice = piper.PiperVoice.load(installed_model("en_US-joe-medium").files["en_US-joe-medium.onnx"])
    weights = installed_model("whisper-tiny.en").files["ggml-tiny.en.bin"]
    asr_model = whisper.Model(str(weights), redirect_whispercpp_logs_to=None, n_threads=2)
    # Without noise the synthesis of a text is always the same.
    quiet = piper.SynthesisConfig(noise_scale=0.0, noise_w_scale=0.0)
    digits = {
        "two": "2",
        "three": "3",
        "five": "5",
        "eighth": "8th",
        "ten": "10",
        "twelve": "12",
        "two thousand": "2000",
    }

    def round_trip(text: str) -> str:
        chunks = list(voice.synthesize(text, quiet))
        samples = np.concatenate([chunk.audio_float_array for chunk in chunks])
        sound = np.pad(soxr.resample(samples, chunks[0].sample_rate, 16_000), 8_000)
        words = " ".join(part.text.strip() for part in asr_model.transcribe(sound, language="en")).lower()
        return " ".join(digits.get(word.strip(".,"), word) for word in words.replace(",", "").split())

    return round_trip


@pytest.mark.real
@pytest.mark.parametrize(("text", "expected", "absent"), ROUND_TRIPS)
def test_synthesized_text_is_transcribed_as_written(
    transcribe: Callable[[str], str], text: str, expected: list[str], absent: list[str]
) -> None:
    words = transcribe(normalize(text))
    assert [phrase for phrase in expected if phrase not in words] == [], words
    assert [phrase for phrase in absent if phrase in words] == [], words
