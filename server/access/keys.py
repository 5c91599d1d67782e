"""API keys: who sends a request. Only digests are stored, so the file reveals no key."""

from __future__ import annotations

import errno
import hashlib
import hmac
import logging
import os
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from types import MappingProxyType

from server.access.terms import PLAIN, Key, Line, Rules, parse_line
from server.errors import AccessDenied, ConfigurationError, FailedToAuth, InvalidApiKey

ANONYMOUS = "anonymous"

HEADER = re.compile(r"bearer +([\x21-\x7e]+) *", re.IGNORECASE | re.ASCII)
KEY = re.compile(r"[\x21-\x7e]+", re.ASCII)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,99}", re.ASCII)
DIGEST = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)

NO_RULES = Rules()
HEAD = (
    "# name, SHA-256 of the key; then, if wanted: expires=DAY roles=infer,admin models=ID,ID group=NAME"
    " requests_per_minute=N tokens_per_minute=N (docs/configuration.md)"
)

log = logging.getLogger("verbatim.auth")


@dataclass(frozen=True, slots=True)
class Listed:
    """A key as an operator sees it. expires: the last day on which it works."""

    key: Key
    expires: date | None = None
    has_expired: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """One key and the terms in its line of the file."""

    name: str
    digest: str
    line: Line = PLAIN


def today() -> date:
    return datetime.now(UTC).date()


class Keyring:
    """The keys of the environment and of a file. A changed file is read again: deleting a line
    revokes its key.

    If the file can no longer be read, no key is revoked: the last good keys stay valid, and the log says so.
    """

    def __init__(
        self,
        keys: Sequence[str],
        file: Path | None,
        rules: Rules = NO_RULES,
        today: Callable[[], date] = today,
    ) -> None:
        for number, key in enumerate(keys, 1):
            if not KEY.fullmatch(key):
                raise ConfigurationError(
                    f"VERBATIM_API_KEYS: key {number} contains a space or a character outside ASCII."
                )
        self._fixed = [Entry(f"key-{number}", digest(key)) for number, key in enumerate(keys, 1)]
        self._file = file
        self._rules = rules
        self._today = today
        self._mark = _mark(file)
        if file is not None and self._mark is None:
            raise ConfigurationError(
                f"{file} does not exist; `verbatim keys new NAME --file {file}` makes the file and a key."
            )
        self._from_file = read_keys(file, rules) if file else []
        self._anonymous = rules.key(ANONYMOUS)
        self._take_in()
        self._is_read = True
        self._problems: list[str] = []  # problems of the file as it is now
        # A file without keys admits nobody: deleting the last key must not open the server to everyone.
        self.open = not keys and file is None

    def num_usable(self) -> int:
        """The number of keys that are valid today."""
        return sum(not self._has_expired(entry) for entry, _ in self._known)

    @property
    def is_whole(self) -> bool:
        """Whether every line of the file can be read now. If the file cannot be read at all, the keys read
        before stay valid."""
        self._reload()
        return not self._problems

    def listed(self) -> list[Listed]:
        """All keys, also those that have expired; of a server without keys what anybody may."""
        if self.open:
            return [Listed(self._anonymous)]
        self._reload()
        return [Listed(key, entry.line.expires, self._has_expired(entry)) for entry, key in self._known]

    def authenticate(self, authorization: str | None) -> Key:
        """The key in an Authorization header. Raises InvalidApiKey or FailedToAuth."""
        match = HEADER.fullmatch(authorization) if authorization else None
        if match is None:
            raise InvalidApiKey("the request needs the header `Authorization: Bearer KEY`")
        if self.open:
            return self._anonymous
        self._reload()
        presented, found = digest(match[1]), None
        for entry, key in self._known:
            # Every entry is compared, in constant time, so that response times reveal nothing about any key.
            if hmac.compare_digest(entry.digest, presented):
                found = entry, key
        if found is None:
            raise FailedToAuth("the API key is wrong or was revoked")
        entry, key = found
        if self._has_expired(entry):
            raise FailedToAuth(f"the API key expired after {entry.line.expires}")
        return key

    def _has_expired(self, entry: Entry) -> bool:
        return entry.line.expires is not None and self._today() > entry.line.expires

    def _take_in(self) -> None:
        """Apply the terms that the file gives to the keys now."""
        entries = (*self._from_file, *self._fixed)
        self._known = [(entry, self._rules.key(entry.name, entry.line)) for entry in entries]

    def _reload(self) -> None:
        """Read the file if it has changed or could not be read before."""
        mark = _mark(self._file)
        if self._file is None or (mark == self._mark and self._is_read):
            return
        problems: list[str] = []
        try:
            self._from_file = read_keys(self._file, self._rules, problems)
            self._take_in()
            self._is_read = True
        except ConfigurationError as error:
            # A directory that is not mounted, or changed permissions, must not revoke the keys.
            problems.append(f"{error.message} The keys that were read before stay valid.")
            self._is_read = False
        if mark != self._mark or problems != self._problems:
            for problem in problems:
                log.error("the file of API keys: %s", problem)
            log.info("%d keys of %s can be used", len(self._from_file), self._file)
        self._mark, self._problems = mark, problems


def authorize(key: Key, model: str, allowed: Sequence[str]) -> None:
    """Raise AccessDenied if the key may not use the model, or is not in the model's `allowed_keys`. An empty
    list allows every key."""
    if not key.may_use(model) or (allowed and key.name not in allowed):
        raise AccessDenied(f"the API key {key.name} may not use the model {model}")


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _mark(file: Path | None) -> tuple[int, ...] | None:
    """A value that changes with the file or its permissions; None: there is no file. The inode reveals a
    replaced file even within the clock's resolution."""
    try:
        stat = file.stat() if file else None
    except OSError:
        return None
    return (stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino) if stat else None


def read_keys(file: Path, rules: Rules | None = None, problems: list[str] | None = None) -> list[Entry]:
    """The entries of a file. rules: has the groups that lines may name; None: any group. problems: if given,
    a bad line is added to it and skipped: a typing error in one line must not undo the revocation in another,
    nor lock everyone out. Raises ConfigurationError."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise ConfigurationError(f"cannot read the keys in {file}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{file} is not UTF-8 text; each line must be `NAME SHA-256`.") from error
    entries: list[Entry] = []
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        try:
            if text:
                entries.append(_entry(text, entries, rules))
        except ValueError as error:
            problem = f"{file.name}, line {number}: {error}."
            if problems is None:
                raise ConfigurationError(problem) from None
            problems.append(problem)
    return entries


def _entry(text: str, before: list[Entry], rules: Rules | None) -> Entry:
    name, *rest = text.split()
    if not NAME.fullmatch(name):
        raise ValueError("a key's name may contain only letters, digits and . _ @ -")
    if name in (entry.name for entry in before):
        raise ValueError(f'the name "{name}" is used twice')
    # The message does not quote the line: it may have a key in the place of the digest, which must not reach
    # a log.
    if not rest or not DIGEST.fullmatch(rest[0]):
        raise ValueError(f'"{name}" must be followed by the SHA-256 of the key, 64 hex digits')
    line = parse_line(rest[1:])
    if line.group is not None and rules is not None:
        rules.check_group(line.group)
    return Entry(name, rest[0].lower(), line)


def new_key(
    name: str,
    file: Path,
    expires: date | None = None,
    roles: Sequence[str] = (),
    models: Sequence[str] = (),
    more: Mapping[str, object] = MappingProxyType({}),
) -> str:
    """A new key. Its digest is appended to the file; the key itself is stored nowhere.

    more: what else the line says, by the names in `terms.NAMES`; None is left out. Raises ConfigurationError.
    """
    if not NAME.fullmatch(name):
        raise ConfigurationError(
            "a key's name may contain only letters, digits and . _ @ -, at most 100 characters."
        )
    if file.exists() and name in (entry.name for entry in read_keys(file)):
        raise ConfigurationError(
            f'{file} already has a key named "{name}"; choose another name, or delete that line to revoke'
            " the old key."
        )
    key = "vb-" + secrets.token_urlsafe(32)
    words = [f"expires={expires.isoformat()}"] if expires else []
    words += [f"{what}={','.join(of)}" for what, of in (("roles", roles), ("models", models)) if of]
    words += [f"{what}={value}" for what, value in more.items() if value is not None]
    try:
        parse_line(" ".join(words).split())  # as it will be read
    except ValueError as error:
        raise ConfigurationError(f"{error}.") from None
    line = " ".join((name, digest(key), *words))
    try:
        _append(file, line)
    except OSError as error:
        raise ConfigurationError(f"cannot write {file}: {error.strerror or error}.") from error
    return key


def _append(file: Path, line: str) -> None:
    """Append the line with one write, into the existing file: owner, permissions and links stay, so everyone
    who could read it still can. A server that reads the file meanwhile sees the whole line or
    nothing of it."""
    descriptor = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        size = os.fstat(descriptor).st_size
        if size == 0:
            line = f"{HEAD}\n{line}"
        elif os.pread(descriptor, 1, size - 1) != b"\n":
            line = f"\n{line}"
        data = f"{line}\n".encode()
        try:
            if os.write(descriptor, data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)
