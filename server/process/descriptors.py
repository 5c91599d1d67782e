"""File descriptors: raises their limit, and says how many connections may use."""

from __future__ import annotations

import resource

WANTED = 65_536
# Reserved for other uses: engines, files, and refused connections that are still open (MAX_LINGERING).
RESERVED = 256


def raise_limit() -> None:
    """Raise the limit to the hard limit. Many systems start a process with 1024, which some hundred streams
    use up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def most_connections() -> int:
    """The largest number of connections of this process."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = WANTED if soft == resource.RLIM_INFINITY else min(soft, WANTED)
    return max(most - RESERVED, most // 4)
