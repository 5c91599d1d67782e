"""What an engine's process finds out before it imports vLLM."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.config.settings import ModelSettings
from server.engine.vllm import host
from server.errors import ConfigurationError


def test_a_library_that_the_system_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named, with what to install; vLLM itself would start without it and fail in an obscure place."""
    monkeypatch.setattr(host, "installed", lambda name: True)
    monkeypatch.setattr(host, "NUMA", "libnuma-is-not-here.so.1")
    with pytest.raises(ConfigurationError, match=r"needs libnuma-is-not-here.* libnuma1"):
        host.check_libraries()


def test_the_cuda_build_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the CPU build loads it."""
    monkeypatch.setattr(host, "installed", lambda name: False)
    monkeypatch.setattr(host, "NUMA", "libnuma-is-not-here.so.1")
    host.check_libraries()


def seed_of(**engine_args: object) -> object:
    settings = ModelSettings(id="m", path=Path("m"), engine_args=engine_args)
    return host.engine_arguments(settings, 100, on_cpu=False)["seed"]


def test_every_start_draws_differently() -> None:
    """Each engine has a seed of its own, for requests without one; the user's own is taken as it is."""
    seeds = {seed_of() for _ in range(4)}
    assert len(seeds) == 4
    assert all(isinstance(seed, int) and 0 <= seed < 2**32 for seed in seeds)  # as NumPy takes them
    assert seed_of(seed=7) == 7
