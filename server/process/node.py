"""`verbatim node`: replaces this process by a node of a Ray cluster."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from server.engine.vllm.processes import OFFLINE, SAFE_PATH
from server.process.cluster import check_ray


def become_node(head: str, port: int, more: Sequence[str]) -> None:
    """Run `ray start`. head: HOST:PORT of the head; empty: this is the head, on that port. more: further
    options of `ray start`. Raises ConfigurationError."""
    check_ray()
    where = ["--address", head] if head else ["--head", "--port", str(port)]
    command = [sys.executable, "-m", "server.engine.ray.node", *where, *more]
    os.execve(sys.executable, command, {**OFFLINE, **os.environ, **SAFE_PATH})  # noqa: S606
