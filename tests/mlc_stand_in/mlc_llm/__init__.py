"""A stand-in for MLC's compiler that has its command line; it records what it is asked and writes small files."""

__version__ = "0.20.0"
