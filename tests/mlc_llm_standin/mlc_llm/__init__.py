"""A stand-in for MLC LLM's package; see the README beside it."""

from .serve import AsyncMLCEngine

__all__ = ["AsyncMLCEngine"]
