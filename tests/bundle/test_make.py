"""`verbatim bundle` and `verbatim verify` as commands, in a checkout with lists of a few tiny packages."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from bundle.order import ROOT
from scripts.requirements import write_list
from sealed.manifest import SBOM, Manifest, parse, read_bytes
from server.pip import Pin
from tests.bundle.tiny import PYTHON, flip
from tests.helpers import byte_level, model_directory
from tests.wheels import make_wheel

TEXT_PROFILE = """
[packages]
tiny-video = "video"
[packages.cpu]
[packages.cuda]
[[files]]
package = "tinydep"
paths = ["tinydep/tests/*"]
reason = "tests"
"""
PLAIN = "from server.cli import main; main()"
WITH_WHEEL = (
    "import bundle.contents, pathlib, shutil; "
    "bundle.contents.build_ours = lambda root, folder, work: pathlib.Path(shutil.copy({!r}, folder)); "
    f"{PLAIN}"
)
Ran = subprocess.CompletedProcess[str]


@dataclass
class Checkout:
    """A copy of ours whose lists are tiny. run: `verbatim WORDS` in it, pip without any network. wheel: ours,
    built before from the same sources; without it, each bundle builds its own. said: when it was made."""

    root: Path
    links: Path
    wheel: Path | None = None
    said: str = ""

    def run(self, *words: str, **environ: str) -> Ran:
        command = [sys.executable, "-c", WITH_WHEEL.format(str(self.wheel)) if self.wheel else PLAIN, *words]
        offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.links), "PIP_CONFIG_FILE": os.devnull}
        environment = {**os.environ, **offline, "PYTHONPATH": str(self.root), **environ}
        return subprocess.run(
            command, cwd=self.root, env=environment, capture_output=True, text=True, check=False
        )

    def bundle(self, *options: str, **environ: str) -> Ran:
        words = ("bundle", "--device", "cpu", "--config", "c.yaml", "--out", "out", *options)
        return self.run(*words, **environ)

    @property
    def out(self) -> Path:
        return self.root / "out"

    @property
    def manifest(self) -> Manifest:
        return parse(read_bytes(self.out))

    def contents(self) -> dict[str, bytes]:
        """Every file of the bundle."""
        files = (path for path in self.out.rglob("*") if path.is_file())
        return {path.relative_to(self.out).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="session")
def links(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pip finds: tiny packages, and itself, in name."""
    folder = tmp_path_factory.mktemp("links")
    make_wheel(folder, "tinydep", {"tinydep/a.py": "x = 1\n", "tinydep/tests/t.py": "t = 1\n" * 100})
    make_wheel(folder, "tiny_video", {"tiny_video.py": "x = 1\n"})
    make_wheel(folder, "pip", {"pip/__main__.py": ""})
    return folder


def pin_of(wheel: Path) -> Pin:
    name, version, *_ = wheel.name.split("-")
    return Pin(f"{name.replace('_', '-')}=={version}", (hashlib.sha256(wheel.read_bytes()).hexdigest(),))


def make_checkout(root: Path, links: Path) -> Checkout:
    for name in ("bundle", "conform", "deploy", "sampling", "scripts", "sealed", "server", "twin"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("LICENSE", "README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, root / name)
    (root / "requirements").mkdir()
    for device in ("cpu", "cuda"):
        write_list(root / f"requirements/{device}.txt", [pin_of(wheel) for wheel in links.iterdir()])
    (root / "requirements/text.toml").write_text(TEXT_PROFILE)
    model_directory(root / "weights", byte_level())
    (root / "c.yaml").write_text("models: [{id: sim, path: weights, engine: simulated}]\n")
    return Checkout(root, links)


def ok(ran: Ran) -> Ran:
    assert ran.returncode == 0, ran.stderr
    return ran


@pytest.fixture(scope="session")
def first(tmp_path_factory: pytest.TempPathFactory, links: Path) -> Checkout:
    """A checkout with a bundle of profile full, not to be changed; our wheel is built in it."""
    checkout = make_checkout(tmp_path_factory.mktemp("first") / "checkout", links)
    checkout.said = ok(checkout.bundle()).stdout
    return checkout


@pytest.fixture
def made(first: Checkout, tmp_path: Path) -> Checkout:
    """A copy of it."""
    (wheel,) = first.out.glob("wheels/verbatim-*.whl")
    root = shutil.copytree(first.root, tmp_path / "checkout")
    return Checkout(root, first.links, wheel, first.said)


@pytest.fixture
def checkout(made: Checkout) -> Checkout:
    """A copy of it without the bundle."""
    shutil.rmtree(made.out)
    return made


def test_what_a_bundle_holds(first: Checkout) -> None:
    """Our wheel, the packages', pip, models with digests, configuration, installer and SBOM."""
    names = set(first.contents())
    wheels = {name.split("-")[0] for name in names if name.startswith("wheels/")}
    assert wheels == {"wheels/verbatim", "wheels/tinydep", "wheels/tiny_video", "wheels/pip"}
    assert {"install.sh", "install.pyz", "manifest.json", "manifest.json.sig", SBOM, "models.yaml"} <= names
    assert {"models/sim/config.json", "models/sim/tokenizer.json", "models/sim/checksums.json"} <= names
    target = first.manifest.target
    assert (target.device, target.python, target.profile) == ("cpu", PYTHON, "full")
    assert "in total: cpu" in first.said
    assert first.said.index("in total") < first.said.index("files, ")
    ok(first.run("verify", "out"))


def test_what_a_site_deploys_is_in_our_wheel(made: Checkout) -> None:
    """Every file of deploy/, but for what needs a checkout; a change of one is a change of the bundle."""
    (wheel,) = made.out.glob("wheels/verbatim-*.whl")
    folder = made.root / "deploy"
    files = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "twin"]
    with zipfile.ZipFile(wheel) as archive:
        names = {name.partition(".data/data/share/verbatim/")[2]: name for name in archive.namelist()}
        carried = {name: archive.read(names[name]) for name in names if name}
    assert carried == {path.relative_to(made.root).as_posix(): path.read_bytes() for path in files}
    (folder / "prometheus/alerts.yml").write_text("groups: []\n")
    assert "contains a bundle with other options or of another version" in made.bundle().stderr


def test_the_text_profile_leaves_out_what_it_says(checkout: Checkout) -> None:
    """Packages, and files of packages; the SBOM tells of both digests."""
    ran = ok(checkout.bundle("--profile", "text"))
    assert "the profile leaves out 1 packages" in ran.stdout
    assert "with profile full it would be" in ran.stdout
    names = set(checkout.contents())
    assert not [name for name in names if "tiny_video" in name]
    bill = json.loads(checkout.contents()[SBOM])
    (tinydep,) = [one for one in bill["components"] if one["name"] == "tinydep"]
    properties = {one["name"]: one["value"] for one in tinydep["properties"]}
    assert properties["verbatim:left-out"] == "tinydep/tests/t.py"
    assert properties["verbatim:published-sha256"] != tinydep["hashes"][0]["content"]


def test_the_bill_of_materials_is_valid(first: Checkout) -> None:
    """CycloneDX 1.6 by its own schema; every wheel and every model file is in it under its digest."""
    text = first.contents()[SBOM].decode()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill = json.loads(text)
    inner = [part for one in bill["components"] for part in one.get("components", [])]
    digests = {part["hashes"][0]["content"] for part in (*bill["components"], *inner) if "hashes" in part}
    ours = [entry for entry in first.manifest.files if entry.path.startswith(("wheels/", "models/"))]
    left = {
        entry.path
        for entry in ours
        if entry.sha256 not in digests and "/verbatim-" not in entry.path  # the bill's own subject
    }
    assert left == {"models/sim/checksums.json"}


def test_a_second_run_does_nothing(made: Checkout) -> None:
    """All is there: nothing is looked up, and no byte changes. Not even an index is needed."""
    before = made.contents()
    second = ok(made.bundle(PIP_FIND_LINKS=""))
    assert "nothing to do" in second.stdout
    assert made.contents() == before


@pytest.mark.parametrize("parts", [(), ("--part-size", "1MiB")])
def test_a_second_run_mends(made: Checkout, parts: tuple[str, ...]) -> None:
    """What was altered or lost is made again, to the byte."""
    checkout = made
    if parts:
        shutil.rmtree(checkout.out)
        ok(checkout.bundle(*parts))
    else:
        checkout.wheel = None  # it is the one that is lost below: built again
    before = checkout.contents()
    names = sorted(name for name in before if name not in ("manifest.json", "manifest.json.sig"))
    flip(checkout.out / names[0], 7)
    (checkout.out / names[-1]).unlink()
    assert checkout.run("verify", "out").returncode == 1
    ok(checkout.bundle(*parts))
    assert checkout.contents() == before


def test_an_interrupted_run_is_continued(checkout: Checkout) -> None:
    """Wheels that had arrived are not fetched again: the second run needs the others alone."""
    wheel = next(checkout.links.glob("tinydep-*"))
    aside = checkout.root / "aside"
    shutil.copytree(checkout.links, aside)
    # planned with everything there, fetched with one wheel gone
    script = """
import bundle.contents
fetch = bundle.contents.fetch
def cut(wheels, folder, *more):
    fetch([one for one in wheels if one.name != "tinydep"], folder, *more)
    raise SystemExit(9)
bundle.contents.fetch = cut
from server.cli import main
main()
"""
    command = [
        sys.executable,
        "-c",
        script,
        "bundle",
        "--device",
        "cpu",
        "--config",
        "c.yaml",
        "--out",
        "out",
    ]
    environ = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(aside), "PIP_CONFIG_FILE": os.devnull}
    first = subprocess.run(
        command,
        cwd=checkout.root,
        env={**os.environ, **environ, "PYTHONPATH": str(checkout.root)},
        check=False,
    )
    assert first.returncode == 9
    assert not (checkout.out / "manifest.json").exists()
    only = checkout.root / "only"
    only.mkdir()
    shutil.copy(wheel, only)
    ok(checkout.bundle(PIP_FIND_LINKS=str(only)))
    ok(checkout.run("verify", "out"))


def test_parts_are_small_and_nothing_else_is_large(checkout: Checkout) -> None:
    """Each part, and what lies beside the first one together with it, is within the size."""
    (checkout.root / "weights/model.safetensors").write_bytes(os.urandom(3_000_000))
    ok(checkout.bundle("--part-size", "1MiB"))
    sizes = {name: len(data) for name, data in checkout.contents().items()}
    parts = {name: size for name, size in sizes.items() if name.startswith("part-")}
    assert len(parts) >= 3
    assert max(parts.values()) <= 1 << 20
    beside = sum(size for name, size in sizes.items() if name not in parts)
    assert beside + parts["part-0001"] <= 1 << 20
    ok(checkout.run("verify", "out"))


def test_signing_and_verifying(checkout: Checkout) -> None:
    """keygen, --sign with two keys while one takes over, and verify with either; with a third it fails."""
    for name in ("old", "new", "other"):
        assert (
            f"public key: {name}.pub and {name}.allowed" in ok(checkout.run("bundle", "keygen", name)).stdout
        )
    said = ok(checkout.bundle("--sign", "old.key", "--sign", "new.key")).stdout.splitlines()
    for line, name in zip(said[-2:], ("old", "new"), strict=True):
        assert line == f"allowed_signers: {(checkout.root / f'{name}.allowed').read_text().strip()}"
    for name in ("old", "new"):
        ok(checkout.run("verify", "out", "--require-signature", f"{name}.pub"))
    other = checkout.run("verify", "out", "--require-signature", "other.pub")
    assert (other.returncode, "somebody else" in other.stderr) == (1, True)
    again = ok(checkout.bundle("--sign", "new.key", PIP_FIND_LINKS=""))  # the same, signed otherwise
    assert "complete: signed anew" in again.stdout
    old = checkout.run("verify", "out", "--require-signature", "old.pub")
    assert old.returncode == 1


def test_a_key_with_a_passphrase_signs(checkout: Checkout) -> None:
    """Out of a file or the environment; told where there is none of them, nor a terminal."""
    (checkout.root / "secret").write_text("correct horse\n")
    ok(checkout.run("bundle", "keygen", "release", "--passphrase", "--passphrase-file", "secret"))
    none = checkout.bundle("--sign", "release.key")
    assert (none.returncode, "--passphrase-file" in none.stderr) == (2, True)
    ok(checkout.bundle("--sign", "release.key", "--passphrase-file", "secret"))
    ok(checkout.run("verify", "out", "--require-signature", "release.pub"))
    again = ok(checkout.bundle("--sign", "release.key", VERBATIM_PASSPHRASE="correct horse"))
    assert "nothing to do" in again.stdout


def test_verify_names_every_bad_file(made: Checkout) -> None:
    """On standard output, a line each, and exit code 1; a folder that is no bundle is told as well."""
    flip(made.out / "models.yaml", 2)
    (made.out / SBOM).unlink()
    (made.out / "added\x1b[2J").write_text("")
    ran = made.run("verify", "out")
    assert ran.returncode == 1
    named = sorted(line.split(":")[0] for line in ran.stdout.splitlines())
    assert named == ["added\\x1b[2J", "models.yaml", SBOM]
    nothing = made.run("verify", "server")
    assert (nothing.returncode, "neither a bundle nor an installation" in nothing.stderr) == (1, True)


def _another_bundle(checkout: Checkout) -> None:
    assert checkout.manifest.target.profile == "full"


def _file_in_the_way(checkout: Checkout) -> None:
    shutil.rmtree(checkout.out)
    checkout.out.write_text("")


def _no_lists(checkout: Checkout) -> None:
    shutil.rmtree(checkout.out)
    (checkout.root / "requirements/cpu.txt").unlink()


def _lost_model(checkout: Checkout) -> None:
    shutil.rmtree(checkout.out)
    (checkout.root / "weights/config.json").unlink()


def _nothing(checkout: Checkout) -> None:
    shutil.rmtree(checkout.out)


@pytest.mark.parametrize(
    ("before", "options", "words"),
    [
        (_another_bundle, ("--profile", "text"), "or remove this one first"),
        (_nothing, ("--out", "bundle"), "Name an empty directory with --out.\n"),
        (_file_in_the_way, (), "cannot write"),
        (_no_lists, (), "can only be made in a checkout"),
        (_lost_model, (), "has no config.json"),
        (_nothing, ("--python", "3.7"), "between 3.11 and 3.14"),
        (_nothing, ("--have", "tinydep==1.0,other==2"), "other would not be in the bundle"),
        (_nothing, ("--sign", "none.key"), "cannot read"),
        (_nothing, ("--part-size", "60"), "it must be at least 1MiB"),
        (_nothing, ("--gpu", "9.0"), "--device cuda"),
        (_nothing, ("--config", "none.yaml"), "none.yaml"),
    ],
)
def test_a_mistake_is_one_paragraph(
    made: Checkout, before: Callable[[Checkout], None], options: tuple[str, ...], words: str
) -> None:
    """What is wrong and what to do, exit code 2, never a traceback."""
    before(made)
    ran = made.bundle(*options)
    assert ran.returncode == 2, ran.stderr
    assert words in ran.stderr
    assert "Traceback" not in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_a_wheel_that_is_nowhere_is_told(checkout: Checkout) -> None:
    """The package, the Python and the system that it has no wheel for."""
    write_list(checkout.root / "requirements/cpu.txt", [Pin("source-only==3.0", ("0" * 64,))])
    ran = checkout.bundle()
    assert ran.returncode == 2
    assert "no wheel of source-only==3.0 for Python" in ran.stderr


def test_a_wheel_that_is_not_the_pinned_one_is_refused(checkout: Checkout) -> None:
    """The index vouches for its own file; the list does not."""
    write_list(checkout.root / "requirements/cpu.txt", [Pin("tinydep==1.0", ("0" * 64,))])
    ran = checkout.bundle()
    assert ran.returncode == 2
    assert re.search(r"tinydep-1\.0\S+ is not the file that requirements/ lists: .* not pinned", ran.stderr)
    assert not [name for name in checkout.contents() if name.endswith(".whl")]


def test_what_the_target_has_is_not_carried(checkout: Checkout) -> None:
    """It stands in the manifest instead, for install.sh to look for."""
    ran = ok(checkout.bundle("--have", "tinydep==0.9"))
    assert dict(checkout.manifest.target.have) == {"tinydep": "0.9"}
    assert "warning: tinydep 0.9 of the target replaces 1.0" in ran.stdout
    assert not [name for name in checkout.contents() if "tinydep" in name]


def test_a_dry_run_leaves_nothing(checkout: Checkout) -> None:
    """It says what the bundle would weigh."""
    assert "in total: cpu" in ok(checkout.bundle("--dry-run")).stdout
    assert not checkout.out.exists()


def test_our_wheel_is_the_same_every_time(first: Checkout, checkout: Checkout) -> None:
    """Two bundles of one order differ in nothing but the time they were made at."""
    checkout.wheel = None
    ok(checkout.bundle())
    one, other = ({entry.path: entry.sha256 for entry in each.manifest.files} for each in (first, checkout))
    assert one.keys() == other.keys()
    assert {path for path in one if one[path] != other[path]} <= {SBOM}
