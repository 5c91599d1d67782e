"""Servers as operators put them on a network: TLS, clients' certificates, an admin port, a Unix socket."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.certificates import Authority
from tests.serving import SIMULATED_MODEL, SMOL, VERBATIM, Server, serving, wait_for

KEY = {"authorization": "Bearer key"}
ASK = {"model": SMOL, "prompt": "hello", "max_tokens": 20}


@dataclass
class Secure:
    """A server with two processes that wants its clients' certificates, and an admin port without TLS."""

    server: Server
    authority: Authority
    url: str
    admin: str
    trust: ssl.SSLContext

    def shown(self) -> bytes:
        """The certificate of one of its processes."""
        host, port = self.url.removeprefix("https://").split(":")
        with socket.create_connection((host, int(port)), 10) as raw, self.wrapped(raw) as client:
            return client.getpeercert(binary_form=True) or b""

    def wrapped(self, raw: socket.socket) -> ssl.SSLSocket:
        return self.trust.wrap_socket(raw, server_hostname="127.0.0.1")

    def reload(self) -> subprocess.CompletedProcess[str]:
        port = self.url.rpartition(":")[2]
        return subprocess.run(
            [*VERBATIM, "reload", "--port", port], capture_output=True, text=True, check=False
        )


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    folder = tmp_path_factory.mktemp("secure")
    authority = Authority(folder)
    pair, client = authority.pair("server"), authority.pair("client")
    config: dict[str, Any] = {
        "models": [SIMULATED_MODEL],
        "workers": 2,
        "tls": {"cert": str(pair.cert), "key": str(pair.key), "client_ca": str(authority.cert)},
        "admin": {"port": 0, "tls": False},
    }
    with serving(folder, config) as server:
        url = server.url()
        admin = re.search(r"Admin port: (http://\S+) has", server.said())
        assert admin is not None
        found = Secure(server, authority, url, admin[1], authority.trust(client))
        wait_for(lambda: httpx.get(f"{found.admin}/ready").status_code == 200, 60, every_s=0.1)
        yield found


def test_the_two_ports(secure: Secure) -> None:
    """One answers completions to clients with a certificate, the other has metrics for this machine."""
    with httpx.Client(verify=secure.trust, base_url=secure.url, headers=KEY) as client:
        for _ in range(4):
            assert client.post("/v1/completions", json=ASK).status_code == 200
        assert client.get("/metrics").status_code == 404
    assert "verbatim_requests_total" in httpx.get(f"{secure.admin}/metrics").text
    assert httpx.post(f"{secure.admin}/v1/completions", json=ASK).status_code == 404
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{secure.url}/health", verify=secure.authority.trust())
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{secure.url.replace('https', 'http')}/health")


def test_renewal(secure: Secure) -> None:
    """A new key without its certificate is refused by reload; with it, every process shows them."""
    before = secure.shown()
    other = secure.authority.pair("other")
    other.key.replace(other.key.with_name("server.key"))
    refused = secure.reload()
    assert refused.returncode == 1
    assert "is not that of the certificate in" in refused.stderr
    assert {secure.shown() for _ in range(20)} == {before}
    other.cert.replace(other.cert.with_name("server.pem"))
    assert before not in {secure.shown() for _ in range(20)}
    assert secure.reload().returncode == 0


def test_drain(secure: Secure) -> None:
    """SIGTERM lets a stream end, under TLS too; then the server ends. The last test of the module."""
    long = ASK | {"max_tokens": 400, "stream": True, "ignore_eos": True}
    with (
        httpx.Client(verify=secure.trust, base_url=secure.url, headers=KEY, timeout=60) as client,
        client.stream("POST", "/v1/completions", json=long) as reply,
    ):
        lines = reply.iter_lines()
        next(lines)
        secure.server.process.send_signal(signal.SIGTERM)
        assert [line for line in lines if line][-1] == "data: [DONE]"
    assert secure.server.process.wait(60) == 0
    assert "Traceback" not in secure.server.said()


def test_a_unix_socket(tmp_path: Path) -> None:
    """Two processes answer on it, the command line's clients reach it, and its file goes with the server."""
    path = tmp_path / "s"
    config = {"models": [SIMULATED_MODEL], "host": f"unix:{path}", "workers": 2, "socket_mode": "660"}
    with serving(tmp_path / "server", config) as server:
        assert server.url() == f"unix:{path}"
        transport = httpx.HTTPTransport(uds=str(path))
        with httpx.Client(transport=transport, base_url="http://localhost") as client:
            wait_for(lambda: client.get("/ready").status_code == 200, 60, every_s=0.1)
        command = [*VERBATIM, "complete", "--url", server.url(), "--max-tokens", "5", "hello"]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        rules = [*VERBATIM, "conform", server.url(), "--only", "stream.frames", "--only", "wire"]
        assert subprocess.run(rules, check=False).returncode == 0
        config_file = str(tmp_path / "server" / "models.yaml")
        assert subprocess.run([*VERBATIM, "reload", "--config", config_file], check=False).returncode == 0
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
        assert not os.path.lexists(path)
