"""The installation, in order: believe the bundle, look at the machine, put things in place, switch.

Killed at any moment, what it leaves is a version without installed.json, which the next run removes:
`current` leads to a whole version before, during and after. Of the bundle every byte is read once: what is
written down while it is checked is what is used.
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
MOST_NAMED = 20  # bad files


def believe(folder: Path, keys: list[PublicKey], console: Console) -> tuple[bytes, str, Manifest]:
    """The manifest of a bundle, after the signatures that are required. Raises BundleError."""
    data, text = read_sealed(folder)
    if keys:
        key = require_signature(data, text, keys)
        console.say(f"signed by {key.id} ({key.file})")
    elif named := signers(text):
        console.say(f"says that it is signed by {', '.join(named)}: --require-signature PUBKEY finds out")
    else:
        console.say("not signed")
    return data, text, manifests.parse(data)


def refuse(problems: Problems) -> None:
    """Raises BundleError that names the bad files, unless there is none."""
    if problems:
        named = list(problems.items())[:MOST_NAMED]
        lines = "".join(f"\n  {shown(name)}: {problem}" for name, problem in named)
        more = f"\n  and {len(problems) - MOST_NAMED} more" if len(problems) > MOST_NAMED else ""
        raise BundleError(
            "refused, nothing was installed. Copy again what is damaged, remove what is not part of it:"
            f"{lines}{more}"
        )


def check_bundle(folder: Path, keys: list[PublicKey], console: Console) -> Manifest:
    """Every byte of a bundle. Raises BundleError that names what is bad."""
    _, _, manifest = believe(folder, keys, console)
    refuse(payload.check(folder, manifest, lambda done, total: console.bytes("checking", done, total)))
    return manifest


def install(bundle: Path, prefix: Path, keys: list[PublicKey], allow_older: bool, console: Console) -> Path:
    """The version that the bundle holds, installed and current."""
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
            version.mkdir(mode=0o700)  # nobody else's until it is finished
            take_in(bundle, manifest, prefix, version, console)
            place_packages(version, manifest, have_paths, lock, console)
            finish(version, manifest, {manifests.MANIFEST: data, manifests.SIGNATURE: text.encode()})
            installation.seal(
                version, identity, lambda done, total: console.bytes("writing down digests", done, total)
            )
        installation.switch(prefix, version)
    if manifest.target.device == "cuda" and (warning := driver_warning()):
        console.say(f"warning: {warning}")
    return version


def refuse_older(prefix: Path, manifest: Manifest) -> None:
    """Raises SiteError for a bundle made before the one that is current: an old one has old faults."""
    current = installation.target_of(prefix / installation.CURRENT)
    before = installation.manifest_of(current) if current else None
    if current and before and manifest.created < before.created:
        raise SiteError(
            f"this bundle is older than what is installed: {manifest.version} of {manifest.created}, and"
            f" {current.name} is of {before.created}. If that is meant, say --allow-older; the version before"
            " the current one comes back with --rollback."
        )


def remove_incomplete(prefix: Path) -> None:
    """What an interrupted installation left."""
    complete = installation.complete_versions(prefix)
    for path in (prefix / installation.VERSIONS).iterdir():
        if path not in complete and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)


def sound_version(prefix: Path, identity: str, console: Console) -> Path | None:
    """This very bundle, installed before and still whole."""
    for version in installation.complete_versions(prefix):
        try:
            if manifests.identity(manifests.read_bytes(version)) != identity:
                continue
            problems = installation.check_installation(
                version, [], lambda done, total: console.bytes("checking what is installed", done, total)
            )
        except (BundleError, OSError) as error:
            problems = {version.name: str(error)}
        if not problems:
            console.say(f"already installed and whole: {version}")
            return version
        name, problem = next(iter(problems.items()))
        console.say(
            f"{version} is damaged ({shown(name)}: {problem}; {len(problems)} in all): installing it anew"
            " beside it"
        )
    return None


def free_name(path: Path) -> Path:
    """The path, or with a number where a damaged version has it."""
    names = (path, *(path.with_name(f"{path.name}.{number}") for number in range(2, 1000)))
    return next(name for name in names if not os.path.lexists(name))


def take_in(bundle: Path, manifest: Manifest, prefix: Path, version: Path, console: Console) -> None:
    """Everything of the bundle, checked while it is written. Raises BundleError, and leaves nothing then."""
    text = "putting the parts together and checking" if manifest.parts else "checking and copying"
    place = places(version, models_of_others(prefix))
    problems = payload.take(bundle, manifest, place, lambda done, total: console.bytes(text, done, total))
    if problems:
        shutil.rmtree(version)
    refuse(problems)


def places(version: Path, twins: Mapping[str, Path]) -> Callable[[Entry], Path | None]:
    """Where each file goes; nowhere, where an earlier version's weights could be shared."""

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
    """Make the target another name of the twin, if that is what the manifest wants."""
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
    console.step("making the environment")
    make_environment(environment)
    wheels = [incoming / entry.path for entry in manifest.packages]
    install_packages(environment, incoming / manifest.pip.path, wheels, lock, console)
    let_see(environment, have_paths)
    shutil.rmtree(incoming)
    console.step("compiling")
    compile_packages(environment, lock)
    console.say(f"installed {len(wheels)} packages")


def finish(version: Path, manifest: Manifest, sealed: Mapping[str, bytes]) -> None:
    """The command, tried; the manifest as it was believed; open to those who will run it."""
    for name, data in sealed.items():
        with create(version / name) as file:
            file.write(data)
    write_command(version, manifest.environment)
    (version / manifests.SCRIPT).chmod(0o755)
    version.chmod(0o755)
    try_command(version)


def write_command(version: Path, environment: Mapping[str, str]) -> None:
    """bin/verbatim: the command with this version's models, configuration and variables."""
    defaults = {
        "VERBATIM_CACHE": str(version),  # where a model that comes with the server is looked for: in models/
        "VERBATIM_CONFIG": str(version / manifests.CONFIGURATION),
        "PYTHONDONTWRITEBYTECODE": "1",  # an installation stays as it was made
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


def try_command(version: Path) -> None:
    """Raises BundleError when the command does not even tell its version."""
    command = [str(version / "bin/verbatim"), "version"]
    ran = subprocess.run(command, capture_output=True, text=True, env=clean_environ({}), check=False)
    if ran.returncode:
        lines = ran.stderr.strip().splitlines() or ["no output"]
        raise BundleError(f"{' '.join(command)} fails in the new installation: {lines[-1]}")
