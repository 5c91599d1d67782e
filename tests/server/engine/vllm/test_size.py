"""How much memory engines take, as far as that is known without running any."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from server.config.model import ModelSettings
from server.engine.vllm import size
from server.engine.vllm.size import asleep_bytes, host_memory_lacks
from server.weights.sizes import GIB
from tests.helpers import byte_level, model_directory


def test_weights_that_the_machine_has_no_memory_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They cannot sleep there, and it is said what there is. Where nothing is known of them, it is tried."""
    settings = ModelSettings(id="m", path=model_directory(tmp_path, byte_level()), engine="simulated")
    monkeypatch.setattr(size, "bytes_of_weights", lambda checkpoint, dtype: 15 * GIB)
    for free, lacks in ((16 * GIB, ""), (14.5 * GIB, "take 15.0 GiB of the machine's memory")):
        monkeypatch.setattr(size.psutil, "virtual_memory", lambda free=free: SimpleNamespace(available=free))
        said = host_memory_lacks(settings)
        assert (lacks in said, bool(said)) == (True, bool(lacks))
    assert host_memory_lacks(ModelSettings(id="m", path=tmp_path / "nothing")) == ""


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, GIB),
        ({"replicas": 2, "tensor_parallel_size": 2}, 4 * GIB),
        ({"replicas": 2, "sleep_level": 1, "asleep_gib": 0.5}, GIB / 2),
        ({"engine": "simulated"}, 0),
    ],
)
def test_what_is_kept_asleep(tmp_path: Path, keys: dict[str, object], expected: float) -> None:
    """Of all its GPUs together, unless somebody has looked."""
    assert asleep_bytes(ModelSettings.model_validate({"id": "m", "path": tmp_path, **keys})) == expected
