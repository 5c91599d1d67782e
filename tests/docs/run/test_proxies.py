"""The proxies of docs/running/first-hour.md, as they are written there, in front of a server."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.certificates import Authority
from tests.docs.blocks import ROOT, blocks
from tests.docs.shell import free_ports
from tests.serving import fold, serving, wait_for
from twin.language.store import DATA

PAGE = "first-hour.md"
BLOCKS = {block.kind: block.content for block in blocks((ROOT / "docs/running" / PAGE).read_text("utf-8"))}
KEY = "sk-proxied"
# Two seconds' work: somewhere in them a client that has to wait for its core reads what has come so far.
NUM_TOKENS = 40
BODY = {"model": "m", "prompt": "Once upon a time", "seed": 1, "max_tokens": NUM_TOKENS, "ignore_eos": True}


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """HOST:PORT of a simulator that takes 50 ms for a token."""
    folder = tmp_path_factory.mktemp("upstream")
    config = {"models": [{"id": "m", "path": str(DATA), "engine": "simulated"}]}
    with serving(folder, config, "--profile", "cpu", command="simulate") as server:
        server.wait_ready()
        yield server.url().removeprefix("http://")


Proxy = Callable[[str, Path, Authority], contextlib.AbstractContextManager[str]]


@contextlib.contextmanager
def nginx(upstream: str, folder: Path, authority: Authority) -> Iterator[str]:
    pair, (port,) = authority.pair("localhost"), free_ports(1)
    site = BLOCKS["nginx"].replace("listen 443", f"listen 127.0.0.1:{port}").replace("10.0.0.0/8", "10.0.0.1")
    site = site.replace("/etc/ssl/llm.pem", str(pair.cert)).replace("/etc/ssl/llm.key", str(pair.key))
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;" if os.geteuid() == 0 else ""
    file = folder / "nginx.conf"
    file.write_text(
        f"{user} daemon off; pid {folder}/pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off;\n{temporary}{site.replace('127.0.0.1:8000', upstream)} }}\n"
    )
    with running(["nginx", "-c", str(file), "-p", str(folder)], folder):
        yield f"https://127.0.0.1:{port}"


@contextlib.contextmanager
def caddy(upstream: str, folder: Path, authority: Authority) -> Iterator[str]:
    """With the authority's certificate, because nobody signs one for this name here."""
    pair, (port,) = authority.pair("localhost"), free_ports(1)
    site = BLOCKS["caddyfile"].replace(
        "llm.example.com {", f"https://127.0.0.1:{port} {{\n    tls {pair.cert} {pair.key}"
    )
    file = folder / "Caddyfile"
    file.write_text("{\n    admin off\n    auto_https off\n}\n" + site.replace("127.0.0.1:8000", upstream))
    with running(["caddy", "run", "--config", str(file), "--adapter", "caddyfile"], folder):
        yield f"https://127.0.0.1:{port}"


@contextlib.contextmanager
def running(command: list[str], folder: Path) -> Iterator[None]:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    log = folder / "proxy.log"
    environ = {**os.environ, "HOME": str(folder)}
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environ)
    try:
        yield
    except BaseException:
        print(log.read_text())
        raise
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.parametrize("proxy", [nginx, caddy])
def test_a_stream_comes_as_it_is_made(proxy: Proxy, upstream: str, tmp_path: Path) -> None:
    """Over TLS, chunk by chunk and not at its end, and whole; what is for operators is closed."""
    authority = Authority(tmp_path)
    with (
        proxy(upstream, tmp_path, authority) as url,
        httpx.Client(
            verify=authority.trust(), base_url=url, headers={"authorization": f"Bearer {KEY}"}
        ) as client,
    ):
        wait_for(lambda: is_up(client), 30)
        at, data = [], []
        with client.stream("POST", "/v3/openai/completions", json=BODY | {"stream": True}) as reply:
            assert (reply.status_code, reply.headers["content-type"][:17]) == (200, "text/event-stream")
            for line in reply.iter_lines():
                if line.startswith("data: "):
                    at.append(time.monotonic())
                    data.append(line.removeprefix("data: "))
        assert data.pop() == "[DONE]"
        chunks = [json.loads(chunk) for chunk in data]
        assert len(chunks) >= 4  # a chunk may have several tokens
        assert at[-1] - at[0] > 0.25
        whole = client.post("/v3/openai/completions", json=BODY).json()
        assert fold(chunks) == whole["choices"]
        assert chunks[-1]["usage"] == whole["usage"]
        assert whole["usage"]["completion_tokens"] == NUM_TOKENS
        assert client.get("/metrics").status_code in (403, 404)


def is_up(client: httpx.Client) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return client.get("/health").status_code == 200
    return False
