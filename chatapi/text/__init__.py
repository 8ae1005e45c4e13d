"""Text for speech: sentences, normalization, phonemes."""
