"""Turns a text into phonemes with espeak-ng, in a child process.

espeak-ng overruns buffers on hostile texts. `espeak` calls this through `sandbox`.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType


def _phonemizer() -> object:
    """Piper's phonemizer. ImportError where Piper is not installed."""
    found = importlib.util.find_spec("piper")
    if found is None or found.submodule_search_locations is None:
        raise ImportError("piper is not installed")
    # Piper's own __init__ imports ONNX Runtime, 40 MB that this process does not need.
    package = ModuleType("piper")
    package.__path__ = list(found.submodule_search_locations)
    sys.modules["piper"] = package
    from piper.phonemize_espeak import EspeakPhonemizer

    return EspeakPhonemizer()


_espeak = _phonemizer()


def phonemes(voice: str, text: str, clusters: Sequence[Sequence[str]] | None) -> Iterator[list[list[str]]]:
    """The text's phonemes, a list per sentence, with the espeak-ng voice (such as en-us)."""
    merged = {tuple(cluster) for cluster in clusters} if clusters else None
    yield _espeak.phonemize(voice, text, merged)  # type: ignore[attr-defined]
