from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.access.keys import ANONYMOUS, Keyring, authorize, digest, new_key
from server.access.terms import Key
from server.errors import AccessDenied, ConfigurationError, FailedToAuth, InvalidApiKey


def ring(tmp_path: Path, text: str, day: date = date(2026, 1, 1)) -> Keyring:
    file = tmp_path / "keys"
    file.write_text(text)
    return Keyring((), file, today=lambda: day)


def rewrite(file: Path, text: str) -> None:
    """Changes the file and its time, as an editor does some time later."""
    later = file.stat().st_mtime_ns + 10**9
    file.write_text(text)
    os.utime(file, ns=(later, later))


@pytest.mark.parametrize("header", ["Bearer two", "bearer two", "BEARER  two "])
def test_key_is_named(header: str) -> None:
    """A key of the environment is known by its place; the scheme's case does not matter."""
    assert Keyring(("one", "two"), None).authenticate(header).name == "key-2"


@pytest.mark.parametrize("keys", [(), ("k",)])
@pytest.mark.parametrize(
    "header", [None, "", "k", "Bearer", "Bearer ", "Basic k", "Bearer a b", "Bearer é", "Bearerk"]
)
def test_malformed_header(keys: tuple[str, ...], header: str | None) -> None:
    """No header, or one that is not `Bearer KEY`, is INVALID_API_KEY, with and without keys."""
    with pytest.raises(InvalidApiKey):
        Keyring(keys, None).authenticate(header)


def test_wrong_key() -> None:
    """A well-formed key that is not known is FAILED_TO_AUTH."""
    with pytest.raises(FailedToAuth):
        Keyring(("k",), None).authenticate("Bearer K")


@pytest.mark.parametrize("place", [0, 31, 63])
def test_every_digit_of_a_digest_counts(tmp_path: Path, place: int) -> None:
    """A digest that differs in one place is another key's."""
    right = digest("a")
    other = right[:place] + ("1" if right[place] == "0" else "0") + right[place + 1 :]
    with pytest.raises(FailedToAuth):
        ring(tmp_path, f"alice {other}").authenticate("Bearer a")


def test_no_keys_accepts_any() -> None:
    """With no key configured any bearer token will do, and nobody has a name."""
    assert Keyring((), None).authenticate("Bearer whatever").name == ANONYMOUS


@given(st.text(st.characters(max_codepoint=0xFF)) | st.text())
def test_no_header_crashes(token: str) -> None:
    """Whatever bytes a header has, the answer is one of the two refusals."""
    with pytest.raises((InvalidApiKey, FailedToAuth)):
        Keyring(("k" * 50,), None).authenticate(f"Bearer {token}")


def test_file_holds_digests(tmp_path: Path) -> None:
    """The file has a name and a SHA-256 on each line, comments and blank lines between."""
    keys = ring(tmp_path, f"# keys\n\nalice {digest('a')}  # hers\nbob {digest('b').upper()}\n")
    assert [keys.authenticate(f"Bearer {key}").name for key in "ab"] == ["alice", "bob"]


@pytest.mark.parametrize(("day", "works"), [(date(2026, 3, 1), True), (date(2026, 3, 2), False)])
def test_expiry(tmp_path: Path, day: date, works: bool) -> None:
    """A key works through its last day and not after."""
    keys = ring(tmp_path, f"alice {digest('a')} expires=2026-03-01", day)
    assert keys.num_usable() == works
    if works:
        assert keys.authenticate("Bearer a").name == "alice"
    else:
        with pytest.raises(FailedToAuth, match="expired"):
            keys.authenticate("Bearer a")


def test_deleted_line_revokes(tmp_path: Path) -> None:
    """A key whose line is deleted stops working without a restart, and an added one starts."""
    keys = ring(tmp_path, f"alice {digest('a')}")
    assert keys.authenticate("Bearer a").name == "alice"
    rewrite(tmp_path / "keys", f"bob {digest('b')}")
    with pytest.raises(FailedToAuth):
        keys.authenticate("Bearer a")
    assert keys.authenticate("Bearer b").name == "bob"


def test_no_keys_left_lets_nobody_in(tmp_path: Path) -> None:
    """A key file that is emptied closes the server rather than opening it."""
    keys = ring(tmp_path, f"alice {digest('a')}")
    rewrite(tmp_path / "keys", "")
    with pytest.raises(FailedToAuth):
        keys.authenticate("Bearer a")
    assert keys.is_whole


def remove(file: Path) -> None:
    file.unlink()


def spoil(file: Path) -> None:
    file.write_bytes(b"\xff\xfe")


def become_a_directory(file: Path) -> None:
    file.unlink()
    file.mkdir()


def become_a_loop(file: Path) -> None:
    """As a file that may not be read, which root may: its opening fails."""
    file.unlink()
    file.symlink_to(file)


@pytest.mark.parametrize("damage", [remove, spoil, become_a_directory, become_a_loop])
def test_unreadable_file_revokes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    """A file that cannot be read any more leaves its keys valid; one line in the log says so, once."""
    keys = ring(tmp_path, f"alice {digest('a')}")
    damage(tmp_path / "keys")
    for _ in range(3):
        assert keys.authenticate("Bearer a").name == "alice"
    (line,) = (record.message for record in caplog.records if record.levelno == logging.ERROR)
    assert "stay valid" in line
    assert not keys.is_whole


def test_file_that_is_back_counts_again(tmp_path: Path) -> None:
    """Once it can be read again it is, and what is not in it is revoked."""
    keys, file = ring(tmp_path, f"alice {digest('a')}"), tmp_path / "keys"
    remove(file)
    assert keys.authenticate("Bearer a").name == "alice"
    file.write_text(f"bob {digest('b')}")
    assert keys.authenticate("Bearer b").name == "bob"
    with pytest.raises(FailedToAuth):
        keys.authenticate("Bearer a")
    assert keys.is_whole


def test_reading_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails for a moment is not asked once only, although the file stays as it was."""
    keys, file = ring(tmp_path, f"alice {digest('a')}"), tmp_path / "keys"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", fails)
        rewrite(file, f"bob {digest('b')}")
        assert keys.authenticate("Bearer a").name == "alice"
    assert keys.authenticate("Bearer b").name == "bob"


def fails(*_: object, **__: object) -> str:
    raise OSError(errno.EIO, "Input/output error")


def test_file_without_keys_lets_nobody_in(tmp_path: Path) -> None:
    """A key file that has no keys at the start closes the server too."""
    with pytest.raises(FailedToAuth):
        ring(tmp_path, "# none yet\n").authenticate("Bearer a")


def test_slip_in_one_line_leaves_the_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """While running, a bad line is logged and grants nothing; the other lines count, revocations included."""
    keys = ring(tmp_path, f"alice {digest('a')}\nbob {digest('b')}")
    with caplog.at_level(logging.ERROR):
        rewrite(tmp_path / "keys", f"carol secret\nbob {digest('b')}")
        assert keys.authenticate("Bearer b").name == "bob"
    with pytest.raises(FailedToAuth):
        keys.authenticate("Bearer a")
    assert not keys.is_whole
    assert "keys, line 1" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("alice", '"alice" must be followed by the SHA-256'),
        ("alice vb-key", "64 hex digits"),
        (f"alice {'0' * 64} until=1", "expires=YYYY-MM-DD"),
        (f"alice {'0' * 64} expires=2026-02-30", '"2026-02-30" is not a day'),
        (f"al,ice {'0' * 64}", "a key's name may contain only letters"),
        (f"bob {'0' * 64}", '"bob" is used twice'),
    ],
)
def test_bad_line_stops_the_start(tmp_path: Path, line: str, words: str) -> None:
    """At the start a bad line is an error with its number."""
    with pytest.raises(ConfigurationError) as caught:
        ring(tmp_path, f"bob {'1' * 64}\n{line}\n")
    assert caught.value.message.startswith("keys, line 2: ")
    assert words in caught.value.message


def test_missing_file_stops_the_start(tmp_path: Path) -> None:
    """A key file that is not there is an error that says how to make one."""
    with pytest.raises(ConfigurationError, match="verbatim keys new"):
        Keyring((), tmp_path / "none")


def test_key_outside_ascii_stops_the_start() -> None:
    """A configured key that no header can carry is an error, and is not printed."""
    with pytest.raises(ConfigurationError, match="key 1") as caught:
        Keyring(("clé",), None)
    assert "clé" not in caught.value.message


def test_new_key_works(tmp_path: Path) -> None:
    """A new key is accepted under its name; the file has its digest alone and is its owner's."""
    file = tmp_path / "keys"
    key = new_key("alice", file, date(2030, 1, 1))
    assert key.startswith("vb-")
    assert Keyring((), file, today=lambda: date(2030, 1, 1)).authenticate(f"Bearer {key}").name == "alice"
    assert key not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_new_key_is_appended(tmp_path: Path) -> None:
    """What the file had stays, a last line without its end included, and nothing else is left behind."""
    file = tmp_path / "keys"
    file.write_text(f"alice {digest('a')}")
    new_key("bob", file)
    assert Keyring((), file).authenticate("Bearer a").name == "alice"
    assert [path.name for path in tmp_path.iterdir()] == ["keys"]


def test_new_key_leaves_the_file_to_its_owner(tmp_path: Path) -> None:
    """Who runs the command, root say, takes the file from nobody: owner, rights and file stay."""
    file = tmp_path / "keys"
    file.write_text(f"alice {digest('a')}\n")
    file.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(file, 10001, 10002)
    before = file.stat()
    new_key("bob", file)
    after = file.stat()
    assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)
    assert after.st_ino == before.st_ino


def test_new_key_follows_a_link(tmp_path: Path) -> None:
    """A link stays one, as a mounted configuration has them."""
    file, link = tmp_path / "keys", tmp_path / "link"
    file.write_text(f"alice {digest('a')}\n")
    link.symlink_to(file)
    new_key("bob", link)
    assert link.is_symlink()
    assert Keyring((), file).num_usable() == 2


def test_new_key_that_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that takes half a line leaves the file as it was."""
    file = tmp_path / "keys"
    file.write_text(f"alice {digest('a')}\n")
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:9]))
    with pytest.raises(ConfigurationError, match="No space left"):
        new_key("bob", file)
    assert file.read_text() == f"alice {digest('a')}\n"


@pytest.mark.parametrize(("name", "words"), [("alice", "already has"), ("a b", "letters"), ("", "letters")])
def test_new_key_refuses(tmp_path: Path, name: str, words: str) -> None:
    """A name that is taken or malformed is refused, and the file stays as it was."""
    file = tmp_path / "keys"
    new_key("alice", file)
    before = file.read_bytes()
    with pytest.raises(ConfigurationError, match=words):
        new_key(name, file)
    assert file.read_bytes() == before


def test_new_key_without_a_directory(tmp_path: Path) -> None:
    """A file that cannot be written is named."""
    with pytest.raises(ConfigurationError, match="cannot write"):
        new_key("alice", tmp_path / "none" / "keys")


def test_authorize() -> None:
    """A model's allowed_keys lets in the keys it names; an empty list lets in all."""
    authorize(Key("alice"), "m", ())
    authorize(Key("alice"), "m", ("alice",))
    with pytest.raises(AccessDenied):
        authorize(Key("bob"), "m", ("alice",))


def test_authorize_by_the_keys_own_models() -> None:
    """A key that has models may use those alone, and of those the ones that let it in."""
    key = Key("alice", models=("m", "n"))
    authorize(key, "m", ())
    with pytest.raises(AccessDenied, match="alice may not use the model o"):
        authorize(key, "o", ())
    with pytest.raises(AccessDenied):
        authorize(key, "n", ("bob",))


def test_new_key_for_something(tmp_path: Path) -> None:
    """Its roles and models are in its line, and count."""
    file = tmp_path / "keys"
    key = new_key("ops", file, roles=("admin",), models=("a/b", "c"))
    found = Keyring((), file).authenticate(f"Bearer {key}")
    assert (found.roles, found.models) == (("admin",), ("a/b", "c"))
