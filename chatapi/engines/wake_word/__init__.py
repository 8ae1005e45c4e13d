"""Wake word engines."""
