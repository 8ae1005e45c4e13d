"""Paths of this repository."""

from pathlib import Path

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
CORPUS = TESTS / "corpus"
"""Recorded and synthesized speech with transcripts."""
NODE = TESTS / "node"
"""OpenAI's clients for Node."""
SUPPORT = TESTS / "support"
"""Helpers of the tests, and stand-ins for libraries."""
