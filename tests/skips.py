"""`--expected-skips`: a test that is skipped for a reason that is not listed here fails the run.

CI sets it, so that a test does not stop being run without anybody noticing. Elsewhere every skip is allowed.
"""

from __future__ import annotations

import re

import pytest

# What CI's machine lacks, as the tests say it.
EXPECTED = (
    r"there is no NVIDIA GPU",
    r"on a GPU a test of its own has that much memory",
    r"FAKE_GPU names no simulated GPU",
    r"(buildah|chromium|debootstrap|prometheus|promtool) is not installed",
    r"debootstrap failed",  # it needs a mirror of Debian
    r"openai for Node cannot be installed",  # it needs npm, and a registry
    r"kubernetes-validate is not installed",  # 108 MB of schemas
    r"neither the plugin `docker compose` nor docker-compose is installed",
)


def is_expected(reason: str) -> bool:
    return any(re.search(pattern, reason) for pattern in EXPECTED)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--expected-skips", action="store_true", help="fail for skips that tests/skips.py lacks")


class Skips:
    """Every skip of a session that is not expected, as a line each."""

    def __init__(self) -> None:
        self.unexpected: list[str] = []

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._look(report)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._look(report)

    def _look(self, report: pytest.CollectReport | pytest.TestReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else report.longreprtext
            if not is_expected(reason):
                self.unexpected.append(f"{report.nodeid}: {reason}")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.unexpected:
            terminalreporter.section("skipped, but not expected to be (tests/skips.py)", red=True)
            terminalreporter.write("".join(f"{line}\n" for line in self.unexpected))

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.unexpected and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--expected-skips"):
        config.pluginmanager.register(Skips())
