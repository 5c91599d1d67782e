"""The client commands at a server with TLS that asks its clients for a certificate."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.certificates import Authority, Pair
from tests.docs.shell import free_ports
from tests.serving import VERBATIM, serving, wait_for
from twin.language.store import DATA

MODEL = {"id": "m", "path": str(DATA), "engine": "simulated", "max_model_len": 256}
ASK = ("complete", "hello", "--max-tokens", "1", "--url")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def own(authority: Authority) -> Pair:
    """A client's certificate."""
    return authority.pair("client")


def config(authority: Authority, **more: Any) -> dict[str, Any]:
    pair = authority.pair("server")
    tls = {"cert": str(pair.cert), "key": str(pair.key), "client_ca": str(authority.cert)}
    return {"models": [MODEL], "tls": tls} | more


@pytest.fixture(scope="module")
def url(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("tls"), config(authority), command="simulate") as server:
        wait_for(lambda: "Ready" in server.said(), 60)
        yield server.url()


@pytest.fixture(scope="module")
def flags(authority: Authority, own: Pair) -> list[str]:
    return ["--ca", str(authority.cert), "--cert", str(own.cert), "--cert-key", str(own.key)]


def run(*words: str, **environ: str) -> tuple[int, str, str]:
    """Exit code, and what is said on standard output and standard error."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("VERBATIM_")}
    command = [*map(str, VERBATIM), *words]
    done = subprocess.run(command, env=clean | environ, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_a_request(url: str, flags: list[str]) -> None:
    """With a certificate that the server takes, of an authority that is trusted."""
    code, said, more = run(*ASK, url, *flags)
    assert code == 0, more
    assert said.strip()


def test_files_by_environment(url: str, authority: Authority, own: Pair) -> None:
    """For probes and scripts."""
    names = {"VERBATIM_CA": authority.cert, "VERBATIM_CLIENT_CERT": own.cert, "VERBATIM_CLIENT_KEY": own.key}
    environ = {name: str(file) for name, file in names.items()}
    assert run(*ASK, url, **environ)[0] == 0
    assert run("conform", "--only", "http.models", VERBATIM_URL=url, **environ)[0] == 0


def test_what_is_missing_is_said(url: str, flags: list[str]) -> None:
    """An authority, a certificate, its key."""
    assert "--ca names the certificates to trust" in run(*ASK, url)[2]
    assert "name one with --cert and --cert-key" in run(*ASK, url, *flags[:2])[2]
    assert run(*ASK, url, *flags[:4])[2].startswith("verbatim: --cert ")
    assert "--cert-key needs --cert" in run(*ASK, url, *flags[4:])[2]


@pytest.mark.parametrize(
    "command",
    [ASK, ("conform", "--only", "http.models"), ("watch", "--port", "0", "--upstream")],
    ids=["complete", "conform", "watch"],
)
def test_files_that_are_none(url: str, tmp_path: Path, command: tuple[str, ...]) -> None:
    """Are named, with exit code 1 or 2 and no traceback."""
    (tmp_path / "empty").write_text("")
    for flag, file in (("--ca", "gone"), ("--ca", "empty"), ("--cert", "gone"), ("--cert", "empty")):
        code, _, said = run(*command, url, flag, str(tmp_path / file))
        assert code in (1, 2)
        assert said.startswith(f"verbatim: {flag} {tmp_path / file}: "), said


def test_rules(url: str, flags: list[str]) -> None:
    """verbatim conform too, also where it speaks to a socket itself."""
    code, said, problem = run("conform", url, *flags, "--only", "http.models", "--only", "wire.http-1-0")
    assert code == 0, said + problem
    assert "2 of 2 rules hold" in said


@pytest.mark.parametrize("num_flags", [6, 2])
def test_watch(url: str, flags: list[str], num_flags: int) -> None:
    """verbatim watch shows the certificate for its clients, who have none; without one it says what fails."""
    command = [*map(str, VERBATIM), "watch", "--port", "0", "--upstream", url, *flags[:num_flags]]
    environ = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            (here,) = re.findall(r"listens on (\S+)", process.stdout.readline())
            code, said, more = run(*ASK, here)
        finally:
            process.terminate()
    if num_flags == 6:
        assert (code, bool(said.strip())) == (0, True), more
    else:
        assert (code, "502 BAD_GATEWAY: the upstream server did not answer" in more) == (1, True), more


def test_on_this_machine(authority: Authority, flags: list[str], tmp_path: Path) -> None:
    """`verbatim health` and `verbatim models` find the server by its configuration, on a Unix socket with TLS
    too. Its certificate may name another host; one that it asks for has to be shown."""
    socket = tmp_path / "s"
    more = config(authority, host=f"unix:{socket}")
    with serving(tmp_path, more, command="simulate") as server:
        wait_for(lambda: "Ready" in server.said(), 60)
        known = ["--config", str(tmp_path / "models.yaml")]
        assert run("health", *known, *flags)[:2] == (0, "ready\n")
        code, _, said = run("health", *known)
        assert (code, "name one with --cert" in said) == (1, True), said
        assert "loaded" in run("models", *known, *flags)[1]
        assert run(*ASK, f"unix:{socket}", *flags)[0] == 0
        assert run("conform", f"unix:{socket}", *flags, "--only", "wire.http-1-0")[0] == 0
    code, _, said = run("health", *known, *flags)
    assert (code, "no server answers" in said) == (1, True)


@pytest.mark.parametrize("tls", [True, False])
def test_health_at_the_admin_port(authority: Authority, tmp_path: Path, tls: bool) -> None:
    """Which may have no TLS, and asks for no certificate then; with it, it asks as the port does."""
    (port, *_) = free_ports(1)
    more = config(authority, admin={"host": "127.0.0.1", "port": port, "tls": tls})
    if tls:
        del more["tls"]["client_ca"]
    with serving(tmp_path, more, command="simulate") as server:
        wait_for(lambda: "Ready" in server.said(), 60)
        known = ["--config", str(tmp_path / "models.yaml")]
        assert run("health", *known)[:2] == (0, "ready\n")
        yaml_file = tmp_path / "models.yaml"
        yaml_file.write_text(yaml.safe_dump(yaml.safe_load(yaml_file.read_text()) | {"admin": None}))
        assert run("health", *known)[0] == 1  # at port 0, where nothing is
