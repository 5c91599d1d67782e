"""A pytest plugin for the test suites of clients: the fixture `verbatim_server`.

It imports nothing of the server, which runs in a process of its own, once for all tests of a session.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import secrets
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

COMMAND = (sys.executable, "-c", "from server.cli import main; main()", "simulate", "--port", "0")
USUAL = "--profile none --log-level warning"  # tests want no latency
MOST_SHOWN = 5


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("verbatim_args", "Further arguments of `verbatim simulate`.", default=USUAL)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "verbatim(allow=(), **patience): rules of the verdict that this test's client may break, and how"
        " patient the others are (docs/verdict.md)",
    )


class VerbatimServer:
    """A server for one test, which recognizes its requests by a key of their own.

    url: with the prefix that SDKs use as their base. root: without it. key: to send with each request. model:
    a model id.
    """

    def __init__(self, root: str) -> None:
        self.root, self.url = root, f"{root}/v1"
        self.key = f"test-{secrets.token_hex(8)}"
        self.rules: list[dict[str, Any]] = []
        self.model: str = self._call("GET", "/v1/models")["data"][0]["id"]

    @contextlib.contextmanager
    def fault(self, fault: str, **rule: Any) -> Iterator[None]:
        """Let requests of this test fail within the context.

        fault: as in docs/faults.md, such as "status=429 retry_after=1". rule: further keys of a rule: first,
        nth, every, share, times. Raises ValueError for an invalid fault or rule.
        """
        match = {**rule.pop("match", {}), "key": self.key}
        self.rules.insert(0, {"fault": fault, "match": match, **rule})
        try:
            self._put_rules()
            yield
        finally:
            self.rules.pop(0)
            self._put_rules()

    def requests(self) -> list[dict[str, Any]]:
        """What this test's client has sent, in order, and how it was answered."""
        found: list[dict[str, Any]] = self._call("GET", f"/simulator/requests?client={self.client}")[
            "requests"
        ]
        return found

    def verdict(self, **patience: float) -> dict[str, Any]:
        """The verdict on this test's client: rule id -> state and violations."""
        query = "".join(f"&{name}={value}" for name, value in patience.items())
        (found,) = self._call("GET", f"/simulator/verdict?client={self.client}{query}")["clients"]
        return {rule["id"]: rule for rule in found["rules"]}

    @property
    def client(self) -> str:
        """The server's name for this client."""
        return f"key-{hashlib.sha256(f'Bearer {self.key}'.encode()).hexdigest()[:8]}"

    def _put_rules(self) -> None:
        self._call("PUT", "/simulator/faults", {"rules": self.rules})

    def _call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        headers = {"authorization": "Bearer of-the-plugin"}
        # Our own server
        request = urllib.request.Request(self.root + path, data, headers, method=method)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
                answer: dict[str, Any] = json.load(response)
                return answer
        except urllib.error.HTTPError as error:
            raise ValueError(json.load(error)["message"]) from None


@pytest.fixture(scope="session")
def verbatim_process(pytestconfig: pytest.Config) -> Iterator[str]:
    """The server's address."""
    arguments = str(pytestconfig.getini("verbatim_args")).split()
    with subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            said = ""
            for line in process.stdout:
                said += line
                if line.startswith("Ready"):
                    break
            found = re.search(r"listens on (http://\S+)", said)
            if found is None:
                pytest.fail(f"verbatim simulate did not start: {said}")
            yield found[1]
        finally:
            process.terminate()


@pytest.fixture
def verbatim_server(request: pytest.FixtureRequest, verbatim_process: str) -> Iterator[VerbatimServer]:
    """A server to test a client against. The test fails at its end if the client broke rules."""
    server = VerbatimServer(verbatim_process)
    yield server
    marker = request.node.get_closest_marker("verbatim")
    asked = dict(marker.kwargs) if marker is not None else {}
    allowed = asked.pop("allow", ())
    against = [
        f"{rule['id']} ({rule['rule']}):\n"
        + "\n".join(f"    {_line(one)}" for one in rule["against"][:MOST_SHOWN])
        for rule in server.verdict(**asked).values()
        if rule["state"] == "failed" and rule["id"] not in allowed
    ]
    if against:
        pytest.fail("the client broke rules of the verdict:\n" + "\n".join(against), pytrace=False)


def _line(one: dict[str, Any]) -> str:
    asked = one["request"]
    return f"request {asked['number']}, {asked['method']} {asked['path']}: {one['what']}"
