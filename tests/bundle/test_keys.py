"""Keys, passphrases, and the signature that a site checks with tools of its own."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from bundle.cli import read_passphrase
from bundle.keys import make_keys, read_private_key
from server.errors import ConfigurationError
from tests.bundle.tiny import flip, tiny_bundle

PAGE = Path(__file__).parents[2] / "docs/airgap.md"
SECRET = "correct horse"
TOOLS = ("ssh-keygen", "openssl")


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A folder with two pairs of keys, old and new."""
    for name in ("old", "new"):
        make_keys(tmp_path / name)
    return tmp_path


@pytest.fixture
def locked(tmp_path: Path) -> Path:
    """A private key with a passphrase."""
    make_keys(tmp_path / "locked", SECRET)
    return tmp_path / "locked.key"


def needs(tool: str) -> str:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed (Debian: openssh-client, openssl)")
    return tool


def test_a_private_key_is_its_owners_alone(keys: Path) -> None:
    """Nobody else may read it, and none of the three files is ever replaced."""
    assert stat.S_IMODE((keys / "old.key").stat().st_mode) == 0o600
    for end in ("key", "pub", "allowed"):
        with pytest.raises(ConfigurationError, match=rf"old\.{end} exists already"):
            make_keys(keys / "old")
        (keys / f"old.{end}").unlink()


def test_what_is_no_private_key_is_told(keys: Path) -> None:
    """A public key, a missing file."""
    for name, words in (("old.pub", "not an Ed25519 private key"), ("none.key", "cannot read")):
        with pytest.raises(ConfigurationError, match=words):
            read_private_key(keys / name, str)


def test_a_passphrase_opens_its_key(locked: Path, tmp_path: Path) -> None:
    """The right one, the wrong one and none; a key without one asks for none."""
    assert b"BEGIN ENCRYPTED PRIVATE KEY" in locked.read_bytes()
    key = read_private_key(locked, lambda path: SECRET if path == locked else "")
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert public == (tmp_path / "locked.pub").read_bytes()
    for wrong in ("wrong", ""):
        with pytest.raises(ConfigurationError, match=r"the passphrase of .* is wrong"):
            read_private_key(locked, lambda _, wrong=wrong: wrong)  # type: ignore[misc]


def test_where_a_passphrase_comes_from(locked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first line of a file, else the environment, else a terminal; told where there is none of them."""
    (tmp_path / "file").write_text(f"{SECRET}\nsecond line\n")
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    with pytest.raises(ConfigurationError, match="VERBATIM_PASSPHRASE"):
        read_passphrase(None, locked)
    monkeypatch.setenv("VERBATIM_PASSPHRASE", "of the environment")
    assert read_passphrase(None, locked) == "of the environment"
    assert read_passphrase(tmp_path / "file", locked) == SECRET
    with pytest.raises(ConfigurationError, match="cannot read"):
        read_passphrase(tmp_path / "none", locked)


def test_a_passphrase_is_asked_for_on_the_terminal(tmp_path: Path) -> None:
    """Twice for a new key, never shown, and nowhere on the command line."""
    code = "from server.cli import main; main()"
    command = [sys.executable, "-c", code, "bundle", "keygen", str(tmp_path / "asked"), "--passphrase"]
    pid, terminal = pty.fork()
    if not pid:
        os.execv(sys.executable, command)  # noqa: S606
    said = b""
    for _ in range(2):
        said += read_until(terminal, b": ")
        os.write(terminal, f"{SECRET}\n".encode())
    said += read_until(terminal, b"ssh-ed25519")
    with contextlib.suppress(OSError):  # how a terminal says that nobody writes to it any more
        while os.read(terminal, 4096):
            pass
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) in (0, -1)  # -1: the terminal was closed first
    assert SECRET.encode() not in said
    read_private_key(tmp_path / "asked.key", lambda _: SECRET)


def read_until(terminal: int, words: bytes) -> bytes:
    said = b""
    while words not in said:
        said += os.read(terminal, 1000)
    return said


@pytest.mark.parametrize("secret", ["", SECRET])
def test_openssl_reads_the_keys(tmp_path: Path, secret: str) -> None:
    """They are plain PEM, behind a passphrase or not: `openssl pkey` knows both."""
    make_keys(tmp_path / "made", secret)
    command = [needs("openssl"), "pkey", "-in", str(tmp_path / "made.key"), "-pubout"]
    command += ["-passin", f"pass:{secret}"] if secret else []
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert told == (tmp_path / "made.pub").read_text()


def test_a_key_that_openssl_encrypted_signs(keys: Path) -> None:
    """Whoever made the key without a passphrase can give it one."""
    command = [
        needs("openssl"),
        "pkey",
        "-in",
        str(keys / "old.key"),
        "-aes256",
        "-out",
        str(keys / "late.key"),
    ]
    subprocess.run([*command, "-passout", f"pass:{SECRET}"], check=True)
    late, old = (read_private_key(keys / f"{name}.key", lambda _: SECRET) for name in ("late", "old"))
    assert late.sign(b"message") == old.sign(b"message")


@pytest.fixture
def received(tmp_path: Path) -> Path:
    """A folder with a signed bundle, and beside it what came on another way: release.pub, release.allowed."""
    make_keys(tmp_path / "release")
    (tmp_path / "work").mkdir()
    bundle = tiny_bundle(tmp_path / "work", keys=[read_private_key(tmp_path / "release.key", str)])
    bundle.rename(tmp_path / "bundle")
    return tmp_path


def first_step(tool: str) -> str:
    """The command of docs/airgap.md that uses this tool."""
    page = PAGE.read_text(encoding="utf-8").replace("\\\n", "")
    (command,) = re.findall(rf"^\$ ({tool} .*?)(?:  +#.*)?$", page, re.MULTILINE)
    return str(command)


@pytest.mark.parametrize("tool", TOOLS)
def test_the_sites_own_tools_check_the_installer(received: Path, tool: str) -> None:
    """The first commands of docs/airgap.md: good for the bundle as signed, and nothing of it has run."""
    needs(tool)
    ran = subprocess.run(
        ["sh", "-c", first_step(tool)], cwd=received, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("tool", TOOLS)
def test_a_forgers_installer_is_caught_by_the_sites_own_tools(received: Path, tool: str) -> None:
    """One that checks nothing and says that all is well; and one that is signed with another key."""
    needs(tool)
    (received / "bundle/install.sh").write_text("echo 'signed'\n")
    assert subprocess.run(["sh", "-c", first_step(tool)], cwd=received, check=False).returncode != 0
    make_keys(received / "forger")
    (received / "forged").mkdir()
    forged = tiny_bundle(received / "forged", keys=[read_private_key(received / "forger.key", str)])
    shutil.rmtree(received / "bundle")
    forged.rename(received / "bundle")
    assert subprocess.run(["sh", "-c", first_step(tool)], cwd=received, check=False).returncode != 0


@pytest.mark.parametrize("tool", TOOLS)
def test_an_altered_signature_is_caught_too(received: Path, tool: str) -> None:
    """Any byte of it."""
    needs(tool)
    name = {"ssh-keygen": "install.sh.sshsig", "openssl": "install.sh.ed25519"}[tool]
    flip(received / "bundle" / name, 40)
    assert subprocess.run(["sh", "-c", first_step(tool)], cwd=received, check=False).returncode != 0
