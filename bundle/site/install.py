"""The installation, in order: believe the bundle, look at the machine, put things in place, switch.

Killed at any moment, what it leaves is a version without installed.json, which the next run removes:
`current`
leads to a whole version before, during and after.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from bundle.site import installation, payload
from bundle.site import manifest as manifests
from bundle.site.console import Console
from bundle.site.manifest import Entry, Manifest
from bundle.site.packages import (
    clean_environ,
    compile_packages,
    install_packages,
    let_see,
    make_environment,
)
from bundle.site.payload import CHUNK_BYTES, Problems
from bundle.site.signature import PublicKey, read_sealed, require_signature, signers
from bundle.site.target import check_machine, check_space, driver_warning, packages_of_interpreter
from server.errors import BundleError

INCOMING = "incoming"


def believe(folder: Path, keys: list[PublicKey], console: Console) -> tuple[bytes, Manifest]:
    """The manifest of a bundle, after the signatures that are required. Raises BundleError."""
    data, text = read_sealed(folder)
    if keys:
        key = require_signature(data, text, keys)
        console.say(f"signed by {key.id} ({key.file})")
    elif named := signers(text):
        console.say(f"says that it is signed by {', '.join(named)}: --require-signature PUBKEY finds out")
    else:
        console.say("not signed")
    return data, manifests.parse(data)


def refuse(problems: Problems) -> None:
    """Raises BundleError that names every bad file, unless there is none."""
    if problems:
        lines = "".join(f"\n  {name}: {problem}" for name, problem in problems.items())
        raise BundleError(f"refused, nothing was installed. Copy these again:{lines}")


def check_bundle(folder: Path, keys: list[PublicKey], console: Console) -> Manifest:
    """Every byte of a bundle. Raises BundleError that names what is bad."""
    _, manifest = believe(folder, keys, console)
    refuse(payload.check(folder, manifest, lambda done, total: console.bytes("checking", done, total)))
    return manifest


def install(bundle: Path, prefix: Path, keys: list[PublicKey], console: Console) -> Path:
    """The version that the bundle holds, installed and current."""
    data, manifest = believe(bundle, keys, console)
    check_machine(manifest.target)
    have_paths = packages_of_interpreter(manifest.target) if manifest.target.have else []
    with installation.only_one(prefix) as lock:
        remove_incomplete(prefix)
        identity = manifests.identity(data)
        version = sound_version(prefix, identity, console)
        if version is None:
            version = free_name(prefix / installation.VERSIONS / f"{manifest.version}-{identity[:12]}")
            incoming = sum(part.size for part in manifest.parts)
            check_space(prefix, manifest.installed_bytes + incoming)
            source = take_in(bundle, manifest, version, console)
            place_packages(source, version, manifest, have_paths, lock, console)
            place_files(source, version, manifest, prefix, console)
            for name in (manifests.MANIFEST, manifests.SIGNATURE):
                shutil.copyfile(bundle / name, version / name)
            write_command(version, manifest.environment)
            try_command(version)
            shutil.rmtree(version / INCOMING, ignore_errors=True)
            installation.seal(
                version, identity, lambda done, total: console.bytes("writing down digests", done, total)
            )
        installation.switch(prefix, version)
    if manifest.target.device == "cuda" and (warning := driver_warning()):
        console.say(f"warning: {warning}")
    return version


def remove_incomplete(prefix: Path) -> None:
    """What an interrupted installation left."""
    complete = installation.complete_versions(prefix)
    for path in (prefix / installation.VERSIONS).iterdir():
        if path not in complete and path.is_dir():
            shutil.rmtree(path)


def sound_version(prefix: Path, identity: str, console: Console) -> Path | None:
    """This very bundle, installed before and still whole."""
    for version in installation.complete_versions(prefix):
        if manifests.identity((version / manifests.MANIFEST).read_bytes()) != identity:
            continue
        problems = installation.check_installation(
            version, [], lambda done, total: console.bytes("checking what is installed", done, total)
        )
        if not problems:
            console.say(f"already installed and whole: {version}")
            return version
        name, problem = next(iter(problems.items()))
        console.say(
            f"{version} is damaged ({name}: {problem}; {len(problems)} in all): installing it anew beside it"
        )
    return None


def free_name(path: Path) -> Path:
    """The path, or with a number where a damaged version has it."""
    names = (path, *(path.with_name(f"{path.name}.{number}") for number in range(2, 1000)))
    return next(name for name in names if not name.exists())


def take_in(bundle: Path, manifest: Manifest, version: Path, console: Console) -> Path:
    """The folder with the bundle's files, all checked: the bundle itself, or its parts put together."""
    version.mkdir()
    text = "putting the parts together and checking" if manifest.parts else "checking"
    if not manifest.parts:
        refuse(payload.check(bundle, manifest, lambda done, total: console.bytes(text, done, total)))
        return bundle
    incoming = version / INCOMING
    incoming.mkdir()
    refuse(payload.unpack(bundle, manifest, incoming, lambda done, total: console.bytes(text, done, total)))
    for entry in manifest.loose:
        shutil.copyfile(bundle / entry.path, incoming / entry.path)
    return incoming


def place_packages(
    source: Path, version: Path, manifest: Manifest, have_paths: list[str], lock: int, console: Console
) -> None:
    environment = version / "venv"
    console.step("making the environment")
    make_environment(environment)
    install_packages(environment, source, manifest.num_packages, lock, console)
    let_see(environment, have_paths)
    console.step("compiling")
    compile_packages(environment, lock)
    console.say(f"installed {manifest.num_packages} packages")


def place_files(source: Path, version: Path, manifest: Manifest, prefix: Path, console: Console) -> None:
    """Models, configuration and the rest; weights that an earlier version has are shared with it."""
    entries = installation.kept(manifest)
    total, done = sum(entry.size for entry in entries), 0
    twins = models_of_others(prefix, version)
    for entry in entries:
        target = version / entry.path
        target.parent.mkdir(parents=True, exist_ok=True)
        if share(twins.get(entry.sha256), target, entry):
            pass
        elif manifest.parts:
            (source / entry.path).replace(target)
        else:
            copy(source / entry.path, target, entry)
        done += entry.size
        console.bytes("placing the models", done, total)


def models_of_others(prefix: Path, version: Path) -> dict[str, Path]:
    """Model files of the other installed versions, by digest."""
    found = {}
    for other in installation.complete_versions(prefix):
        for entry in manifests.parse((other / manifests.MANIFEST).read_bytes()).files:
            if other != version and entry.path.startswith(f"{manifests.MODELS}/"):
                found[entry.sha256] = other / entry.path
    return found


def share(twin: Path | None, target: Path, entry: Entry) -> bool:
    """Make the target another name of the twin, if that is what the manifest wants."""
    counter = payload.Counter(payload.silent, 0)
    if twin is None or payload.check_files(
        twin.parent, [Entry(twin.name, entry.size, entry.sha256)], counter
    ):
        return False
    try:
        os.link(twin, target)
    except OSError:
        return False
    return True


def copy(source: Path, target: Path, entry: Entry) -> None:
    """A file that was checked once, checked again while it is copied: a carrier may fail in between."""
    cutter = payload.Cutter([Entry(target.name, entry.size, entry.sha256)], target.parent)
    with source.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            cutter.feed(chunk)
    cutter.close()
    if cutter.problems:
        refuse({entry.path: cutter.problems[target.name]})


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
    command.parent.mkdir()
    command.write_text("\n".join(lines) + "\n")
    command.chmod(0o755)


def try_command(version: Path) -> None:
    """Raises BundleError when the command does not even tell its version."""
    command = [str(version / "bin/verbatim"), "version"]
    ran = subprocess.run(command, capture_output=True, text=True, env=clean_environ({}), check=False)
    if ran.returncode:
        lines = ran.stderr.strip().splitlines() or ["no output"]
        raise BundleError(f"{' '.join(command)} fails in the new installation: {lines[-1]}")
