"""A node that speaks to the cluster alone: python -m server.engine.ray.node OPTIONS OF `ray start`

`ray start`, less what would leave the cluster or let others in. Ray's head tells its developers that it does
not report to them, and asks the cloud's addresses where it is, whatever is said on its command line: both are
done by the process of the dashboard, which is not started here. Nor is the port for Ray's remote clients.
"""

from __future__ import annotations

import os
import sys

import ray._private.node
from ray.scripts.scripts import cli

# What a user has set stays.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_USAGE_STATS_REPORT_URL": "http://127.0.0.1:9/",  # nobody's
    # Processes are started for actors, and there are few: none in reserve, each of which takes 100 MB.
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
}
LEFT_OUT = ("start_api_server", "start_ray_client_server")  # of Ray's head
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
