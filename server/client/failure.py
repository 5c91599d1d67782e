"""How a command that asks a server fails."""

from __future__ import annotations


class ClientError(Exception):
    """What went wrong, for a person at a terminal."""
