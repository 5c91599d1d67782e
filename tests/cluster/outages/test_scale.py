"""As many replicas as the load asks for, on nodes that are there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.nodes import ray_nodes
from tests.cluster.streams import Streams, num_ready, replicas, wait_replicas
from tests.serving import serving, tiny_model, wait_for

pytestmark = pytest.mark.timeout(280)


def test_replicas_come_and_go_with_the_load(model: Path, tmp_path: Path) -> None:
    """Requests that wait for more than target_queue_s bring a second replica; when it has been one too many
    for a while it goes, after its last request has ended. No stream notices."""
    scale = {"min": 1, "max": 2, "target_queue_s": 0.5, "shrink_after_s": 3}
    config = {"models": [tiny_model(model, replicas=scale, max_num_seqs=4)]}
    with ray_nodes(1, 1) as nodes, serving(tmp_path, config, "--cluster", nodes.address) as server:
        url = server.url()
        wait_replicas(url, 1)
        alone = Streams([url], 8).results()
        assert len(replicas(url)) == 1
        loads = []
        while num_ready(url) < 2 and len(loads) < 30:
            loads.append(Streams([url]))
            wait_for(lambda: loads[-1].num_done > 48 or num_ready(url) == 2, 60, every_s=0.1)
        assert num_ready(url) == 2
        texts = [one.results() for one in loads]
        assert all(text == texts[0] for text in texts)
        assert texts[0][:8] == alone
        long = Streams([url], 2)
        wait_for(lambda: len(replicas(url)) == 1, 30)
        assert long.results() == alone[:2]
