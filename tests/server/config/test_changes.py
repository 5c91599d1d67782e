"""What a running server can take over of a new configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from server.config.changes import FIXED, FRONT, PLACE, Change, change_of, check_changes
from server.config.model import ModelSettings
from server.config.settings import Settings
from server.errors import ConfigurationError

MODEL = {"id": "m", "path": "m"}
PLACED = {"kv_cache_gib": 2.0, "limits": {"n": 1}}


def model(**keys: Any) -> ModelSettings:
    return ModelSettings.model_validate({"id": "m", "path": Path("m"), **keys})


def settings(**keys: Any) -> Settings:
    return Settings.model_validate({"models": [{"id": "m", "path": "m"}], **keys})


@pytest.mark.parametrize(
    ("keys", "change"),
    [
        ({}, Change.NONE),
        ({"description": "new"}, Change.FRONT),
        ({"defaults": {"max_tokens": 7}}, Change.FRONT),
        ({"kv_cache_gib": 2.0}, Change.ENGINE),
        ({"kv_cache_gib": 2.0, "description": "new"}, Change.ENGINE),
        ({"path": Path("other")}, Change.MODEL),
        ({"dtype": "float32"}, Change.MODEL),
        ({"engine_args": {"seed": 1}, "kv_cache_gib": 2.0}, Change.MODEL),
    ],
)
def test_what_a_change_asks_of_the_engine(keys: dict[str, Any], change: Change) -> None:
    """Nothing, another engine that goes on with the texts, or another model, which cannot."""
    assert change_of(model(), model(**keys)) is change


def test_a_key_is_of_one_kind() -> None:
    """What is named is a key, and what would change a text is not taken for less by mistake."""
    assert not FRONT & PLACE
    assert FRONT | PLACE | {"id", "path", "builtin", "engine", "dtype", "max_model_len", "quantization"} | {
        "engine_args"
    } == set(ModelSettings.model_fields)
    assert set(FIXED) < set(Settings.model_fields)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"port": 1234},
            "port was 8000 when the server started, and is now 1234: this change takes a restart",
        ),
        ({"cors_origins": ["https://a.example"]}, "cors_origins was empty .* is now https://a.example"),
        ({"workers": 2}, "workers was 1"),
    ],
)
def test_what_takes_a_restart(keys: dict[str, Any], message: str) -> None:
    """Is named, with both values."""
    with pytest.raises(ConfigurationError, match=message):
        check_changes(settings(), settings(**keys))


def test_a_server_that_attests_takes_a_restart() -> None:
    """What it says of itself is what it has started with."""
    with pytest.raises(ConfigurationError, match="attest is on"):
        check_changes(settings(attest=True), settings(attest=True, log_level="debug"))


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("keys", [{"id": "other"}, {"path": "other"}, PLACED])
def test_other_models_are_taken_over(keys: dict[str, Any], workers: int) -> None:
    """By several processes too."""
    new = Settings.model_validate({"models": [MODEL | keys], "workers": workers})
    check_changes(settings(workers=workers), new)


def test_all_else_is_taken_over() -> None:
    """Limits, keys, times."""
    check_changes(settings(), settings(drain_timeout_s=1.0, api_keys_file="keys", max_pending=7))
