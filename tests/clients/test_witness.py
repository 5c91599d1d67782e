from __future__ import annotations

import httpx

from tests.clients.witness import witnessing


def test_witness_sees_each_request(twin: str) -> None:
    """On one connection or on several, with its status and the wait between two."""
    httpx.put(f"{twin}/simulator/faults", json={"rules": [{"fault": "status=503 retry_after=0", "nth": 2}]})
    address = httpx.URL(twin)
    with (
        witnessing((address.host, address.port or 0)) as witness,
        httpx.Client(base_url=witness.url) as client,
    ):
        headers = {"authorization": "Bearer key"}
        for _ in range(3):
            client.post("/v1/completions", json={"model": "a-model", "prompt": "x"}, headers=headers)
        httpx.get(f"{witness.url}/health")
    assert [(seen.status, seen.connection) for seen in witness.posts()] == [(200, 1), (503, 1), (200, 1)]
    assert [seen.path for seen in witness.requests] == [*["/v1/completions"] * 3, "/health"]
    assert all(wait < 1 for wait in witness.waits_s())
