"""Why a sealed folder is refused, or what a person has to mend first.

SealedFailure
├── BundleError    a bundle or an installation is not what its manifest says: exit code 1
└── SiteError      a key, a place or the machine does not do: exit code 2
"""

from __future__ import annotations


class SealedFailure(Exception):  # noqa: N818  # its subclasses say what it is
    """A failure with a message meant for a person."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class BundleError(SealedFailure):
    """A bundle or an installation is incomplete, altered, or not signed as required. The message
    names the file."""


class SiteError(SealedFailure):
    """Something that can be mended where it runs. The message says what to do."""
