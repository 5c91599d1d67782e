"""What an engine's process finds out before it imports vLLM."""

from __future__ import annotations

import pytest

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
