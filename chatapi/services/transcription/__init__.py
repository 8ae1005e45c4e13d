"""Transcription as a service: whole files, streams, and short utterances."""
