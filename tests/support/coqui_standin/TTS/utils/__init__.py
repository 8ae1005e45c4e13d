"""As TTS/utils, as far as it is used."""
