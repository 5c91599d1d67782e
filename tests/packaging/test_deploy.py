"""deploy/ and Dockerfile.cuda, read by the programs that they are written for."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from server import __version__

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "deploy/compose.yaml"
UNIT = ROOT / "deploy/verbatim.service"
DOCKERFILE = (ROOT / "Dockerfile.cuda").read_text("utf-8")
SYSTEMD = Path("/usr/lib/systemd/system")
EXPOSURE = "20"  # in tenths; systemd calls what is below 2 OK, a service without any of it has 9.6

VARIABLES = {
    "VERBATIM_IMAGE": "verbatim:0.1.0",
    "VERBATIM_MODELS": "/srv/models",
    "VERBATIM_KEYS": "/srv/keys",
}


def compose(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """docker compose config, of whichever Compose there is."""
    plugin = (
        subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
        if shutil.which("docker")
        else None
    )
    if plugin is not None and plugin.returncode == 0:
        command = ["docker", "compose"]
    elif shutil.which("docker-compose"):
        command = ["docker-compose"]
    else:
        pytest.skip(
            "neither the plugin `docker compose` nor docker-compose is installed (Debian: docker-compose)"
        )
    path = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    return subprocess.run(
        [*command, "-f", str(COMPOSE), "config"],
        env=path | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def service() -> dict[str, Any]:
    service: dict[str, Any] = yaml.safe_load(COMPOSE.read_text("utf-8"))["services"]["verbatim"]
    return service


def unit() -> dict[str, str]:
    """Its settings; of one that is given twice, the last."""
    return dict(re.findall(r"^(\w+)=(.*)$", UNIT.read_text("utf-8"), re.MULTILINE))


def test_compose_accepts_the_file() -> None:
    """Compose itself finds nothing wrong, and sees the GPUs that are reserved."""
    ran = compose(VARIABLES)
    assert ran.returncode == 0, ran.stderr
    assert "gpu" in str(
        yaml.safe_load(ran.stdout)["services"]["verbatim"]["deploy"]["resources"]["reservations"]
    )


@pytest.mark.parametrize("name", VARIABLES)
def test_compose_asks_for_what_it_cannot_know(name: str) -> None:
    """Without the image, the models or the keys nothing starts, and the variable is named."""
    ran = compose({other: value for other, value in VARIABLES.items() if other != name})
    assert ran.returncode != 0
    assert name in ran.stderr


def test_the_service_is_hardened() -> None:
    """Read-only, without capabilities, with limits; models and keys cannot be written."""
    assert service()["read_only"] is True
    assert service()["cap_drop"] == ["ALL"]
    assert set(service()["deploy"]["resources"]["limits"]) == {"cpus", "memory"}
    assert service()["ulimits"]["nproc"] > 0
    binds = [volume for volume in service()["volumes"] if isinstance(volume, dict)]
    assert [bind["read_only"] for bind in binds] == [True, True]


def test_compose_checks_health_as_the_image_does() -> None:
    """One probe, written down twice because each has its own place for it."""
    found = re.search(r"^HEALTHCHECK (.*?) CMD (\[.*?\])$", DOCKERFILE.replace("\\\n   ", ""), re.MULTILINE)
    assert found
    probe = service()["healthcheck"]
    assert yaml.safe_load(found[2]) == probe["test"][1:] == ["/opt/verbatim/current/bin/verbatim", "health"]
    options = dict(option.removeprefix("--").split("=") for option in found[1].split())
    assert options == {name.replace("_", "-"): str(probe[name]) for name in probe if name != "test"}


def test_the_probe_is_a_command_of_ours() -> None:
    """That asks the server of the same configuration, and fails where none answers."""
    ran = subprocess.run(
        [sys.executable, "-c", "from server.cli import main; main()", "health"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "VERBATIM_HOST": "unix:/no/such/socket"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (
        1,
        "verbatim: no server answers at unix:/no/such/socket: [Errno 2] No such file or directory\n",
    )


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    """systemd-analyze finds nothing to say against it."""
    if shutil.which("systemd-analyze") is None or not SYSTEMD.is_dir():
        pytest.skip("systemd-analyze is not installed (Debian: systemd)")
    shutil.copytree(SYSTEMD, tmp_path / SYSTEMD.relative_to("/"), symlinks=True)
    shutil.copy(UNIT, tmp_path / SYSTEMD.relative_to("/"))
    command = tmp_path / "opt/verbatim/current/bin/verbatim"
    command.parent.mkdir(parents=True)
    command.touch(0o755)
    analyze = ["systemd-analyze", "verify", f"--root={tmp_path}", "--man=no", "verbatim.service"]
    ran = subprocess.run(analyze, capture_output=True, text=True, check=False)
    assert (ran.returncode, [line for line in ran.stderr.splitlines() if "verbatim" in line]) == (0, [])


def test_systemd_finds_the_unit_closed() -> None:
    """Its own measure of what a service may do stays low."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed (Debian: systemd)")
    analyze = [
        "systemd-analyze",
        "security",
        "--offline=true",
        f"--threshold={EXPOSURE}",
        "--no-pager",
        str(UNIT),
    ]
    ran = subprocess.run(analyze, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout


def test_an_engine_that_is_out_of_memory_does_not_stop_the_service() -> None:
    """The server starts another one; systemd would stop everything."""
    assert unit()["OOMPolicy"] == "continue"


def test_whoever_stops_it_waits_for_the_drain() -> None:
    """SIGKILL comes after drain_timeout_s and the last words."""
    assert service()["stop_grace_period"] == "45s"
    assert unit()["TimeoutStopSec"] == "45"


def test_labels_are_what_is_pinned() -> None:
    """The versions in Dockerfile.cuda are this checkout's."""
    pins = dict(re.findall(r"^(\w+)={2,3}(\S+)", (ROOT / "requirements/cuda.txt").read_text(), re.MULTILINE))
    wanted = {"VERBATIM": __version__, "VLLM": pins["vllm"], "TORCH": pins["torch"]}
    assert dict(re.findall(r"^ARG (VERBATIM|VLLM|TORCH)=(.+)$", DOCKERFILE, re.MULTILINE)) == wanted


def test_no_digest_is_made_up() -> None:
    """BASE has no default, and no file names a digest that nobody here could look up."""
    assert re.search(r"^ARG BASE$", DOCKERFILE, re.MULTILINE)
    texts = [DOCKERFILE, COMPOSE.read_text("utf-8"), (ROOT / "docs/deployment.md").read_text("utf-8")]
    assert not any(re.search(r"sha256:[0-9a-f]{8}", text) for text in texts)
