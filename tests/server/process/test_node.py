from __future__ import annotations

import pytest

from server.config.settings import Settings
from server.errors import ConfigurationError
from server.process import cluster

MODEL = {"id": "m", "path": "/models/m"}


def test_without_ray_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a node as for a front end."""
    monkeypatch.setattr(cluster, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"verbatim\[ray\]"):
        cluster.check_ray()


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"workers": 2}, "start more front ends"),
        ({"attest": True}, "attest"),
        ({"models": [MODEL | {"devices": [0]}]}, "Ray assigns the GPUs"),
    ],
)
def test_what_a_front_end_of_a_cluster_cannot_have(keys: dict[str, object], words: str) -> None:
    """It does not start, and says what to do instead."""
    settings = Settings.model_validate({"models": [MODEL], "cluster": "auto"} | keys)
    with pytest.raises(ConfigurationError, match=words):
        cluster.check(settings)


def test_an_address_is_auto_or_has_a_port() -> None:
    """A name alone is refused before anything starts."""
    with pytest.raises(ValueError, match="HOST:PORT"):
        Settings.model_validate({"models": [MODEL], "cluster": "head"})
