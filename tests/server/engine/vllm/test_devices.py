"""Which GPUs each replica's engine gets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from server.config.model import ModelSettings
from server.config.replication import flat
from server.engine.vllm import devices
from server.engine.vllm.devices import check_devices, check_sleep_level, dealt
from server.engine.vllm.processes import environment
from server.errors import ConfigurationError


def model(**keys: Any) -> ModelSettings:
    return ModelSettings.model_validate({"id": "m", "path": Path("m"), **keys})


@pytest.fixture(autouse=True)
def eight(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of eight GPUs, with vLLM's build for them."""
    monkeypatch.setattr(devices, "installed", lambda build: False)
    monkeypatch.setattr(devices, "num_gpus", lambda: 8)


@pytest.mark.parametrize(
    ("keys", "environ", "groups"),
    [
        ({"replicas": 3}, {}, [(0,), (1,), (2,)]),
        ({"replicas": 2, "tensor_parallel_size": 2}, {}, [(0, 1), (2, 3)]),
        (
            {"replicas": 2, "tensor_parallel_size": 2, "pipeline_parallel_size": 2},
            {},
            [(0, 1, 2, 3), (4, 5, 6, 7)],
        ),
        ({"replicas": 2, "devices": [5, 2]}, {}, [(5,), (2,)]),
        ({"replicas": 2, "tensor_parallel_size": 2, "devices": [[0, 2], [1, 3]]}, {}, [(0, 2), (1, 3)]),
        ({"replicas": 2}, {"CUDA_VISIBLE_DEVICES": "6,7"}, [(6,), (7,)]),
        ({"replicas": {"min": 1, "max": 2}}, {}, [(0,), (1,)]),
        ({}, {}, [()]),
    ],
)
def test_each_has_its_own(
    keys: dict[str, Any], environ: dict[str, str], groups: list[tuple[int, ...]]
) -> None:
    """Those that are named for it, or the next ones in order, of those that may be seen; a model that has one
    engine sees what the server does."""
    one = model(**keys)
    check_devices(one, environ)
    assert [flat(dealt(one, number, environ).devices) for number in range(len(groups))] == groups


def test_the_engine_sees_no_others() -> None:
    """Its process is told of its GPUs alone."""
    own = dealt(model(replicas=2, tensor_parallel_size=2), 1, {})
    assert environment({}, own)["CUDA_VISIBLE_DEVICES"] == "2,3"


@pytest.mark.parametrize(
    ("keys", "environ", "problem"),
    [
        ({"replicas": 9}, {}, "9 replicas on 1 GPUs each need 9, and there are 8"),
        (
            {"replicas": 3, "tensor_parallel_size": 4},
            {},
            "3 replicas on 4 GPUs each need 12, and there are 8",
        ),
        ({"tensor_parallel_size": 16}, {}, "1 replicas on 16 GPUs each need 16, and there are 8"),
        ({"replicas": 2, "devices": [0, 8]}, {}, "devices lists GPU 8, but this machine has only 0 to 7"),
        ({"replicas": 3}, {"CUDA_VISIBLE_DEVICES": "6,7"}, "need 3, and there are 2"),
        ({"replicas": 2}, {"CUDA_VISIBLE_DEVICES": "GPU-5e1,GPU-77a"}, "list each replica's GPUs in devices"),
    ],
)
def test_more_than_there_are(keys: dict[str, Any], environ: dict[str, str], problem: str) -> None:
    """Is said before anything starts, with what to do."""
    with pytest.raises(ConfigurationError, match=problem):
        check_devices(model(**keys), environ)


def test_a_cpu_is_not_dealt_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """On vLLM's build for the CPU nothing is checked, and nothing is named."""
    monkeypatch.setattr(devices, "installed", lambda build: True)
    one = model(replicas=9)
    check_devices(one, {})
    assert dealt(one, 3, {}).devices == ()


def test_engines_that_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Are for GPUs: on the CPU vLLM ignores it, and the memory would be in use still."""
    check_sleep_level(model(sleep_level=1))
    monkeypatch.setattr(devices, "installed", lambda build: True)
    check_sleep_level(model(sleep_level=1, engine="simulated"))
    with pytest.raises(ConfigurationError, match="Remove sleep_level"):
        check_sleep_level(model(sleep_level=1))
