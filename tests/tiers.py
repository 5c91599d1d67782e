"""What the tests of a folder need, and `--fast`: only those that need the server's own packages and no more.

With --fast the heavy packages cannot be imported, whether they are installed or not: a test that imports one,
or runs code that does, fails here as it would where they are missing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
HEAVY = frozenset({"cryptography", "torch", "transformers", "triton", "vllm"})
# Folders whose tests need more than the server's own packages, and what, or take long. All others are fast.
SLOW = {
    "airgap": "vLLM, root, tcpdump, network namespaces",
    "browser": "Chromium",
    "bundle": "cryptography",
    "chaos": "vLLM, root, gcc",
    "cluster": "vLLM, Ray",
    "clients": "vLLM, nginx, npm, 3 GB of disk for the clients",
    "docs/run": "vLLM, npm",
    "engine": "vLLM",
    "families": "vLLM, transformers",
    "gpu": "an NVIDIA GPU",
    "hostgpu": "vLLM for CUDA on a simulated GPU: gcc, 9 GB of disk",
    "monitoring": "vLLM, Prometheus",
    "packaging": "vLLM, root, buildah, debootstrap",
    "sealed": "cryptography",
    "server/process": "time: servers in processes of their own",
    "sampling/torch": "torch, Triton, vLLM",
    "twin/contract": "vLLM: the models of `engine`",
}
# In a run of two processes (`make test`) one at a time has such a folder: its tests wait for engines to start
# for much of their time, and two engines at once would share the cores.
ENGINES = ("chaos", "cluster", "docs/run", "engine", "families", "monitoring", "server/process")
# Folders of which one process has both, because they share what takes minutes to make: models, a bundle.
TOGETHER = {"twin/contract": "engine", "packaging": "airgap"}

# Folders that a run has only with an option: its name, and the folder.
ASKED_FOR = {"clients": "clients", "outages": "cluster/outages"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help="only the tests that need neither vLLM nor torch")
    parser.addoption("--long", action="store_true", help="the tests that are marked as long, too")
    for name, folder in ASKED_FOR.items():
        parser.addoption(f"--{name}", action="store_true", help=f"the tests of tests/{folder} too")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--fast"):
        for name in HEAVY:
            sys.modules[name] = None  # type: ignore[assignment]  # Python's own way: there is none


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out the folders that nobody has asked for, and with --fast those that are not; None
    lets pytest decide."""
    unasked = [folder for name, folder in ASKED_FOR.items() if not config.getoption(name)]
    left_out = _is_in(collection_path, unasked) or (config.getoption("--fast") and is_slow(collection_path))
    return left_out or None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The fast ones first, so that most mistakes show within a minute. The long ones only if they are asked
    for: somebody waits for `make test`."""
    long = [] if config.getoption("--long") else [item for item in items if item.get_closest_marker("long")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if not item.get_closest_marker("long")]
    items.sort(key=lambda item: is_slow(item.path))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Which process has which tests: a folder of those above, or a file. Whoever has nothing left helps the
    others. (Its own --dist loadgroup does nothing with pytest 9.2, whose items keep their names.)"""
    from xdist.scheduler import LoadScopeScheduling

    config.option.loadscopereorder = False  # the fast ones first

    class ByEngines(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            whole = (*ENGINES, *TOGETHER, *TOGETHER.values())
            folder = next((name for name in whole if _is_in(HERE.parent / file, [name])), file)
            return TOGETHER.get(folder, folder)

        def _assign_work_unit(self, node: Any) -> None:
            taken = any(
                name in ENGINES and not all(tests.values())
                for other, work in self.assigned_work.items()
                if other is not node
                for name, tests in work.items()
            )
            wanted = next((name for name in self.workqueue if (name in ENGINES) is not taken), None)
            if wanted is not None:
                self.workqueue.move_to_end(wanted, last=False)
            super()._assign_work_unit(node)

    return ByEngines(config, log)


def is_slow(path: Path) -> bool:
    return _is_in(path, SLOW)


def _is_in(path: Path, folders: Iterable[str]) -> bool:
    return any(path.is_relative_to(HERE / folder) for folder in folders)
