"""`verbatim` with another way to choose a replica, which also writes the router's predictions to a file.

BENCHMARK_POLICY: prefixes or round robin. BENCHMARK_FORETOLD: the file for the figures, written at the end.
"""

from __future__ import annotations

import atexit
import json
import os
from collections.abc import Sequence
from pathlib import Path

from benchmarks.fleet.policies import RoundRobin
from server import cli
from server.engine import work
from server.engine.replica import Replica
from server.engine.router import Router
from server.engine.ticket import Ticket


class Counted(Router):
    """Counts prompt tokens that it predicts to be cached where it sends them, and all prompt tokens."""

    num_held = num_asked = 0

    def place(self, ticket: Ticket, replicas: Sequence[Replica], num_senders: int = 1) -> Replica:
        chosen = super().place(ticket, replicas, num_senders)
        num_tokens = len(ticket.job.prompt_ids) + len(ticket.delivered)
        Counted.num_asked += num_tokens
        Counted.num_held += num_tokens - (ticket.route.num_left if ticket.route else num_tokens)
        return chosen


def main() -> None:
    is_ours = os.environ["BENCHMARK_POLICY"] == "prefixes"
    vars(work)["Router"] = Counted if is_ours else RoundRobin
    if is_ours:
        atexit.register(write, Path(os.environ["BENCHMARK_FORETOLD"]))
    cli.main()


def write(file: Path) -> None:
    file.write_text(json.dumps({"held": Counted.num_held, "asked": Counted.num_asked}))


if __name__ == "__main__":
    main()
