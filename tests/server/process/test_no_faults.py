"""What the simulator does on demand, `verbatim serve` does not."""

from __future__ import annotations

import re

import httpx
import pytest

from tests.helpers import byte_level, model_directory
from tests.serving import Server, serving

URL = "/v1/completions"
ASK = {"model": "m", "prompt": "hello", "max_tokens": 8, "seed": 1}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> object:
    folder = tmp_path_factory.mktemp("server")
    path = model_directory(folder / "model", byte_level())
    models = [{"id": "m", "path": str(path), "engine": "simulated"}]
    with serving(folder, {"models": models}) as server:
        server.wait_ready()
        yield server


@pytest.mark.parametrize("fault", ["status=429", "cut_before_headers", "no_done", "no such fault"])
@pytest.mark.parametrize("stream", [False, True])
def test_the_header_is_any_header(server: Server, fault: str, stream: bool) -> None:
    """X-Verbatim-Fault asks the server for nothing: the reply is that of a request without it."""
    body, found = ASK | {"stream": stream}, []
    with httpx.Client(base_url=server.url()) as client:
        for headers in ({}, {"x-verbatim-fault": fault}):
            response = client.post(URL, json=body, headers={"authorization": "Bearer k", **headers})
            text = re.sub(r'(?<="id":")\w+|(?<="created":)\d+', "", response.text)
            found.append((response.status_code, response.headers["content-type"], text))
    assert found[0] == found[1]
    assert found[0][0] == 200


def test_there_is_no_route(server: Server) -> None:
    """/simulator/faults is a 404, whatever the method."""
    with httpx.Client(base_url=server.url()) as client:
        for method in ("GET", "PUT", "DELETE"):
            assert client.request(method, "/simulator/faults", json={"rules": []}).status_code == 404
