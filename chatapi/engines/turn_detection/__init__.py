"""End-of-turn detection engines."""
