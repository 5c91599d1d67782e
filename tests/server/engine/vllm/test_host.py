"""What an engine's process finds out before it imports vLLM."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from server.engine.vllm import host
from server.engine.vllm.processes import News
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


def failing(name: str) -> threading.ExceptHookArgs:
    """What the hook is told of a thread of that name which has failed."""
    error = ValueError("extra field")
    thread = threading.Thread(name=name)
    return threading.ExceptHookArgs((ValueError, error, None, thread))


def test_the_engine_ends_with_a_thread_that_carries_its_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """And says why: vLLM would go on, and hear nothing more."""
    said, ends = list[News](), list[int]()
    monkeypatch.setattr(os, "_exit", ends.append)
    hook = host._end_with_a_thread(said.append)
    hook(failing("Thread-3 (process_input_sockets)"))
    assert ends == [1]
    assert said == [News(error="a thread that carries the engine's messages has failed: extra field")]


def test_it_does_not_end_with_another_thread(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A library's, which fails as it would without us: with a traceback."""
    said, ends = list[News](), list[int]()
    monkeypatch.setattr(os, "_exit", ends.append)
    host._end_with_a_thread(said.append)(failing("Thread-4 (monitor)"))
    assert (said, ends) == ([], [])
    assert "Exception in thread Thread-4 (monitor)" in capsys.readouterr().err


# Plays vLLM: whether garbage is looked for while it is imported.
VLLM = "import gc; print(gc.isenabled())"
IMPORTS = """
import gc
from server.engine.vllm.host import import_vllm
import_vllm()
print(gc.isenabled(), gc.get_freeze_count() > 0)
"""


def test_no_garbage_is_looked_for_in_what_stays(tmp_path: Path) -> None:
    """Not while vLLM is imported, and in what that has made not later either."""
    package = tmp_path / "vllm"
    for folder in (package, package / "v1", package / "v1" / "engine"):
        folder.mkdir()
        (folder / "__init__.py").touch()
    (package / "v1" / "engine" / "core.py").write_text(VLLM)
    environ = {**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    said = subprocess.check_output([sys.executable, "-c", IMPORTS], env=environ, text=True)
    assert said.split() == ["False", "True", "True"]
