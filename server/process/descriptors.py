"""File descriptors: as many as the system allows, and how many of them connections may take."""

from __future__ import annotations

import resource

WANTED = 65_536
# Beside connections: engines, files, and refused connections that are still open (MAX_LINGERING).
RESERVED = 256


def raise_limit() -> None:
    """As far as the hard limit lets this process. Many systems start it with 1024, which hundreds of streams
    are enough for to use up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def most_connections() -> int:
    """How many this process may have."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = WANTED if soft == resource.RLIM_INFINITY else min(soft, WANTED)
    return max(most - RESERVED, most // 4)
