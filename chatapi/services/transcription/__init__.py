"""Transcription of files, audio streams and short utterances."""
