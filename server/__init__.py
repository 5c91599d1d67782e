"""Verbatim: the hosted completions endpoint, word for word, on your own GPUs."""

__version__ = "0.1.0"
