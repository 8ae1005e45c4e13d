"""Captions: live transcription without answers, for any number of viewers."""
