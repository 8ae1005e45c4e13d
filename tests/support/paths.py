"""Where things of this repository lie."""

from pathlib import Path

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
CORPUS = TESTS / "corpus"
"""Recorded and made speech, with what it says."""
NODE = TESTS / "node"
"""OpenAI's clients for Node."""
SUPPORT = TESTS / "support"
"""What tests share, and stand-ins for libraries."""
