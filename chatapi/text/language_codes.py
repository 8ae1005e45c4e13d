"""Languages as clients write them: codes in any case, with a region or of three letters, and English names."""

from __future__ import annotations

import re
from collections.abc import Collection

NAMES = {
    "en": "english", "zh": "chinese", "de": "german", "es": "spanish", "ru": "russian", "ko": "korean", "fr": "french",
    "ja": "japanese", "pt": "portuguese", "tr": "turkish", "pl": "polish", "ca": "catalan", "nl": "dutch",
    "ar": "arabic", "sv": "swedish", "it": "italian", "id": "indonesian", "hi": "hindi", "fi": "finnish",
    "vi": "vietnamese", "he": "hebrew", "uk": "ukrainian", "el": "greek", "ms": "malay", "cs": "czech",
    "ro": "romanian", "da": "danish", "hu": "hungarian", "ta": "tamil", "no": "norwegian", "th": "thai", "ur": "urdu",
    "hr": "croatian", "bg": "bulgarian", "lt": "lithuanian", "la": "latin", "mi": "maori", "ml": "malayalam",
    "cy": "welsh", "sk": "slovak", "te": "telugu", "fa": "persian", "lv": "latvian", "bn": "bengali", "sr": "serbian",
    "az": "azerbaijani", "sl": "slovenian", "kn": "kannada", "et": "estonian", "mk": "macedonian", "br": "breton",
    "eu": "basque", "is": "icelandic", "hy": "armenian", "ne": "nepali", "mn": "mongolian", "bs": "bosnian",
    "kk": "kazakh", "sq": "albanian", "sw": "swahili", "gl": "galician", "mr": "marathi", "pa": "punjabi",
    "si": "sinhala", "km": "khmer", "sn": "shona", "yo": "yoruba", "so": "somali", "af": "afrikaans",
    "oc": "occitan", "ka": "georgian", "be": "belarusian", "tg": "tajik", "sd": "sindhi", "gu": "gujarati",
    "am": "amharic", "yi": "yiddish", "lo": "lao", "uz": "uzbek", "fo": "faroese", "ht": "haitian creole",
    "ps": "pashto", "tk": "turkmen", "nn": "nynorsk", "mt": "maltese", "sa": "sanskrit", "lb": "luxembourgish",
    "my": "myanmar", "bo": "tibetan", "tl": "tagalog", "mg": "malagasy", "as": "assamese", "tt": "tatar",
    "haw": "hawaiian", "ln": "lingala", "ha": "hausa", "ba": "bashkir", "jw": "javanese", "su": "sundanese",
    "yue": "cantonese",
}  # fmt: skip
"""Language code -> OpenAI's name of the language (openai/whisper, `tokenizer.py`)."""
THREE_LETTERS = {
    "eng": "en", "zho": "zh", "chi": "zh", "cmn": "zh", "deu": "de", "ger": "de", "spa": "es", "rus": "ru", "kor": "ko",
    "fra": "fr", "fre": "fr", "jpn": "ja", "por": "pt", "tur": "tr", "pol": "pl", "cat": "ca", "nld": "nl", "dut": "nl",
    "ara": "ar", "swe": "sv", "ita": "it", "ind": "id", "hin": "hi", "fin": "fi", "vie": "vi", "heb": "he", "ukr": "uk",
    "ell": "el", "gre": "el", "ces": "cs", "cze": "cs", "ron": "ro", "rum": "ro", "dan": "da", "hun": "hu", "nor": "no",
    "nob": "no", "tha": "th", "hrv": "hr", "bul": "bg", "slk": "sk", "slo": "sk", "fas": "fa", "per": "fa",
}  # fmt: skip
"""ISO 639-2 and 639-3 codes of common languages -> their shorter code."""
OTHERS = {"mandarin": "zh", "castilian": "es", "flemish": "nl", "burmese": "my", "nb": "no", "iw": "he", "in": "id"}
"""Other names and older codes."""
_CODES = {name.replace(" ", "-"): code for code, name in NAMES.items()}


def language_code(written: str, supported: Collection[str]) -> str:
    """The code among `supported` that stands for a language as it is written; as it is when there is none."""
    plain = re.sub(r"[\s_]+", "-", written.strip().lower())
    first = plain.partition("-")[0]
    for code in (plain, _CODES.get(plain), OTHERS.get(plain), first, THREE_LETTERS.get(first), OTHERS.get(first)):
        if code is not None and code in supported:
            return code
    return written
