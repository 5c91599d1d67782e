from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from server.config.settings import Settings
from server.engine.ray.site import refusal, site_of

MODEL = {"id": "m", "path": "/models/m"}


def site(**keys: Any) -> Any:
    return site_of(Settings.model_validate({"models": [MODEL]} | keys), [4096])


def test_front_ends_differ_in_what_is_their_own() -> None:
    """Where they listen, what they log, how they end."""
    assert refusal(site(), site(port=9, log_level="debug", drain_timeout_s=1.0, cluster="auto")) == ""


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (
            {"models": [MODEL | {"max_num_seqs": 8}]},
            "models[m].max_num_seqs is 256 in the cluster and 8 here",
        ),
        (
            {"models": [MODEL | {"defaults": {"top_k": 5}}]},
            "models[m].defaults.top_k is 0 in the cluster and 5 here",
        ),
        (
            {"rate_limits": {"requests_per_minute": 3}},
            "rate_limits.requests_per_minute is 0 in the cluster and 3 here",
        ),
        ({"max_wait_s": 1.0}, "max_wait_s is 600.0 in the cluster and 1.0 here"),
    ],
)
def test_what_differs_is_named(keys: dict[str, Any], words: str) -> None:
    """The key, what it is there, and what it is here."""
    assert words in refusal(site(), site(**keys))


def test_another_list_of_models_is_shown() -> None:
    """Not each of its keys."""
    two = [MODEL, MODEL | {"id": "n"}]
    assert refusal(site(), site(models=two)).startswith("models is [")


def test_another_version_is_refused() -> None:
    """Front ends and engines speak one version's language."""
    other = site().model_copy(update={"version": "9"})
    assert "run Verbatim 9" in refusal(other, site())


def test_it_travels_as_text() -> None:
    """And its models are as they were."""
    one = site()
    there = type(one).model_validate_json(one.model_dump_json())
    assert refusal(one, there) == ""
    assert there.models[0].path == Path("/models/m")
