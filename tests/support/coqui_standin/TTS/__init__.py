"""A stand-in for coqui-tts; see the README beside it."""
