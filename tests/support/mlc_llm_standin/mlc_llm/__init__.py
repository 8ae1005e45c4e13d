"""A stand-in for MLC LLM's package and its command line; see the README beside it."""

from .serve import AsyncMLCEngine

__all__ = ["AsyncMLCEngine"]
__version__ = "0.20.0"
