"""What live conversation understands of a question, beside what the same sound gives as a file."""

from __future__ import annotations

from chatapi.audio import RATE, Audio
from chatapi.bench import Row, wer
from chatapi.bench.corpus import Clip
from chatapi.errors import Unprocessable
from chatapi.services.transcription.transcriber import FileTranscriber


class TranscriptComparison:
    """Counts the errors of both ways over the same clips."""

    def __init__(self, transcription: FileTranscriber) -> None:
        self._transcription = transcription
        self._live: list[tuple[str, str]] = []
        self._file: list[tuple[str, str]] = []

    async def add(self, clip: Clip, understood: str) -> None:
        """What was understood of a clip; its sound is transcribed once more as a whole."""
        self._live.append((clip.text, understood))
        try:
            # In no language, as live conversation is told none.
            text = (await self._transcription.transcribe_utterance(Audio(clip.samples, RATE))).text
        except Unprocessable:
            text = ""
        self._file.append((clip.text, text))

    def rows(self) -> list[Row]:
        """Word errors, and how many more there are than in the file; not a number without clips."""
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
        """What was said where the live path understood less than the file."""
        return "; ".join(
            f"{said!r} was {live!r} live, {file!r} as a file"
            for (said, live), (_, file) in zip(self._live, self._file, strict=True)
            if wer.word_error_rate([(said, live)]) > wer.word_error_rate([(said, file)])
        )
