"""Compiled models: what is in their folder, read without loading it, and whether this machine can load them."""
