"""The installation in order: check signatures, check the machine, copy files, switch versions.

If it is killed at any moment, it leaves a version without installed.json, which the next run removes:
`current` always leads to a complete version. Every byte of the bundle is read once: it is copied while
it is checked.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from bundle.site.console import Console
from bundle.site.packages import (
    clean_environ,
    compile_packages,
    install_packages,
    let_see,
    make_environment,
)
from bundle.site.target import check_machine, check_space, driver_warning, packages_of_interpreter
from sealed import installation, payload
from sealed import manifest as manifests
from sealed.failures import BundleError, SiteError
from sealed.files import create
from sealed.manifest import MODELS, WHEELS, Entry, Manifest, shown
from sealed.payload import Problems
from sealed.signature import PublicKey, read_sealed, require_signature, signers

INCOMING = "incoming"
DEPLOY = Path("venv/share/verbatim/deploy")  # data-files in pyproject.toml
MOST_NAMED = 20  # number of bad files that are listed


def believe(folder: Path, keys: list[PublicKey], console: Console) -> tuple[bytes, str, Manifest]:
    """The manifest of a bundle with the required signatures. Raises BundleError."""
    data, text = read_sealed(folder)
    if keys:
        key = require_signature(data, text, keys)
        console.say(f"signed by {key.id} ({key.file})")
    elif named := signers(text):
        console.say(
            f"claims a signature by {', '.join(named)}, which was not checked: use --require-signature PUBKEY"
        )
    else:
        console.say("not signed")
    return data, text, manifests.parse(data)


def refuse(problems: Problems) -> None:
    """Raise BundleError, which names the bad files, if there are any."""
    if problems:
        named = list(problems.items())[:MOST_NAMED]
        lines = "".join(f"\n  {shown(name)}: {problem}" for name, problem in named)
        more = f"\n  and {len(problems) - MOST_NAMED} more" if len(problems) > MOST_NAMED else ""
        raise BundleError(
            "refused, and nothing was installed. Copy damaged files again, and remove files that are not"
            f" part of the bundle:{lines}{more}"
        )


def check_bundle(folder: Path, keys: list[PublicKey], console: Console) -> Manifest:
    """Check every byte of a bundle. Raises BundleError, which names the bad files."""
    _, _, manifest = believe(folder, keys, console)
    refuse(payload.check(folder, manifest, lambda done, total: console.bytes("checking", done, total)))
    return manifest


def install(bundle: Path, prefix: Path, keys: list[PublicKey], allow_older: bool, console: Console) -> Path:
    """Install the bundle's version and make it the current one."""
    data, text, manifest = believe(bundle, keys, console)
    check_machine(manifest.target)
    have_paths = packages_of_interpreter(manifest.target) if manifest.target.have else []
    with installation.only_one(prefix) as lock:
        if not allow_older:
            refuse_older(prefix, manifest)
        remove_incomplete(prefix)
        identity = manifests.identity(data)
        version = sound_version(prefix, identity, console)
        if version is None:
            version = free_name(prefix / installation.VERSIONS / f"{manifest.version}-{identity[:12]}")
            wheels = sum(entry.size for entry in (manifest.pip, *manifest.packages))
            check_space(prefix, manifest.installed_bytes + wheels)
            version.mkdir(mode=0o700)  # closed to other users until it is finished
            take_in(bundle, manifest, prefix, version, console)
            place_packages(version, manifest, have_paths, lock, console)
            finish(version, manifest, {manifests.MANIFEST: data, manifests.SIGNATURE: text.encode()})
            installation.seal(
                version, identity, lambda done, total: console.bytes("writing digests", done, total)
            )
        installation.switch(prefix, version)
    if manifest.target.device == "cuda" and (warning := driver_warning()):
        console.say(f"warning: {warning}")
    return version


def refuse_older(prefix: Path, manifest: Manifest) -> None:
    """Raise SiteError for a bundle that is older than the current version: an old one has old bugs."""
    current = installation.target_of(prefix / installation.CURRENT)
    before = installation.manifest_of(current) if current else None
    if current and before and manifest.created < before.created:
        raise SiteError(
            f"this bundle is older than what is installed: {manifest.version} of {manifest.created}, and"
            f" {current.name} is of {before.created}. To install it anyway, give --allow-older; to go back"
            " to the version before the current one, use --rollback."
        )


def remove_incomplete(prefix: Path) -> None:
    """Remove what an interrupted installation left."""
    complete = installation.complete_versions(prefix)
    for path in (prefix / installation.VERSIONS).iterdir():
        if path not in complete and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)


def sound_version(prefix: Path, identity: str, console: Console) -> Path | None:
    """The installed version of this very bundle, if it is undamaged."""
    for version in installation.complete_versions(prefix):
        try:
            if manifests.identity(manifests.read_bytes(version)) != identity:
                continue
            problems = installation.check_installation(
                version, [], lambda done, total: console.bytes("checking the installed version", done, total)
            )
        except (BundleError, OSError) as error:
            problems = {version.name: str(error)}
        if not problems:
            console.say(f"already installed and undamaged: {version}")
            return version
        name, problem = next(iter(problems.items()))
        console.say(
            f"{version} is damaged ({shown(name)}: {problem}; {len(problems)} in all): installing it again"
            " beside it"
        )
    return None


def free_name(path: Path) -> Path:
    """The path, with a number if a damaged version has it."""
    names = (path, *(path.with_name(f"{path.name}.{number}") for number in range(2, 1000)))
    return next(name for name in names if not os.path.lexists(name))


def take_in(bundle: Path, manifest: Manifest, prefix: Path, version: Path, console: Console) -> None:
    """Copy everything of the bundle and check it meanwhile. Raises BundleError, and leaves nothing then."""
    text = "joining and checking the parts" if manifest.parts else "checking and copying"
    place = places(version, models_of_others(prefix))
    problems = payload.take(bundle, manifest, place, lambda done, total: console.bytes(text, done, total))
    if problems:
        shutil.rmtree(version)
    refuse(problems)


def places(version: Path, twins: Mapping[str, Path]) -> Callable[[Entry], Path | None]:
    """Where each file goes; None for weights that are shared with an earlier version."""

    def place(entry: Entry) -> Path | None:
        if entry.path.startswith(f"{WHEELS}/"):
            return version / INCOMING / entry.path
        path = version / entry.path
        return None if share(twins.get(entry.sha256), path, entry) else path

    return place


def models_of_others(prefix: Path) -> dict[str, Path]:
    """Model files of the other installed versions, by digest."""
    found: dict[str, Path] = {}
    for other in installation.complete_versions(prefix):
        if manifest := installation.manifest_of(other):
            models = (entry for entry in manifest.files if entry.path.startswith(f"{MODELS}/"))
            found |= {entry.sha256: other / entry.path for entry in models}
    return found


def share(twin: Path | None, target: Path, entry: Entry) -> bool:
    """Make the target a hard link to the other version's file, if it has the digest of the manifest."""
    if twin is None or not payload.is_file(twin, entry):
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(twin, target, follow_symlinks=False)
    except OSError:
        return False
    return True


def place_packages(
    version: Path, manifest: Manifest, have_paths: list[str], lock: int, console: Console
) -> None:
    environment, incoming = version / "venv", version / INCOMING
    console.step("making the virtual environment")
    make_environment(environment)
    wheels = [incoming / entry.path for entry in manifest.packages]
    install_packages(environment, incoming / manifest.pip.path, wheels, lock, console)
    let_see(environment, have_paths)
    shutil.rmtree(incoming)
    compile_packages(environment, lock, console)
    console.say(f"installed {len(wheels)} packages")


def finish(version: Path, manifest: Manifest, sealed: Mapping[str, bytes]) -> None:
    """Finish: write and try the command, write the verified manifest, and open the version to other users."""
    for name, data in sealed.items():
        with create(version / name) as file:
            file.write(data)
    write_command(version, manifest.environment)
    link_deploy(version)
    (version / manifests.SCRIPT).chmod(0o755)
    version.chmod(0o755)
    try_command(version)


def write_command(version: Path, environment: Mapping[str, str]) -> None:
    """bin/verbatim: the command with this version's models, configuration and variables."""
    defaults = {
        "VERBATIM_CACHE": str(version),  # where built-in models are searched: in models/
        "VERBATIM_CONFIG": str(version / manifests.CONFIGURATION),
        "PYTHONDONTWRITEBYTECODE": "1",  # an installation is not changed later
        **environment,
    }
    lines = ["#!/bin/sh", "# Made by install.sh: a variable that is set already keeps its value."]
    for name, value in defaults.items():
        lines.append(f'[ -n "${{{name}-}}" ] || {name}={shlex.quote(value)}; export {name}')
    lines.append(f'exec {shlex.quote(str(version / "venv/bin/verbatim"))} "$@"')
    command = version / "bin/verbatim"
    with create(command) as file:
        file.write(("\n".join(lines) + "\n").encode())
    command.chmod(0o755)


def link_deploy(version: Path) -> None:
    """deploy: what our wheel has for systemd, Prometheus and others, where somebody finds it."""
    if (version / DEPLOY).is_dir():
        (version / DEPLOY.name).symlink_to(DEPLOY)


def try_command(version: Path) -> None:
    """Raise BundleError if the command cannot even print its version."""
    command = [str(version / "bin/verbatim"), "version"]
    ran = subprocess.run(command, capture_output=True, text=True, env=clean_environ({}), check=False)
    if ran.returncode:
        lines = ran.stderr.strip().splitlines() or ["no output"]
        raise BundleError(f"{' '.join(command)} fails in the new installation: {lines[-1]}")
