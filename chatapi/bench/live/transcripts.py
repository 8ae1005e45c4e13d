"""Word errors of live transcripts, compared with transcripts of the same audio as a file."""

from __future__ import annotations

from chatapi.audio import RATE, Audio
from chatapi.bench import Row, wer
from chatapi.bench.corpus import Clip
from chatapi.errors import Unprocessable
from chatapi.services.transcription.transcriber import FileTranscriber


class TranscriptComparison:
    """Counts the word errors of both over the same clips."""

    def __init__(self, transcription: FileTranscriber) -> None:
        self._transcription = transcription
        self._live: list[tuple[str, str]] = []
        self._file: list[tuple[str, str]] = []

    async def add(self, clip: Clip, transcript: str) -> None:
        """Add the live transcript of a clip; its audio is transcribed once more as a file."""
        self._live.append((clip.text, transcript))
        try:
            # Without a language, as in live conversation.
            text = (await self._transcription.transcribe_utterance(Audio(clip.samples, RATE))).text
        except Unprocessable:
            text = ""
        self._file.append((clip.text, text))

    def rows(self) -> list[Row]:
        """Word error rates, and the difference between live and file; NaN without clips."""
        if not self._live:
            return [Row("live", "word errors", float("nan"), "%")]
        live, file = (100 * wer.word_error_rate(pairs) for pairs in (self._live, self._file))
        return [
            Row("live", "word errors", live, "%"),
            Row(
                "live",
                "word errors, live path minus the same audio as a file",
                live - file,
                "points",
                1,
                note=self._worse,
            ),
        ]

    @property
    def _worse(self) -> str:
        """The clips whose live transcript has more errors than that of the file."""
        return "; ".join(
            f"{text!r} was {live!r} live, {file!r} as a file"
            for (text, live), (_, file) in zip(self._live, self._file, strict=True)
            if wer.word_error_rate([(text, live)]) > wer.word_error_rate([(text, file)])
        )
