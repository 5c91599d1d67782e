"""Set-up: what is installed when, and what is said when it cannot be."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import packages, setup
from scripts.packages import Installer, PipWatch, SetupError, explain, is_complete, pins

ROOT = Path(__file__).parents[2]
LISTS = ["cpu", "cuda", "dev"]


def versions(name: str) -> dict[str, str]:
    found = (re.split("={2,3}", pin, maxsplit=1) for pin in pins(ROOT / "requirements" / f"{name}.txt"))
    return dict(found)


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
def test_every_package_is_pinned_and_no_host_is_named(name: str) -> None:
    """A list holds exact versions and comments, and its head names the command that made it."""
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    assert "make requirements" in lines[1]
    assert all(re.fullmatch(r"#.*|[\w.-]+={2,3}[\w.+]+", line) for line in lines)
    assert not [line for line in lines if "://" in line or "/" in line]


def test_no_list_disagrees_with_another() -> None:
    """The tools can be installed on top of either engine: they share their versions."""
    for name in ("cpu", "cuda"):
        runtime = versions(name)
        assert {k: v for k, v in versions("dev").items() if runtime.get(k, v) != v} == {}


def test_the_cpu_list_leaves_out_what_is_built_for_cuda() -> None:
    """On the CPU torchvision, torchaudio and torchcodec break transformers' imports."""
    assert {"torchvision", "torchaudio", "torchcodec"}.isdisjoint(versions("cpu"))
    assert versions("cpu")["torch"] == "2.13.0+cpu"


def test_the_cuda_list_never_takes_a_cpu_torch() -> None:
    """`===` is met by the CUDA build alone, also where pip prefers local files of a CPU build."""
    wanted = pins(ROOT / "requirements/cuda.txt")
    assert {"torch===2.13.0", "torchvision===0.28.0", "vllm==0.32.0"} <= set(wanted)


# ---- pip -----------------------------------------------------------------------------------------


def test_torch_for_the_cpu_comes_from_the_configured_sources_first(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch's own index is asked for that one wheel, and only when pip does not find it elsewhere."""
    commands: list[list[str]] = []

    def run(self: Installer, arguments: list[str], what: str, num_packages: int = 1) -> tuple[bool, str]:
        commands.append(arguments)
        return len(commands) != 1, "ERROR: No matching distribution found for torch==2.13.0+cpu"

    monkeypatch.setattr(Installer, "_run", run)
    Installer(0).install_list(ROOT / "requirements/cpu.txt")
    assert commands == [
        ["torch==2.13.0+cpu"],
        ["--index-url", packages.TORCH_CPU_INDEX, "torch==2.13.0+cpu"],
        ["-r", str(ROOT / "requirements/cpu.txt")],
    ]


def test_without_network_pytorchs_index_is_not_asked(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip says `not found` when it cannot connect, too."""
    printed = "NewConnectionError(...)\nERROR: No matching distribution found for torch==2.13.0+cpu"
    monkeypatch.setattr(Installer, "_run", lambda *_: (False, printed))
    with pytest.raises(SetupError, match="cannot reach the package index"):
        Installer(0).install_list(ROOT / "requirements/cpu.txt")


@pytest.mark.parametrize(
    ("printed", "said"),
    [
        ("Temporary failure in name resolution\nNo matching distribution found for six", "cannot reach"),
        ("ERROR: No matching distribution found for six==9", "have no six==9 for this Python"),
        ("OSError: [Errno 28] No space left on device", "disk filled up"),
        ("hello\nERROR: something else\nbye", "ERROR: something else"),
        ("", "no output"),
    ],
)
def test_a_failure_of_pip_is_one_paragraph(printed: str, said: str) -> None:
    """What to do, in one paragraph, instead of pip's pages."""
    assert said in explain(printed)
    assert "\n" not in explain(printed)


def test_progress_counts_packages_and_bytes() -> None:
    """`package k of n`, and megabytes for large files."""
    watch = PipWatch("cpu.txt", 153)
    watch.line("Collecting torch==2.13.0 (from -r requirements/cpu.txt (line 1))")
    watch.line("  Downloading torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl (190 MB)")
    watch.line("Progress 95000000 of 190000000")
    assert "looking up cpu.txt: package 1 of 153  torch-2.13.0" in watch.text()
    assert watch.text().endswith("95 of 190 MB")


def test_a_package_that_a_killed_pip_left_incomplete_is_found(tmp_path: Path) -> None:
    """A missing or shortened file, or no INSTALLER, means: install it again."""
    info = tmp_path / "demo-1.0.dist-info"
    info.mkdir()
    (tmp_path / "demo.py").write_text("x = 1\n")
    (info / "RECORD").write_text("demo.py,sha256=abc,6\ndemo-1.0.dist-info/RECORD,,\n")
    assert not is_complete(tmp_path, info)
    (info / "INSTALLER").write_text("pip\n")
    assert is_complete(tmp_path, info)
    (tmp_path / "demo.py").write_text("x")
    assert not is_complete(tmp_path, info)


# ---- the environment -----------------------------------------------------------------------------


def test_a_finished_environment_starts_nothing(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second start compares digests: pip and the network are left alone until something changes."""
    (project / "requirements").mkdir()
    (project / "requirements/cpu.txt").write_text("six==1.17.0\n")
    (project / "pyproject.toml").write_text("")
    installed: list[str] = []
    monkeypatch.setattr(Installer, "_install_or_raise", lambda _, arguments, *__: installed.extend(arguments))
    monkeypatch.setattr(setup, "nvidia_driver", lambda: None)
    setup.write_note({"root": str(project), "python": "3.11.7", "device": "cpu"})
    setup.set_up(["runtime"], "auto", this_python=False)
    assert "-r" in installed
    installed.clear()
    setup.set_up(["runtime"], "auto", this_python=False)
    assert not installed
    (project / "pyproject.toml").write_text("# with another entry point\n")
    setup.set_up(["runtime"], "auto", this_python=False)
    assert "--editable" in installed


@pytest.mark.parametrize(
    ("change", "usable"),
    [
        ({}, True),
        ({"device": None}, True),
        ({"device": "cuda"}, False),
        ({"root": "/elsewhere"}, False),
        ({"python": "2.7.18"}, False),
    ],
)
def test_an_environment_is_kept_while_it_fits(project: Path, change: dict[str, str], usable: bool) -> None:
    """Another device, place or named Python: made anew."""
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
