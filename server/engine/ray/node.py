"""A Ray node that connects to the cluster only: python -m server.engine.ray.node OPTIONS OF `ray start`

It runs `ray start` without the parts that connect outside the cluster or let others in. Whatever its command
line says, Ray's head tells its developers that usage reports are off, and asks cloud providers' addresses
where it runs. Both are done by the dashboard's process, which is not started here. Nor is the port for Ray's
remote clients.
"""

from __future__ import annotations

import os
import sys

import ray._private.node
from ray.scripts.scripts import cli

# Environment variables that a user has set stay.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_USAGE_STATS_REPORT_URL": "http://127.0.0.1:9/",  # an address that nobody listens on
    # Processes are started for actors, of which there are few: no spare processes, each of which
    # takes 100 MB.
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
}
LEFT_OUT = ("start_api_server", "start_ray_client_server")  # parts of Ray's head
# Logs stay on their node.
OPTIONS = ("start", "--block", "--disable-usage-stats", "--include-log-monitor", "false")


def main() -> None:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for name in LEFT_OUT:
        setattr(ray._private.node.Node, name, lambda *args, **kwargs: None)
    cli([*OPTIONS, *sys.argv[1:]])


if __name__ == "__main__":
    main()
