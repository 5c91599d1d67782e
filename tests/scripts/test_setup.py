"""Set-up: what is installed when, and what is said when it cannot be."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from scripts import packages, setup
from scripts.packages import Installer, Progress, SetupError
from scripts.requirements import PYTHONS, TORCH_CPU, write_list
from server.pip import Answer, Pin, explain, read_pins
from tests.wheels import make_wheel

ROOT = Path(__file__).parents[2]
LISTS = ["cpu", "cuda", "dev", "ray"]
OTHER_FILE = f"""ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.
    six==9 from file:///six-9-py3-none-any.whl (from -r wanted.txt (line 1)):
        Expected sha256 {"0" * 64}
             Got        {"1" * 64}
"""


def versions(name: str) -> dict[str, str]:
    pins = read_pins(ROOT / "requirements" / f"{name}.txt")
    return dict(re.split("={2,3}", pin.requirement, maxsplit=1) for pin in pins)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a .venv that set-up believes to be its own."""
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").symlink_to(sys.executable)
    for module in (packages, setup):
        monkeypatch.setattr(module, "ROOT", tmp_path)
        monkeypatch.setattr(module, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(packages, "LOG", tmp_path / ".venv/setup.log")
    monkeypatch.setattr(setup, "NOTE", tmp_path / ".venv/verbatim.json")
    return tmp_path


# ---- the lists -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LISTS)
def test_every_package_is_pinned_to_files_and_no_host_is_named(name: str) -> None:
    """A list holds exact versions, each with its wheels' SHA-256, and names the command that made it."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    assert "make requirements" in text.splitlines()[0]
    pin = r"[\w.-]+={2,3}[\w.+]+( \\\n    --hash=sha256:[0-9a-f]{64})+"
    assert re.fullmatch(rf"(#.*\n)+({pin}\n)+", text)


def test_a_list_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Each package with its digests; comments are none."""
    pins = [Pin("torch===2.13.0+cpu", ("1" * 64, "2" * 64)), Pin("six==1.17.0", ("3" * 64,))]
    write_list(tmp_path / "list.txt", pins)
    assert read_pins(tmp_path / "list.txt") == pins
    assert pins[1].line == f"six==1.17.0 --hash=sha256:{'3' * 64}"


def test_torch_for_the_cpu_has_a_wheel_for_each_python() -> None:
    """Its digests are kept by hand; `make requirements` looks after all others."""
    (torch,) = [pin for pin in read_pins(ROOT / "requirements/cpu.txt") if pin.requirement in TORCH_CPU]
    assert len(set(torch.sha256)) == len(PYTHONS)


def test_no_list_disagrees_with_another() -> None:
    """The tools, and Ray, can be installed on top of either engine: they share their versions."""
    for name in ("cpu", "cuda"):
        runtime = versions(name)
        for other in ("dev", "ray"):
            assert {k: v for k, v in versions(other).items() if runtime.get(k, v) != v} == {}


def test_the_cpu_list_leaves_out_what_is_built_for_cuda() -> None:
    """On the CPU torchvision, torchaudio and torchcodec break transformers' imports."""
    assert {"torchvision", "torchaudio", "torchcodec"}.isdisjoint(versions("cpu"))
    assert versions("cpu")["torch"] == "2.13.0+cpu"


def test_the_cuda_list_never_takes_a_cpu_torch() -> None:
    """`===` is met by the CUDA build alone, also where pip prefers local files of a CPU build."""
    wanted = {pin.requirement for pin in read_pins(ROOT / "requirements/cuda.txt")}
    assert {"torch===2.13.0", "torchvision===0.28.0", "vllm==0.32.0"} <= wanted


def test_cuda_s_bindings_do_not_overwrite_each_other() -> None:
    """cuda-python before 13 brings files of its own in the place of cuda-bindings'."""
    assert versions("cuda")["cuda-python"] == versions("cuda")["cuda-bindings"]


# ---- pip -----------------------------------------------------------------------------------------


@pytest.fixture
def demo(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel in the one place where pip looks, and an environment that it can be installed into."""
    (project / ".venv/bin/python").unlink()
    venv.create(project / ".venv", with_pip=False, symlinks=True)
    pip = next((project / ".venv").glob("lib/python3*/site-packages")) / "pip"
    pip.symlink_to(Path(importlib.util.find_spec("pip").origin).parent)  # type: ignore[union-attr, arg-type]
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(project))
    return make_wheel(project, "demo", {"demo.py": "x = 1\n"})


def install(folder: Path, digest: str) -> list[bool]:
    """The list with demo alone; what was told about changes."""
    told: list[bool] = []
    write_list(folder / "list.txt", [Pin("demo==1.0", (digest,))])
    Installer(0, told.append).install_list(folder / "list.txt")
    return told


def test_a_file_is_installed_under_its_digest(demo: Path) -> None:
    """And the note is told while packages change, so that a kill is noticed."""
    told = install(demo.parent, hashlib.sha256(demo.read_bytes()).hexdigest())
    assert told == [False, True, False]
    assert list(demo.parent.glob(".venv/lib/python3*/site-packages/demo.py"))


def test_another_file_is_not_installed(demo: Path) -> None:
    """It is named with its digest, in one paragraph."""
    with pytest.raises(SetupError, match=r"demo==1\.0 .* its SHA-256 is \w{64}, which is not pinned"):
        install(demo.parent, "0" * 64)
    assert not list(demo.parent.glob(".venv/lib/python3*/site-packages/demo.py"))


def asked(monkeypatch: pytest.MonkeyPatch, *answers: str) -> list[list[str]]:
    """What pip is asked for, while it fails with these words first."""
    commands: list[list[str]] = []
    waiting = list(answers)

    def run(self: Installer, arguments: list[str], progress: Progress) -> Answer:
        wanted = read_pins(packages.VENV / "wanted.txt")
        commands.append([pin.requirement for pin in wanted][:2] + arguments[arguments.index("-r") + 2 :])
        commands[-1] += [one for one in arguments if one.startswith(("--index", "http"))]
        return Answer(not waiting or not waiting[0], waiting.pop(0) if waiting else "")

    monkeypatch.setattr(Installer, "_run", run)
    return commands


def test_torch_for_the_cpu_comes_from_the_configured_sources_first(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch's own index is asked for that one wheel, and only when pip does not find it elsewhere."""
    commands = asked(
        monkeypatch, "", "ERROR: No matching distribution found for torch==2.13.0+cpu (from versions: none)"
    )
    Installer(0, lambda begins: None).install_list(ROOT / "requirements/cpu.txt")
    torch, rest = "torch==2.13.0+cpu", "accelerate==1.15.0"
    assert commands == [
        ["pip==26.3"],
        [torch, rest],
        [torch, "--index-url", packages.TORCH_CPU_INDEX],
        [torch, rest],
    ]


def test_without_network_pytorchs_index_is_not_asked(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip says `not found` when it cannot connect, too."""
    printed = "NewConnectionError(...)\nERROR: No matching distribution found for torch==2.13.0+cpu"
    asked(monkeypatch, "", printed)
    with pytest.raises(SetupError, match="cannot reach the package index"):
        Installer(0, lambda begins: None).install_list(ROOT / "requirements/cpu.txt")


@pytest.mark.parametrize(
    ("printed", "said"),
    [
        ("Temporary failure in name resolution\nNo matching distribution found for six", "cannot reach"),
        ("ERROR: No matching distribution found for six==9", "no wheel of six==9 for this Python"),
        (OTHER_FILE, "six==9 .* SHA-256 is 1{64}, which is not pinned"),
        ("OSError: [Errno 28] No space left on device", "disk filled up"),
        ("hello\nERROR: something else\nbye", "ERROR: something else"),
        ("", "nothing"),
    ],
)
def test_a_failure_of_pip_is_one_paragraph(printed: str, said: str) -> None:
    """What to do, in one paragraph, instead of pip's pages."""
    assert re.search(said, explain(printed, ROOT))
    assert "\n" not in explain(printed, ROOT)


def test_progress_counts_packages_and_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    """`package k of n`, and megabytes for large files."""
    progress = Progress("cpu.txt", 153)
    progress.hear("Collecting torch==2.13.0 (from -r requirements/cpu.txt (line 1))")
    progress.hear("Progress 95000000 of 190000000")
    assert "fetching cpu.txt: package 1 of 153  torch, 95 of 190 MB" in progress.text()


def test_progress_names_the_package_that_is_being_installed(project: Path) -> None:
    """The first in pip's order that has no folder yet: a large one takes half a minute."""
    progress = Progress("cpu.txt", 3)
    progress.hear("Installing collected packages: PyYAML, torch, typing_extensions")
    assert progress.text().endswith("installing cpu.txt: package 0 of 3  pyyaml")
    for name in ("PyYAML-6.0.3", "torch-2.13.0"):
        (project / f".venv/lib/python3.12/site-packages/{name}.dist-info").mkdir(parents=True)
    assert progress.text().endswith("installing cpu.txt: package 2 of 3  typing-extensions")


# ---- the environment -----------------------------------------------------------------------------


def test_a_finished_environment_starts_nothing(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second start compares digests: pip and the network are left alone until something changes."""
    (project / "requirements").mkdir()
    (project / "requirements/cpu.txt").write_text("six==1.17.0\n")
    (project / "pyproject.toml").write_text("")
    installed: list[str] = []
    monkeypatch.setattr(Installer, "install_list", lambda _, path: installed.append(path.name))
    monkeypatch.setattr(Installer, "install_project", lambda _: installed.append("verbatim"))
    monkeypatch.setattr(setup, "nvidia_driver", lambda: None)
    setup.write_note({"root": str(project), "python": "3.11.7", "device": "cpu"})
    setup.set_up(["runtime"], "auto", this_python=False)
    assert installed == ["cpu.txt", "verbatim"]
    installed.clear()
    setup.set_up(["runtime"], "auto", this_python=False)
    assert not installed
    (project / "pyproject.toml").write_text("# with another entry point\n")
    setup.set_up(["runtime"], "auto", this_python=False)
    assert installed == ["cpu.txt", "verbatim"]


@pytest.mark.parametrize(
    ("change", "usable"),
    [
        ({}, True),
        ({"device": None}, True),
        ({"device": "cuda"}, False),
        ({"root": "/elsewhere"}, False),
        ({"working": True}, False),
        ({"python": "2.7.18"}, False),
    ],
)
def test_an_environment_is_kept_while_it_fits(project: Path, change: dict[str, str], usable: bool) -> None:
    """Another device, place or named Python, or pip cut off while it changed packages: made anew."""
    python = "{}.{}.0".format(*sys.version_info)
    note = {"root": str(project), "python": python, "device": "cpu", **change}
    assert setup.is_usable(note, "cpu", this_python=True) is usable


@pytest.mark.parametrize(
    ("wanted", "driver", "installed", "chosen"),
    [
        ("auto", None, None, "cpu"),
        ("auto", "580.65.06", None, "cuda"),
        ("auto", None, "cuda", "cuda"),
        ("cuda", None, None, "cuda"),
        ("cpu", "470.1", None, "cpu"),
    ],
)
def test_the_device_follows_the_gpu_unless_it_is_named(
    monkeypatch: pytest.MonkeyPatch, wanted: str, driver: str | None, installed: str | None, chosen: str
) -> None:
    """A GPU that vanished does not throw a finished CUDA environment away."""
    monkeypatch.setattr(setup, "nvidia_driver", lambda: driver)
    assert setup.choose_device(wanted, installed) == chosen


@pytest.mark.parametrize("wanted", ["auto", "cuda"])
def test_an_old_driver_is_named_with_the_way_round(monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    """The message has the driver found, the driver needed, and DEVICE=cpu."""
    monkeypatch.setattr(setup, "nvidia_driver", lambda: "550.54.15")
    with pytest.raises(SetupError, match=r"550\.54\.15.*580.*DEVICE=cpu"):
        setup.choose_device(wanted, None)


def test_the_driver_is_what_nvidia_smi_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first line of nvidia-smi's answer, on a machine with several GPUs too."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nprintf '580.65.06\\n580.65.06\\n'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert setup.nvidia_driver() == "580.65.06"


def test_an_old_python_is_told_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Found version, needed version, and how to name another one."""
    monkeypatch.setattr(sys, "version_info", (3, 8, 18))
    with pytest.raises(SetupError, match=r"needs Python 3\.11 .*PYTHON="):
        setup.check_python()


def test_set_up_runs_without_anything_installed() -> None:
    """-I -S: neither site-packages nor the user's: only the standard library is there."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import scripts.setup, server.weights.builtin"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)
