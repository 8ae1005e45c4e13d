"""Command recognition: which of a few words a short clip is."""
