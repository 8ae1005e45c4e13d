"""As python/mlc_llm/serve/__init__.py, as far as it is used."""

from .config import EngineConfig
from .engine import AsyncMLCEngine

__all__ = ["AsyncMLCEngine", "EngineConfig"]
