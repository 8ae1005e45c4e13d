"""Runs engines: threads, admission, and which engine and model are loaded."""
