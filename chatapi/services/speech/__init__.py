"""Speech synthesis as a service."""
