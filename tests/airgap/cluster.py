"""Two nodes and a front end, which answers a request: python -m tests.airgap.cluster MODEL FOLDER"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.cluster.nodes import ray_nodes
from tests.cluster.streams import wait_replicas
from tests.serving import TINY, Client, serving, tiny_model


def main(model: Path, folder: Path) -> None:
    config = {"models": [tiny_model(model)]}
    with ray_nodes(0, 1) as nodes, serving(folder, config, "--cluster", nodes.address) as server:
        wait_replicas(server.url(), 1)
        with Client(server.url(), "key", TINY) as client:
            print(client.choice(max_tokens=5)["finish_reason"])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
