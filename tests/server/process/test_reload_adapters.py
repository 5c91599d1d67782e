"""Adapters come and go while a server runs, on engines that are simulated."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.access.keys import digest
from tests.adapters import write_adapter
from tests.helpers import byte_level, model_directory
from tests.server.process.test_reload import Configured
from tests.serving import serving


class Changing(Configured):
    """folder: of adapters. keys: of the server's configuration."""

    folder: Path
    keys: dict[str, Any]

    def change(self, method: str, name: str, **keys: Any) -> httpx.Response:
        with self.client() as client:
            return client.request(method, f"/v1/models/m/adapters/{name}", json=keys or None)

    def put(self, name: str, **config: Any) -> httpx.Response:
        return self.change("PUT", name, path=str(write_adapter(self.folder / name, **config)))


@pytest.fixture(scope="module", params=[1, 2])
def changing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Changing]:
    """With one process that answers, and with two, of which any may be asked."""
    folder = tmp_path_factory.mktemp("server")
    path = model_directory(folder / "model", byte_level(), context_size=4096)
    model = {"id": "m", "path": str(path), "engine": "simulated"}
    (folder / "keys").write_text(f"any {digest('any')} roles=infer,admin\n")
    keys = {"api_keys_file": "keys", "workers": request.param}
    with serving(folder, {"models": [model], **keys}) as server:
        server.wait_ready()
        found = Changing(server, path)
        found.folder, found.keys = folder, keys
        yield found


def test_an_adapter_comes_and_goes(changing: Changing) -> None:
    """Every process has it from the reply on, as it is then; a stream that began with one has its text."""
    assert changing.put("a/1").json()["message"] == ("the new configuration is in use; adapters added: a/1.")
    undisturbed = changing.text("a/1", 1)
    assert changing.text("m", 1) != undisturbed
    with ThreadPoolExecutor(8) as pool:
        streams = changing.begin(pool, *[("a/1", 1)] * 8)
        assert changing.put("a/1", rank=4).json()["message"].endswith("adapters changed: a/1.")
        others = {changing.text("a/1", 1, 20) for _ in range(8)}
        assert len(others) == 1
        assert not undisturbed.startswith(others.pop())
        assert changing.change("DELETE", "a/1").json()["message"].endswith("adapters ended: a/1.")
        for _ in range(8):
            with changing.client("a/1") as other:
                assert other.ask().status_code == 404
        assert [stream.result() for stream in streams] == [undisturbed] * 8
    assert changing.models() == ["m"]


def test_one_that_cannot_be_served_changes_nothing(changing: Changing) -> None:
    """The reason is told, with the status of a bad request."""
    answer = changing.put("bad", use_dora=True)
    assert answer.status_code == 400
    assert "adapter bad: it has DoRA" in answer.json()["message"]
    answer = changing.change("PUT", "m", path="/")
    assert (answer.status_code, answer.json()["message"]) == (
        400,
        'the adapter has the id "m", which a model has too; clients could not tell them apart.',
    )
    assert changing.models() == ["m"]


def test_what_is_not_there_is_a_404(changing: Changing) -> None:
    """A model, or an adapter that is to go."""
    assert changing.change("DELETE", "gone").status_code == 404
    with changing.client() as client:
        answer = client.put("/v1/models/other/adapters/a", json={"path": "/"})
        assert (answer.status_code, answer.json()["reason"]) == (404, "MODEL_NOT_FOUND")


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"path": "a"}, "path (current value: a) must be an absolute path"),
        ({"path": "/a", "id": "b"}, "id (current value: b) must be a"),
        ({"sha256": {}}, "path: Field required"),
        ({"path": "/a", "rank": 3}, "rank: Extra inputs are not permitted"),
    ],
    ids=str,
)
def test_a_bad_body_is_a_400(changing: Changing, keys: dict[str, Any], words: str) -> None:
    """It names the field."""
    answer = changing.change("PUT", "a", **keys)
    assert answer.status_code == 400
    assert words in answer.json()["message"]


def test_a_reload_reads_the_file(changing: Changing) -> None:
    """What was changed while the server ran is as the file has it: gone, or there with what its
    files are now."""
    assert changing.put("runs").status_code == 200
    kept = write_adapter(changing.folder / "kept")
    changing.write(changing.model("m", adapters=[{"id": "kept", "path": str(kept)}]), **changing.keys)
    assert changing.reload().stdout.endswith("adapters added: kept; adapters ended: runs.\n")
    assert changing.models() == ["m", "kept"]
    write_adapter(kept, rank=4)
    assert changing.reload().stdout.endswith("adapters changed: kept.\n")
    changing.write(changing.model("m"), **changing.keys)
    assert changing.reload().returncode == 0
